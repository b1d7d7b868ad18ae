//! The guest agent's port: connected while the guest has it open.

use std::cell::RefCell;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use ::qmp::agent::{Agent, Interface, Shutdown};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::control::{Failure, FailureKind};
use super::driver::Input;
use super::link::Handle;
use super::shared::Shared;
use crate::error::chain;
use crate::identity;
use crate::spec::{Kind, Mac};

/// How long the agent may take to answer. Under emulation a busy guest takes seconds.
pub(super) const AGENT_DEADLINE: Duration = Duration::from_secs(30);
/// How long an agent may take to its first answer after the guest opened the port.
const GREETING: Duration = Duration::from_secs(120);
/// How long a guest with an agent is asked for its addresses.
const ADDRESSES: Duration = Duration::from_secs(20);
/// How long a shutdown request may take to be taken note of before the power button is tried.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// What is at the guest's end of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FarEnd {
    /// Nothing, or something that does not answer.
    Nobody,
    /// The guest has opened the port, and its agent is being greeted.
    Greeted,
    /// An agent, which has answered.
    Agent,
}

/// One QEMU's agent port.
#[derive(Debug)]
pub(super) struct AgentPort {
    /// The client, made at the first use of the port.
    client: RefCell<Option<Agent>>,
    /// Our end of the port's socket until then.
    stream: RefCell<Option<UnixStream>>,
    /// What is at the guest's end of the port.
    far_end: watch::Sender<FarEnd>,
    /// The greeting in progress, and the watch on the guest's addresses that follows it.
    greeting: RefCell<Option<AbortHandle>>,
}

