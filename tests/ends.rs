//! The ends of a guest are told apart, in `inspect` and in the events alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Sandbox, eventually, http};
use serde_json::Value;
use supervisor::host::proc::{ProcessId, Signal};

/// Starts `hello`, asks it for `path`, and answers its end.
#[track_caller]
fn end_of(sandbox: &Sandbox, vm: &str, flags: &[&str], path: &str) -> Value {
    let port = sandbox.hello_up(vm, flags);
    http(port, path);
    sandbox.end(vm)
}

#[test]
fn ends_by_the_guests_own_doing() {
    let sandbox = Sandbox::new();
    for machine in ["q35", "microvm"] {
        let end = |vm: &str, flags: &[&str], path: &str| {
            end_of(&sandbox, &format!("{vm}-{machine}"), &[&["--machine", machine], flags].concat(), path)
        };
        assert_eq!(end("off", &[], "/poweroff")["cause"], "powered-off", "{machine}");
        assert_eq!(end("reset", &["--no-reboot"], "/reset")["cause"], "reset", "{machine}");
        let exit = end("exit", &[], "/exit?code=42");
        assert_eq!(
            (exit["cause"].as_str(), exit["code"].as_u64()),
            (Some("debug-exit"), Some(42)),
            "{machine}"
        );
        assert_eq!(end("zero", &[], "/exit?code=0")["code"], 0, "{machine}");
        assert_eq!(end("panic", &[], "/panic")["cause"], "panicked", "{machine}");
        // A triple fault is a reset, too.
        assert_eq!(end("fault", &["--no-reboot"], "/crash")["cause"], "reset", "{machine}");
    }
    assert!(sandbox.ok(&["ls"]).contains("exit 42, "), "{}", sandbox.ok(&["ls"]));
}

#[test]
fn an_end_at_our_hands() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    sandbox.ok(&["kill", "web"]);
    let end = sandbox.end("web");
    assert_eq!((end["cause"].as_str(), end["asked_by"].as_str()), (Some("killed"), Some("user")));
    // The host's shutdown ends supervisors by SIGTERM, which end their guests.
    sandbox.ok(&["start", "web", "--wait"]);
    let supervisor = sandbox.process("web", "supervisor").open().unwrap().unwrap();
    supervisor.signal(Signal::TERM).unwrap();
    assert!(supervisor.wait_for(common::PATIENCE).unwrap());
    let end = sandbox.end("web");
    assert_eq!((end["cause"].as_str(), end["asked_by"].as_str()), (Some("killed"), Some("host")));
}

#[test]
fn a_crash_of_qemu_is_told_with_its_signal() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    for (signal, number) in [(Signal::SEGV, "11"), (Signal::KILL, "9"), (Signal::ABORT, "6")] {
        sandbox.ok(&["start", "web", "--wait"]);
        sandbox.process("web", "qemu").open().unwrap().unwrap().signal(signal).unwrap();
        let end = sandbox.end("web");
        assert_eq!(end["cause"], "qemu-crashed", "{end}");
        assert!(end["detail"].as_str().unwrap().contains(number), "{end}");
        assert_eq!(end["asked_by"], Value::Null);
    }
    // One that is told to end from outside has not crashed by itself; the signal is named.
    sandbox.ok(&["start", "web", "--wait"]);
    sandbox.process("web", "qemu").open().unwrap().unwrap().signal(Signal::TERM).unwrap();
    let end = sandbox.end("web");
    assert!(end["detail"].as_str().unwrap().contains("from outside: host-signal"), "{end}");
}

/// What `midge doctor` says of KVM: `works`, `emulates` or `absent`.
fn kvm(sandbox: &Sandbox) -> &'static str {
    let report = sandbox.json(&["doctor", "-o", "json"]);
    let check = report["checks"].as_array().unwrap().iter().find(|c| c["id"] == "kvm").unwrap().clone();
    match check["status"].as_str() {
        Some("ok") => "works",
        _ if check["summary"].as_str().unwrap().contains("only emulates") => "emulates",
        _ => "absent",
    }
}

#[test]
fn kvm_boots_the_unikernel_and_its_failure_is_the_guests_death() {
    let sandbox = Sandbox::new();
    let kvm = kvm(&sandbox);
    if kvm == "absent" {
        sandbox.hello("web", &["--accel", "kvm"]);
        let said = sandbox.fails(6, &["start", "web"]);
        assert!(said.contains("KVM"), "{said}");
        return;
    }
    for machine in ["microvm", "q35"] {
        let port = sandbox.hello_up(machine, &["--accel", "kvm", "--machine", machine, "--no-reboot"]);
        assert_eq!(sandbox.inspect(machine)["run"]["accel"], "kvm");
        assert!(http(port, "/").contains("<title>"), "{machine}");
        http(port, "/crash");
        let end = sandbox.end(machine);
        // Hardware runs the triple fault to its end; the instruction emulator gives up on it, and QEMU would stay
        // alive and paused.
        let expected = if kvm == "works" { "reset" } else { "kvm-internal-error" };
        assert_eq!(end["cause"], expected, "{machine} where KVM {kvm}");
    }
}

