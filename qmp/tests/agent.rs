//! The agent client against a real guest agent that runs on this host, on a listening Unix socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qmp::agent::{Agent, Exec, Exit, Output};
use qmp::{Error, ErrorClass};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

const DEADLINE: Duration = Duration::from_secs(30);

/// A `qemu-ga` process with a folder of its own, killed on drop.
struct GuestAgent {
    child: Child,
    folder: TempDir,
}

impl GuestAgent {
    /// Starts it. The socket can be connected to from now on.
    fn spawn() -> Self {
        let installed = Command::new("qemu-ga").arg("--version").stdout(Stdio::null()).status();
        if let Err(error) = installed {
            panic!("cannot start qemu-ga: {error}; install the package qemu-guest-agent");
        }
        let folder = TempDir::with_prefix("qga-test-").expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a listening socket");
        // Socket activation (sd_listen_fds(3)): the socket is descriptor 3, and the shell's process id stays.
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec qemu-ga -m unix-listen -f \"$0/pid\" -t \"$0\"";
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .arg(folder.path())
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .expect("start a shell");
        Self { child, folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a UTF-8 path").to_owned()
    }

    async fn stream(&self) -> UnixStream {
        UnixStream::connect(self.path("socket")).await.expect("connect to qemu-ga")
    }

    async fn agent(&self) -> Agent {
        Agent::connect(self.stream().await)
    }

    /// How many files it has open, without sockets, pipes and what it holds for its child processes.
    fn open_files(&self) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("/proc");
        let targets = folder.filter_map(|entry| std::fs::read_link(entry.expect("an entry").path()).ok());
        targets.filter(|target| target.is_absolute()).count()
    }
}

impl Drop for GuestAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shell(script: &str) -> Exec {
    Exec::new("/bin/sh").args(["-c", script])
}

#[tokio::test]
async fn info_ping_sync_and_refusals() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    agent.ping(DEADLINE).await.unwrap();
    agent.sync(DEADLINE).await.unwrap();
    let info = agent.info(DEADLINE).await.unwrap();
    assert!(info.commands.iter().any(|name| name == "guest-exec"), "{info:?}");
    let error = agent.execute_raw("guest-nonsense", serde_json::Value::Null, DEADLINE).await.unwrap_err();
    assert_eq!(error.class(), Some(&ErrorClass::CommandNotFound));
    agent.ping(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn interfaces_have_addresses() {
    let ga = GuestAgent::spawn();
    let interfaces = ga.agent().await.interfaces(DEADLINE).await.unwrap();
    let lo = interfaces.iter().find(|interface| interface.name == "lo").expect("a loopback interface");
    assert_eq!(lo.mac.as_deref(), Some("00:00:00:00:00:00"));
    assert!(lo.addresses.iter().any(|address| address.ip.is_loopback() && address.prefix == 8), "{lo:?}");
}

#[tokio::test]
async fn exec_gives_code_signal_and_output() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let exec = shell("cat; echo \"$A\" >&2; exit 3").env("A", "b c").stdin(b"in\0put\xff".to_vec());
    let status = agent.exec_wait(agent.exec(&exec, DEADLINE).await.unwrap(), DEADLINE).await.unwrap();
    assert_eq!(status.exit, Exit::Code(3));
    assert_eq!((&status.stdout[..], &status.stderr[..]), (&b"in\0put\xff"[..], &b"b c\n"[..]));
    assert!(!status.stdout_truncated && !status.stderr_truncated);

    let pid = agent.exec(&shell("kill -9 $$"), DEADLINE).await.unwrap();
    assert_eq!(agent.exec_wait(pid, DEADLINE).await.unwrap().exit, Exit::Signal(9));

    let pid = agent.exec(&shell("echo unseen").capture(false), DEADLINE).await.unwrap();
    let status = agent.exec_wait(pid, DEADLINE).await.unwrap();
    assert!(status.exit.success() && status.stdout.is_empty());

    let error = agent.exec(&Exec::new("/no/such/program"), DEADLINE).await.unwrap_err();
    assert!(matches!(&error, Error::Qemu { desc, .. } if desc.contains("No such file")), "{error}");
}