impl AgentPort {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (far_end, _) = watch::channel(FarEnd::Nobody);
        Self {
            client: RefCell::default(),
            stream: RefCell::new(Some(stream)),
            far_end,
            greeting: RefCell::default(),
        }
    }

    /// The guest opened the port (QMP `VSERPORT_CHANGE`): greets the agent, and asks it for the guest's addresses.
    pub(super) fn opened(&self, shared: &Rc<Shared>, handle: &Rc<Handle>, kind: Kind) {
        self.far_end.send_replace(FarEnd::Greeted);
        let (shared, handle) = (shared.clone(), handle.clone());
        let task = tokio::task::spawn_local(async move {
            let agent = match handle.agent.greet().await {
                Ok(agent) => agent,
                Err(e) => {
                    handle.agent.far_end.send_replace(FarEnd::Nobody);
                    tracing::warn!("the guest opened its agent's port, and no agent answered: {e}");
                    return;
                }
            };
            handle.agent.far_end.send_replace(FarEnd::Agent);
            if shared.thaw_is_due() {
                handle.agent.thaw().await;
            }
            if let Some(wanted) = handle.identify.take() {
                let told = identity::apply(&agent, shared.arch(), &wanted, shared.identity_deadline()).await;
                shared.tell(Input::Identified(told.map_err(|e| chain(&e))));
            }
            shared.tell(Input::AgentUp);
            if kind == Kind::Linux {
                let grow = async {
                    if let Some(size) = handle.grow.take() {
                        super::grow::grow(&shared, &agent, size).await;
                    }
                };
                tokio::join!(find_addresses(&shared, &agent), grow);
            }
        });
        if let Some(earlier) = self.greeting.borrow_mut().replace(task.abort_handle()) {
            earlier.abort();
        }
    }

    /// The guest closed the port: its agent has ended, or is being restarted.
    pub(super) fn closed(&self) {
        if let Some(greeting) = self.greeting.borrow_mut().take() {
            greeting.abort();
        }
        self.far_end.send_replace(FarEnd::Nobody);
    }

    /// The agent, after it has answered. A guest that opens the port before its agent reads it is waited for.
    async fn greet(&self) -> Result<Agent, ::qmp::Error> {
        let agent = self.connected().ok_or(::qmp::Error::Closed)?;
        agent.sync(GREETING).await?;
        Ok(agent)
    }

    fn connected(&self) -> Option<Agent> {
        if let Some(stream) = self.stream.borrow_mut().take() {
            let connect = || {
                stream.set_nonblocking(true)?;
                tokio::net::UnixStream::from_std(stream)
            };
            match connect() {
                Ok(stream) => *self.client.borrow_mut() = Some(Agent::connect(stream)),
                Err(e) => tracing::error!("cannot use the agent's port: {e}"),
            }
        }
        self.client.borrow().clone()
    }

    /// The agent, when it has answered. One that is just being greeted, because the guest has opened its port this moment or
    /// because this supervisor has, is waited for.
    pub(super) async fn client(&self) -> Result<Agent, Failure> {
        let mut far_end = self.far_end.subscribe();
        let greeted = far_end.wait_for(|far_end| *far_end != FarEnd::Greeted);
        // What it is after that time, the next line sees.
        let _ = tokio::time::timeout(AGENT_DEADLINE, greeted).await;
        self.answering().ok_or_else(|| {
            Failure::new(FailureKind::Agent, "no agent answers in the guest").hint(
                "wait for it with `midge wait NAME agent`; a Linux guest needs the package qemu-guest-agent, a unikernel has none",
            )
        })
    }

    /// The agent, if it has answered by now.
    fn answering(&self) -> Option<Agent> {
        self.client.borrow().clone().filter(|_| self.is_up())
    }

    /// Whether the agent has answered, and the guest has not closed its port since.
    pub(super) fn is_up(&self) -> bool {
        *self.far_end.borrow() == FarEnd::Agent
    }

    /// Resolves when the agent answers.
    pub(super) async fn up(&self) {
        // The sender lives as long as `self`.
        let _ = self.far_end.subscribe().wait_for(|far_end| *far_end == FarEnd::Agent).await;
    }

    /// Has the guest write its file systems out and keep them still, where there is an agent that can.
    pub(super) async fn freeze(&self) {
        let Some(agent) = self.answering() else { return };
        let frozen = agent.execute_raw("guest-fsfreeze-freeze", serde_json::json!({}), AGENT_DEADLINE).await;
        if let Err(e) = frozen {
            tracing::warn!("the guest's file systems are saved as after a power cut: {e}");
        }
    }

    /// Ends what [`Self::freeze`] began.
    pub(super) async fn thaw(&self) {
        let Some(agent) = self.answering() else { return };
        if let Err(e) = agent.execute_raw("guest-fsfreeze-thaw", serde_json::json!({}), AGENT_DEADLINE).await
        {
            tracing::error!("the guest's file systems stand still, and cannot be woken: {e}");
        }
    }

    /// Resolves when the guest closes the port, or something else than an agent that has answered is there.
    pub(super) async fn gone(&self) {
        // The sender lives as long as `self`.
        let _ = self.far_end.subscribe().wait_for(|far_end| *far_end != FarEnd::Agent).await;
    }

    /// Asks the agent to power the guest off. Answers whether it took note.
    pub(super) async fn shut_down(&self) -> bool {
        // One that is just being greeted is worth the wait: a guest that still boots does not hear its power button.
        match self.client().await.ok() {
            Some(agent) => agent.shutdown(Shutdown::Powerdown, SHUTDOWN_DEADLINE).await.is_ok(),
            None => false,
        }
    }
}

/// Asks the agent for the guest's addresses until it has some. Nothing in a guest announces an address to its agent's
/// client, so this asks again, at growing intervals, and gives up on a guest that gets none.
async fn find_addresses(shared: &Shared, agent: &Agent) {
    let given_up = tokio::time::Instant::now() + ADDRESSES;
    let mut pause = Duration::from_millis(10);
    while tokio::time::Instant::now() < given_up {
        match agent.interfaces(AGENT_DEADLINE).await {
            Ok(interfaces) => {
                let addresses = told(&interfaces);
                if addresses.iter().any(|(_, ip)| ip.is_ipv4()) {
                    return shared.tell(Input::Addresses(addresses));
                }
            }
            Err(e) if e.is_closed() => return,
            Err(e) => tracing::debug!("the agent does not tell the addresses: {e}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    shared.tell(Input::Addresses(Vec::new()));
}

/// The addresses that an agent tells of, each with the MAC of its interface where that has one.
pub(super) fn told(interfaces: &[Interface]) -> Vec<(Option<Mac>, IpAddr)> {
    let of = |interface: &Interface| {
        let mac = interface.mac.as_ref().and_then(|mac| mac.parse().ok());
        interface.addresses.iter().map(move |address| (mac, address.ip)).collect::<Vec<_>>()
    };
    interfaces.iter().flat_map(of).filter(|(_, ip)| is_useful(*ip)).collect()
}

/// Whether somebody else can reach the guest there.
pub(super) fn is_useful(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}
