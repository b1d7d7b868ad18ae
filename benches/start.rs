//! What midge adds to the start of a guest: `midge start --wait` against QEMU alone with the same flags, each until the
//! unikernel `hello` says `[init done]` on its serial console. The two take turns.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and what it cannot do ends it")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of samples and milliseconds are small"
)]
#![allow(unreachable_pub, missing_docs, reason = "what benches and tests share is not an interface")]

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{PATIENCE, Sandbox};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::Value;
use support::{Report, Samples, Watched, rounds};

/// The guest's sign that it is up.
const SIGN: &str = "[init done]";

fn main() {
    let rounds = rounds(15);
    let sandbox = Sandbox::new();
    let mut report = Report::new("start");
    for machine in ["q35", "microvm"] {
        measure(&sandbox, machine, rounds, &mut report);
    }
    report.finish();
}

fn measure(sandbox: &Sandbox, machine: &str, rounds: usize, report: &mut Report) {
    let vm = format!("hello-{machine}");
    sandbox.ok(&["create", &vm, "--image", "hello", "--machine", machine]);
    let bare = Bare::of(sandbox, &vm, true);
    // Not a form of midge's own, as Debian's kernel needs the ACPI; others measure microvm without.
    let without_acpi = (machine == "microvm").then(|| Bare::of(sandbox, &vm, false));
    let named = |text: &str| Samples::new(format!("{machine}: {text}"), "ms");
    let mut qemu = named("bare QEMU, to `[init done]`");
    let mut plain = named("bare QEMU with acpi=off, to `[init done]`");
    let mut seen = named("midge, to `[init done]`");
    let mut told = named("midge, until `start --wait` has ended");
    let mut before = named("  of it, until QEMU's spawn begins");
    // Names and times since QEMU's spawn began, from the phases that midge reports.
    let mut phases: Vec<(String, Samples)> = Vec::new();
    // A first round of each fills the caches, midge's and the system's.
    for round in 0..=rounds {
        let alone = bare.start();
        let plainest = without_acpi.as_ref().map(Bare::start);
        let one = start(sandbox, &vm);
        if round == 0 {
            continue;
        }
        qemu.time(alone);
        if let Some(took) = plainest {
            plain.time(took);
        }
        seen.time(one.seen);
        told.time(one.told);
        before.time(one.before);
        for (name, at) in one.phases {
            let index = phases.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                phases.push((name.clone(), named(&format!("  of it, from there to `{name}`"))));
                phases.len() - 1
            });
            phases[index].1.push(at);
        }
    }
    let more = seen.minus(&qemu, format!("{machine}: midge adds, to `[init done]`"));
    let until_told = told.minus(&qemu, format!("{machine}: midge adds, until its command has ended"));
    report.promise(
        &format!("{machine}: `midge start` to `[init done]`, more than bare QEMU"),
        more.median(),
        10.0,
        "ms",
    );
    let rows = [qemu, seen, told, more, until_told, before].into_iter();
    for row in rows.chain(phases.into_iter().map(|(_, samples)| samples)) {
        report.row(row);
    }
    if without_acpi.is_some() {
        report.row(plain);
    }
}

/// One `midge start`.
struct One {
    /// From before the command's spawn until the log holds the sign.
    seen: Duration,
    /// Until the command, told to wait for readiness, has ended.
    told: Duration,
    /// Until the supervisor began to spawn QEMU.
    before: Duration,
    /// Milliseconds since then.
    phases: Vec<(String, f64)>,
}

