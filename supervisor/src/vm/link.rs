//! One QEMU and everything that is connected to it: monitor, console, agent.
//!
//! A [`Link`] is made by starting QEMU ([`Link::launch`]) or by finding one that lost its supervisor
//! ([`Link::adopt`]). Its tasks turn what QEMU does into [`Input`]s for the driver; dropping it ends them.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ::qmp::{Events, Monitor};
use qapi::qmp;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::control::{Failure, FailureKind};
use super::driver::Input;
use super::guest_agent::AgentPort;
use super::history::Happening;
use super::phase::{ConsoleReader, Sign};
use super::plan::{Plan, Restored};
use super::ports::Ports;
use super::qemu::Process;
use super::shared::Shared;
use super::sockets::SocketDir;
use super::state::{Action, Event, Exit};
use crate::fault::{self, Point};
use crate::host::oom;
use crate::host::proc::ProcessId;
use crate::identity::Wanted;
use crate::machine::{self, Succession, Successor};
use crate::snapshot::save;
use crate::snapshot::store::SnapshotStore;
use crate::spec::{Kind, Ready, Size};
use crate::store::{NEXT_SOCKETS, SOCKETS, VmDir};

/// How long a monitor command may take. QEMU answers in well under a millisecond unless the host is overloaded.
pub(super) const MONITOR_DEADLINE: Duration = Duration::from_secs(20);

/// A QEMU and the tasks that watch it.
#[derive(Debug)]
pub(super) struct Link {
    handle: Rc<Handle>,
    _tasks: JoinSet<()>,
}

/// The part of a link that requests use.
#[derive(Debug)]
pub(super) struct Handle {
    process: Process,
    monitor: RefCell<Option<Monitor>>,
    pub(super) agent: AgentPort,
    /// The disk's size, until the guest has been asked to fill it.
    pub(super) grow: Cell<Option<Size>>,
    about: About,
    /// The identity that the guest is to be given when its agent answers.
    pub(super) identify: RefCell<Option<Wanted>>,
    /// What the driver is not to hear of yet, while it is open which QEMU the guest goes on in.
    held: RefCell<Option<Vec<Input>>>,
    /// Told when the monitor answers.
    answers: Notify,
    /// The program and its arguments.
    pub(super) command_line: Vec<String>,
}

/// A link to a QEMU that ran already.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) link: Link,
    pub(super) running: bool,
    pub(super) status: String,
}

