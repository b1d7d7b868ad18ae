//! The guest agent's port: connected while the guest has it open.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use qmp::agent::Agent;
use tokio::sync::watch;

use super::control::{Failure, FailureKind};
use super::driver::Input;
use super::link::Handle;
use super::shared::Shared;
use crate::spec::Kind;

/// How long the agent may take to answer. Under emulation a busy guest takes seconds.
pub(super) const AGENT_DEADLINE: Duration = Duration::from_secs(30);
/// How long a shutdown request may take to be taken note of before the power button is tried.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// One QEMU's agent port.
#[derive(Debug)]
pub(super) struct AgentPort {
    /// Our end of the port's socket, until the first use makes a client of it.
    stream: RefCell<Option<UnixStream>>,
    /// The client, once the agent has answered.
    client: watch::Sender<Option<Agent>>,
    /// The greeting in progress.
    greeting: RefCell<Option<tokio::task::AbortHandle>>,
}

impl AgentPort {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (client, _) = watch::channel(None);
        Self { stream: RefCell::new(Some(stream)), client, greeting: RefCell::default() }
    }

    /// The guest opened the port (QMP `VSERPORT_CHANGE`): greets the agent, and asks it for the guest's addresses.
    pub(super) fn opened(&self, shared: &Rc<Shared>, handle: &Rc<Handle>, kind: Kind) {
        let (shared, handle) = (shared.clone(), handle.clone());
        let task = tokio::task::spawn_local(async move {
            if let Err(e) = handle.agent.greet().await {
                tracing::warn!("the guest agent opened its port and did not answer: {e}");
                return;
            }
            shared.tell(Input::AgentUp);
            if kind == Kind::Linux {
                watch_addresses(&shared, &handle).await;
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
        if let Some(client) = self.client.send_replace(None) {
            drop(client);
        }
    }

    async fn greet(&self) -> Result<(), qmp::Error> {
        todo!()
    }

    /// The agent, when it answers.
    pub(super) fn client(&self) -> Result<Agent, Failure> {
        self.client.borrow().clone().ok_or_else(|| {
            Failure::new(FailureKind::Agent, "the guest has no agent running")
                .hint("wait for it with `midge wait NAME agent`; the guest needs the package qemu-guest-agent")
        })
    }

    /// Resolves when the agent answers.
    pub(super) async fn up(&self) {
        let mut client = self.client.subscribe();
        let _ = client.wait_for(Option::is_some).await;
    }

    /// Asks the agent to power the guest off. Answers whether it took note.
    pub(super) async fn shut_down(&self) -> bool {
        todo!()
    }
}

async fn watch_addresses(_shared: &Rc<Shared>, _handle: &Rc<Handle>) {
}
