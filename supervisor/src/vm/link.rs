//! One QEMU and everything that is connected to it: monitor, console, agent.
//!
//! A [`Link`] is made by starting QEMU ([`Link::launch`]) or by finding one that lost its supervisor
//! ([`Link::adopt`]). Its tasks turn what QEMU does into [`Input`]s for the driver; dropping it ends them.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use ::qmp::{Events, Monitor};
use qapi::qmp;
use tokio::task::JoinSet;

use super::control::{Failure, FailureKind};
use super::driver::Input;
use super::guest_agent::AgentPort;
use super::history::Happening;
use super::phase::{ConsoleReader, Sign};
use super::plan::Plan;
use super::ports::Ports;
use super::qemu::Process;
use super::shared::Shared;
use super::sockets::SocketDir;
use super::state::{Action, Event, Exit};
use crate::host::oom;
use crate::host::proc::ProcessId;
use crate::machine;
use crate::spec::{Kind, Ready, Size};

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
    /// QEMU's user-mode network, where the guest has one.
    pub(super) user_netdev: Option<String>,
    /// The disk's size, until the guest has been asked to fill it.
    pub(super) grow: Cell<Option<Size>>,
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
        let dir = &shared.dir;
        let io = |what: &str| {
            let what = what.to_owned();
            move |e: std::io::Error| Failure::new(FailureKind::Other, format!("cannot {what}: {e}"))
        };
        let sockets = SocketDir::open(dir.run_dir()).map_err(io("open the run folder"))?;
        let listen = |name| sockets.listen(name).map_err(io("make a socket in the run folder"));
        let connect = |name| sockets.connect(name).map_err(io("connect to a socket in the run folder"));
        let (monitor, console, agent) =
            (listen("monitor.sock")?, listen("console.sock")?, listen("agent.sock")?);
        // Connected before QEMU exists: each connection waits in its socket's backlog until QEMU accepts it.
        let ends = Ends {
            monitor: connect("monitor.sock")?,
            console: connect("console.sock")?,
            agent: connect("agent.sock")?,
        };

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
        let sockets = [monitor.as_raw_fd(), console.as_raw_fd(), agent.as_raw_fd()];
        let taps = ports.taps();
        let numbers = taps.iter().map(|tap| tap.as_ref().map(AsRawFd::as_raw_fd)).collect();
        let resources = plan.resources(dir, sockets, numbers);
        let arguments = machine::arguments(&plan.spec, &plan.qemu, &resources)
            .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
        let command_line =
            std::iter::once(plan.qemu.path.display().to_string()).chain(arguments.iter().cloned()).collect();
        let before = oom::Snapshot::take();
        let mut inherited = vec![monitor.as_fd(), console.as_fd(), agent.as_fd()];
        inherited.extend(taps.into_iter().flatten());
        let process = Process::spawn(&plan.qemu.path, &arguments, &inherited, stderr).map_err(|e| {
            Failure::new(FailureKind::HostUnfit, format!("cannot run {}: {e}", plan.qemu.path.display()))
        })?;
        // QEMU holds the listening ends now. Without our copies, everything connected ends when QEMU does.
        drop((monitor, console, agent));
        Ok(Self::watch(shared, plan, process, command_line, ends, before, None))
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
        let sockets = SocketDir::open(shared.dir.run_dir()).map_err(|e| failed(&e))?;
        let Some(process) = Process::adopt(qemu).map_err(|e| failed(&e))? else { return Ok(None) };
        let connect = |name| sockets.connect(name).map_err(|e| failed(&e));
        let ends = Ends {
            monitor: connect("monitor.sock")?,
            console: connect("console.sock")?,
            agent: connect("agent.sock")?,
        };
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
        let link = Self::watch(shared, plan, process, command_line, ends, before, Some(connected));
        Ok(Some(Adopted { link, running, status }))
    }

    fn watch(
        shared: &Rc<Shared>,
        plan: &Plan,
        process: Process,
        command_line: Vec<String>,
        ends: Ends,
        before: oom::Snapshot,
        connected: Option<Connected>,
    ) -> Self {
        let handle = Rc::new(Handle {
            process,
            monitor: RefCell::new(None),
            agent: AgentPort::new(ends.agent),
            user_netdev: machine::user_netdev(&plan.spec),
            grow: Cell::new(plan.grow),
            command_line,
        });
        // An adopted QEMU can be spoken to at once: what the driver decides first is not lost.
        *handle.monitor.borrow_mut() = connected.as_ref().map(|c| c.monitor.clone());
        let mut tasks = JoinSet::new();

        let pattern = match &plan.ready {
            Some(Ready::Serial(pattern)) => regex::bytes::Regex::new(pattern).ok(),
            _ => None,
        };
        let mut reader = ConsoleReader::new(plan.spec.kind, pattern);
        if plan.small_initrd.is_some() {
            reader = reader.watching_root();
        }
        if connected.is_some() {
            // What the guest showed while nobody watched. When it reached a phase is not known any more.
            let before = std::fs::read(shared.dir.console_log()).unwrap_or_default();
            for sign in reader.push(&before) {
                if !matches!(sign, Sign::Phase(_)) {
                    shared.tell(Input::Sign(sign));
                }
            }
        }
        let console = shared.console.clone();
        let told = shared.clone();
        let stream = tokio_stream(&ends.console);
        let reading = tokio::task::spawn_local(async move {
            match stream {
                Ok(stream) => {
                    let look =
                        |bytes: &[u8]| reader.push(bytes).into_iter().for_each(|s| told.tell(Input::Sign(s)));
                    console.run(stream, look).await;
                }
                Err(e) => tracing::error!("cannot read the console: {e}"),
            }
        });

        let about = About {
            ready: plan.ready.clone(),
            kind: plan.spec.kind,
            unplugged: machine::unplugged(&plan.spec),
        };
        let speaking =
            tokio::task::spawn_local(speak(shared.clone(), handle.clone(), ends.monitor, connected, about));
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

    pub(super) fn process_id(&self) -> Option<&ProcessId> {
        self.process.id()
    }
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

/// What speaking with a VM's QEMU needs to know of the VM.
struct About {
    ready: Option<Ready>,
    kind: Kind,
    /// Interfaces without a cable.
    unplugged: Vec<String>,
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
async fn speak(
    shared: Rc<Shared>,
    handle: Rc<Handle>,
    stream: UnixStream,
    connected: Option<Connected>,
    about: About,
) {
    let (monitor, mut events, adopted, agent_open) = match connected {
        Some(Connected { monitor, events, agent_open }) => (monitor, events, true, agent_open),
        None => {
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
        shared.tell(Input::Event(Event::MonitorUp));
    }
    // Ends with this conversation: there is nothing to try at a QEMU that has gone.
    let _probe = about.ready.filter(|s| matches!(s, Ready::Ssh | Ready::Tcp(_))).map(|sign| {
        let shared = shared.clone();
        let handle = handle.clone();
        AbortOnDrop(tokio::task::spawn_local(async move {
            if super::probe::wait_for(&shared, &handle, &sign).await.is_ok() {
                shared.tell(Input::Sign(Sign::Ready));
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
            "RESUME" => shared.tell(Input::Event(Event::Resumed)),
            "STOP" => {
                // The event does not say why; the answer to this query may already tell of a later state, which then has
                // an event of its own.
                if let Ok(status) = monitor.execute(qmp::query_status {}, MONITOR_DEADLINE).await {
                    let status = status_name(&status);
                    shared.tell(Input::Event(Event::Stopped { status, no_space }));
                }
            }
            "SHUTDOWN" => shared.tell(Input::Event(Event::Shutdown { reason: text("reason") })),
            "GUEST_PANICKED" => shared.tell(Input::Event(Event::Panicked)),
            "RESET" if flag("guest") => shared.tell(Input::Happened(Happening::GuestReset)),
            "BLOCK_IO_ERROR" => {
                no_space = flag("nospace");
                let detail = text("reason");
                shared.tell(Input::Happened(Happening::DiskError { no_space, detail }));
            }
            "VSERPORT_CHANGE" if flag("open") => handle.agent.opened(&shared, &handle, about.kind),
            "VSERPORT_CHANGE" => handle.agent.closed(),
            // Frequent, and of no consequence to anyone.
            "RTC_CHANGE" | "NIC_RX_FILTER_CHANGED" | "RESET" => {}
            name => shared
                .tell(Input::Happened(Happening::Qemu { name: name.to_owned(), data: event.data.clone() })),
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
    let stderr = tail(&end_of(&shared.dir.qemu_log()));
    shared.tell(Input::Event(Event::QemuExited(Exit { status, stderr, oom })));
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
