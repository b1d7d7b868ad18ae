//! Faults: whoever is killed at whatever moment, and whatever the host runs out of, leaves a state from which the next
//! command goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Background, Sandbox, eventually, free_port, http};
use serde_json::Value;
use supervisor::host::proc::{ProcessId, Signal};

/// The processes of a program that runs for this sandbox: `supervise`, or `-machine` for QEMU.
fn processes(sandbox: &Sandbox, word: &str) -> Vec<u32> {
    let mut found = sandbox.processes();
    found.retain(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|argument| argument == word.as_bytes())
    });
    found
}

fn ram_file(sandbox: &Sandbox, vm: &str) -> PathBuf {
    sandbox.run_state(vm).unwrap()["ram_file"].as_str().unwrap().into()
}

/// What must hold after any interruption: the VM can be listed, started, reached, stopped and removed, and nothing of it
/// is left then.
#[track_caller]
fn is_sound(sandbox: &Sandbox, vm: &str) {
    sandbox.ok(&["ls"]);
    sandbox.ok(&["start", vm, "--wait"]);
    assert_eq!(processes(sandbox, "-machine").len(), 1, "{}", sandbox.logs());
    assert_eq!(processes(sandbox, "supervise").len(), 1, "{}", sandbox.logs());
    sandbox.ok(&["stop", vm]);
    sandbox.ok(&["rm", vm]);
    is_empty(sandbox);
}

/// Nothing runs and nothing is left of any VM.
#[track_caller]
fn is_empty(sandbox: &Sandbox) {
    assert_eq!(sandbox.ok(&["ls", "-q"]), "");
    eventually("the last process ends", || sandbox.processes().is_empty());
    // Unfinished work is swept once it is known to be nobody's: a folder without a lock only after a minute.
    sandbox.ok(&["gc"]);
    for left in fs::read_dir(sandbox.home().join("tmp")).into_iter().flatten().flatten() {
        assert!(!left.path().join(".lock").exists(), "{} cannot be swept", left.path().display());
    }
    let runs = fs::read_dir(sandbox.run_dir().join("vms")).map(Iterator::count).unwrap_or_default();
    assert_eq!(runs, 0);
}

#[test]
fn the_command_is_killed_at_any_moment_of_a_start() {
    let sandbox = Sandbox::new();
    for delay in [0, 3, 10, 20, 40, 80, 160] {
        sandbox.hello("web", &[]);
        let starting = sandbox.spawn(&["start", "web", "--wait"]);
        // Not to win a race: each moment must do.
        thread::sleep(Duration::from_millis(delay));
        starting.signal(Signal::KILL);
        starting.wait();
        is_sound(&sandbox, "web");
    }
}

#[test]
fn an_interrupt_at_any_moment_leaves_a_sound_state() {
    let sandbox = Sandbox::new();
    for delay in [0, 5, 20, 60, 150, 400] {
        let flags = ["--image", "hello", "-m", "32M", "--accel", "tcg"];
        let creating = sandbox.spawn(&[&["create", "web"], &flags[..]].concat());
        thread::sleep(Duration::from_millis(delay / 10));
        creating.signal(Signal::INT);
        creating.wait();
        sandbox.ok(&[&["create", "web", "--if-not-exists"], &flags[..]].concat());

        let starting = sandbox.spawn(&["start", "web", "--wait"]);
        thread::sleep(Duration::from_millis(delay));
        starting.signal(Signal::INT);
        starting.wait();
        is_sound(&sandbox, "web");

        // A foreground run takes its VM with it.
        let running = sandbox.spawn(&["run", "hello", "-n", "fore", "--rm", "-m", "32M", "--accel", "tcg"]);
        thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::INT);
        let done = running.wait();
        assert!([-1, 130].contains(&done.code), "{delay} ms: {done:?}{}", sandbox.logs());
        eventually("its processes end", || sandbox.processes().is_empty());
        is_empty(&sandbox);

        // One in the background goes on, or is gone: none stays that never began.
        let flags = ["-n", "back", "-d", "--rm", "--wait=serial:never", "-m", "32M", "--accel", "tcg"];
        let running = sandbox.spawn(&[&["run", "hello"], &flags[..]].concat());
        thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::INT);
        let done = running.wait();
        assert!([-1, 130].contains(&done.code), "{delay} ms: {done:?}{}", sandbox.logs());
        if sandbox.ok(&["ls", "-q"]) == "back\n" {
            assert_ne!(sandbox.state("back"), "stopped", "{delay} ms: {done:?}");
        }
        sandbox.ok(&["rm", "--force", "--if-exists", "back"]);
        is_empty(&sandbox);
    }
}

