//! From a command to a supervisor: starting one, finding the one there is, or replacing one that was killed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::begin::{self, Begin};
use super::control::{Client, ClientError, Failure, FailureKind, Reply, Request};
use super::link::Found;
use super::sockets::SocketDir;
use super::{Cause, End, State};
use crate::store::{Home, LastRun, RunState, SCHEMA, Status, StoreError, VmDir};

/// How long a supervisor may take to say that it is in charge. It reads a handful of files first; on a slow SD card, or
/// when QEMU and KVM are probed for the first time, that takes a moment.
const GREETING: Duration = Duration::from_secs(60);
/// The size of a supervisor's log at which the next one begins a new file.
const LOG_LIMIT: u64 = 1 << 20;

/// Why a command has no supervisor to talk to.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The supervisor said no: the VM could not be started.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The VM does not run.
    #[error("the VM `{0}` is not running; start it with `midge start {0}`")]
    NotRunning(String),
    /// The conversation failed.
    #[error(transparent)]
    Client(ClientError),
    /// The supervisor's process could not be started.
    #[error("cannot start a supervisor")]
    Spawn(#[source] io::Error),
}

impl From<ClientError> for LaunchError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(failure) => Self::Refused(failure),
            other => Self::Client(other),
        }
    }
}

/// A VM that runs, or is being started.
#[derive(Debug)]
pub struct Started {
    /// A fresh connection to its supervisor.
    pub client: Client,
    /// It ran already.
    pub already: bool,
    /// What the user should know of this start, a line each.
    pub notes: Vec<String>,
}

/// Starts the VM, or finds it running. Returns as soon as a supervisor is in charge; what QEMU makes of it is told by
/// [`super::control::Request::Follow`].
///
/// Two starts of one VM at the same moment wait for each other here, and the second finds the VM running.
pub fn start(home: &Home, vm: &VmDir, begin: &Begin) -> Result<Started, LaunchError> {
    if let Some(client) = connect_answering(vm)? {
        return Ok(Started { client, already: true, notes: Vec::new() });
    }
    let lock = vm.lock()?;
    if let Some(client) = connect_answering(vm)? {
        return Ok(Started { client, already: true, notes: Vec::new() });
    }
    let already = matches!(vm.status(), Status::Orphaned(_));
    refuse_nameless_qemu(vm)?;
    close_unfinished(vm)?;
    let spawned = spawn(home, vm, begin);
    drop(lock);
    match spawned {
        Ok((client, notes)) => Ok(Started { client, already, notes }),
        // Started by a command that was interrupted before its supervisor had answered.
        Err(LaunchError::Refused(failure)) if failure.kind == FailureKind::Supervised => {
            match connect_answering(vm)? {
                Some(client) => Ok(Started { client, already: true, notes: Vec::new() }),
                None => Err(LaunchError::Refused(failure)),
            }
        }
        Err(error) => Err(error),
    }
}

/// A connection to the supervisor of a VM that runs, which is replaced first when it was killed.
pub fn connect(home: &Home, vm: &VmDir) -> Result<Client, LaunchError> {
    if let Some(client) = try_connect(vm)? {
        return Ok(client);
    }
    let not_running = || LaunchError::NotRunning(vm.name().to_owned());
    if !vm.state_dir().is_dir() {
        return Err(StoreError::NotFound { name: vm.name().to_owned(), near: None }.into());
    }
    let _lock = vm.lock()?;
    if let Some(client) = try_connect(vm)? {
        return Ok(client);
    }
    match settled_status(vm)? {
        Status::Orphaned(_) => match spawn(home, vm, &Begin::Adopt) {
            Err(LaunchError::Refused(failure)) if failure.kind == FailureKind::Supervised => {
                try_connect(vm)?.ok_or(LaunchError::Refused(failure))
            }
            spawned => Ok(spawned?.0),
        },
        Status::Supervised(_) => Err(not_running()),
        Status::Stopped => {
            close_unfinished(vm)?;
            Err(not_running())
        }
    }
}

/// What is known of the VM once a supervisor has vanished that was killed: its lock is free a moment before its process is gone.
fn settled_status(vm: &VmDir) -> Result<Status, StoreError> {
    let status = vm.status();
    if let Status::Supervised(run) = &status
        && vm.run_dir().is_dir()
        && vm.try_lock_supervisor()?.is_some()
        && let Ok(Some(process)) = run.supervisor.open()
    {
        let _ = process.wait_for(GREETING);
        return Ok(vm.status());
    }
    Ok(status)
}

