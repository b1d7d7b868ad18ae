//! A QEMU of the tests' own with the reference unikernel, or with whatever resources are given.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::qmp::Monitor;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::host::{Cache, QemuFacts, qemu};
use crate::machine::{self, Disk, DiskFormat, Ram, ResolvedAccel, Resources, Restore};
use crate::spec::{Arch, Kind, Mac, Net, OnReset, Size, VmSpec};

/// Longer than any healthy answer, on a busy host too.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// Held while sockets can be inherited, so that no other QEMU of these tests gets them.
static SPAWN: Mutex<()> = Mutex::new(());

/// The installed QEMU.
pub(super) fn installed() -> QemuFacts {
    qemu::facts_with(Arch::X86_64, &Cache::none())
        .expect("qemu-system-x86_64 is installed (package qemu-system-x86)")
}

/// QEMU 7.2, as Debian 12 has it, with its own libraries, unpacked once into the user's cache.
pub(super) fn oldest() -> QemuFacts {
    let cache = crate::image::build::default_cache().expect("a cache folder");
    let folder = cache.parent().unwrap().join("qemu-7.2-apart");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/qemu-7.2.sh");
    let output = Command::new(script).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    qemu::facts_of(&folder.join("qemu-system-x86_64"), Arch::X86_64, &Cache::none()).unwrap()
}

/// What the guests of one test share: a spec, a kernel, and a private folder on tmpfs that goes with it.
pub(super) struct Bench {
    pub(super) qemu: QemuFacts,
    pub(super) spec: VmSpec,
    pub(super) accel: ResolvedAccel,
    pub(super) folder: tempfile::TempDir,
    pub(super) kernel: PathBuf,
    pub(super) count: std::cell::Cell<usize>,
}

