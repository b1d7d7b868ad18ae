//! What a Debian guest is promised: its boot's phases, commands, files, logins, and that each of its ends is told for what
//! it was. Every test boots a real Debian 12 from the image that midge builds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Done, Sandbox, eventually, free_port};
use serde_json::{Value, json};
use supervisor::host::proc::Signal;

/// A Debian that is ready.
fn booted(flags: &[&str]) -> Sandbox {
    let sandbox = Sandbox::with_debian();
    sandbox.ok(&[&["create", "deb", "--image", "debian:12"], flags].concat());
    sandbox.ok(&["start", "deb", "--wait"]);
    sandbox
}

/// Runs a line of shell in a guest; its output.
#[track_caller]
fn shell(sandbox: &Sandbox, vm: &str, script: &str) -> String {
    sandbox.ok(&["exec", vm, "--", "sh", "-c", script])
}

/// Standard output as it is, of a command that must succeed.
#[track_caller]
fn bytes(sandbox: &Sandbox, args: &[&str]) -> Vec<u8> {
    let output = sandbox.midge().args(args).output().unwrap();
    assert!(output.status.success(), "midge {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs a command with this on its standard input.
fn fed(sandbox: &Sandbox, args: &[&str], input: &[u8]) -> Done {
    let mut command = sandbox.midge();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Bytes of every value that no two pieces of have in common.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64 (G. Marsaglia, "Xorshift RNGs")
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Not `assert_eq`: nobody reads megabytes.
#[track_caller]
fn assert_same(what: &str, a: &[u8], b: &[u8]) {
    let differs = a.iter().zip(b).position(|(a, b)| a != b);
    assert!(a == b, "{what}: {} and {} bytes, first difference at {differs:?}", a.len(), b.len());
}

/// The names of the phases that `start -o json` or `inspect` tells of.
fn phase_names(phases: &Value) -> Vec<&str> {
    phases.as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect()
}

#[test]
fn a_debian_shows_its_phases_runs_commands_takes_files_and_logins_and_powers_off() {
    let sandbox = Sandbox::with_debian();
    sandbox.ok(&["create", "deb", "--image", "debian:12", "--disk", "4G"]);
    let started = sandbox.json(&["start", "deb", "--wait", "-o", "json"]);
    phases(&sandbox, &started);
    sandbox.ok(&["wait", "deb", "ssh"]);
    sandbox.ok(&["wait", "deb", "tcp:22"]);
    sandbox.ok(&["wait", "deb", r"serial:deb login: $"]);

    exit_codes(&sandbox);
    input_environment_and_folder(&sandbox);
    output_comes_while_the_command_runs(&sandbox);
    an_interrupted_exec_ends_its_program(&sandbox);
    files(&sandbox);
    folders(&sandbox);
    ssh(&sandbox);

    let size: u64 = shell(&sandbox, "deb", "df -B1 --output=size / | tail -1").trim().parse().unwrap();
    assert!(size > 7 << 29, "the file system of a 4 GiB disk has only {size} bytes");
    assert_eq!(shell(&sandbox, "deb", "hostname; uname -n"), "deb\ndeb\n");
    let failed = shell(&sandbox, "deb", "systemctl --failed --no-legend --plain");
    assert_eq!(failed, "", "units failed");

    sandbox.ok(&["stop", "deb"]);
    assert_eq!(sandbox.last_end("deb"), Some(json!({ "cause": "powered-off", "asked_by": "user" })));
    assert_eq!(sandbox.inspect("deb")["state"], "stopped");
    let stopped = sandbox.fails(125, &["exec", "deb", "--", "true"]);
    assert!(stopped.contains("not running"), "{stopped}");
}

fn phases(sandbox: &Sandbox, started: &Value) {
    assert_eq!(started["name"], "deb");
    assert_eq!(started["already"], false);
    let names = phase_names(&started["phases"]);
    assert_eq!(names[..4], ["spawned", "monitor", "resumed", "serial"], "{names:?}");
    assert!(names.contains(&"ready"), "{names:?}");
    let times: Vec<f64> =
        started["phases"].as_array().unwrap().iter().map(|phase| phase["ms"].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 0.0, "{times:?}");

    sandbox.ok(&["wait", "deb", "ip"]);
    let state = sandbox.inspect("deb");
    assert_eq!(state["state"], "running");
    assert_eq!(state["run"]["addresses"][0], "10.0.2.15");
    assert!(phase_names(&state["run"]["phases"]).contains(&"network"));
    assert_eq!(sandbox.ok(&["ip", "deb", "-4"]), "10.0.2.15\n");
    let listed = sandbox.json(&["ls", "-o", "json"]);
    assert_eq!(listed["addresses"][0], "10.0.2.15");
}

fn exit_codes(sandbox: &Sandbox) {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 128 + 15)] {
        let done = sandbox.run(&["exec", "deb", "--", "sh", "-c", script]);
        assert_eq!(done.code, code, "{script}: {}", done.stderr);
    }
    let missing = sandbox.run(&["exec", "deb", "--", "no-such-program"]);
    assert_eq!(missing.code, 127, "{}", missing.stderr);
    assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);

    let both = sandbox.run(&["exec", "deb", "--", "sh", "-c", "echo to out; echo to err >&2; exit 7"]);
    assert_eq!((both.code, both.stdout.as_str(), both.stderr.as_str()), (7, "to out\n", "to err\n"));
    // A word stays a word, whatever is in it.
    let words = sandbox.ok(&["exec", "deb", "--", "printf", "[%s]", "a b", "$HOME", "'", "", "é"]);
    assert_eq!(words, "[a b][$HOME]['][][é]");
}