#[tokio::test]
async fn exec_tells_of_output_beyond_16_mib() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let pid = agent.exec(&shell("head -c 17000000 /dev/zero"), DEADLINE).await.unwrap();
    let status = agent.exec_wait(pid, DEADLINE).await.unwrap();
    assert_eq!((status.stdout.len(), status.stdout_truncated), (16 << 20, true));
}

#[tokio::test]
async fn a_wait_that_times_out_can_be_repeated() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let gate = ga.text("gate");
    let pid =
        agent.exec(&shell(&format!("mkfifo {gate}; read line <{gate}; exit 5")), DEADLINE).await.unwrap();
    let error = agent.exec_wait(pid, Duration::from_millis(60)).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let open =
        agent.exec(&shell(&format!("while ! [ -p {gate} ]; do :; done; echo >{gate}")), DEADLINE).await;
    agent.exec_wait(open.unwrap(), DEADLINE).await.unwrap();
    assert_eq!(agent.exec_wait(pid, DEADLINE).await.unwrap().exit, Exit::Code(5));
}

#[tokio::test]
async fn signals_reach_the_program() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let pid = agent.exec(&Exec::new("/bin/sleep").arg("1000"), DEADLINE).await.unwrap();
    agent.signal(pid, "TERM", DEADLINE).await.unwrap();
    assert_eq!(agent.exec_wait(pid, DEADLINE).await.unwrap().exit, Exit::Signal(15));
    agent.signal(pid, "TERM", DEADLINE).await.unwrap();
}

#[tokio::test]
async fn files_of_any_size_there_and_back() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let path = ga.text("file");
    for size in [0, 1, 3_000_001] {
        let content: Vec<u8> =
            (0..size).map(|number: u32| number.to_le_bytes()[number as usize % 3]).collect();
        agent.write_file(&path, &content, DEADLINE).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert_eq!(agent.read_file(&path, content.len(), DEADLINE).await.unwrap(), content);
        let mut copy = Vec::new();
        assert_eq!(agent.read_file_to(&path, &mut copy, DEADLINE).await.unwrap(), content.len() as u64);
        assert_eq!(copy, content);
        let from = agent.write_file_from(&path, &mut &copy[..], DEADLINE).await.unwrap();
        assert_eq!(from, content.len() as u64);
    }
    let error = agent.read_file(&path, 3_000_000, DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { limit: 3_000_000 }), "{error}");
}

#[tokio::test]
async fn files_that_cannot_be_had() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let error = agent.read_file(&ga.text("missing"), 10, DEADLINE).await.unwrap_err();
    assert!(matches!(&error, Error::Qemu { desc, .. } if desc.contains("No such file")), "{error}");
    // The device that is always full: the loss shows at the latest when the file is closed.
    let error = agent.write_file("/dev/full", b"content", DEADLINE).await.unwrap_err();
    assert!(matches!(&error, Error::Qemu { .. }), "{error}");
    agent.ping(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn dropped_files_are_closed_in_the_guest() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    agent.ping(DEADLINE).await.unwrap();
    let before = ga.open_files();
    let file = agent.open(&ga.text("file"), "w", DEADLINE).await.unwrap();
    assert_eq!(ga.open_files(), before + 1);
    drop(file);
    // The close was queued before this and takes its turn first.
    tokio::task::yield_now().await;
    agent.ping(DEADLINE).await.unwrap();
    assert_eq!(ga.open_files(), before);
}

