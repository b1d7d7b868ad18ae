//! `midge supervise NAME`: the process that owns one VM's QEMU.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::control::{Conversation, Failure, FailureKind, Reply, accept};
use super::driver::{self, Driver};
use super::link::{Adopted, Link};
use super::plan::{self, Plan, Restored};
use super::ports::Ports;
use super::shared::Shared;
use super::sockets::SocketDir;
use super::state::{Ask, State};
use super::{AskedBy, Begin, Identity, Restore, Unconfirmed, requests, save};
use crate::host::priority;
use crate::host::proc::ProcessId;
use crate::snapshot::store::SnapshotStore;
use crate::store::{Home, Lock, Record, RunState, Spare, Status, VmDir};

/// How long commands that are being answered may keep a supervisor whose VM has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a supervisor that is leaving may take.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// The whole work of `midge supervise NAME`: returns when the VM's supervisor is done.
///
/// Standard input is one end of a socket pair, whose other end the starting command holds: the greeting goes there, and
/// it is the first conversation. Standard error is the VM's log.
pub fn supervise(home: &Home, name: &str) -> ExitCode {
    crate::fault::in_supervisor();
    // Away from the terminal of the command that started us: no hang-up and no Ctrl-C reaches the VM.
    let session = own_session();
    let level =
        if std::env::var_os("MIDGE_DEBUG").is_some() { tracing::Level::DEBUG } else { tracing::Level::INFO };
    // A log that cannot be written (its disk is full) is complained of on standard error, by a macro that panics where that fails too.
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false);
    log.with_ansi(false).with_max_level(level).init();
    if let Err(e) = session {
        tracing::debug!("keeping the session: {e}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let greeting = std::io::stdin().as_fd().try_clone_to_owned().ok().map(UnixStream::from);
    // That clone is the only one from now on: when the conversation ends, the starter sees it end.
    let nothing = std::fs::File::options().read(true).open("/dev/null");
    if let Err(e) = nothing.and_then(|nothing| Ok(nix::unistd::dup2_stdin(nothing)?)) {
        tracing::warn!("cannot let go of standard input: {e}");
    }
    let done = LocalSet::new().block_on(&runtime, run(home, name, greeting));
    // Whatever task still waits (a console without a reader) does not keep us.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Begins a session. The leader of a process group may not (setsid(2)), which we are from our start on: so back into the starter's
/// group first, which ends at once.
fn own_session() -> nix::Result<()> {
    let starters = nix::unistd::getpgid(Some(nix::unistd::getppid()))?;
    nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), starters)?;
    nix::unistd::setsid().map(drop)
}

async fn run(home: &Home, name: &str, greeting: Option<UnixStream>) -> Result<(), Failure> {
    let mut starter = greeting.and_then(|stream| {
        stream.set_nonblocking(true).ok()?;
        Some(Conversation::new(tokio::net::UnixStream::from_std(stream).ok()?))
    });
    let (ready, lock) = match prepare(home, name).await {
        Ok(ready) => ready,
        Err(failure) => {
            if let Some(starter) = &mut starter {
                let _ = starter.send(&Reply::Error(failure.clone())).await;
            }
            return Err(failure);
        }
    };
    let Ready { shared, driver, adopted, listener, backlog, notes } = ready;
    // Each conversation holds a sender; the receiver sees them all gone.
    let (talking, mut silence) = mpsc::channel::<()>(1);
    let serve = {
        let shared = shared.clone();
        Rc::new(move |talk: Conversation| {
            let (shared, talking) = (shared.clone(), talking.clone());
            async move {
                requests::serve(shared, talk).await;
                drop(talking);
            }
        })
    };
    if let Some(mut starter) = starter {
        // The starter may have been interrupted; the VM it asked for starts all the same.
        if starter.done(json!(notes)).await.is_ok() {
            tokio::task::spawn_local(serve(starter));
        }
    }
    let accepting = tokio::task::spawn_local(accept(listener, serve.clone()));
    let listening_for_signals = tokio::task::spawn_local(obey_signals(shared.clone()));
    driver.run(adopted).await;
    shared.ports().leave().await;
    shared.set_ports(Rc::default());

    // Nobody new; those that are being answered hear how it ended, and so do those whose connection nobody has taken yet.
    accepting.abort();
    listening_for_signals.abort();
    let _ = std::fs::remove_file(shared.dir().run_dir().join("control.sock"));
    while let Ok((stream, _)) = backlog.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = tokio::net::UnixStream::from_std(stream)
        {
            tokio::task::spawn_local(serve(Conversation::new(stream)));
        }
    }
    drop((serve, backlog));
    let _ = tokio::time::timeout(LAST_WORDS, silence.recv()).await;
    close(&shared, lock);
    Ok(())
}