/// A flat kernel with a Multiboot header (Multiboot Specification, 3.1) that writes to every page from 2 MiB to `end`
/// and then halts.
fn glutton(end: u32) -> Vec<u8> {
    const BASE: u32 = 0x0010_0000;
    const FLAGS: u32 = 1 << 16;
    const MAGIC: u32 = 0x1bad_b002;
    const SIZE: usize = 4096;
    let top = BASE + u32::try_from(SIZE).unwrap();
    let header = [MAGIC, FLAGS, 0u32.wrapping_sub(MAGIC + FLAGS), BASE, BASE, top, top, BASE + 32];
    let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend([0xbf, 0x00, 0x00, 0x20, 0x00]); //       mov edi, 2 MiB
    bytes.extend([0xc6, 0x07, 0x01]); //             next: mov byte [edi], 1
    bytes.extend([0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]); // add edi, 4096
    bytes.extend([0x81, 0xff]); //                         cmp edi, end
    bytes.extend(end.to_le_bytes());
    bytes.extend([0x72, 0xef, 0xf4, 0xeb, 0xfd]); //       jb next; halt: hlt; jmp halt
    bytes.resize(SIZE, 0);
    bytes
}

/// A control group of the test's own with a limit on memory, removed when dropped.
struct Group(PathBuf);

impl Group {
    /// Nothing where the host lets us make none.
    fn with_limit(bytes: u64) -> Option<Self> {
        let name = format!("midge-test-{}", std::process::id());
        let old = Path::new("/sys/fs/cgroup/memory");
        let (folder, limits) = if old.is_dir() {
            (old.join(name), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"])
        } else {
            (Path::new("/sys/fs/cgroup").join(name), ["memory.max", "memory.swap.max"])
        };
        fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        // Version 2 counts swap apart, version 1 together with the memory.
        let swap = if limits[1] == "memory.swap.max" { 0 } else { bytes };
        fs::write(group.0.join(limits[0]), bytes.to_string()).ok()?;
        if group.0.join(limits[1]).exists() {
            fs::write(group.0.join(limits[1]), swap.to_string()).ok()?;
        }
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group can be removed once its last process has been reaped.
        eventually("the control group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn the_kernels_out_of_memory_killer_is_named() {
    let Some(group) = Group::with_limit(128 << 20) else {
        println!("not tested: this host has no memory control group that may be written to");
        return;
    };
    let sandbox = Sandbox::new();
    let kernel = sandbox.path().join("glutton");
    fs::write(&kernel, glutton(240 << 20)).unwrap();
    let kernel = kernel.to_str().unwrap();
    let create = ["create", "web", "--kernel", kernel, "--accel", "tcg", "--machine", "q35", "-m", "256M"];
    sandbox.ok(&create);
    // The command joins the group, and with it the supervisor and QEMU that come of it.
    let done = Sandbox::finish(
        std::process::Command::new("sh")
            .args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#])
            .arg(&group.0)
            .arg(env!("CARGO_BIN_EXE_midge"))
            .args(["start", "web"])
            .env("MIDGE_HOME", sandbox.home())
            .env("MIDGE_RUN", sandbox.run_dir())
            .env("MIDGE_NET", "user"),
    );
    assert_eq!(done.code, 0, "{done:?}{}", sandbox.logs());
    // The memory is more than the group has, so it is not kept in a file; the user is told.
    assert!(done.stderr.contains("anonymous"), "{done:?}");
    let end = sandbox.end("web");
    assert_eq!(end["cause"], "oom-killed", "{end}");
    assert!(end["detail"].as_str().unwrap().contains("kill"), "{end}");
}

#[test]
fn the_same_kernel_lives_where_there_is_memory() {
    let sandbox = Sandbox::new();
    let kernel = sandbox.path().join("glutton");
    fs::write(&kernel, glutton(48 << 20)).unwrap();
    let kernel = kernel.to_str().unwrap();
    sandbox.ok(&["create", "web", "--kernel", kernel, "--accel", "tcg", "--machine", "q35", "-m", "64M"]);
    sandbox.ok(&["start", "web"]);
    let touched = || sandbox.json(&["stats", "web", "-o", "json"])["ram_touched"].as_u64().unwrap_or(0);
    eventually("the guest has touched its memory", || touched() >= 46 << 20);
    assert_eq!(sandbox.state("web"), "running");
    let state = sandbox.run_state("web").unwrap();
    let ram = PathBuf::from(state["ram_file"].as_str().unwrap());
    assert!(ram.exists());
    let qemu: ProcessId = sandbox.process("web", "qemu");
    sandbox.ok(&["stop", "web"]);
    assert!(!qemu.is_alive() && !ram.exists());
}