#[test]
fn an_interrupt_is_heard_after_an_image_was_taken_from_the_cache() {
    // Built once for all tests, so that the next one finds it in the cache.
    drop(Sandbox::with_debian());
    let sandbox = Sandbox::new();
    let flags = ["-n", "web", "-d", "--wait=serial:never", "-m", "128M", "--accel", "tcg"];
    for signal in [Signal::INT, Signal::TERM] {
        let running = sandbox.spawn(&[&["run", "debian:12"], &flags[..]].concat());
        eventually("the guest begins", || {
            sandbox.run_state("web").is_some_and(|run| run["qemu"].is_object())
        });
        running.signal(signal);
        let done = running.wait();
        assert_eq!(done.code, -1, "{done:?}{}", sandbox.logs());
        // Neither the supervisor nor QEMU is deaf to signals.
        for which in ["supervisor", "qemu"] {
            let pid = sandbox.process("web", which).pid;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
            let ours = (1 << 0) | (1 << 14);
            assert_eq!(u64::from_str_radix(blocked, 16).unwrap() & ours, 0, "{which}: {blocked}");
        }
        sandbox.ok(&["rm", "--force", "web"]);
        fs::remove_dir_all(sandbox.home().join("images")).unwrap();
    }
}

#[test]
fn an_interrupt_ends_the_guest_of_a_foreground_run() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .midge()
        .args(["run", "hello", "-n", "web", "-m", "32M", "--accel", "tcg"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("[init done]")));
    ProcessId::of(child.id()).unwrap().open().unwrap().unwrap().signal(Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let end = sandbox.end("web");
    assert_eq!((end["cause"].as_str(), end["asked_by"].as_str()), (Some("killed"), Some("user")));
}

#[test]
fn a_guest_outlives_its_supervisor_and_is_adopted() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    let qemu = sandbox.process("web", "qemu");
    sandbox.kill("web", "supervisor");
    assert!(qemu.is_alive());
    assert!(http(port, "/").contains("<title>"), "the guest needs no supervisor");
    let inspected = sandbox.inspect("web");
    assert_eq!((inspected["state"].as_str(), inspected["orphaned"].as_bool()), (Some("running"), Some(true)));

    // Any command that touches the VM brings a supervisor; start finds it running.
    assert_eq!(sandbox.json(&["start", "web", "-o", "json"])["already"], true);
    assert_eq!(sandbox.process("web", "qemu"), qemu);
    assert_eq!(sandbox.inspect("web")["orphaned"], false);
    assert!(sandbox.events("web").iter().any(|e| e["event"] == "adopted"));
    // Monitor, console and addresses are in the new one's hands.
    sandbox.ok(&["pause", "web"]);
    sandbox.ok(&["resume", "web"]);
    assert_eq!(sandbox.ok(&["ip", "web"]), "10.0.2.15\n");
    let mut console = sandbox
        .midge()
        .args(["console", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = console.stdin.take().unwrap();
    keys.write_all(b"help\n").unwrap();
    let mut lines = BufReader::new(console.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("poweroff")));
    let ram = ram_file(&sandbox, "web");
    keys.write_all(b"poweroff\n").unwrap();
    assert!(console.wait().unwrap().success());
    assert_eq!(sandbox.end("web")["cause"], "powered-off");
    eventually("the RAM file goes", || !ram.exists());
}