fn input_environment_and_folder(sandbox: &Sandbox) {
    let folder = ["exec", "-e", "ONE=1 one", "-e", "TWO=", "-w", "/usr/share", "deb", "--"];
    let script = ["sh", "-c", "echo \"$ONE-$TWO-$PWD\"; command -v ls"];
    assert_eq!(sandbox.ok(&[&folder[..], &script].concat()), "1 one--/usr/share\n/usr/bin/ls\n");
    let nowhere = sandbox.run(&["exec", "-w", "/nowhere", "deb", "--", "true"]);
    assert!(nowhere.code != 0 && nowhere.stderr.contains("/nowhere"), "{nowhere:?}");

    let sent = noise(100_000);
    let done = fed(sandbox, &["exec", "-i", "deb", "--", "sha256sum"], &sent);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stdout.split(' ').next(), Some(sha256(&sent).as_str()));
    // Without -i there is nothing to read.
    assert_eq!(fed(sandbox, &["exec", "deb", "--", "cat"], b"unasked").stdout, "");
}

fn output_comes_while_the_command_runs(sandbox: &Sandbox) {
    // The command goes on only when the test has seen its first line.
    let script = "mkfifo /tmp/gate; echo first; read word < /tmp/gate; echo \"$word\"; exit 5";
    let mut running = sandbox.spawn(&["exec", "deb", "--", "sh", "-c", script]);
    let mut output = running.stdout();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    shell(sandbox, "deb", "echo second > /tmp/gate");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), running.wait().code), ("second\n", 5));
}