impl Link {
    /// Starts QEMU for `plan`.
    pub(super) fn launch(shared: &Rc<Shared>, plan: &Plan, ports: &Ports) -> Result<Self, Failure> {
        let dir = &shared.dir();
        let io = |what: &str| {
            let what = what.to_owned();
            move |e: std::io::Error| Failure::new(FailureKind::Other, format!("cannot {what}: {e}"))
        };
        let (listening, ends) = sockets(dir, SOCKETS)?;
        shared.console.begin_log().map_err(io("set the old console log aside"))?;
        let stderr = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o644)
            .open(dir.qemu_log())
            .map_err(io("open QEMU's log"))?;
        plan.prepare_ram()?;
        plan.prepare_seed(&shared.home, dir)?;
        let taps = ports.taps();
        let numbers = taps.iter().map(|tap| tap.as_ref().map(AsRawFd::as_raw_fd)).collect();
        let resources = plan.resources(dir, listening.each_ref().map(AsRawFd::as_raw_fd), numbers);
        let arguments = machine::arguments(&plan.spec, &plan.qemu, &resources)
            .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
        plan.check_machine(&arguments)?;
        let command_line =
            std::iter::once(plan.qemu.path.display().to_string()).chain(arguments.iter().cloned()).collect();
        // Before there is a QEMU that nobody would end.
        let identify = plan.identify(dir)?;
        let before = oom::Snapshot::take();
        let mut inherited: Vec<_> = listening.iter().map(AsFd::as_fd).collect();
        inherited.extend(taps.into_iter().flatten());
        let process = Process::spawn(&plan.qemu.path, &arguments, &inherited, stderr).map_err(|e| {
            Failure::new(FailureKind::HostUnfit, format!("cannot run {}: {e}", plan.qemu.path.display()))
        })?;
        fault::at(Point::QemuSpawned);
        // QEMU holds the listening ends now. Without our copies, everything connected ends when QEMU does.
        drop(listening);
        let qemu = Qemu { process, command_line, before, grow: plan.grow, identify };
        Ok(Self::watch(shared, About::of(plan), qemu, ends, Since::Launch))
    }

    /// Starts another QEMU for the guest that runs in `old`, to take it over: it waits for the guest's state. Nothing of it reaches the
    /// driver until [`Handle::release`].
    pub(super) fn succeed(
        shared: &Rc<Shared>,
        old: &Handle,
        taps: &[Option<BorrowedFd<'_>>],
        disk: Option<&Path>,
        version: (u32, u32, u32),
    ) -> Result<(Self, Succession), Failure> {
        let failed =
            |what: String| Failure::new(FailureKind::Other, format!("cannot start a second QEMU: {what}"));
        let (program, arguments) = old
            .command_line
            .split_first()
            .ok_or_else(|| failed("the first one has no command line".to_owned()))?;
        let (listening, ends) = sockets(&shared.dir(), NEXT_SOCKETS)?;
        let numbers: Vec<_> = taps.iter().map(|tap| tap.as_ref().map(AsRawFd::as_raw_fd)).collect();
        let new = Successor {
            sockets: listening.each_ref().map(AsRawFd::as_raw_fd),
            taps: &numbers,
            disk,
            version,
        };
        let succession = machine::successor(arguments, &new)
            .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
        let before = oom::Snapshot::take();
        let stderr = File::options()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(shared.dir().qemu_log())
            .map_err(|e| failed(format!("QEMU's log: {e}")))?;
        let mut inherited: Vec<_> = listening.iter().map(AsFd::as_fd).collect();
        inherited.extend(taps.iter().flatten());
        let process = Process::spawn(Path::new(program), &succession.arguments, &inherited, stderr)
            .map_err(|e| Failure::new(FailureKind::HostUnfit, format!("cannot run {program}: {e}")))?;
        drop(listening);
        let command_line =
            std::iter::once(program.clone()).chain(succession.arguments.iter().cloned()).collect();
        let qemu = Qemu { process, command_line, before, grow: None, identify: None };
        let link = Self::watch(shared, old.about.clone(), qemu, ends, Since::Succession);
        Ok((link, succession))
    }

    /// Takes charge of a QEMU that lost its supervisor: connects to its sockets and asks how it is. Answers nothing
    /// when it has ended meanwhile.
    pub(super) async fn adopt(
        shared: &Rc<Shared>,
        plan: &Plan,
        qemu: &ProcessId,
    ) -> Result<Option<Adopted>, Failure> {
        let failed = |e: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Other, format!("cannot take charge of the running QEMU: {e}"))
        };
        let sockets = SocketDir::open(shared.dir().run_dir()).map_err(|e| failed(&e))?;
        let Some(process) = Process::adopt(qemu).map_err(|e| failed(&e))? else { return Ok(None) };
        let connect = |name| sockets.connect(name).map_err(|e| failed(&e));
        let [monitor, console, agent] = SOCKETS;
        let ends = Ends { monitor: connect(monitor)?, console: connect(console)?, agent: connect(agent)? };
        let stream = tokio_stream(&ends.monitor).map_err(|e| failed(&e))?;
        let (monitor, events) = Monitor::connect(stream, MONITOR_DEADLINE).await.map_err(|e| failed(&e))?;
        let status = monitor.execute(qmp::query_status {}, MONITOR_DEADLINE).await.map_err(|e| failed(&e))?;
        let words = std::fs::read(format!("/proc/{}/cmdline", qemu.pid)).unwrap_or_default();
        let command_line = words
            .split(|b| *b == 0)
            .filter(|a| !a.is_empty())
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        // QEMU tells of the agent's port only when it changes; a guest that had it open has it open still.
        let agent_open = port_is_open(&monitor).await;
        let running = status.running;
        let status = status_name(&status);
        let connected = Connected { monitor, events, agent_open };
        let before = oom::Snapshot::take();
        let qemu = Qemu { process, command_line, before, grow: None, identify: None };
        let link = Self::watch(shared, About::of(plan), qemu, ends, Since::Adoption(connected));
        Ok(Some(Adopted { link, running, status }))
    }

    fn watch(shared: &Rc<Shared>, about: About, qemu: Qemu, ends: Ends, since: Since) -> Self {
        let Qemu { process, command_line, before, grow, identify } = qemu;
        let handle = Rc::new(Handle {
            process,
            monitor: RefCell::new(None),
            agent: AgentPort::new(ends.agent),
            grow: Cell::new(grow),
            held: RefCell::new(matches!(since, Since::Succession).then(Vec::new)),
            answers: Notify::new(),
            about,
            identify: RefCell::new(identify),
            command_line,
        });
        // An adopted QEMU can be spoken to at once: what the driver decides first is not lost.
        if let Since::Adoption(connected) = &since {
            *handle.monitor.borrow_mut() = Some(connected.monitor.clone());
        }
        let mut tasks = JoinSet::new();

        let about = &handle.about;
        let pattern = match &about.ready {
            Some(Ready::Serial(pattern)) => regex::bytes::Regex::new(pattern).ok(),
            _ => None,
        };
        let mut reader = ConsoleReader::new(about.kind, pattern);
        if about.watches_root {
            reader = reader.watching_root();
        }
        if matches!(since, Since::Adoption(_)) {
            // What the guest showed while nobody watched. When it reached a phase is not known any more.
            let before = std::fs::read(shared.dir().console_log()).unwrap_or_default();
            for sign in reader.push(&before) {
                if !matches!(sign, Sign::Phase(_)) {
                    shared.tell(Input::Sign(sign));
                }
            }
        }
        let console = shared.console.clone();
        let (told, teller) = (shared.clone(), handle.clone());
        let stream = tokio_stream(&ends.console);
        let reading = tokio::task::spawn_local(async move {
            match stream {
                Ok(stream) => {
                    let look = |bytes: &[u8]| {
                        reader.push(bytes).into_iter().for_each(|sign| teller.tell(&told, Input::Sign(sign)));
                    };
                    console.run(stream, look).await;
                }
                Err(e) => tracing::error!("cannot read the console: {e}"),
            }
        });

        let speaking = tokio::task::spawn_local(speak(shared.clone(), handle.clone(), ends.monitor, since));
        tasks.spawn_local(bury(
            shared.clone(),
            handle.clone(),
            before,
            AbortOnDrop(speaking),
            AbortOnDrop(reading),
        ));
        Self { handle, _tasks: tasks }
    }

    pub(super) fn handle(&self) -> Rc<Handle> {
        self.handle.clone()
    }

    pub(super) fn process_id(&self) -> Option<&ProcessId> {
        self.handle.process.id()
    }

    pub(super) fn kill(&self) {
        self.handle.process.kill();
    }

    /// Loads a snapshot into a QEMU that was started for it, and tells the driver.
    pub(super) fn load(&self, shared: &Rc<Shared>, restore: &Restored) {
        let (shared, handle, snapshot) = (shared.clone(), self.handle.clone(), restore.snapshot.clone());
        tokio::task::spawn_local(async move {
            let load = async {
                let monitor = handle.monitor()?;
                let pid = handle.process.id().map(|id| id.pid);
                let pid = pid.ok_or_else(|| Failure::new(FailureKind::Other, "QEMU is gone"))?;
                let store = SnapshotStore::new(&shared.home);
                let stderr = shared.dir().qemu_log();
                save::load(&store, &snapshot, &monitor, pid, Some(&stderr)).await?;
                fault::at(Point::Loaded);
                Ok::<_, Failure>(())
            };
            shared.tell(Input::Event(match load.await {
                Ok(()) => Event::Loaded,
                Err(failure) => Event::LoadFailed { detail: failure.to_string() },
            }));
        });
    }

    /// Performs one of the state machine's wishes on the monitor. Tasks of one queue run in the order in which they
    /// were made, and the monitor keeps that order on the wire.
    pub(super) fn command(&self, action: &Action) {
        let Ok(monitor) = self.handle.monitor() else { return };
        let handle = self.handle.clone();
        let action = action.clone();
        tokio::task::spawn_local(async move {
            let done = match action {
                Action::Continue => monitor.execute(qmp::cont {}, MONITOR_DEADLINE).await.map(|_| ()),
                Action::Pause => monitor.execute(qmp::stop {}, MONITOR_DEADLINE).await.map(|_| ()),
                Action::Quit => monitor.execute(qmp::quit {}, MONITOR_DEADLINE).await.map(|_| ()),
                Action::PowerDown => {
                    // An agent that answers is quicker than the power button, and works where there is none.
                    if handle.agent.shut_down().await {
                        return;
                    }
                    monitor.execute(qmp::system_powerdown {}, MONITOR_DEADLINE).await.map(|_| ())
                }
                _ => Ok(()),
            };
            if let Err(e) = done {
                tracing::warn!("{action:?} failed: {e}");
            }
        });
    }
}