#[test]
fn an_end_while_nobody_watches_is_told_apart() {
    let sandbox = Sandbox::new();
    for (path, cause) in [("/poweroff", "powered-off"), ("/panic", "panicked")] {
        let port = sandbox.hello_up("web", &[]);
        sandbox.kill("web", "supervisor");
        http(port, path);
        assert_eq!(sandbox.end("web")["cause"], cause);
        sandbox.ok(&["rm", "web"]);
    }
    is_empty(&sandbox);
}

#[test]
fn a_reset_while_nobody_watches_is_not_made_up() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &["--no-reboot"]);
    sandbox.kill("web", "supervisor");
    http(port, "/reset");
    let end = sandbox.end("web");
    assert_eq!(end["cause"], "unknown", "{end}");
    assert!(end["detail"].as_str().unwrap().contains("reset"), "{end}");
}

#[test]
fn a_debug_exit_while_nobody_watches_keeps_its_number_where_the_kernel_tells() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    sandbox.kill("web", "supervisor");
    http(port, "/exit?code=5");
    let end = sandbox.end("web");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    // PIDFD_GET_INFO tells the exit status of a process that is not our child since Linux 6.15.
    if (numbers.next(), numbers.next()) >= (Some(6), Some(15)) {
        assert_eq!((&end["cause"], &end["code"]), (&"debug-exit".into(), &5.into()), "{end}");
    } else {
        assert_ne!(end["cause"], "qemu-crashed", "{end}");
    }
}

#[test]
fn a_vm_whose_qemu_and_supervisor_are_both_killed_starts_again() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let ram = ram_file(&sandbox, "web");
    sandbox.kill("web", "supervisor");
    sandbox.kill("web", "qemu");
    assert_eq!(sandbox.state("web"), "stopped");
    assert!(ram.exists(), "nobody was there to remove it");
    let end = sandbox.end("web");
    assert_eq!(end["cause"], "unknown");
    assert!(!ram.exists());
    is_sound(&sandbox, "web");
}

#[test]
fn gc_removes_what_killed_processes_left() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let ram = ram_file(&sandbox, "web");
    sandbox.kill("web", "supervisor");
    sandbox.kill("web", "qemu");
    let plan = sandbox.ok(&["gc", "--dry-run"]);
    assert!(plan.contains("web") && ram.exists(), "{plan}");
    sandbox.ok(&["gc"]);
    assert!(!ram.exists());
    assert_eq!(sandbox.ok(&["gc", "--dry-run"]), "");
    // Folders of commands that were killed: the lock is nobody's.
    let stale = sandbox.home().join("tmp/create-stale");
    fs::create_dir_all(&stale).unwrap();
    fs::write(stale.join(".lock"), "").unwrap();
    sandbox.ok(&["gc"]);
    assert!(!stale.exists());
}

#[test]
fn after_a_reboot_of_the_host_the_vm_is_stopped_and_starts() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let file = sandbox.run_dir().join("vms/web/state.json");
    let text = fs::read_to_string(&file).unwrap();
    sandbox.kill("web", "supervisor");
    sandbox.kill("web", "qemu");
    let boot = sandbox.run_state("web").unwrap()["qemu"]["boot_id"].as_str().unwrap().to_owned();
    fs::write(&file, text.replace(&boot, "00000000-0000-4000-8000-000000000000")).unwrap();
    assert_eq!(sandbox.state("web"), "stopped");
    let end = sandbox.end("web");
    assert_eq!(end["cause"], "unknown");
    assert!(end["detail"].as_str().unwrap().contains("the host was restarted"), "{end}");
    is_sound(&sandbox, "web");
}

#[test]
fn starts_at_the_same_moment_make_one_qemu() {
    let sandbox = Sandbox::new();
    for count in [2, 10] {
        sandbox.hello("web", &[]);
        let starts: Vec<Background> =
            (0..count).map(|_| sandbox.spawn(&["start", "web", "-o", "json"])).collect();
        let mut fresh = 0;
        for start in starts {
            let done = start.wait();
            assert_eq!(done.code, 0, "{done:?}{}", sandbox.logs());
            let started: Value = serde_json::from_str(&done.stdout).unwrap();
            fresh += usize::from(started["already"] == false);
        }
        assert_eq!(fresh, 1, "of {count}");
        assert_eq!(sandbox.events("web").iter().filter(|e| e["event"] == "started").count(), 1);
        is_sound(&sandbox, "web");
    }
}