fn an_interrupted_exec_ends_its_program(sandbox: &Sandbox) {
    let mut running = sandbox.spawn(&["exec", "deb", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    let mut pid = String::new();
    running.stdout().read_line(&mut pid).unwrap();
    let alive = format!("test -d /proc/{}", pid.trim());
    shell(sandbox, "deb", &alive);
    running.signal(Signal::INT);
    assert_ne!(running.wait().code, 0);
    eventually("the program's end in the guest", || {
        sandbox.run(&["exec", "deb", "--", "sh", "-c", &alive]).code == 1
    });
}

fn files(sandbox: &Sandbox) {
    let work = sandbox.path().join("files");
    fs::create_dir(&work).unwrap();
    let here = work.join("noise.bin");
    let sent = noise(3_000_000);
    fs::write(&here, &sent).unwrap();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o750)).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();

    // To a name, and to a folder.
    sandbox.ok(&["cp", &path(&here), "deb:/root/sent"]);
    let told = shell(sandbox, "deb", "sha256sum < /root/sent; stat -c %a /root/sent");
    assert_eq!(told, format!("{}  -\n750\n", sha256(&sent)));
    sandbox.ok(&["cp", &path(&here), "deb:/srv/"]);
    assert_eq!(shell(sandbox, "deb", "cmp /root/sent /srv/noise.bin && ls /srv"), "noise.bin\n");

    // Back: to a name, to a folder, to a pipe. Then more than 5 MB as a command's output.
    let back = work.join("back");
    sandbox.ok(&["cp", "deb:/root/sent", &path(&back)]);
    assert_same("a file copied to a guest and back", &fs::read(&back).unwrap(), &sent);
    sandbox.ok(&["cp", "deb:/root/sent", &path(&work)]);
    assert_same("a file copied into a folder", &fs::read(work.join("sent")).unwrap(), &sent);
    assert_same("a file copied to a pipe", &bytes(sandbox, &["cp", "deb:/root/sent", "-"]), &sent);
    let twice = bytes(sandbox, &["exec", "deb", "--", "cat", "/root/sent", "/root/sent"]);
    assert_same("a command's output", &twice, &sent.repeat(2));
    let done = fed(sandbox, &["cp", "-", "deb:/root/piped"], b"from a pipe");
    assert_eq!((done.code, shell(sandbox, "deb", "cat /root/piped").as_str()), (0, "from a pipe"));

    // What cannot be copied leaves nothing.
    let nothing = work.join("nothing");
    let missing = sandbox.fails(3, &["cp", "deb:/no/such/file", &path(&nothing)]);
    assert!(missing.contains("/no/such/file") && !nothing.exists(), "{missing}");
    sandbox.fails(3, &["cp", &path(&nothing), "deb:/root/nothing"]);
    let folder = sandbox.run(&["cp", &path(&here), "deb:/no/such/folder/file"]);
    assert!(folder.code != 0 && folder.stderr.contains("/no/such/folder"), "{folder:?}");
    let over = sandbox.run(&["cp", &path(&here), "deb:/srv"]);
    assert_ne!(over.code, 0, "a file took the place of a folder");
    assert_eq!(shell(sandbox, "deb", "ls -A /srv; ls -A /root | grep -c midge || true"), "noise.bin\n0\n");
}

fn folders(sandbox: &Sandbox) {
    let tree = sandbox.path().join("tree");
    fs::create_dir_all(tree.join("deep/deeper")).unwrap();
    fs::write(tree.join("deep/deeper/script"), "#!/bin/sh\necho it runs\n").unwrap();
    fs::set_permissions(tree.join("deep/deeper/script"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(tree.join("a file"), noise(10_000)).unwrap();
    std::os::unix::fs::symlink("a file", tree.join("link")).unwrap();

    sandbox.ok(&["cp", "-r", tree.to_str().unwrap(), "deb:/opt"]);
    assert_eq!(
        shell(sandbox, "deb", "/opt/tree/deep/deeper/script; readlink /opt/tree/link"),
        "it runs\na file\n"
    );
    let back = sandbox.path().join("tree-back");
    sandbox.ok(&["cp", "-r", "deb:/opt/tree", back.to_str().unwrap()]);
    let same = Command::new("diff").arg("-r").arg(&tree).arg(back.join("tree")).output().unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    assert_eq!(shell(sandbox, "deb", "ls -A /tmp | grep -c midge-cp || true"), "0\n");
    let without = sandbox.fails(2, &["cp", tree.to_str().unwrap(), "deb:/opt/"]);
    assert!(without.contains("-r"), "{without}");
}

fn ssh(sandbox: &Sandbox) {
    // No terminal and no input: had ssh anything to ask, it would fail.
    let run = |command: &[&str]| sandbox.run(&[&["ssh", "deb", "--"], command].concat());
    let done = run(&["echo", "$((6 * 7));", "exit", "4"]);
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (4, "42\n", ""));
    assert_eq!(run(&["whoami"]).stdout, "root\n");
    // The guest's key is kept with the VM, under the VM's name.
    let known = sandbox.vm_file("deb", "known_hosts");
    let found = Command::new("ssh-keygen").args(["-F", "deb", "-f"]).arg(&known).output().unwrap();
    let own = shell(sandbox, "deb", "cat /etc/ssh/ssh_host_ed25519_key.pub");
    let key = own.split(' ').nth(1).unwrap();
    assert!(String::from_utf8_lossy(&found.stdout).contains(key), "{found:?}");
    let fed = fed(sandbox, &["ssh", "deb", "--", "sha256sum"], b"by the way");
    assert_eq!(fed.stdout.split(' ').next(), Some(sha256(b"by the way").as_str()));
    // Another host in the guest's place is noticed.
    let other = sandbox.path().join("other");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&other)
        .status()
        .unwrap();
    assert!(made.success());
    let key = fs::read_to_string(other.with_extension("pub")).unwrap();
    fs::write(known, format!("deb {key}")).unwrap();
    let refused = run(&["true"]);
    assert_eq!(refused.code, 255, "{}", refused.stderr);
    assert!(refused.stderr.contains("host key"), "{}", refused.stderr);
}