/// A running QEMU.
pub(super) struct Guest {
    child: Child,
    pub(super) monitor: Monitor,
    serial: tokio::net::UnixStream,
    heard: Vec<u8>,
    stdout: PathBuf,
    pub(super) stderr: PathBuf,
    arguments: Vec<String>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bench {
    pub(super) fn new(qemu: QemuFacts, memory: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("midge-test-").tempdir_in("/dev/shm").unwrap();
        let kernel = folder.path().join("hello");
        std::fs::write(&kernel, crate::image::hello::kernel(Arch::X86_64).unwrap()).unwrap();
        let nets = vec![Net::User { forwards: vec![], mac: None }];
        let spec = VmSpec {
            arch: Arch::X86_64,
            memory: Size::from_mib(memory),
            on_reset: OnReset::Reboot,
            nets,
            ..VmSpec::named("snap")
        };
        let accel = ResolvedAccel::Tcg;
        Self { qemu, spec, accel, folder, kernel, count: std::cell::Cell::new(0) }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kvm_cpu(&self) -> bool {
        self.accel == ResolvedAccel::Kvm && crate::host::kvm::offers(machine::KVM_CPU_ECX)
    }

    /// A RAM file without a byte allocated.
    pub(super) fn ram(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        File::create_new(&path).and_then(|file| file.set_len(self.spec.memory.bytes())).unwrap();
        path
    }

    pub(super) fn resources(&self, ram: Ram, disk: Option<&Path>) -> Resources {
        let private = matches!(ram, Ram::Private(_));
        let restore = private.then(|| {
            let (major, minor, _) = self.qemu.version;
            Restore {
                machine_type: format!("pc-q35-{major}.{minor}"),
                cpu: if self.kvm_cpu() || self.accel == ResolvedAccel::Tcg {
                    "Westmere-v1,rdrand=on"
                } else {
                    "host"
                }
                .to_owned(),
            }
        });
        Resources {
            kind: Kind::Other,
            accel: self.accel,
            kvm_cpu: self.kvm_cpu(),
            kernel: Some(self.kernel.clone()),
            bios: None,
            initrd: None,
            append: String::new(),
            disk: disk.map(|path| Disk { path: path.to_owned(), format: DiskFormat::Qcow2 }),
            ram,
            monitor_fd: -1,
            serial_fd: -1,
            serial_log: PathBuf::new(),
            agent_fd: -1,
            macs: vec![Mac::local([0, 0, 1]); self.spec.nets.len()],
            taps: vec![None; self.spec.nets.len()],
            uuid: uuid::Uuid::nil(),
            credentials: vec![],
            seed: None,
            restore,
        }
    }

    /// A guest that booted itself, standing before its first instruction.
    pub(super) async fn template(&self, ram: &Path, disk: Option<&Path>) -> Guest {
        self.start(self.resources(Ram::File(ram.to_owned()), disk)).await
    }

    /// A QEMU that waits for a state.
    pub(super) async fn clone_of(&self, ram: &Path, disk: Option<&Path>) -> Guest {
        self.start(self.resources(Ram::Private(ram.to_owned()), disk)).await
    }

    pub(super) async fn start(&self, resources: Resources) -> Guest {
        let number = self.count.replace(self.count.get() + 1);
        let at = |name: &str| self.path(&format!("{number}-{name}"));
        let (stdout, stderr) = (at("stdout"), at("stderr"));
        let (child, monitor, serial, arguments) = {
            let _guard = SPAWN.lock().unwrap_or_else(PoisonError::into_inner);
            let sockets = ["monitor", "serial", "agent"].map(|name| {
                let socket = UnixListener::bind(at(name)).unwrap();
                fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
                socket
            });
            let [monitor_fd, serial_fd, agent_fd] = sockets.each_ref().map(AsRawFd::as_raw_fd);
            let resources = Resources { monitor_fd, serial_fd, agent_fd, serial_log: at("log"), ..resources };
            let arguments = machine::arguments(&self.spec, &self.qemu, &resources).unwrap();
            let connect = |name| {
                let stream = UnixStream::connect(at(name)).unwrap();
                stream.set_nonblocking(true).unwrap();
                tokio::net::UnixStream::from_std(stream).unwrap()
            };
            let (monitor, serial) = (connect("monitor"), connect("serial"));
            let child = Command::new(&self.qemu.path)
                .args(&arguments)
                .stdin(Stdio::null())
                .stdout(File::create(&stdout).unwrap())
                .stderr(File::create(&stderr).unwrap())
                .spawn()
                .unwrap();
            (child, monitor, serial, arguments)
        };
        let connected = Monitor::connect(monitor, PATIENCE).await;
        let (monitor, _) = connected
            .unwrap_or_else(|e| panic!("{e}: {}", std::fs::read_to_string(&stderr).unwrap_or_default()));
        Guest { child, monitor, serial, heard: Vec::new(), arguments, stdout, stderr }
    }
}

impl Guest {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// QEMU's arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        self.arguments.clone()
    }

    /// What QEMU complained of.
    pub(super) fn complaints(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits for the guest to write this, and forgets what it wrote up to there.
    pub(super) async fn hear(&mut self, words: &str) -> String {
        let listen = async {
            loop {
                if let Some(at) = self.heard.windows(words.len()).position(|w| w == words.as_bytes()) {
                    let rest = self.heard.split_off(at + words.len());
                    let heard = std::mem::replace(&mut self.heard, rest);
                    return String::from_utf8_lossy(&heard).into_owned();
                }
                let mut part = [0; 4096];
                match self.serial.read(&mut part).await {
                    Ok(0) | Err(_) => panic!("QEMU left: {}", self.complaints()),
                    Ok(count) => self.heard.extend_from_slice(&part[..count]),
                }
            }
        };
        match tokio::time::timeout(PATIENCE, listen).await {
            Ok(heard) => heard,
            Err(late) => panic!("{words:?} {late}: {}", String::from_utf8_lossy(&self.heard)),
        }
    }

    /// Writes a line on the guest's serial port.
    pub(super) async fn say(&mut self, line: &str) {
        self.serial.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Asks the unikernel something that only a running one answers.
    pub(super) async fn answers(&mut self) {
        self.say("help").await;
        self.hear("commands: exit").await;
    }

    /// All of the guest's memory, as the guest sees it.
    pub(super) async fn memory(&self, bench: &Bench) -> Vec<u8> {
        let path = bench.path("dump");
        let _ = std::fs::remove_file(&path);
        let arguments = serde_json::json!({
            "val": 0, "size": bench.spec.memory.bytes(), "filename": path.to_str().unwrap(),
        });
        self.monitor.execute_raw("pmemsave", arguments, PATIENCE).await.unwrap();
        std::fs::read(path).unwrap()
    }

    /// Ends QEMU, waits for it, and gives what it wrote on its standard output.
    pub(super) async fn quit(mut self) -> String {
        let _ = self.monitor.execute_raw("quit", serde_json::json!({}), PATIENCE).await;
        self.child.wait().unwrap();
        std::fs::read_to_string(&self.stdout).unwrap()
    }
}

/// Flips one bit of a file, whatever its mode.
pub(super) fn flip_bit(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    // Written as root or by removing the file: the mode is no protection here.
    std::fs::remove_file(path).unwrap();
    File::create_new(path).unwrap().write_all(&bytes).unwrap();
}