#[test]
fn starts_and_stops_and_removals_of_one_vm_get_along() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &[]);
    thread::scope(|scope| {
        for verb in ["start", "stop", "restart"] {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for _ in 0..4 {
                    let done = sandbox.run(&[verb, "web"]);
                    // A guest that another command stopped in the middle is no success, and nothing worse than that.
                    assert!([0, 1, 4].contains(&done.code), "{verb}: {done:?}{}", sandbox.logs());
                }
            });
        }
    });
    is_sound(&sandbox, "web");
}

#[test]
fn a_running_vm_is_removed_by_force_only() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let said = sandbox.fails(4, &["rm", "web"]);
    assert!(said.contains("running") && said.contains("hint: "), "{said}");
    let (qemu, ram) = (sandbox.process("web", "qemu"), ram_file(&sandbox, "web"));
    assert!(qemu.is_alive());
    sandbox.ok(&["rm", "--force", "web"]);
    assert!(!qemu.is_alive() && !ram.exists());
    is_empty(&sandbox);
}

#[test]
fn damaged_records_are_named_and_harm_no_other_vm() {
    let sandbox = Sandbox::new();
    let record = sandbox.vm_file("bad", "vm.json");
    sandbox.hello("good", &[]);
    sandbox.hello("bad", &[]);
    let whole = fs::read_to_string(&record).unwrap();
    sandbox.ok(&["rm", "bad"]);
    let damages: [(&str, String, &str); 6] = [
        ("cut short", whole[..whole.len() / 2].to_owned(), "damaged"),
        ("empty", String::new(), "damaged"),
        ("newer", whole.replacen(r#""schema": 1"#, r#""schema": 2"#, 1), "newer midge"),
        ("a field that nobody knows", whole.replacen(r#""memory""#, r#""memry""#, 1), "`memory`"),
        ("no memory at all", whole.replacen(r#""32M""#, r#""0M""#, 1), "memory"),
        ("a record of nothing", "{}".to_owned(), "damaged"),
    ];
    for (what, text, word) in damages {
        assert_ne!(text, whole, "{what}");
        sandbox.hello("bad", &[]);
        fs::write(&record, &text).unwrap();
        let said = sandbox.fails(1, &["start", "bad"]);
        assert!(said.contains(word) && said.contains("vm.json"), "{what}: {said}");
        assert!(sandbox.ok(&["ls"]).contains("damaged"), "{what}");
        assert_eq!(sandbox.state("bad"), "damaged", "{what}");
        sandbox.ok(&["start", "good", "--wait"]);
        sandbox.ok(&["stop", "good"]);
        sandbox.fails(1, &["rm", "bad"]);
        sandbox.ok(&["rm", "--force", "bad"]);
    }
    // A folder renamed by hand is a VM of its new name.
    fs::rename(sandbox.home().join("vms/good"), sandbox.home().join("vms/moved")).unwrap();
    sandbox.ok(&["start", "moved", "--wait"]);
    assert_eq!(sandbox.inspect("moved")["record"]["spec"]["name"], "moved");
    sandbox.fails(3, &["start", "good"]);
}

#[test]
fn a_record_damaged_while_its_vm_runs_does_not_hold_the_guest() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let (qemu, ram) = (sandbox.process("web", "qemu"), ram_file(&sandbox, "web"));
    fs::write(sandbox.vm_file("web", "vm.json"), "{").unwrap();
    assert!(sandbox.ok(&["ls"]).contains("web"));
    sandbox.ok(&["rm", "--force", "web"]);
    assert!(!qemu.is_alive() && !ram.exists());
    is_empty(&sandbox);
}

#[test]
fn run_state_damaged_while_the_vm_runs_makes_no_second_qemu() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    let file = sandbox.run_dir().join("vms/web/state.json");
    let qemu = sandbox.process("web", "qemu");
    fs::write(&file, "{\"schema\":").unwrap();
    sandbox.ok(&["ls"]);
    sandbox.ok(&["start", "web"]);
    assert_eq!(processes(&sandbox, "-machine"), [qemu.pid]);
    assert!(http(port, "/").contains("<title>"));
    sandbox.ok(&["stop", "web"]);
    assert!(!qemu.is_alive());
    sandbox.ok(&["start", "web"]);
    let qemu = sandbox.process("web", "qemu");
    fs::write(&file, "").unwrap();
    sandbox.fails(4, &["rm", "web"]);
    sandbox.ok(&["rm", "--force", "web"]);
    assert!(!qemu.is_alive());
    is_empty(&sandbox);
}

#[test]
fn a_damaged_state_file_does_not_lose_the_qemu_that_it_named() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    let qemu = sandbox.process("web", "qemu");
    sandbox.kill("web", "supervisor");
    fs::write(sandbox.run_dir().join("vms/web/state.json"), "{").unwrap();
    sandbox.ok(&["start", "web", "--wait"]);
    assert_eq!(processes(&sandbox, "-machine"), [qemu.pid], "the same one, and no other");
    assert!(http(port, "/").contains("<title>"));
    sandbox.ok(&["stop", "web"]);
    is_sound(&sandbox, "web");
}

#[test]
fn a_guest_that_becomes_ready_while_nobody_watches_is_ready() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "web", "--image", "hello"]);
    // Stopped before its first instruction is over, the guest cannot be ready when its supervisor is killed.
    sandbox.ok(&["start", "web"]);
    let ready = sandbox.inspect("web")["state"] == "running";
    sandbox.kill("web", "supervisor");
    eventually("the guest is up", || sandbox.console("web").contains("[init done]"));
    sandbox.ok(&["start", "web", "--wait", "--timeout", "60s"]);
    assert_eq!(sandbox.state("web"), "running", "(ready before the kill: {ready})");
    assert_eq!(sandbox.ok(&["ip", "web"]), "10.0.2.15\n");
}