/// By sha256sum(1).
fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn two_debians_of_one_image_have_their_own_identities_and_lives() {
    let sandbox = Sandbox::with_debian();
    // Its port is in use when its supervisor is killed below: by itself, which is no reason not to take charge of it again.
    let publish = format!("{}:22", free_port());
    sandbox.ok(&["create", "one", "--image", "debian:12", "-p", &publish]);
    sandbox.ok(&["create", "two", "--image", "debian"]);
    // At once.
    let both = ["one", "two"].map(|vm| sandbox.spawn(&["start", vm, "--wait"]));
    for start in both {
        let done = start.wait();
        assert_eq!(done.code, 0, "{}{}", done.stderr, sandbox.logs());
    }
    let told = |script: &str| ["one", "two"].map(|vm| shell(&sandbox, vm, script));
    assert_eq!(told("hostname"), ["one\n", "two\n"]);
    for own in
        ["cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub", "cat /sys/class/net/e*/address"]
    {
        let [one, two] = told(own);
        assert!(one.len() > 10 && one != two, "{own}: {one:?} and {two:?}");
    }
    for vm in ["one", "two"] {
        sandbox.ok(&["wait", vm, "ssh"]);
        assert_eq!(sandbox.ok(&["ssh", vm, "--", "hostname"]), format!("{vm}\n"));
    }

    // A supervisor that dies leaves its guest running; the next command takes charge of both it and its agent.
    let qemu = sandbox.process("one", "qemu").pid;
    sandbox.kill("one", "supervisor");
    assert_eq!(sandbox.ok(&["exec", "one", "--", "hostname"]), "one\n");
    assert_eq!(sandbox.process("one", "qemu").pid, qemu);
    let state = sandbox.inspect("one");
    assert_eq!((&state["state"], &state["run"]["addresses"][0]), (&json!("running"), &json!("10.0.2.15")));
    assert!(sandbox.events("one").iter().any(|event| event["event"] == "adopted"));

    // A guest whose agent has gone still hears the power button.
    shell(&sandbox, "one", "systemd-run --no-block --collect systemctl stop qemu-guest-agent");
    eventually("the agent's end", || sandbox.run(&["exec", "one", "--", "true"]).code == 125);
    let silent = sandbox.fails(125, &["exec", "one", "--", "true"]);
    assert!(silent.contains("no agent answers") && silent.contains("midge wait"), "{silent}");
    sandbox.ok(&["stop", "one"]);
    assert_eq!(sandbox.last_end("one"), Some(json!({ "cause": "powered-off", "asked_by": "user" })));

    // And one that will not end is ended.
    shell(&sandbox, "two", "systemctl mask --now --runtime poweroff.target systemd-poweroff.service");
    let stopped = sandbox.run(&["stop", "two", "--timeout", "3s"]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("by force"), "{}", stopped.stderr);
    assert_eq!(sandbox.last_end("two"), Some(json!({ "cause": "killed", "asked_by": "user" })));
}

