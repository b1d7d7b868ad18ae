//! The life of a VM, from its creation to its removal, with the embedded unikernel.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use common::{PATIENCE, Sandbox, eventually, free_port, http};
use serde_json::Value;

/// The phases that `hello` shows, in their order.
const PHASES: [&str; 7] = ["spawned", "monitor", "resumed", "serial", "kernel", "network", "ready"];

fn names(phases: &Value) -> Vec<&str> {
    phases.as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect()
}

/// Waits for a line that holds `wanted`, and answers it.
#[track_caller]
fn line_with(lines: &mut impl BufRead, wanted: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the output ended without `{wanted}`");
        if line.contains(wanted) {
            return line;
        }
    }
}

#[test]
fn a_vm_lives_from_create_to_rm() {
    let sandbox = Sandbox::new();
    let port = free_port();
    sandbox.hello("web", &["-p", &format!("{port}:80"), "--label", "job=7"]);
    assert_eq!(sandbox.state("web"), "stopped");
    assert_eq!(sandbox.inspect("web")["last"], Value::Null);

    let started = sandbox.json(&["start", "web", "--wait", "-o", "json"]);
    assert_eq!((started["schema"].as_u64(), started["already"].as_bool()), (Some(1), Some(false)));
    assert_eq!(names(&started["phases"]), PHASES);
    let times: Vec<f64> =
        started["phases"].as_array().unwrap().iter().map(|p| p["ms"].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] >= 0.0, "{times:?}");

    let page = http(port, "/");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<title>"), "{page}");

    let listed = sandbox.json(&["ls", "-o", "json"]);
    let qemu = sandbox.process("web", "qemu").pid;
    assert_eq!(listed["state"], "running");
    assert_eq!(listed["pid"].as_u64(), Some(qemu.into()));
    assert_eq!(listed["ports"][0]["host"].as_u64(), Some(port.into()));
    assert_eq!(listed["labels"]["job"], "7");
    let table = sandbox.ok(&["ls"]);
    assert!(table.contains("web") && table.contains("running") && table.contains("10.0.2.15"), "{table}");

    let inspected = sandbox.inspect("web");
    assert_eq!(inspected["run"]["accel"], "tcg");
    assert_eq!(names(&inspected["run"]["phases"]), PHASES);
    assert_eq!(sandbox.ok(&["ip", "web"]), "10.0.2.15\n");
    assert_eq!(sandbox.json(&["ip", "web", "-o", "json"])["addresses"][0], "10.0.2.15");

    let stats = sandbox.json(&["stats", "web", "-o", "json"]);
    assert_eq!(stats["pid"].as_u64(), Some(qemu.into()));
    assert!(stats["rss"].as_u64().unwrap() > 1 << 20, "{stats}");
    assert!(stats["cpu_seconds"].as_f64().unwrap() > 0.0, "{stats}");

    // What `cmdline` shows is what QEMU was started with.
    let real = std::fs::read_to_string(format!("/proc/{qemu}/cmdline")).unwrap();
    let shown = sandbox.ok(&["cmdline", "web"]);
    for word in real.split('\0').filter(|word| word.starts_with('-')) {
        assert!(shown.contains(word), "{word} is missing in {shown}");
    }

    sandbox.ok(&["stop", "web"]);
    assert_eq!(sandbox.state("web"), "stopped");
    assert_eq!(sandbox.inspect("web")["last"]["end"]["asked_by"], "user");
    sandbox.ok(&["rm", "web"]);
    sandbox.fails(3, &["inspect", "web"]);
    assert!(!sandbox.home().join("vms/web").exists() && !sandbox.run_dir().join("vms/web").exists());
}