/// Records how a run ended whose QEMU and supervisor are both gone without a word: the host went down, or both were
/// killed. Removes what it left behind.
pub fn close_unfinished(vm: &VmDir) -> Result<(), StoreError> {
    let Some(run) = vm.unfinished_run() else { return Ok(()) };
    let RunState { qemu, started, phases, .. } = run;
    let here = crate::host::HostRoot::system().boot_id().ok();
    let rebooted = qemu.is_some_and(|q| Some(q.boot_id) != here);
    let detail = if rebooted {
        "the host was restarted while the VM ran"
    } else {
        "QEMU and its supervisor both ended while nobody watched"
    };
    let now = jiff::Timestamp::now();
    let end = End { cause: Cause::Unknown { detail: detail.to_owned() }, asked_by: None };
    let last =
        LastRun { schema: SCHEMA, started: started.unwrap_or(now), ended: now, end: end.clone(), phases };
    vm.write_last_run(&last)?;
    super::history::History::open(&vm.events_log()).add(super::history::Happening::Ended(end));
    vm.clear_run();
    Ok(())
}

/// Refuses to go on beside a QEMU whose supervisor was killed and whose number nobody knows, because the state file that
/// named it is damaged: two on one disk would ruin it, and so would taking the disk away or changing it. For a VM that seems to
/// be stopped, before anything is done with it.
///
/// One whose supervisor was killed between starting it and noting it has no guest yet, and is ended.
pub fn refuse_nameless_qemu(vm: &VmDir) -> Result<(), LaunchError> {
    let listens = || SocketDir::open(vm.run_dir()).and_then(|dir| dir.connect("monitor.sock")).is_ok();
    if vm.status() != Status::Stopped || !listens() || ended_before_its_guest(vm)? {
        return Ok(());
    }
    let name = vm.name();
    let why = format!(
        "a QEMU of `{name}` still runs, and what names it, {}, is damaged",
        vm.run_dir().join("state.json").display()
    );
    let next = format!("find it with `pgrep -f vms/{name}/console.log` and end it");
    Err(Failure::new(FailureKind::WrongState, why).hint(next).into())
}

fn ended_before_its_guest(vm: &VmDir) -> Result<bool, LaunchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(LaunchError::Spawn)?.block_on(async {
        match Found::own(vm).await {
            Some(found) if !found.has_run() => {
                found.quit().await;
                true
            }
            _ => false,
        }
    }))
}

/// A connection to the supervisor of a spare, when one listens. None is started in its place: a spare without one is of no use.
pub fn connect_spare(spare: &VmDir) -> Result<Option<Client>, LaunchError> {
    try_connect(spare)
}

/// As [`try_connect`], and to a supervisor that answers: one that was killed at this moment may still take the connection.
fn connect_answering(vm: &VmDir) -> Result<Option<Client>, LaunchError> {
    let Some(mut asked) = try_connect(vm)? else { return Ok(None) };
    match asked.call(&Request::Status, |_| ()) {
        Ok(_) => try_connect(vm),
        Err(ClientError::Gone) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// A connection to the supervisor, when one listens.
fn try_connect(vm: &VmDir) -> Result<Option<Client>, LaunchError> {
    // One whose VM has ended only has its last words to say. It would call a VM that is to be started a running one.
    if matches!(vm.status(), Status::Supervised(run) if run.state == State::Ended) {
        return Ok(None);
    }
    let connected = SocketDir::open(vm.run_dir()).and_then(|dir| dir.connect("control.sock"));
    match connected {
        Ok(stream) => Ok(Some(Client::new(stream))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(StoreError::io("connect to the supervisor in", vm.run_dir())(e).into()),
    }
}

/// Starts a supervisor and waits until it is in charge. One end of a socket pair is its standard input: its greeting comes
/// from there, and the first request goes there, so nobody waits for a socket to appear.
fn spawn(home: &Home, vm: &VmDir, begin: &Begin) -> Result<(Client, Vec<String>), LaunchError> {
    vm.create_run_dir()?;
    let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Spawn)?;
    let log_path = vm.midge_log();
    if std::fs::metadata(&log_path).is_ok_and(|m| m.len() > LOG_LIMIT) {
        let _ = std::fs::rename(&log_path, log_path.with_extension("log.old"));
    }
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(StoreError::io("open", &log_path))?;
    let program = std::env::current_exe().map_err(LaunchError::Spawn)?;
    let mut command = Command::new(program);
    command
        .args(["supervise", vm.name()])
        .env("MIDGE_HOME", home.state())
        .env("MIDGE_RUN", home.run())
        .env(begin::VARIABLE, begin.text())
        .stdin(OwnedFd::from(theirs))
        .stdout(log.try_clone().map_err(LaunchError::Spawn)?)
        .stderr(log)
        .current_dir("/")
        // Out of the command's process group at once, so that a Ctrl-C here does not reach it before it has a session
        // of its own.
        .process_group(0);
    // Not waited for: it outlives this command, and init collects it.
    let _child = command.spawn().map_err(LaunchError::Spawn)?;
    // The command holds the other end of the pair, too.
    drop(command);
    let mut client = Client::new(ours);
    client.set_timeout(Some(GREETING))?;
    let notes = match client.receive()? {
        Reply::Done { value } => serde_json::from_value(value).unwrap_or_default(),
        other => return Err(LaunchError::Client(ClientError::Strange(format!("{other:?} for a greeting")))),
    };
    client.set_timeout(None)?;
    Ok((client, notes))
}