#[test]
fn after_a_reboot_with_its_run_folder_gone_a_vm_says_why_it_stopped() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    sandbox.kill("web", "supervisor");
    sandbox.kill("web", "qemu");
    fs::remove_dir_all(sandbox.run_dir()).unwrap();
    let mark = sandbox.vm_file("web", "run.json");
    let text = fs::read_to_string(&mark).unwrap();
    let run: Value = serde_json::from_str(&text).unwrap();
    let boot = run["qemu"]["boot_id"].as_str().unwrap();
    fs::write(&mark, text.replace(boot, "00000000-0000-0000-0000-000000000000")).unwrap();
    sandbox.fails(4, &["pause", "web"]);
    let end = sandbox.last_end("web").unwrap();
    assert_eq!(end["cause"], "unknown");
    assert!(end["detail"].as_str().unwrap().contains("restarted"), "{end}");
    fs::remove_file(run["ram_file"].as_str().unwrap())
        .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        .unwrap();
    sandbox.ok(&["start", "web", "--wait"]);
}

#[test]
fn a_qemu_that_nobody_can_name_any_more_gets_no_second_one_beside_it() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    let qemu = sandbox.process("web", "qemu");
    sandbox.kill("web", "supervisor");
    fs::write(sandbox.run_dir().join("vms/web/state.json"), "{").unwrap();
    fs::write(sandbox.vm_file("web", "run.json"), "{").unwrap();
    let said = sandbox.fails(4, &["start", "web"]);
    assert!(said.contains("state.json") && said.contains("pgrep"), "{said}");
    sandbox.fails(4, &["rm", "web"]);
    sandbox.fails(4, &["rename", "web", "www"]);
    sandbox.fails(4, &["set", "web", "--memory", "64M"]);
    assert_eq!(processes(&sandbox, "-machine"), [qemu.pid]);
    assert!(http(port, "/").contains("<title>"));
    let process = qemu.open().unwrap().unwrap();
    process.signal(Signal::KILL).unwrap();
    assert!(process.wait_for(common::PATIENCE).unwrap());
    is_sound(&sandbox, "web");
}