#[test]
fn what_is_so_already_is_a_success() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let before = sandbox.process("web", "qemu");
    assert_eq!(sandbox.json(&["start", "web", "-o", "json"])["already"], true);
    let again = sandbox.json(&["start", "web", "--wait", "-o", "json"]);
    assert_eq!(names(&again["phases"]), PHASES);
    assert_eq!(sandbox.process("web", "qemu"), before);
    sandbox.ok(&["stop", "web"]);
    sandbox.ok(&["stop", "web"]);
    sandbox.fails(4, &["kill", "web"]);
    sandbox.fails(4, &["pause", "web"]);
    sandbox.fails(4, &["stats", "web"]);
    assert_eq!(sandbox.ok(&["wait", "web", "exit"]), "killed, as asked\n");
}

#[test]
fn a_paused_guest_stands_still_and_goes_on() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    assert!(http(port, "/").contains("<title>"));
    sandbox.ok(&["pause", "web"]);
    sandbox.ok(&["pause", "web"]);
    assert_eq!(sandbox.state("web"), "paused");
    assert!(sandbox.ok(&["ls"]).contains("paused"));

    // QEMU takes the connection; the guest, which would answer in milliseconds, does not.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut answer = Vec::new();
    assert!(stream.read_to_end(&mut answer).is_err(), "{}", String::from_utf8_lossy(&answer));
    assert!(answer.is_empty());

    sandbox.ok(&["resume", "web"]);
    sandbox.ok(&["resume", "web"]);
    assert_eq!(sandbox.state("web"), "running");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("<title>"));
    // A paused guest can be stopped.
    sandbox.ok(&["pause", "web"]);
    sandbox.ok(&["stop", "web"]);
    assert_eq!(sandbox.state("web"), "stopped");
}

#[test]
fn an_end_that_was_waited_for_makes_way_for_the_next_start() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    for _ in 0..5 {
        http(port, "/poweroff");
        // The guest is over; its supervisor may still be on its way out.
        sandbox.ok(&["wait", "web", "exit"]);
        let started = sandbox.json(&["start", "web", "--wait", "-o", "json"]);
        assert_eq!(started["already"], false);
        assert!(http(port, "/").contains("<title>"));
    }
}

#[test]
fn restart_is_a_new_qemu() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    let before = sandbox.process("web", "qemu");
    let started = sandbox.json(&["restart", "web", "--wait", "-o", "json"]);
    assert_eq!(names(&started["phases"]), PHASES);
    let after = sandbox.process("web", "qemu");
    assert!(after != before && !before.is_alive());
    assert!(http(port, "/").contains("<title>"));
}

#[test]
fn a_stopped_vm_is_renamed_and_changed() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &[]);
    let id = sandbox.inspect("web")["record"]["id"].clone();
    sandbox.ok(&["rename", "web", "shop"]);
    assert_eq!(sandbox.inspect("shop")["record"]["id"], id);
    sandbox.fails(3, &["inspect", "web"]);
    sandbox.hello("other", &[]);
    sandbox.fails(4, &["rename", "other", "shop"]);
    sandbox.fails(2, &["rename", "other", "a/b"]);

    sandbox.ok(&["set", "shop", "--memory", "48M", "--cpus", "2", "--label", "a=b"]);
    let spec = sandbox.inspect("shop")["record"]["spec"].clone();
    assert_eq!((spec["memory"].as_str(), spec["cpus"].as_u64()), (Some("48M"), Some(2)));
    sandbox.ok(&["start", "shop", "--wait"]);
    assert!(sandbox.console("shop").contains("memory 48 MiB"), "{}", sandbox.console("shop"));
    sandbox.fails(4, &["set", "shop", "--memory", "64M"]);
    sandbox.fails(4, &["rename", "shop", "web"]);
    sandbox.ok(&["set", "shop", "--label", "c=d"]);
    assert_eq!(sandbox.inspect("shop")["record"]["spec"]["labels"]["c"], "d");
    sandbox.ok(&["stop", "shop"]);
    sandbox.fails(2, &["set", "shop", "--memory", "0"]);
    assert_eq!(sandbox.inspect("shop")["record"]["spec"]["memory"], "48M");
}

