//! Answering the commands that talk to a supervisor.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::control::{Conversation, Failure, FailureKind, Reply, Request, Until};
use super::find::{self, Wanted};
use super::phase::PhaseName;
use super::shared::{Shared, Snapshot};
use super::state::{Ask, State};
use super::{AskedBy, Cause, End, Unconfirmed, guest_ops, identify, probe, save, stats};

/// How a request ended, besides in success.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The command hung up.
    HungUp,
    /// The request failed.
    Failed(Failure),
}

impl From<io::Error> for Stopped {
    fn from(_: io::Error) -> Self {
        Self::HungUp
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Serves one connection: one request.
pub(super) async fn serve(shared: Rc<Shared>, mut talk: Conversation) {
    let request = match talk.request().await {
        None => return,
        Some(Ok(request)) => request,
        Some(Err(failure)) => {
            let _ = talk.send(&Reply::Error(failure)).await;
            return;
        }
    };
    if request == Request::Console {
        if talk.done(json!(null)).await.is_ok() {
            let (from, to) = talk.into_raw();
            let _ = shared.console.attach(from, to).await;
        }
        return;
    }
    match answer(&shared, &mut talk, request).await {
        Ok(()) | Err(Stopped::HungUp) => {}
        Err(Stopped::Failed(failure)) => {
            let _ = talk.send(&Reply::Error(failure)).await;
        }
    }
}

async fn answer(shared: &Rc<Shared>, talk: &mut Conversation, request: Request) -> Result<(), Stopped> {
    let value = match request {
        Request::Status => {
            let run = shared.snapshot.borrow().run.clone();
            talk.send(&Reply::State(Box::new((*run).clone()))).await?;
            json!(null)
        }
        Request::Follow { until } => {
            follow(shared, talk, until).await?;
            json!(null)
        }
        Request::Stop { within_ms } => {
            let within = Duration::from_millis(within_ms);
            end(shared, talk, Ask::Stop { by: AskedBy::User, within }).await?;
            json!(null)
        }
        Request::Kill => {
            end(shared, talk, Ask::Kill { by: AskedBy::User }).await?;
            json!(null)
        }
        Request::Pause => {
            shared.ask(Ask::Pause).await?;
            settle(shared, |s| matches!(s, State::Paused { .. })).await?;
            json!(null)
        }
        Request::Resume => {
            shared.ask(Ask::Resume).await?;
            settle(shared, |s| matches!(s, State::Running | State::Booting)).await?;
            json!(null)
        }
        Request::Exec { argv, env, dir, input } => {
            let wanted = guest_ops::Wanted { argv, env, dir, input };
            guest_ops::exec(shared, talk, wanted).await?;
            json!(null)
        }
        Request::ReadFile { path } => {
            guest_ops::read_file(shared, talk, &path).await?;
            json!(null)
        }
        Request::WriteFile { path, mode } => {
            guest_ops::write_file(shared, talk, &path, mode).await?;
            json!(null)
        }
        Request::Addresses { family, source, within_ms } => {
            let within = Duration::from_millis(within_ms);
            json!(find::addresses(shared, talk, Wanted { family, source }, within).await?)
        }
        Request::Reach { port } => {
            let link = shared.link()?;
            let address = probe::reach(shared, &link, port).await?.address();
            json!({ "address": address.ip().to_string(), "port": address.port() })
        }
        Request::Save { name, how, note, replace } => {
            json!(save::save(shared, talk, name, how, note, replace).await?)
        }
        Request::Claim(claim) => {
            let claimed = shared.claim(claim).await?;
            settle(shared, |s| matches!(s, State::Running | State::Booting)).await?;
            json!(claimed)
        }
        Request::Retire => {
            shared.retire().await?;
            json!(null)
        }
        Request::Identify { wanted, within_ms } => {
            json!(identify::identify(shared, &wanted, Duration::from_millis(within_ms)).await?)
        }
        Request::Stats => stats::collect(shared).await?,
        Request::CommandLine => json!(shared.link()?.command_line),
        // Taken care of by the caller, which needs the connection whole.
        Request::Console => json!(null),
    };
    Ok(talk.done(value).await?)
}

/// Tells each phase as it is reached, until what is waited for holds.
async fn follow(shared: &Rc<Shared>, talk: &mut Conversation, until: Until) -> Result<(), Stopped> {
    let mut changes = shared.snapshot.subscribe();
    let (mut told, mut noted) = (0, 0);
    let mut started = None;
    let sign = sign_seen(shared, &until);
    tokio::pin!(sign);
    let mut seen = false;
    loop {
        let now = changes.borrow_and_update().clone();
        if now.run.started != started {
            // A restart: its phases are new ones.
            started = now.run.started;
            told = 0;
        }
        for phase in now.run.phases.iter().skip(told) {
            talk.send(&Reply::Phase(*phase)).await?;
            told += 1;
        }
        for note in now.notes.iter().skip(noted) {
            talk.send(&Reply::Note { text: note.clone() }).await?;
            noted += 1;
        }
        let reached = |name| now.run.phases.iter().any(|p| p.name == name);
        let fulfilled = match until {
            Until::Resumed => reached(PhaseName::Resumed),
            Until::Ready => reached(PhaseName::Ready),
            Until::Identified => reached(PhaseName::Resumed) && now.run.unconfirmed.is_none(),
            Until::Spare => now.run.spare.as_ref().is_none_or(|spare| spare.ready),
            // A clone that answers as its source has shown nothing of its own.
            Until::Sign(_) => seen && now.run.unconfirmed != Some(Unconfirmed::Stop),
            Until::Ended => false,
        };
        if fulfilled {
            return Ok(());
        }
        if let Some(end) = final_end(&now) {
            if until == Until::Ended {
                return Ok(talk.send(&Reply::Ended(end)).await?);
            }
            let dir = shared.dir();
            let name = dir.name();
            let kind = match end.cause {
                Cause::Unconfirmed { .. } => FailureKind::Unconfirmed,
                _ => FailureKind::GuestEnded,
            };
            let mut failure = Failure::new(kind, format!("the guest of `{name}` ended: {end}"));
            failure.end = Some(end);
            return Err(failure.into());
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Err(Stopped::HungUp) },
            () = talk.hung_up() => return Err(Stopped::HungUp),
            shown = &mut sign, if !seen => {
                shown?;
                seen = true;
            }
        }
    }
}

/// Resolves when the sign that `until` names is seen, in this run of the guest or in one that the restart policy begins;
/// never where it names none.
async fn sign_seen(shared: &Rc<Shared>, until: &Until) -> Result<(), Failure> {
    let Until::Sign(sign) = until else { return std::future::pending().await };
    let mut snapshot = shared.snapshot.subscribe();
    loop {
        // Before the monitor is up there is nothing to probe.
        let up =
            |s: &Snapshot| s.run.qemu.is_some() && s.run.phases.iter().any(|p| p.name == PhaseName::Monitor);
        let Ok(run) = snapshot.wait_for(up).await.map(|s| s.run.started) else {
            return std::future::pending().await;
        };
        let Ok(link) = shared.link() else { continue };
        tokio::select! {
            seen = probe::wait_for(shared, &link, sign) => return seen,
            _ = snapshot.wait_for(|s| s.run.qemu.is_none() || s.run.started != run) => {}
        }
    }
}

/// The end of a VM that will not be started again by itself.
fn final_end(snapshot: &Snapshot) -> Option<End> {
    if snapshot.run.state == State::Ended { snapshot.end.clone() } else { None }
}

/// Asks for the VM's end and tells how it went.
async fn end(shared: &Rc<Shared>, talk: &mut Conversation, ask: Ask) -> Result<(), Stopped> {
    let mut changes = shared.snapshot.subscribe();
    // A VM that has ended meanwhile refuses, and has what was wished for.
    let _ = shared.ask(ask).await;
    let snapshot = changes.wait_for(|s| final_end(s).is_some() || s.finished).await.map(|s| s.clone());
    if let Some(end) = snapshot.ok().and_then(|s| s.end) {
        talk.send(&Reply::Ended(end)).await?;
    }
    Ok(())
}

/// Waits until the VM is in a state, or has ended.
async fn settle(shared: &Rc<Shared>, wanted: impl Fn(&State) -> bool) -> Result<(), Failure> {
    let mut changes = shared.snapshot.subscribe();
    let settled = changes.wait_for(|s| wanted(&s.run.state) || s.run.state == State::Ended);
    let state = match tokio::time::timeout(super::link::MONITOR_DEADLINE, settled).await {
        Ok(Ok(snapshot)) => snapshot.run.state,
        Ok(Err(_)) => State::Ended,
        Err(_) => return Err(Failure::new(FailureKind::Timeout, "QEMU did not do it in time")),
    };
    if state == State::Ended {
        return Err(Failure::new(FailureKind::WrongState, "the VM has ended"));
    }
    Ok(())
}