/// A supervisor that is in charge.
struct Ready {
    shared: Rc<Shared>,
    driver: Driver,
    adopted: Option<Adopted>,
    listener: tokio::net::UnixListener,
    /// The listener once more, for what waits in it at the end.
    backlog: std::os::unix::net::UnixListener,
    notes: Vec<String>,
}

/// Takes charge: the lock, the plan, the control socket, and the QEMU that may be there already.
async fn prepare(home: &Home, name: &str) -> Result<(Ready, Lock), Failure> {
    let store = |e: crate::store::StoreError| Failure::new(FailureKind::Other, crate::error::chain(&e));
    let begin = Begin::from_env().map_err(|why| Failure::new(FailureKind::Usage, why))?;
    let pool = match &begin {
        Begin::Restore(Restore { spare: Some(pool), .. }) => Some(pool),
        _ => None,
    };
    let dir = match pool {
        Some(pool) => home.spare(pool, name),
        None => home.existing_vm(name).map_err(store)?,
    };
    if pool.is_some() {
        priority::lower();
    }
    dir.create_run_dir().map_err(store)?;
    let lock = take_charge(&dir).await?;
    let record = dir.record().map_err(store)?;
    // Without the lock a supervisor is on its way out: it was killed, and its QEMU is looked after once its process is gone.
    if let Status::Supervised(before) = dir.status()
        && let Ok(Some(process)) = before.supervisor.open()
    {
        let _ = tokio::time::timeout(PREDECESSOR, process.ended()).await;
    }
    let orphan = match dir.status() {
        Status::Orphaned(mut run) => {
            save::settle(&dir, &mut run).await?;
            dir.write_run_state(&run).map_err(store)?;
            if run.qemu.as_ref().is_some_and(ProcessId::is_alive) {
                Some(run)
            } else {
                super::close_unfinished(&dir).map_err(store)?;
                None
            }
        }
        Status::Stopped | Status::Supervised(_) => None,
    };
    let io = |e: std::io::Error| Failure::new(FailureKind::Other, format!("cannot listen for commands: {e}"));
    let us = ProcessId::current().map_err(io)?;
    let (mut plan, mut run) = match orphan {
        // Whatever has become of the image or the host: the guest runs, and somebody must watch it.
        Some(run) => (Plan::for_adoption(&record, &run), RunState { supervisor: us, ..run }),
        None => {
            let restore = match &begin {
                Begin::Adopt => {
                    return Err(Failure::new(FailureKind::WrongState, format!("`{name}` is not running")));
                }
                // One that is gone keeps nobody from starting the VM.
                Begin::Boot => match dir.suspended() {
                    Some(snapshot) if SnapshotStore::new(home).by_id(snapshot)?.is_some() => {
                        let (identity, unconfirmed) = (Identity::Same, Unconfirmed::Keep);
                        Some(Restored::find(home, &Restore { snapshot, identity, unconfirmed, spare: None })?)
                    }
                    _ => {
                        dir.clear_suspended();
                        None
                    }
                },
                Begin::Restore(restore) => Some(Restored::find(home, restore)?),
            };
            crate::snapshot::save::settle_disk(&dir.disk())?;
            (plan::plan(home, &dir, &record, restore)?, fresh_run(&record, us, &begin))
        }
    };
    let (inputs, queue, snapshot) = driver::queue(&run);
    let shared = Shared::new(home.clone(), dir.clone(), inputs, snapshot);
    let adopted = match &run.qemu {
        Some(qemu) => Link::adopt(&shared, &plan, qemu).await?,
        None => None,
    };
    if run.qemu.is_some() && adopted.is_none() {
        return Err(Failure::new(FailureKind::WrongState, format!("`{name}` ended just now")));
    }
    if let Some(adopted) = &adopted {
        save::open_ports(adopted, std::mem::take(&mut run.forwards_due)).await;
    }
    let known = run.heard.clone();
    // From here on other commands see that it runs, so none of them clears away what is made for it.
    dir.write_run_state(&run).map_err(store)?;
    let ports = match adopted {
        Some(_) => Ports::find(home, &plan, &run.ports).await,
        None => Ports::make(home, &plan).await.inspect_err(|_| dir.clear_run())?,
    };
    run.ports = ports.states();
    let mut notes = std::mem::take(&mut plan.notes);
    notes.extend_from_slice(ports.notes());
    let ports = Rc::new(ports);
    shared.set_ports(ports.clone());
    let known = if adopted.is_some() { known } else { ports.masked() };
    ports.watch(&shared, &known);
    let listening = || {
        dir.write_run_state(&run).map_err(store)?;
        let sockets = SocketDir::open(dir.run_dir()).map_err(io)?;
        let listener = sockets.listen("control.sock").map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let backlog = listener.try_clone().map_err(io)?;
        Ok((tokio::net::UnixListener::from_std(listener).map_err(io)?, backlog))
    };
    let (listener, backlog) = match listening() {
        Ok(listening) => listening,
        // A QEMU that runs keeps its network; nobody else will use it.
        Err(failure) if adopted.is_none() => {
            ports.leave().await;
            return Err(failure);
        }
        Err(failure) => return Err(failure),
    };
    let driver = Driver::new(shared.clone(), queue, plan, run);
    Ok((Ready { shared, driver, adopted, listener, backlog, notes }, lock))
}