#[test]
fn a_reboot_is_no_end_and_a_panic_is_one() {
    let sandbox = booted(&[]);
    let boot = || sandbox.run(&["exec", "deb", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    let first = boot().stdout;
    let qemu = sandbox.process("deb", "qemu").pid;
    sandbox.run(&["exec", "deb", "--", "systemctl", "reboot"]);
    eventually("the agent of the second boot", || {
        let second = boot();
        second.code == 0 && second.stdout != first
    });
    assert_eq!(sandbox.process("deb", "qemu").pid, qemu, "QEMU was started anew");
    assert_eq!(sandbox.inspect("deb")["state"], "running");
    assert!(sandbox.events("deb").iter().any(|event| event["event"] == "guest-reset"));

    // The kernel's own last words may still wait for the console when the panic stops the guest; these have got there.
    shell(&sandbox, "deb", "echo the end is near > /dev/kmsg");
    eventually("the words on the console", || sandbox.console("deb").contains("the end is near"));
    let waiting = sandbox.spawn(&["wait", "deb", "exit"]);
    sandbox.run(&["exec", "deb", "--timeout", "30s", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    let waited = waiting.wait();
    assert_eq!((waited.code, waited.stdout.as_str()), (0, "guest panicked\n"), "{}", waited.stderr);
    assert_eq!(sandbox.last_end("deb"), Some(json!({ "cause": "panicked" })));
    let listed = sandbox.json(&["ls", "-o", "json"]);
    assert_eq!((&listed["state"], &listed["last_end"]["cause"]), (&json!("stopped"), &json!("panicked")));
    assert!(sandbox.ok(&["logs", "deb"]).contains("the end is near"), "the console's log is gone");
}

#[test]
fn run_with_a_command_streams_answers_its_code_and_leaves_nothing() {
    let sandbox = Sandbox::with_debian();
    let nothing_left = || {
        assert_eq!(sandbox.ok(&["ls", "-q"]), "");
        let vms = sandbox.home().join("vms");
        assert_eq!(fs::read_dir(vms).unwrap().count(), 0);
    };
    let failed = sandbox.spawn(&["run", "debian:12", "--", "sh", "-c", "echo out; echo err >&2; exit 6"]);
    // Two guests at once: one ends by itself, the other by Ctrl-C.
    let mut endless = sandbox.spawn(&[
        "run",
        "debian:12",
        "-n",
        "endless",
        "--",
        "sh",
        "-c",
        "echo begun; exec sleep 1000",
    ]);
    let mut line = String::new();
    endless.stdout().read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n", "{}", sandbox.logs());
    endless.signal(Signal::INT);
    assert_eq!(endless.wait().code, 130);

    let failed = failed.wait();
    assert_eq!((failed.code, failed.stdout.as_str()), (6, "out\n"), "{}", failed.stderr);
    assert!(failed.stderr.ends_with("err\n"), "{}", failed.stderr);
    nothing_left();

    // Interrupted while the guest still boots.
    let mut early = sandbox.spawn(&["run", "debian:12", "-n", "early", "--", "true"]);
    eventually("the guest's first word", || !sandbox.console("early").is_empty());
    early.signal(Signal::TERM);
    assert_eq!(early.stdout().read_to_string(&mut String::new()).unwrap(), 0);
    assert_eq!(early.wait().code, 128 + 15);
    nothing_left();

    // A guest that ends before its agent comes.
    let never = sandbox.run(&[
        "run",
        "debian:12",
        "--append",
        "init=/bin/false panic=-1",
        "--no-reboot",
        "--",
        "true",
    ]);
    assert_eq!(never.code, 125, "{}", never.stderr);
    assert!(never.stderr.contains("ended"), "{}", never.stderr);
    nothing_left();
}

#[test]
fn a_boot_that_fails_shows_the_guests_last_words() {
    let sandbox = Sandbox::with_debian();
    let lost = "root=/dev/nonexistent";
    sandbox.ok(&["create", "stalls", "--image", "debian:12", "--append", lost]);
    sandbox.ok(&[
        "create",
        "ends",
        "--image",
        "debian:12",
        "--no-reboot",
        "--append",
        &format!("{lost} panic=1"),
    ]);
    sandbox.ok(&["start", "stalls"]);
    let ends = sandbox.spawn(&["start", "ends", "--wait"]);

    // The initial RAM disk gives up on its own after half a minute: with a shell, or by a reset.
    sandbox.ok(&["wait", "stalls", "serial:/dev/nonexistent does not exist"]);
    let late = sandbox.fails(5, &["start", "stalls", "--wait", "--timeout", "1s"]);
    assert!(late.contains("not ready") && late.contains("/dev/nonexistent does not exist"), "{late}");
    let quoted: Vec<&str> = late.lines().filter(|line| line.starts_with("  | ")).collect();
    assert!((1..=20).contains(&quoted.len()), "{late}");
    assert_eq!(sandbox.inspect("stalls")["state"], "booting");
    let silent = sandbox.fails(125, &["exec", "stalls", "--", "true"]);
    assert!(silent.contains("no agent answers") && silent.contains("midge wait"), "{silent}");

    let ended = ends.wait();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("ended: reset"), "{}", ended.stderr);
    assert!(ended.stderr.contains("/dev/nonexistent does not exist"), "{}", ended.stderr);
    assert_eq!(sandbox.last_end("ends"), Some(json!({ "cause": "reset" })));
}

/// A mount namespace with a file system of its own in the place of a sandbox's `$MIDGE_HOME`, whose size can be changed. The mount
/// ends with the processes in the namespace, so nothing has to be unmounted.
struct SmallDisk<'a> {
    sandbox: &'a Sandbox,
    holder: Child,
}

impl<'a> SmallDisk<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        fs::create_dir(sandbox.home()).unwrap();
        let script = "mount -t tmpfs -o size=4G midge-test \"$0\" && echo mounted && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(sandbox.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "mounting needs root");
        Self { sandbox, holder }
    }

    /// A program in the namespace.
    fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--mount").arg(format!("--target={}", self.holder.id())).arg(program);
        command
    }

    fn midge(&self, args: &[&str]) -> Command {
        let midge = self.sandbox.midge();
        let mut command = self.inside(midge.get_program());
        command.args(args).stdin(Stdio::null());
        for (key, value) in midge.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let done = Sandbox::finish(&mut self.midge(args));
        assert_eq!(done.code, 0, "midge {args:?}: {}", done.stderr);
        done.stdout
    }

    fn state(&self) -> Value {
        let text = self.ok(&["ls", "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["state"].clone()
    }

    /// Leaves this much room, in bytes.
    fn leave(&self, room: u64) {
        let home = self.sandbox.home();
        let used = self.inside("df").args(["-B1", "--output=used"]).arg(&home).output().unwrap();
        let used = String::from_utf8(used.stdout).unwrap();
        let used: u64 = used.lines().nth(1).unwrap().trim().parse().unwrap();
        let size = format!("remount,size={}", used + room);
        assert!(self.inside("mount").args(["-o", &size]).arg(home).status().unwrap().success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_full_disk_pauses_the_guest_and_room_lets_it_go_on() {
    const MIB: u64 = 1 << 20;
    let sandbox = Sandbox::new();
    let disk = SmallDisk::new(&sandbox);
    disk.ok(&["image", "build", "debian:12"]);
    disk.ok(&["create", "deb", "--image", "debian:12"]);
    disk.ok(&["start", "deb", "--wait"]);

    // 63 MB that the test knows too, and room for a part of it.
    disk.leave(16 * MIB);
    let script = "seq 8000000 > /root/numbers && sync && echo 3 > /proc/sys/vm/drop_caches && sha256sum < /root/numbers";
    let writer = disk
        .midge(&["exec", "deb", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the pause", || disk.state() == "paused:disk-full");
    let inspected: Value = serde_json::from_str(&disk.ok(&["inspect", "deb"])).unwrap();
    assert_eq!(inspected["run"]["state"], json!({ "name": "paused", "why": "disk-full" }));
    assert!(disk.ok(&["ls"]).contains("paused:disk-full"));
    let events = disk.ok(&["events", "deb", "-o", "json"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|e| e["event"] == "disk-error" && e["no_space"] == true), "{events:?}");
    assert!(events.iter().any(|e| e["state"]["why"] == "disk-full"), "{events:?}");

    // Going on without room ends in the same place; with room it goes on, and nothing is lost.
    disk.ok(&["resume", "deb"]);
    eventually("the next pause", || disk.state() == "paused:disk-full");
    disk.leave(1024 * MIB);
    disk.ok(&["resume", "deb"]);
    let written = writer.wait_with_output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let numbers = Command::new("sh").args(["-c", "seq 8000000 | sha256sum"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&written.stdout), String::from_utf8_lossy(&numbers.stdout));
    assert_eq!(disk.state(), "running");
    disk.ok(&["stop", "deb"]);
}
