//! QEMU alone with the flags of the template, on its RAM and a disk of its own; and the same by a plain script.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::json;

use super::common::PATIENCE;
use super::template::Template;

/// How a socket is given to QEMU.
#[derive(Clone, Copy, PartialEq)]
enum Sockets {
    /// As a listening socket of the caller's, by number.
    Inherited,
    /// By a path, for QEMU to listen on.
    Named,
}

pub struct Bare<'a> {
    template: &'a Template,
    folder: PathBuf,
    listeners: Vec<UnixListener>,
    inherited: Vec<String>,
    named: Vec<String>,
}

/// A QEMU of the bench's own. Dropping it ends it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Bare<'a> {
    pub fn of(template: &'a Template) -> Self {
        let folder = template.sandbox.path().join("bare");
        fs::create_dir(&folder).unwrap();
        let mut bare =
            Self { template, folder, listeners: Vec::new(), inherited: Vec::new(), named: Vec::new() };
        bare.inherited = bare.arguments(Sockets::Inherited);
        bare.named = bare.arguments(Sockets::Named);
        assert_eq!(bare.listeners.len(), 3, "monitor, console, agent: {:?}", bare.inherited);
        bare
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.sock"))
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }

    /// The template's flags, for one that is to go on where it was saved.
    fn arguments(&mut self, sockets: Sockets) -> Vec<String> {
        let machine = self.template.manifest().machine.clone().unwrap();
        let own_disk = self.template.sandbox.vm_file(super::template::VM, "disk.qcow2");
        let mut count = 0;
        let mut words = Vec::new();
        for word in &machine.arguments {
            let mut parts = Vec::new();
            for part in word.split(',') {
                let changed = match part.split_once('=') {
                    Some(("fd", _)) => {
                        let path = self.socket(count);
                        count += 1;
                        if sockets == Sockets::Named {
                            format!("path={}", path.display())
                        } else {
                            let listener = UnixListener::bind(path).unwrap();
                            let fd = listener.as_raw_fd();
                            self.listeners.push(listener);
                            format!("fd={fd}")
                        }
                    }
                    Some(("logfile", _)) => format!("logfile={}", self.folder.join("console.log").display()),
                    Some(("mem-path", _)) => format!("mem-path={}", self.template.ram().display()),
                    Some(("share", "on")) => "share=off,readonly=on,rom=off".to_owned(),
                    Some(("filename", path)) if Path::new(path) == own_disk => {
                        format!("filename={}", self.disk().display())
                    }
                    // The template's QEMU has the port.
                    Some(("hostfwd", _)) => continue,
                    _ => part.to_owned(),
                };
                parts.push(changed);
            }
            words.push(parts.join(","));
        }
        words.extend(["-incoming", "defer"].map(str::to_owned));
        words
    }

    fn qemu() -> PathBuf {
        supervisor::host::qemu::facts(supervisor::spec::Arch::host()).unwrap().path
    }

    /// How long it takes from before QEMU's spawn until the guest runs, by the monitor's answers and nothing else. The disk is
    /// there before.
    pub fn restore(&self) -> Duration {
        self.template.overlay(&self.disk());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inherit = |flags| {
            for listener in &self.listeners {
                fcntl(listener.as_fd(), FcntlArg::F_SETFD(flags)).unwrap();
            }
        };
        let mut command = Command::new(Self::qemu());
        command.args(&self.inherited).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        inherit(FdFlag::empty());
        let begun = Instant::now();
        // Waits in the backlog until QEMU accepts.
        let stream = UnixStream::connect(self.socket(0)).unwrap();
        let running = Running(command.spawn().unwrap());
        inherit(FdFlag::FD_CLOEXEC);
        stream.set_nonblocking(true).unwrap();
        let took = runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(stream).unwrap();
            let (monitor, _events) = qmp::Monitor::connect(stream, PATIENCE).await.unwrap();
            let uri = format!("file:{}", self.template.state().display());
            monitor.migrate_incoming(&uri, &["x-ignore-shared"], PATIENCE).await.unwrap();
            monitor.execute_raw("cont", json!({}), PATIENCE).await.unwrap();
            begun.elapsed()
        });
        drop(running);
        took
    }

    /// The same by a script, with a disk made by qemu-img: how long until the guest runs, and until it has answered.
    pub fn script(&self) -> [Duration; 2] {
        let _ = fs::remove_file(self.disk());
        let sockets: Vec<PathBuf> = (0..3).map(|number| self.socket(number)).collect();
        // QEMU makes them itself.
        let _held: Vec<_> = sockets.iter().map(Moved::aside).collect();
        let job = json!({
            "qemu": Self::qemu(), "arguments": self.named, "monitor": sockets[0], "agent": sockets[2],
            "state": self.template.state(), "base": self.template.disk(), "disk": self.disk(),
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/clone/plain.py");
        let begun = Instant::now();
        let output = Command::new("python3").arg(script).arg(job.to_string()).output().unwrap();
        let ended = begun.elapsed();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // It tells how much of its time came after the guest ran, and after the answer, when it clears up.
        let told: Vec<f64> = String::from_utf8(output.stdout)
            .unwrap()
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        [told[0], told[1]].map(|seconds| ended.saturating_sub(Duration::from_secs_f64(seconds)))
    }
}

/// A socket's path, given up to another until this is dropped.
struct Moved(PathBuf);

impl Moved {
    fn aside(path: &PathBuf) -> Self {
        fs::rename(path, path.with_extension("aside")).unwrap();
        Self(path.clone())
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        let _ = fs::rename(self.0.with_extension("aside"), &self.0);
    }
}