#[test]
fn a_run_folder_with_a_long_path_is_no_problem() {
    let sandbox = Sandbox::new();
    let deep = sandbox.path().join("d".repeat(100)).join("e".repeat(100));
    let midge = |args: &[&str]| {
        let done = Sandbox::finish(sandbox.midge().env("MIDGE_RUN", &deep).args(args));
        assert_eq!(done.code, 0, "{args:?}: {done:?}{}", sandbox.logs());
        done.stdout
    };
    sandbox.hello("web", &[]);
    midge(&["start", "web", "--wait"]);
    midge(&["pause", "web"]);
    midge(&["resume", "web"]);
    assert!(midge(&["ls"]).contains("running"));
    midge(&["stop", "web"]);
}

#[test]
fn a_port_in_use_is_told_before_qemu_is_started() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    sandbox.hello("web", &["-p", &format!("{port}:80")]);
    let said = sandbox.fails(6, &["start", "web"]);
    assert!(said.contains(&port.to_string()) && said.contains("hint: "), "{said}");
    assert_eq!(sandbox.state("web"), "stopped");
    drop(taken);
    is_sound(&sandbox, "web");
}

/// A file that is to pass for QEMU.
fn program(sandbox: &Sandbox, text: &str, mode: u32) -> PathBuf {
    let path = sandbox.path().join("qemu");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_qemu_that_cannot_be_used_is_named_with_the_reason() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &[]);
    let start_with =
        |qemu: &Path| Sandbox::finish(sandbox.midge().args(["start", "web"]).env("MIDGE_QEMU", qemu));
    let old = r#"#!/bin/sh
printf '%s\r\n' '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 6}, "package": ""}, "capabilities": []}}'
while read -r line; do printf '%s\r\n' '{"return": {}}'; done
"#;
    let cases = [
        ("a missing file", PathBuf::from("/nowhere/qemu"), "/nowhere/qemu"),
        ("a folder", sandbox.path().to_owned(), "executable"),
        ("not executable", program(&sandbox, "#!/bin/sh\n", 0o644), "chmod +x"),
    ];
    for (what, path, word) in cases {
        let done = start_with(&path);
        assert_eq!(done.code, 6, "{what}: {done:?}");
        assert!(done.stderr.contains(word), "{what}: {done:?}");
        assert_eq!(sandbox.state("web"), "stopped");
    }
    for (what, text, word) in [
        ("too old", old, "7.2"),
        ("one that dies", "#!/bin/sh\necho the disk is on fire >&2\nexit 3\n", "the disk is on fire"),
        ("no program at all", "no program\n", "midge: error: "),
    ] {
        let done = start_with(&program(&sandbox, text, 0o755));
        assert_eq!(done.code, 6, "{what}: {done:?}");
        assert!(done.stderr.contains(word), "{what}: {done:?}");
    }
    let done = Sandbox::finish(sandbox.midge().args(["start", "web"]).env("PATH", "/nowhere"));
    assert_eq!(done.code, 6, "{done:?}");
    assert!(done.stderr.contains("qemu-system-x86") && done.stderr.contains("apt-get install"), "{done:?}");
    is_sound(&sandbox, "web");
}