#[test]
fn two_vms_run_side_by_side_on_both_machines() {
    let sandbox = Sandbox::new();
    let (port_a, port_b) = (free_port(), free_port());
    sandbox.hello("a", &["--machine", "q35", "-p", &format!("{port_a}:80")]);
    sandbox.hello("b", &["--machine", "microvm", "-p", &format!("{port_b}:80")]);
    let table = sandbox.ok(&["start", "a", "b", "--wait"]);
    assert!(table.contains("ready"), "{table}");
    assert!(http(port_a, "/").contains("<title>") && http(port_b, "/").contains("<title>"));
    assert!(sandbox.ok(&["cmdline", "a"]).contains("q35"));
    assert!(sandbox.ok(&["cmdline", "b"]).contains("microvm"));
    assert_eq!(sandbox.ok(&["ls", "--running", "-q"]), "a\nb\n");
    sandbox.ok(&["stop", "a"]);
    assert!(http(port_b, "/").contains("<title>"));
    assert_eq!(sandbox.ok(&["ls", "--running", "-q"]), "b\n");
    sandbox.ok(&["rm", "--all", "--force"]);
    assert_eq!(sandbox.ok(&["ls", "-q"]), "");
}

#[test]
fn the_console_takes_keys_from_a_pipe_and_from_a_terminal() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let mut piped = sandbox
        .midge()
        .args(["console", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its note tells that it is attached.
    line_with(&mut BufReader::new(piped.stderr.take().unwrap()), "console of `web`");
    let mut keys = piped.stdin.take().unwrap();
    keys.write_all(b"help\n").unwrap();
    let mut shown = BufReader::new(piped.stdout.take().unwrap());
    line_with(&mut shown, "poweroff");
    drop(keys);
    common::stop_child(piped);

    let terminal = nix::pty::openpty(None, None).unwrap();
    let end = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut child =
        sandbox.midge().args(["console", "web"]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    let mut screen = BufReader::new(File::from(terminal.master.try_clone().unwrap()));
    line_with(&mut screen, "Ctrl-]");
    let mut keyboard = File::from(terminal.master);
    keyboard.write_all(b"help\r").unwrap();
    line_with(&mut screen, "poweroff");
    keyboard.write_all(b"\x1d").unwrap();
    line_with(&mut screen, "left the console");
    assert!(child.wait().unwrap().success());
    assert_eq!(sandbox.state("web"), "running");
    // The terminal is as it was: it echoes and takes whole lines.
    let settings = nix::sys::termios::tcgetattr(&terminal.slave).unwrap();
    let wanted = nix::sys::termios::LocalFlags::ECHO | nix::sys::termios::LocalFlags::ICANON;
    assert!(settings.local_flags.contains(wanted));
}

#[test]
fn logs_and_events_are_followed_as_they_come() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &[]);
    let follow = |args: &[&str]| {
        let mut child = sandbox.midge().args(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        (child, lines)
    };
    let (log, mut log_lines) = follow(&["logs", "-f", "web"]);
    let (events, mut event_lines) = follow(&["events", "-f", "web", "-o", "json"]);
    sandbox.ok(&["start", "web", "--wait"]);
    line_with(&mut log_lines, "hello 0.1.0");
    line_with(&mut log_lines, "[init done]");
    line_with(&mut event_lines, r#""event":"started""#);
    line_with(&mut event_lines, r#""name":"ready""#);

    let whole = sandbox.ok(&["logs", "web"]);
    assert!(whole.starts_with("hello 0.1.0") && whole.trim_end().ends_with("[init done]"), "{whole}");
    assert_eq!(sandbox.ok(&["logs", "web", "-n", "1"]).trim_end(), "[init done]");
    let table = sandbox.ok(&["events", "web"]);
    assert!(table.contains("started") && table.contains("state=running"), "{table}");

    // A new run is followed, too, and the removal of the VM ends both.
    sandbox.ok(&["restart", "web", "--wait"]);
    line_with(&mut event_lines, r#""event":"ended""#);
    line_with(&mut event_lines, r#""name":"ready""#);
    line_with(&mut log_lines, "[init done]");
    sandbox.ok(&["rm", "--force", "web"]);
    for mut child in [log, events] {
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_foreground_run_ends_as_its_guest() {
    let sandbox = Sandbox::new();
    let run = |name: &str, words: &str| {
        let flags = ["-n", name, "--accel", "tcg", "-m", "32M", "--no-reboot", "--append", words];
        sandbox.run(&[&["run", "hello"], &flags[..]].concat())
    };
    let done = run("seven", "exit=7");
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.stdout.contains("hello 0.1.0") && done.stdout.contains("[init done]"), "{done:?}");
    let done = run("off", "poweroff");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!(run("zero", "exit=0").code, 0);
    let done = run("panics", "panic");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("midge: error: ") && done.stderr.contains("panicked"), "{done:?}");
    // Without --rm the VMs stay.
    assert_eq!(sandbox.ok(&["ls", "-q"]), "off\npanics\nseven\nzero\n");
}

#[test]
fn a_run_in_the_background_prints_its_name_and_rm_removes_it_after_its_end() {
    let sandbox = Sandbox::new();
    let port = free_port();
    let publish = format!("{port}:80");
    let flags = ["--accel", "tcg", "-m", "32M", "-p", &publish];
    let name = sandbox.ok(&[&["run", "hello", "-d", "--wait", "--rm"], &flags[..]].concat());
    let name = name.trim_end();
    assert!(name.starts_with("hello-"), "{name}");
    assert_eq!(sandbox.state(name), "running");
    assert!(http(port, "/poweroff").starts_with("HTTP/1.1 200"));
    eventually("the VM removes itself", || sandbox.ok(&["ls", "-q"]).is_empty());
    eventually("its run folder goes", || !sandbox.run_dir().join("vms").join(name).exists());

    let done = sandbox.run(&[&["run", "hello", "--rm", "--append", "exit=3"], &flags[..4]].concat());
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stdout.contains("[init done]"), "{done:?}");
    eventually("the VM removes itself", || sandbox.ok(&["ls", "-q"]).is_empty());
}

#[test]
fn a_vm_does_not_outlive_its_time() {
    let sandbox = Sandbox::new();
    sandbox.hello("kept", &["--ttl", "1s"]);
    sandbox.hello("gone", &["--ttl", "1s", "--rm"]);
    sandbox.ok(&["start", "kept", "gone"]);
    let end = sandbox.end("kept");
    assert_eq!((end["cause"].as_str(), end["asked_by"].as_str()), (Some("killed"), Some("ttl")));
    eventually("the VM removes itself", || sandbox.ok(&["ls", "-q"]) == "kept\n");
}

#[test]
fn the_restart_policy_decides_what_follows_an_end() {
    let sandbox = Sandbox::new();
    let port = |vm: &str, policy: &str| sandbox.hello_up(vm, &["--restart", policy]);
    let (on_failure, always, no) = (port("fail", "on-failure"), port("always", "always"), port("no", "no"));
    let ready = |vm: &str| {
        sandbox.events(vm).iter().filter(|e| e["event"] == "phase" && e["name"] == "ready").count()
    };

    http(on_failure, "/panic");
    eventually("`fail` comes back after its panic", || ready("fail") == 2);
    assert_eq!(sandbox.last_end("fail").unwrap()["cause"], "panicked");
    assert_eq!(sandbox.inspect("fail")["run"]["restarts"], 1);
    assert!(sandbox.events("fail").iter().any(|e| e["state"]["name"] == "restarting"));
    // An end in good order is no failure.
    http(on_failure, "/poweroff");
    assert_eq!(sandbox.end("fail")["cause"], "powered-off");

    http(always, "/poweroff");
    eventually("`always` comes back after it powered off", || ready("always") == 2);
    // Somebody's wish is the last word.
    sandbox.ok(&["stop", "always"]);
    assert_eq!(sandbox.state("always"), "stopped");

    http(no, "/panic");
    assert_eq!(sandbox.end("no")["cause"], "panicked");
    assert_eq!(ready("no"), 1);
}

#[test]
fn a_guest_that_fails_at_once_is_given_ever_more_time() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &["--restart", "on-failure", "--append", "exit=9", "--ready", "serial:never"]);
    sandbox.ok(&["start", "web"]);
    let started = || -> Vec<f64> {
        let time = |event: &Value| {
            let time = event["time"].as_str().unwrap();
            let (_, time) = time.split_once('T').unwrap();
            let parts: Vec<f64> = time.trim_end_matches('Z').split(':').map(|n| n.parse().unwrap()).collect();
            parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]
        };
        sandbox.events("web").iter().filter(|e| e["event"] == "started").map(time).collect()
    };
    eventually("the third start", || started().len() >= 3);
    let times = started();
    // 1 s, then 2 s, besides the boots themselves; a day's end between them wraps around.
    let pause = |n: usize| (times[n] - times[n - 1]).rem_euclid(86400.0);
    assert!(pause(1) >= 1.0 && pause(2) >= 2.0, "{times:?}");
    // Waiting for its next start, it can still be stopped.
    sandbox.ok(&["stop", "web"]);
    assert_eq!(sandbox.state("web"), "stopped");
}

#[test]
fn a_reset_boots_again_unless_no_reboot_says_otherwise() {
    let sandbox = Sandbox::new();
    let again = sandbox.hello_up("again", &[]);
    let once = sandbox.hello_up("once", &["--no-reboot"]);
    let qemu = sandbox.process("again", "qemu");
    http(again, "/reset");
    eventually("the guest boots again", || sandbox.console("again").matches("[init done]").count() == 2);
    assert_eq!(sandbox.process("again", "qemu"), qemu);
    assert!(sandbox.events("again").iter().any(|e| e["event"] == "guest-reset"));
    http(once, "/reset");
    assert_eq!(sandbox.end("once")["cause"], "reset");
}

#[test]
fn every_sign_of_readiness_is_seen() {
    let sandbox = Sandbox::new();
    for (vm, sign) in [("serial", r"serial:^hello: addr.*\d$"), ("tcp", "tcp:80"), ("ip", "ip")] {
        sandbox.hello(vm, &["--ready", sign]);
        let started = sandbox.json(&["start", vm, "--wait", "-o", "json"]);
        assert!(names(&started["phases"]).contains(&"ready"), "{sign}: {started}");
        assert_eq!(sandbox.state(vm), "running", "{sign}");
    }
    // The same signs, asked for by a command.
    for sign in ["serial:init done", "tcp:80", "ip"] {
        sandbox.ok(&["wait", "serial", sign, "--timeout", "60s"]);
    }
    sandbox.ok(&["restart", "serial", "--wait=tcp:80"]);
}

#[test]
fn a_guest_that_is_never_ready_is_told_with_its_last_lines_and_runs_on() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &["--ready", "serial:never shown"]);
    let said = sandbox.fails(5, &["start", "web", "--wait", "--timeout", "3s"]);
    assert!(said.contains("midge: error: ") && said.contains("[init done]"), "{said}");
    assert!(said.contains("hint: "), "{said}");
    assert_eq!(sandbox.state("web"), "booting");
    sandbox.fails(5, &["wait", "web", "--timeout", "1s"]);
    // One that ends before it is ready is told at once, with its end.
    sandbox.hello("brief", &["--ready", "serial:never shown", "--append", "exit=5"]);
    let said = sandbox.fails(1, &["start", "brief", "--wait"]);
    assert!(said.contains("exit 5") && said.contains("[init done]"), "{said}");
}

#[test]
fn command_lines_of_two_vms_are_compared() {
    let sandbox = Sandbox::new();
    sandbox.hello("a", &[]);
    sandbox.hello("b", &["--append", "exit=1"]);
    let diff = sandbox.ok(&["cmdline", "a", "--diff", "b"]);
    assert!(diff.contains("-append") && !diff.contains("-machine"), "{diff}");
}