fn start(sandbox: &Sandbox, vm: &str) -> One {
    let log = sandbox.vm_file(vm, "console.log");
    let _ = fs::remove_file(&log);
    let watched = Watched::new(&log);
    let mut command = sandbox.midge();
    command.args(["start", vm, "--wait", "-q", "-o", "json"]).stdout(Stdio::piped());
    let (clock, begun) = (SystemTime::now(), Instant::now());
    let mut child = command.spawn().unwrap();
    let ended = thread::spawn(move || {
        let status = child.wait().unwrap();
        let told = begun.elapsed();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(status.success(), "midge start: {status} {text}");
        (told, text)
    });
    let seen = watched.wait_for(SIGN, PATIENCE) - begun;
    let (told, text) = ended.join().unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let phases = answer["phases"].as_array().unwrap().iter();
    let phases =
        phases.map(|phase| (phase["name"].as_str().unwrap().to_owned(), phase["ms"].as_f64().unwrap()));
    let started = sandbox.run_state(vm).unwrap()["started"].as_str().unwrap().to_owned();
    let before = since_epoch(&started).saturating_sub(clock.duration_since(UNIX_EPOCH).unwrap());
    let one = One { seen, told, before, phases: phases.collect() };
    sandbox.ok(&["kill", vm]);
    one
}

/// A point in time as records have it (RFC 3339).
fn since_epoch(text: &str) -> Duration {
    Duration::try_from(text.parse::<jiff::Timestamp>().unwrap().as_duration()).unwrap()
}

/// QEMU as midge would start it for a VM, but running at once, and with nobody at its monitor.
struct Bare {
    command: Vec<String>,
    folder: PathBuf,
    ram: Option<PathBuf>,
    /// The listening sockets that its flags name by number, in that order.
    listeners: Vec<(i32, UnixListener)>,
}

impl Bare {
    fn of(sandbox: &Sandbox, vm: &str, acpi: bool) -> Self {
        let answer = sandbox.json(&["cmdline", vm, "-o", "json"]);
        let mut words: Vec<String> = serde_json::from_value(answer["command"].clone()).unwrap();
        if !acpi {
            // QEMU itself tells the kernel where the devices are then, and the interrupts are others.
            let append = words.iter().position(|word| word == "-append").unwrap();
            words.drain(append..append + 2);
            for word in &mut words {
                *word = word.replace("acpi=on", "acpi=off");
            }
        }
        let folder = sandbox.path().join(format!("bare-{vm}-{acpi}"));
        fs::create_dir(&folder).unwrap();
        let log = sandbox.vm_file(vm, "console.log");
        let mut bare = Self { command: Vec::new(), folder, ram: None, listeners: Vec::new() };
        for word in words.into_iter().filter(|word| word != "-S") {
            let parts = word.split(',').map(|part| match part.split_once('=') {
                Some(("fd", _)) => {
                    let path = bare.folder.join(format!("{}.sock", bare.listeners.len()));
                    let listener = UnixListener::bind(path).unwrap();
                    let fd = listener.as_raw_fd();
                    bare.listeners.push((fd, listener));
                    format!("fd={fd}")
                }
                Some(("logfile", path)) => {
                    assert_eq!(Path::new(path), log);
                    format!("logfile={}", bare.log().display())
                }
                Some(("mem-path", path)) => {
                    bare.ram = Some(PathBuf::from(path));
                    part.to_owned()
                }
                _ => part.to_owned(),
            });
            let word = parts.collect::<Vec<_>>().join(",");
            bare.command.push(word);
        }
        assert_eq!(bare.listeners.len(), 3, "monitor, console, agent: {:?}", bare.command);
        bare
    }

    fn log(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// How long it takes from before its spawn until its log holds the sign. It is ended then.
    fn start(&self) -> Duration {
        let _ = fs::remove_file(self.log());
        let watched = Watched::new(&self.log());
        let inherit = |flags| {
            for (_, listener) in &self.listeners {
                fcntl(listener.as_fd(), FcntlArg::F_SETFD(flags)).unwrap();
            }
        };
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        inherit(FdFlag::empty());
        let begun = Instant::now();
        let _running = Running { child: command.spawn().unwrap(), ram: self.ram.as_deref() };
        inherit(FdFlag::FD_CLOEXEC);
        watched.wait_for(SIGN, PATIENCE) - begun
    }
}

/// A QEMU of the bench's own. Dropping it ends it.
struct Running<'a> {
    child: Child,
    ram: Option<&'a Path>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(ram) = self.ram {
            let _ = fs::remove_file(ram);
        }
    }
}
