//! Finding a guest's addresses for a command, and saying why there is none.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::control::{Conversation, Failure, FailureKind, Family};
use super::guest_agent::{is_useful, told};
use super::link::MONITOR_DEADLINE;
use super::requests::Stopped;
use super::shared::{Shared, Snapshot};
use super::state::State;
use crate::store::{Heard, Source};

/// Which addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) family: Family,
    pub(super) source: Option<Source>,
}

impl Wanted {
    /// Those of a run that are wanted: the usable ones, or else those that mean something on their own link only.
    fn of(self, heard: &[Heard]) -> Vec<Heard> {
        let fits = |h: &&Heard| self.family.has(h.address) && self.source.is_none_or(|s| s == h.source);
        let all: Vec<Heard> = heard.iter().filter(fits).cloned().collect();
        let usable: Vec<Heard> = all.iter().filter(|h| is_useful(h.address)).cloned().collect();
        if usable.is_empty() && self.family == Family::V6 { all } else { usable }
    }
}

/// The guest's addresses of this kind, waited for at most so long.
///
/// # Errors
/// [`FailureKind::Timeout`] with the reason why there is none.
pub(super) async fn addresses(
    shared: &Rc<Shared>,
    talk: &mut Conversation,
    wanted: Wanted,
    within: Duration,
) -> Result<Vec<Heard>, Stopped> {
    if wanted.source == Some(Source::Agent) {
        return Ok(ask_agent(shared, wanted.family).await?);
    }
    let mut changes = shared.snapshot.subscribe();
    let found = |s: &Snapshot| !wanted.of(&s.run.heard).is_empty();
    let over = |s: &Snapshot| s.run.state == State::Ended || s.finished;
    let settled = tokio::select! {
        settled = tokio::time::timeout(within, changes.wait_for(|s| found(s) || over(s))) => settled,
        () = talk.hung_up() => return Err(Stopped::HungUp),
    };
    let heard = match settled {
        Ok(Ok(snapshot)) => wanted.of(&snapshot.run.heard),
        Ok(Err(_)) | Err(_) => wanted.of(&shared.snapshot.borrow().run.heard),
    };
    if heard.is_empty() {
        return Err(why_none(shared, wanted, within).await.into());
    }
    Ok(shared.ports().renewed(heard))
}

async fn ask_agent(shared: &Rc<Shared>, family: Family) -> Result<Vec<Heard>, Failure> {
    let agent = shared.link()?.agent.client().await?;
    let failed = |e: ::qmp::Error| {
        Failure::new(FailureKind::Agent, format!("the agent does not tell the guest's addresses: {e}"))
    };
    let interfaces = agent.interfaces(MONITOR_DEADLINE).await.map_err(failed)?;
    let now = jiff::Timestamp::now();
    let told = told(&interfaces);
    shared.ports().ask(&told);
    let told: Vec<IpAddr> = told.into_iter().map(|(_, ip)| ip).filter(|ip| family.has(*ip)).collect();
    if told.is_empty() {
        return Err(Failure::new(FailureKind::Other, "the guest's agent knows of no address"));
    }
    let heard = |address| Heard {
        net: 0,
        address,
        source: Source::Agent,
        confirmed: true,
        since: now,
        seen: now,
        lease_ends: None,
    };
    Ok(told.into_iter().map(heard).collect())
}

/// Why there is no such address.
async fn why_none(shared: &Shared, wanted: Wanted, within: Duration) -> Failure {
    let dir = shared.dir();
    let name = dir.name();
    let run = shared.snapshot.borrow().run.clone();
    let kind = if within.is_zero() { FailureKind::Other } else { FailureKind::Timeout };
    if run.qemu.is_none() {
        let why = format!("no address, not-running: the VM `{name}` has no running guest");
        return Failure::new(FailureKind::WrongState, why).hint(format!("midge start {name}"));
    }
    let others: Vec<String> = run.heard.iter().map(|h| h.address.to_string()).collect();
    if !others.is_empty() {
        let why = format!("the guest has no such address; known are {}", others.join(", "));
        return Failure::new(kind, why);
    }
    shared.why_no_address(wanted.family, kind).await
}