impl Handle {
    /// The monitor, once it has answered.
    pub(super) fn monitor(&self) -> Result<Monitor, Failure> {
        self.monitor
            .borrow()
            .clone()
            .ok_or_else(|| Failure::new(FailureKind::WrongState, "QEMU is still starting; try again"))
    }

    /// The monitor, as soon as it answers.
    ///
    /// # Errors
    /// When QEMU ends before it does.
    pub(super) async fn greeted(&self) -> Result<Monitor, Failure> {
        loop {
            let answers = self.answers.notified();
            if let Some(monitor) = self.monitor.borrow().clone() {
                return Ok(monitor);
            }
            tokio::select! {
                () = answers => {}
                _ = self.process.gone() => return Err(Failure::new(FailureKind::Other, "QEMU ended before its monitor answered")),
            }
        }
    }

    /// QEMU's user-mode network, where the guest has one.
    pub(super) fn user_netdev(&self) -> Option<&str> {
        self.about.user_netdev.as_deref()
    }

    /// From now on the driver does not hear of this QEMU, until [`Handle::release`].
    pub(super) fn hold(&self) {
        self.held.borrow_mut().get_or_insert_default();
    }

    /// The driver hears what it has missed, and what follows.
    pub(super) fn release(&self, shared: &Shared) {
        self.held.borrow_mut().take().into_iter().flatten().for_each(|input| shared.tell(input));
    }

