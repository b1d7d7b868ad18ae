//! What the end-to-end tests share: a sandbox of folders with the real `midge`, which leaves nothing behind.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

pub mod lan;
pub mod saved;
pub mod web;

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use supervisor::host::proc::{ProcessId, Signal};

/// Bounds every wait of a test. It is only reached when something is broken: a busy machine is slow, never this slow.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Folders of one test's own. Dropping it ends every process that came of it.
pub struct Sandbox {
    dir: tempfile::TempDir,
    qemu: Option<PathBuf>,
    namespace: Option<String>,
    user: Option<u32>,
    lender: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Sandbox {
    pub fn new() -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("midge-test-").tempdir().unwrap(),
            qemu: None,
            namespace: None,
            user: None,
            lender: None,
        }
    }

    /// One whose `midge` uses this QEMU.
    pub fn with_qemu(qemu: &Path) -> Self {
        let mut sandbox = Self::new();
        sandbox.qemu = Some(qemu.to_owned());
        sandbox
    }

    /// From now on `midge` runs in this network namespace, and may make networks there.
    pub fn enter(&mut self, namespace: &lan::Namespace) {
        self.namespace = Some(namespace.name().to_owned());
    }

    /// From now on `midge` runs as this user, without any privilege. The folders are the user's, and may not have been used before.
    /// What enters the namespace then finds a `/dev/net/tun` that everybody may open, as udev has it; the real one stays as it is.
    pub fn become_user(&mut self, uid: u32) {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.path(), open).unwrap();
        for folder in [self.home(), self.run_dir(), self.path().join("user")] {
            fs::create_dir(&folder).unwrap();
            std::os::unix::fs::chown(&folder, Some(uid), Some(uid)).unwrap();
        }
        for folder in ["dev", "bin"] {
            fs::create_dir(self.path().join(folder)).unwrap();
        }
        fs::write(self.path().join("bin/midge"), "").unwrap();
        self.user = Some(uid);
    }

    /// From now on this is where the lender of packet sockets is, or is to be.
    pub fn lender_at(&mut self, path: &Path) {
        self.lender = Some(path.to_owned());
    }

    /// A program in the namespace, as the user, ready for arguments.
    pub fn as_user(&self, program: &str) -> Command {
        const SCRIPT: &str = "set -e; mount -t tmpfs midge-test \"$1/dev\"; mknod -m 666 \"$1/dev/tun\" c 10 200; \
             mount --bind \"$1/dev/tun\" /dev/net/tun; mount --bind \"$2\" \"$1/bin/midge\"; user=$3; shift 3; \
             exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups -- \"$@\"";
        let (namespace, user) = (self.namespace.as_ref().unwrap(), self.user.unwrap());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "sh", "-c", SCRIPT, "sh"]);
        command.arg(self.path()).arg(env!("CARGO_BIN_EXE_midge")).arg(user.to_string()).arg(program);
        command.env("HOME", self.path().join("user")).env("XDG_CACHE_HOME", self.path().join("user/cache"));
        command
    }

    /// One with a Debian image in its store. The image is built once for all tests: it is kept in the user's cache folder.
    pub fn with_debian() -> Self {
        let sandbox = Self::new();
        sandbox.ok(&["image", "build", "debian:12"]);
        sandbox
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path().join("run")
    }

    /// A file of a VM's.
    pub fn vm_file(&self, vm: &str, file: &str) -> PathBuf {
        self.home().join("vms").join(vm).join(file)
    }

    /// The program, ready for arguments.
    pub fn midge(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_midge");
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(_) if self.user.is_some() => self.as_user(self.path().join("bin/midge").to_str().unwrap()),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, program]);
                command
            }
        };
        command
            .env("MIDGE_HOME", self.home())
            .env("MIDGE_RUN", self.run_dir())
            .env_remove("MIDGE_OUTPUT")
            // No test touches the host's own networks: those of bridges have a namespace of their own.
            .env("MIDGE_NET", "user")
            .stdin(Stdio::null());
        if self.namespace.is_some() {
            command.env_remove("MIDGE_NET");
        }
        if let Some(lender) = &self.lender {
            command.env("MIDGE_PORT", lender);
        }
        if let Some(qemu) = &self.qemu {
            command.env("MIDGE_QEMU", qemu);
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Done {
        Self::finish(self.midge().args(args))
    }

    /// Runs a command that must succeed, and answers its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.code, 0, "midge {args:?} failed: {}{}", done.stderr, self.logs());
        done.stdout
    }

    /// Runs a command that must fail with this code, and answers its standard error.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.code, code, "midge {args:?}: {} {}{}", done.stdout, done.stderr, self.logs());
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        done.stderr
    }

    /// Runs a command that must succeed, and answers its output as JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("midge {args:?} printed no JSON ({e}): {text}"))
    }

    /// Starts a command without waiting for it.
    pub fn spawn(&self, args: &[&str]) -> Background {
        let child = self.midge().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Background(Some(child))
    }

    /// Runs a command that was made ready by [`Self::midge`] to its end.
    pub fn finish(command: &mut Command) -> Done {
        let output = command.output().unwrap();
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Creates a VM of the embedded unikernel that takes little memory and, unless told otherwise, is emulated.
    #[track_caller]
    pub fn hello(&self, vm: &str, flags: &[&str]) {
        let accel: &[&str] = if flags.contains(&"--accel") { &[] } else { &["--accel", "tcg"] };
        let base = ["create", vm, "--image", "hello", "--memory", "32M"];
        self.ok(&[&base, accel, flags].concat());
    }

    /// As [`Self::hello`], with a port of this host that leads to the guest's web page; started and ready.
    #[track_caller]
    pub fn hello_up(&self, vm: &str, flags: &[&str]) -> u16 {
        let port = free_port();
        self.hello(vm, &[&["-p", &format!("{port}:80")], flags].concat());
        self.ok(&["start", vm, "--wait"]);
        port
    }

    /// The word that `inspect` has for what the VM does.
    #[track_caller]
    pub fn state(&self, vm: &str) -> String {
        self.inspect(vm)["state"].as_str().unwrap().to_owned()
    }

    /// What happened to the VM.
    #[track_caller]
    pub fn events(&self, vm: &str) -> Vec<Value> {
        let text = self.ok(&["events", vm, "-o", "json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for the guest's end and answers it, as `inspect` and the events agree it was.
    #[track_caller]
    pub fn end(&self, vm: &str) -> Value {
        self.ok(&["wait", vm, "exit"]);
        let inspected = self.inspect(vm);
        assert_eq!(inspected["state"], "stopped", "{inspected}");
        let end = inspected["last"]["end"].clone();
        let events = self.events(vm);
        let told = events.iter().rfind(|event| event["event"] == "ended").expect("the end is an event");
        assert_eq!(told["cause"], end["cause"], "{told} and {end}");
        end
    }

    /// What `midge inspect` says.
    #[track_caller]
    pub fn inspect(&self, vm: &str) -> Value {
        self.json(&["inspect", vm])
    }

    /// The record of the running VM.
    pub fn run_state(&self, vm: &str) -> Option<Value> {
        let text = fs::read_to_string(self.run_dir().join("vms").join(vm).join("state.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// One of the VM's processes: `qemu` or `supervisor`.
    #[track_caller]
    pub fn process(&self, vm: &str, which: &str) -> ProcessId {
        let state = self.run_state(vm).expect("the VM runs");
        serde_json::from_value(state[which].clone()).expect("the process is recorded")
    }

    /// Ends one of the VM's processes by SIGKILL and waits until it is gone.
    #[track_caller]
    pub fn kill(&self, vm: &str, which: &str) {
        let process = self.process(vm, which);
        let fd = process.open().unwrap().expect("it lives");
        fd.signal(Signal::KILL).unwrap();
        assert!(fd.wait_for(PATIENCE).unwrap());
    }

    /// How the latest run of the VM ended, from its record.
    pub fn last_end(&self, vm: &str) -> Option<Value> {
        let text = fs::read_to_string(self.vm_file(vm, "last.json")).ok()?;
        Some(serde_json::from_str::<Value>(&text).ok()?["end"].clone())
    }

    /// The guest's console so far.
    pub fn console(&self, vm: &str) -> String {
        let bytes = fs::read(self.vm_file(vm, "console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Every log of every VM, for a failed assertion.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for vm in fs::read_dir(self.home().join("vms")).into_iter().flatten().flatten() {
            for file in ["midge.log", "qemu.log", "events.jsonl", "console.log"] {
                let bytes = fs::read(vm.path().join(file)).unwrap_or_default();
                let log = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                text.push_str(&format!("\n--- {} {file}\n{tail}", vm.path().display()));
            }
        }
        text
    }

    /// The processes that came of this sandbox: whoever has its path on the command line or in the environment.
    pub fn processes(&self) -> Vec<u32> {
        let mark = self.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            if pid == std::process::id() {
                continue;
            }
            let text = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let has = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(&mark);
            if has(&text("cmdline")) || has(&text("environ")) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Supervisors leave by themselves when their QEMU has gone; whoever starts anew in between is found in the next
        // round.
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for pid in left {
                if let Ok(id) = ProcessId::of(pid)
                    && let Ok(Some(fd)) = id.open()
                {
                    let _ = fd.signal(Signal::KILL);
                    let _ = fd.wait_for(Duration::from_secs(10));
                }
            }
        }
        // What killed supervisors could not remove.
        for vm in fs::read_dir(self.run_dir().join("vms")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(vm.path().join("state.json")).unwrap_or_default();
            if let Ok(state) = serde_json::from_str::<Value>(&text)
                && let Some(ram) = state["ram_file"].as_str()
            {
                let _ = fs::remove_file(ram);
            }
        }
    }
}

/// A command that runs on. Dropping it ends it.
pub struct Background(Option<Child>);

impl Background {
    pub fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    pub fn signal(&self, signal: Signal) {
        if let Ok(id) = ProcessId::of(self.pid())
            && let Ok(Some(fd)) = id.open()
        {
            fd.signal(signal).unwrap();
        }
    }

    /// Its standard output, to be read while it runs; [`Background::wait`] answers none of it then.
    pub fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.0.as_mut().and_then(|child| child.stdout.take()).expect("it is taken once"))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Done {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until `done` holds; for facts of files and processes that announce nothing to a test.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// QEMU 7.2, as Debian 12 has it, with its own libraries, unpacked once into the user's cache.
pub fn qemu_7_2() -> PathBuf {
    let cache = supervisor::image::build::default_cache().expect("a cache folder");
    let folder = cache.parent().unwrap().join("qemu-7.2-apart");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/qemu-7.2.sh");
    let output = Command::new(script).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("qemu-system-x86_64")
}

/// A TCP port of the loopback address that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One HTTP request to a port of this host; the whole answer.
pub fn http(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A guest that ends in the middle of the answer resets the connection: what came before counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Ends a child of the test's own and collects it.
pub fn stop_child(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// ISC's dhclient of this host with its script and all that it is loaded with, as the guest may have other libraries.
pub fn dhclient(folder: &Path) -> PathBuf {
    let program = Path::new("/sbin/dhclient");
    assert!(program.exists(), "there is no dhclient here: scripts/setup.sh --tests installs it");
    let folder = folder.join("dhclient");
    fs::create_dir(&folder).unwrap();
    fs::copy(program, folder.join("dhclient")).unwrap();
    fs::copy("/sbin/dhclient-script", folder.join("script")).unwrap();
    let listed = Command::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for path in listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::copy(path, folder.join(if name.starts_with("ld-") { "loader" } else { name })).unwrap();
    }
    folder
}
