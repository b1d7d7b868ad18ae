//! A real QEMU for one test: its monitor's socket is bound by the test and inherited by QEMU.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use qmp::{Events, Monitor};
use tempfile::TempDir;
use tokio::net::UnixStream;

/// Long enough for a busy machine; nothing waits for it when all is well.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// One QEMU process, killed on drop.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    pub(crate) folder: TempDir,
}

/// A descriptor without `CLOEXEC` must not slip into a QEMU that another test starts at the same moment.
static SPAWN: Mutex<()> = Mutex::new(());

impl Qemu {
    /// Starts QEMU with a monitor and the given arguments. The socket can be connected to from now on.
    pub(crate) fn spawn(args: &[&str]) -> Self {
        let folder = TempDir::with_prefix("qmp-test-").expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("monitor")).expect("a listening socket");
        let binary = std::env::var("MIDGE_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned());
        let guard = SPAWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).expect("F_SETFD");
        let child = Command::new(&binary)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
            .arg("-chardev")
            .arg(format!("socket,id=monitor,fd={},server=on,wait=off", listener.as_raw_fd()))
            .args(["-mon", "chardev=monitor,mode=control"])
            .args(args)
            .stdin(Stdio::null())
            .spawn();
        drop(listener);
        drop(guard);
        let child = child.unwrap_or_else(|error| {
            panic!("cannot start {binary}: {error}; install the package qemu-system-x86 or set MIDGE_QEMU to a QEMU")
        });
        Self { child, folder }
    }

    /// A machine without anything.
    pub(crate) fn bare() -> Self {
        Self::spawn(&["-machine", "none"])
    }

    /// A machine with a (stopped) processor.
    pub(crate) fn q35(args: &[&str]) -> Self {
        let machine = ["-machine", "q35", "-accel", "tcg", "-m", "16M"];
        Self::spawn(&[&machine, args].concat())
    }

    pub(crate) async fn stream(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("monitor"))
            .await
            .expect("connect to the listening socket")
    }

    pub(crate) async fn monitor(&self) -> (Monitor, Events) {
        Monitor::connect(self.stream().await, DEADLINE).await.expect("QMP handshake")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill QEMU");
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("wait for QEMU")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