/// Takes the supervisor's lock. The commands see to it that there is one supervisor at a time, so whoever has the lock is
/// just leaving.
async fn take_charge(dir: &VmDir) -> Result<Lock, Failure> {
    let failed = |e: crate::store::StoreError| Failure::new(FailureKind::Other, crate::error::chain(&e));
    if let Some(lock) = dir.try_lock_supervisor().map_err(failed)? {
        return Ok(lock);
    }
    // Another supervisor: one that is leaving, whose lock comes free, or one that is just coming up, because the command that
    // started it was interrupted and let the next one by. Neither announces itself here; the moment is short and rare.
    let given_up = tokio::time::Instant::now() + PREDECESSOR;
    while tokio::time::Instant::now() < given_up {
        let leaving = matches!(dir.status(), Status::Supervised(run) if run.state == State::Ended);
        if !leaving && SocketDir::open(dir.run_dir()).and_then(|run| run.connect("control.sock")).is_ok() {
            return Err(Failure::new(
                FailureKind::Supervised,
                format!("`{}` has a supervisor already", dir.name()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        if let Some(lock) = dir.try_lock_supervisor().map_err(failed)? {
            return Ok(lock);
        }
    }
    let why = format!("`{}` has a supervisor that neither answers nor ends", dir.name());
    Err(Failure::new(FailureKind::WrongState, why)
        .hint(format!("look for `midge supervise {}` in the process list, and end it", dir.name())))
}

fn fresh_run(record: &Record, supervisor: ProcessId, begin: &Begin) -> RunState {
    let spare = match begin {
        Begin::Restore(Restore { snapshot, identity, spare: Some(pool), .. }) => {
            Some(Spare { pool: pool.clone(), snapshot: *snapshot, identity: *identity, ready: false })
        }
        _ => None,
    };
    RunState { expires: expires(record), spare, ..RunState::begun(supervisor, State::Starting) }
}

/// When a VM whose time to live begins now is to end.
pub(super) fn expires(record: &Record) -> Option<jiff::Timestamp> {
    let ttl = i64::try_from(record.spec.ttl_seconds?).unwrap_or(i64::MAX);
    let end = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(ttl));
    Some(end.unwrap_or(jiff::Timestamp::MAX))
}

/// A supervisor that is told to end, as at the host's shutdown, ends its guest in good order first.
async fn obey_signals(shared: Rc<Shared>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = shared.ask(Ask::Stop { by: AskedBy::Host, within: Duration::from_secs(30) }).await;
    }
}

/// Leaves nothing of the run behind, nor of a VM that was to live for one run only.
fn close(shared: &Shared, lock: Lock) {
    let dir = shared.dir();
    let record = dir.record();
    let ephemeral = record.as_ref().is_ok_and(|record| record.spec.ephemeral);
    dir.clear_run();
    if ephemeral {
        // A command that holds the VM's lock is doing something with it, and removes it or starts it again.
        if let Ok(Some(_held)) = dir.try_lock() {
            if let Err(e) = dir.remove(&shared.home) {
                tracing::error!("cannot remove the VM: {}", crate::error::chain(&e));
            }
            super::forget_leases(&shared.home, &record.map(|record| record.macs).unwrap_or_default());
        }
    }
    drop(lock);
}