async fn collect(agent: &Agent, exec: &Exec) -> (Vec<u8>, Vec<u8>, Exit) {
    let mut stream = agent.exec_stream(exec, DEADLINE).await.expect("start");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match stream.next(DEADLINE).await.expect("output").expect("an exit") {
            Output::Stdout(bytes) => out.extend(bytes),
            Output::Stderr(bytes) => err.extend(bytes),
            Output::Exit(exit) => {
                assert_eq!(stream.next(DEADLINE).await.expect("the end"), None);
                return (out, err, exit);
            }
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_stream_gives_everything_and_leaves_nothing() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    agent.ping(DEADLINE).await.unwrap();
    let before = ga.open_files();
    let scratch = TempDir::with_prefix("qga-scratch-").unwrap();
    let folder = scratch.path().to_str().unwrap();
    let exec =
        shell("cat; printf 'e r r' >&2; head -c 2000000 /dev/zero; exit 7").stdin("in").scratch(folder);
    let (out, err, exit) = collect(&agent, &exec).await;
    assert_eq!((out.len(), &out[..2], &err[..], exit), (2_000_002, &b"in"[..], &b"e r r"[..], Exit::Code(7)));

    let exec = Exec::new("true").scratch(folder);
    assert_eq!(collect(&agent, &exec).await, (vec![], vec![], Exit::Code(0)));
    let exec = Exec::new("/no/such").arg("it's $x \"y\"").scratch(folder);
    let (_, err, exit) = collect(&agent, &exec).await;
    assert_eq!(exit, Exit::Code(127));
    assert!(String::from_utf8_lossy(&err).contains("/no/such"));
    let exec = Exec::new("printf").args(["%s|", "it's", "$x", "\"y z\"", ""]).scratch(folder);
    assert_eq!(collect(&agent, &exec).await.0, b"it's|$x|\"y z\"||");
    let exec = shell("kill -KILL $$").scratch(folder);
    assert_eq!(collect(&agent, &exec).await.2, Exit::Signal(9));

    assert_eq!(ga.open_files(), before, "handles are closed");
    // The removal was started before the first output and runs beside everything else.
    let started = Instant::now();
    while !names(scratch.path()).is_empty() {
        assert!(started.elapsed() < DEADLINE, "left behind: {:?}", names(scratch.path()));
        agent.ping(DEADLINE).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_gives_output_while_the_command_runs() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let gates = ["gate1", "gate2"].map(|name| {
        nix::unistd::mkfifo(ga.path(name).as_path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        ga.text(name)
    });
    // It cannot go on before the test has seen the line before.
    let script = "echo one; read line <\"$0\"; echo two >&2; read line <\"$1\"; echo three";
    let exec = shell(script).args(gates.clone());
    let mut stream = agent.exec_stream(&exec, DEADLINE).await.unwrap();
    assert_eq!(stream.next(DEADLINE).await.unwrap(), Some(Output::Stdout(b"one\n".to_vec())));
    let error = stream.next(Duration::from_millis(30)).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    agent.write_file(&gates[0], b"go\n", DEADLINE).await.unwrap();
    assert_eq!(stream.next(DEADLINE).await.unwrap(), Some(Output::Stderr(b"two\n".to_vec())));
    // Cut short again and again, by cancelling; nothing is lost and the agent stays in step.
    for _ in 0..200 {
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => {}
            output = stream.next(DEADLINE) => panic!("{output:?}"),
        }
    }
    agent.write_file(&gates[1], b"go\n", DEADLINE).await.unwrap();
    assert_eq!(stream.next(DEADLINE).await.unwrap(), Some(Output::Stdout(b"three\n".to_vec())));
    assert_eq!(stream.next(DEADLINE).await.unwrap(), Some(Output::Exit(Exit::Code(0))));
}

#[tokio::test]
async fn a_dropped_stream_frees_the_guest_and_leaves_the_command_running() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    agent.ping(DEADLINE).await.unwrap();
    let before = ga.open_files();
    let exec = Exec::new("sleep").arg("1000").scratch(ga.folder.path().to_str().unwrap());
    let stream = agent.exec_stream(&exec, DEADLINE).await.unwrap();
    let pid = stream.pid();
    assert_eq!(ga.open_files(), before + 2);
    drop(stream);
    tokio::task::yield_now().await;
    agent.ping(DEADLINE).await.unwrap();
    agent.ping(DEADLINE).await.unwrap();
    assert_eq!(ga.open_files(), before);
    agent.signal(pid, "KILL", DEADLINE).await.unwrap();
    assert_eq!(agent.exec_wait(pid, DEADLINE).await.unwrap().exit, Exit::Signal(9));
}

#[tokio::test]
async fn a_stream_names_the_command_itself() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let mut stream = agent.exec_stream(&Exec::new("sleep").arg("1000"), DEADLINE).await.unwrap();
    agent.signal(stream.pid(), "INT", DEADLINE).await.unwrap();
    assert_eq!(stream.next(DEADLINE).await.unwrap(), Some(Output::Exit(Exit::Signal(2))));
}