#[test]
fn a_qemu_that_dies_at_its_start_is_told_with_its_own_words() {
    let sandbox = Sandbox::new();
    // Answers the probe as the real one does, and dies when it is to boot a guest.
    let text = "#!/bin/sh\ncase \"$*\" in *-kernel*) echo the disk is on fire >&2; exit 1;; esac\n\
                exec qemu-system-x86_64 \"$@\"\n";
    let qemu = program(&sandbox, text, 0o755);
    sandbox.hello("web", &[]);
    let done = Sandbox::finish(sandbox.midge().args(["start", "web"]).env("MIDGE_QEMU", &qemu));
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("the disk is on fire"), "{done:?}");
    let end = sandbox.end("web");
    assert_eq!(end["cause"], "qemu-failed", "{end}");
    assert!(end["detail"].as_str().unwrap().contains("the disk is on fire"), "{end}");
    // The real one's own refusal.
    sandbox.hello("odd", &["--qemu-arg=-device", "--qemu-arg=no-such-device"]);
    let said = sandbox.fails(1, &["start", "odd"]);
    assert!(said.contains("no-such-device"), "{said}");
    is_sound_beside(&sandbox, "web", "odd");
}

#[track_caller]
fn is_sound_beside(sandbox: &Sandbox, vm: &str, other: &str) {
    sandbox.ok(&["rm", other]);
    is_sound(sandbox, vm);
}

#[test]
fn a_full_disk_fails_a_create_cleanly() {
    let sandbox = Sandbox::new();
    let small = sandbox.path().join("small");
    fs::create_dir(&small).unwrap();
    // In a mount namespace of its own the file system goes with the last process that sees it.
    let script = r#"set -eu
mount -t tmpfs -o size=256k tmpfs "$1"
export MIDGE_HOME="$1/home"
"$2" create first --image hello >&2
head -c 1M /dev/zero > "$1/ballast" 2>/dev/null || true
code=0; "$2" create second --image hello >&2 || code=$?
echo "code $code"
rm "$1/ballast"
"$2" ls -q
find "$1/home/tmp" -mindepth 1
"$2" create second --image hello
"#;
    let done = Sandbox::finish(
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .arg(&small)
            .arg(env!("CARGO_BIN_EXE_midge"))
            .env("MIDGE_RUN", sandbox.run_dir())
            .env("MIDGE_NET", "user"),
    );
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.stdout, "code 8\nfirst\nsecond\n", "{done:?}");
    assert!(done.stderr.contains("midge: error: ") && done.stderr.contains("No space left"), "{done:?}");
}

#[test]
fn a_terminal_that_closes_takes_no_vm_with_it() {
    let sandbox = Sandbox::new();
    let port = free_port();
    let publish = format!("{port}:80");
    // A shell's own session and group, ended as a closing terminal ends it.
    let done = Sandbox::finish(
        Command::new("setsid")
            .args(["--wait", "sh", "-c", r#""$0" "$@" && kill -HUP 0"#, env!("CARGO_BIN_EXE_midge")])
            .args([
                "run", "hello", "-n", "web", "-d", "--wait", "-m", "32M", "--accel", "tcg", "-p", &publish,
            ])
            .env("MIDGE_HOME", sandbox.home())
            .env("MIDGE_RUN", sandbox.run_dir())
            .env("MIDGE_NET", "user"),
    );
    assert_eq!(done.stdout, "web\n", "{done:?}");
    assert!(http(port, "/").contains("<title>"));
    assert_eq!(sandbox.state("web"), "running");
}

#[test]
fn without_room_for_its_ram_file_a_guest_runs_on_anonymous_memory() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.run_dir()).unwrap();
    // Both places for RAM files are too small in this mount namespace, which ends with the script.
    let script = r#"
        set -e
        mount -t tmpfs -o size=1m none /dev/shm
        mount -t tmpfs -o size=4m none "$MIDGE_RUN"
        midge=$0
        "$midge" create web --image hello
        "$midge" start web --wait
        "$midge" cmdline web
        "$midge" stop web"#;
    let midge = sandbox.midge();
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(midge.get_program());
    unshare.envs(midge.get_envs().filter_map(|(key, value)| Some((key, value?)))).stdin(Stdio::null());
    let done = Sandbox::finish(&mut unshare);
    assert_eq!(done.code, 0, "{done:?}{}", sandbox.logs());
    assert!(done.stderr.contains("anonymous"), "{}", done.stderr);
    assert!(done.stdout.contains("memory-backend-ram,"), "{}", done.stdout);
}