    fn tell(&self, shared: &Shared, input: Input) {
        match &mut *self.held.borrow_mut() {
            Some(held) => held.push(input),
            None => shared.tell(input),
        }
    }

    pub(super) fn process_id(&self) -> Option<&ProcessId> {
        self.process.id()
    }

    /// Resolves when QEMU has gone.
    pub(super) async fn gone(&self) {
        // Its end is collected, so that it leaves no zombie behind.
        let _ = self.process.ended().await;
    }

    /// Ends QEMU at once.
    pub(super) fn kill(&self) {
        self.process.kill();
    }
}

/// Gives a successor's sockets the names by which a QEMU is found.
pub(super) fn adopt_sockets(dir: &VmDir) -> std::io::Result<()> {
    for (from, to) in NEXT_SOCKETS.into_iter().zip(SOCKETS) {
        match std::fs::rename(dir.run_dir().join(from), dir.run_dir().join(to)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the sockets of a successor that came to nothing.
pub(super) fn remove_sockets(dir: &VmDir) {
    for name in NEXT_SOCKETS {
        let _ = std::fs::remove_file(dir.run_dir().join(name));
    }
}

/// A QEMU that no supervisor has, by its monitor's socket: what it says of its guest, and the means to end it.
pub(super) struct Found {
    monitor: Monitor,
    events: Events,
    status: String,
}

impl Found {
    /// The QEMU that is to take a guest over.
    pub(super) async fn successor(dir: &VmDir) -> Option<Self> {
        Self::behind(dir, NEXT_SOCKETS[0]).await
    }

    /// The VM's own.
    pub(super) async fn own(dir: &VmDir) -> Option<Self> {
        Self::behind(dir, SOCKETS[0]).await
    }

    async fn behind(dir: &VmDir, socket: &str) -> Option<Self> {
        let stream = SocketDir::open(dir.run_dir()).and_then(|run| run.connect(socket)).ok()?;
        let (monitor, events) = Monitor::connect(tokio_stream(&stream).ok()?, MONITOR_DEADLINE).await.ok()?;
        let status = monitor.execute(qmp::query_status {}, MONITOR_DEADLINE).await.ok()?;
        Some(Self { monitor, events, status: status_name(&status) })
    }

    /// Its guest has run: it does not wait for its first instruction, nor for the state that it is to begin with.
    pub(super) fn has_run(&self) -> bool {
        !matches!(self.status.as_str(), "prelaunch" | "inmigrate")
    }

    /// Its guest runs, or has come to an end by itself: it does not stand where a state was loaded.
    pub(super) fn went_on(&self) -> bool {
        self.has_run() && self.status != "paused"
    }

    /// Ends it, and waits until its sockets are closed.
    pub(super) async fn quit(mut self) {
        let _ = self.monitor.execute(qmp::quit {}, MONITOR_DEADLINE).await;
        let closed = async { while self.events.recv().await.is_some() {} };
        let _ = tokio::time::timeout(MONITOR_DEADLINE, closed).await;
    }
}

/// Makes QEMU's sockets under these names, and connects to each.
fn sockets(dir: &VmDir, names: [&str; 3]) -> Result<([UnixListener; 3], Ends), Failure> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| Failure::new(FailureKind::Other, format!("cannot {what}: {e}"))
    };
    let sockets = SocketDir::open(dir.run_dir()).map_err(io("open the run folder"))?;
    let listen = |name| sockets.listen(name).map_err(io("make a socket in the run folder"));
    let connect = |name| sockets.connect(name).map_err(io("connect to a socket in the run folder"));
    let [monitor, console, agent] = names;
    let listening = [listen(monitor)?, listen(console)?, listen(agent)?];
    // Connected before QEMU exists: each connection waits in its socket's backlog until QEMU accepts it.
    let ends = Ends { monitor: connect(monitor)?, console: connect(console)?, agent: connect(agent)? };
    Ok((listening, ends))
}

/// Our ends of QEMU's sockets.
struct Ends {
    monitor: UnixStream,
    console: UnixStream,
    agent: UnixStream,
}

/// A monitor that has been spoken to already.
struct Connected {
    monitor: Monitor,
    events: Events,
    agent_open: bool,
}

/// What watching a VM's QEMU needs to know of the VM.
#[derive(Debug, Clone)]
struct About {
    ready: Option<Ready>,
    kind: Kind,
    /// Interfaces without a cable.
    unplugged: Vec<String>,
    user_netdev: Option<String>,
    /// The guest boots by midge's own initial RAM disk, which may fail.
    watches_root: bool,
}

impl About {
    fn of(plan: &Plan) -> Self {
        Self {
            ready: plan.ready.clone(),
            kind: plan.spec.kind,
            unplugged: machine::unplugged(&plan.spec),
            user_netdev: machine::user_netdev(&plan.spec),
            watches_root: plan.small_initrd.is_some(),
        }
    }
}

/// A QEMU's process, and what is known of it.
struct Qemu {
    process: Process,
    command_line: Vec<String>,
    /// What the kernel had counted before it was there.
    before: oom::Snapshot,
    grow: Option<Size>,
    identify: Option<Wanted>,
}

/// Since when there is a link to a QEMU.
enum Since {
    /// From its beginning.
    Launch,
    /// From its beginning; it is to take over a guest.
    Succession,
    /// Its supervisor was killed.
    Adoption(Connected),
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn tokio_stream(stream: &UnixStream) -> std::io::Result<tokio::net::UnixStream> {
    let stream = stream.try_clone()?;
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

fn status_name(status: &qmp::StatusInfo) -> String {
    serde_json::to_value(status.status)
        .ok()
        .and_then(|v| v.as_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}

/// Connects to the monitor and reports its events until QEMU is gone.
async fn speak(shared: Rc<Shared>, handle: Rc<Handle>, stream: UnixStream, since: Since) {
    let about = handle.about.clone();
    let (monitor, mut events, adopted, agent_open) = match since {
        Since::Adoption(Connected { monitor, events, agent_open }) => (monitor, events, true, agent_open),
        Since::Launch | Since::Succession => {
            let connected = match tokio_stream(&stream) {
                // The state machine bounds the wait, and QEMU's end ends it.
                Ok(stream) => Monitor::connect(stream, Duration::from_secs(3600)).await,
                Err(e) => return tracing::error!("cannot speak to QEMU: {e}"),
            };
            match connected {
                Ok((monitor, events)) => (monitor, events, false, false),
                Err(e) => return tracing::warn!("QEMU's monitor did not answer: {e}"),
            }
        }
    };
    *handle.monitor.borrow_mut() = Some(monitor.clone());
    if !adopted {
        for name in about.unplugged {
            if let Err(e) =
                monitor.execute(qmp::set_link { name: name.clone(), up: false }, MONITOR_DEADLINE).await
            {
                tracing::error!("cannot take the link of {name} down: {e}");
            }
        }
        handle.tell(&shared, Input::Event(Event::MonitorUp));
    }
    handle.answers.notify_waiters();
    // Ends with this conversation: there is nothing to try at a QEMU that has gone.
    let _probe = about.ready.filter(|s| matches!(s, Ready::Ssh | Ready::Tcp(_))).map(|sign| {
        let shared = shared.clone();
        let handle = handle.clone();
        AbortOnDrop(tokio::task::spawn_local(async move {
            if super::probe::wait_for(&shared, &handle, &sign).await.is_ok() {
                handle.tell(&shared, Input::Sign(Sign::Ready));
            }
        }))
    });
    if agent_open {
        handle.agent.opened(&shared, &handle, about.kind);
    }
    let mut no_space = false;
    while let Some(event) = events.recv().await {
        let text = |key: &str| event.data.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let flag = |key: &str| event.data.get(key).and_then(serde_json::Value::as_bool).unwrap_or_default();
        match event.name.as_str() {
            "RESUME" => handle.tell(&shared, Input::Event(Event::Resumed)),
            "STOP" => {
                // The event does not say why; the answer to this query may already tell of a later state, which then has
                // an event of its own.
                if let Ok(status) = monitor.execute(qmp::query_status {}, MONITOR_DEADLINE).await {
                    let status = status_name(&status);
                    handle.tell(&shared, Input::Event(Event::Stopped { status, no_space }));
                }
            }
            "SHUTDOWN" => handle.tell(&shared, Input::Event(Event::Shutdown { reason: text("reason") })),
            "GUEST_PANICKED" => handle.tell(&shared, Input::Event(Event::Panicked)),
            "RESET" if flag("guest") => handle.tell(&shared, Input::Happened(Happening::GuestReset)),
            "BLOCK_IO_ERROR" => {
                no_space = flag("nospace");
                let detail = text("reason");
                handle.tell(&shared, Input::Happened(Happening::DiskError { no_space, detail }));
            }
            "VSERPORT_CHANGE" if flag("open") => handle.agent.opened(&shared, &handle, about.kind),
            "VSERPORT_CHANGE" => handle.agent.closed(),
            // Frequent, and of no consequence to anyone.
            "RTC_CHANGE" | "NIC_RX_FILTER_CHANGED" | "RESET" => {}
            name => handle.tell(
                &shared,
                Input::Happened(Happening::Qemu { name: name.to_owned(), data: event.data.clone() }),
            ),
        }
    }
    // The monitor ends with QEMU. One that ends alone leaves a guest that nobody can stop or see the end of.
    if tokio::time::timeout(Duration::from_secs(5), handle.process.gone()).await.is_err() {
        tracing::error!("QEMU's monitor broke off: {}; ending QEMU", monitor.closed().await);
        handle.process.kill();
    }
}

/// Waits for QEMU's end and reports it, after everything that its monitor and console had to say.
async fn bury(
    shared: Rc<Shared>,
    handle: Rc<Handle>,
    before: oom::Snapshot,
    mut speaking: AbortOnDrop,
    mut reading: AbortOnDrop,
) {
    let status = match handle.process.ended().await {
        Ok(status) => status,
        Err(e) => {
            tracing::error!("cannot wait for QEMU: {e}");
            None
        }
    };
    let pid = handle.process.id().map_or(0, |id| id.pid);
    // Both end by themselves when QEMU's ends of the sockets are closed.
    let _ = tokio::time::timeout(Duration::from_secs(5), async {
        let _ = (&mut speaking.0).await;
        let _ = (&mut reading.0).await;
    })
    .await;
    let killed = matches!(status, Some(super::state::ExitStatus::Signal(9)) | None);
    let oom = if killed { before.was_oom_killed(pid) } else { None };
    let stderr = tail(&end_of(&shared.dir().qemu_log()));
    handle.tell(&shared, Input::Event(Event::QemuExited(Exit { status, stderr, oom })));
}

/// The last part of a file that may be of any size.
fn end_of(path: &std::path::Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last lines of what QEMU wrote, on one line.
fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

async fn port_is_open(monitor: &Monitor) -> bool {
    match monitor.execute(qmp::query_chardev {}, MONITOR_DEADLINE).await {
        Ok(chardevs) => chardevs.iter().any(|c| c.label == machine::AGENT_CHARDEV && c.frontend_open),
        Err(_) => false,
    }
}