#[tokio::test]
async fn a_stream_without_room_for_its_output_says_so() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    agent.ping(DEADLINE).await.unwrap();
    let before = ga.open_files();
    for folder in ["/proc", "/no/such/folder", "/dev/null"] {
        let error = agent.exec_stream(&shell("echo never").scratch(folder), DEADLINE).await.unwrap_err();
        assert!(
            matches!(&error, Error::Scratch { folder: said, desc, .. } if said == folder && desc.contains("mkdir")),
            "{error}"
        );
    }
    assert_eq!(ga.open_files(), before);
}

#[tokio::test]
async fn a_half_written_command_of_an_earlier_client_does_no_harm() {
    let ga = GuestAgent::spawn();
    let command = b"{\"execute\":\"guest-file-open\",\"arguments\":{\"path\":\"/nonexistent\\n\",\"mode\":[1,2.5e3]}}\n";
    // One connection: cut at each place, then a new client on the same stream.
    for cut in 0..=command.len() {
        let mut stream = ga.stream().await;
        stream.write_all(&command[..cut]).await.unwrap();
        let agent = Agent::connect(stream);
        agent.ping(DEADLINE).await.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
    }
}

#[tokio::test]
async fn cancelled_calls_leave_the_agent_in_step() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let path = ga.text("file");
    agent.write_file(&path, &vec![7; 1 << 20], DEADLINE).await.unwrap();
    let started = Instant::now();
    for round in 0..40 {
        // Cut off somewhere within: in the request, before the answer, in the middle of it.
        let cut = Duration::from_micros(round * 300);
        let _ = tokio::time::timeout(cut, agent.read_file(&path, 1 << 20, DEADLINE)).await;
        let _ =
            tokio::time::timeout(cut, agent.write_file(&ga.text("other"), &vec![1; 1 << 20], DEADLINE)).await;
        let pid = agent.exec(&shell(&format!("echo {round}")), DEADLINE).await.unwrap();
        let status = agent.exec_wait(pid, DEADLINE).await.unwrap();
        assert_eq!(status.stdout, format!("{round}\n").into_bytes());
    }
    assert!(started.elapsed() < DEADLINE, "each recovery is one round trip");
    assert_eq!(agent.read_file(&path, 1 << 20, DEADLINE).await.unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn calls_of_many_tasks_take_turns() {
    let ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let agent = agent.clone();
        tasks.spawn(async move {
            let pid = agent.exec(&shell(&format!("exit {number}")), DEADLINE).await.unwrap();
            assert_eq!(agent.exec_wait(pid, DEADLINE).await.unwrap().exit, Exit::Code(number));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn an_agent_that_goes_away_ends_calls() {
    let mut ga = GuestAgent::spawn();
    let agent = ga.agent().await;
    agent.ping(DEADLINE).await.unwrap();
    ga.child.kill().unwrap();
    ga.child.wait().unwrap();
    for _ in 0..2 {
        assert!(matches!(agent.ping(DEADLINE).await, Err(Error::Closed)));
    }
}
