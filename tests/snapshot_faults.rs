//! A process of midge, or a QEMU, is killed at every step of a save, a clone, a restore and a removal: afterwards the store is
//! consistent, the VM runs or can be started, nothing is left, and the same can be done again.
//!
//! The points are `supervisor::fault`'s, which only builds with debug assertions have.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Background, Done, Sandbox, eventually, free_port, http};
use supervisor::fault::{self, Point};
use supervisor::host::proc::{ProcessId, Signal};

/// Where a supervisor is killed that hands its guest over to another QEMU.
const HAND_OVER: &[Point] = &[
    Point::SaveBegun,
    Point::DiskLinked,
    Point::LayerMade,
    Point::Spawned,
    Point::Noted,
    Point::Paused,
    Point::StateSaved,
    Point::StateLoaded,
    Point::StateKept,
    Point::Resumed,
    Point::DiskTaken,
    Point::WentOver,
    Point::SocketsAdopted,
    Point::FirstGone,
    Point::Forwarded,
    Point::RamCopied,
    Point::Sealed,
    Point::Named,
    Point::Published,
    Point::OriginNoted,
];
/// Where one is killed that saves a clone.
const SAVE_OF_CLONE: &[Point] = &[
    Point::LayerMade,
    Point::Paused,
    Point::Switched,
    Point::DiskTaken,
    Point::StateSaved,
    Point::DeltaWritten,
    Point::Resumed,
    Point::Published,
];
/// Where one is killed whose VM ends by being saved.
const STOP: &[Point] = &[
    Point::Paused,
    Point::Switched,
    Point::DiskTaken,
    Point::StateSaved,
    Point::RamTaken,
    Point::Becoming,
    Point::Named,
    Point::Published,
    Point::OriginNoted,
];
/// Where one is killed that suspends its VM.
const SUSPEND: &[Point] = &[Point::Becoming, Point::Suspended, Point::Published];
/// Where one is killed that saves a disk alone.
const DISK: &[Point] = &[Point::LayerMade, Point::Switched, Point::DiskTaken, Point::Published];
/// Where a command is killed that saves the disk of a stopped VM.
const STOPPED: &[Point] = &[
    Point::SaveBegun,
    Point::DiskLinked,
    Point::LayerMade,
    Point::DiskTaken,
    Point::Sealed,
    Point::Named,
    Point::Published,
];
/// Where a command is killed that clones a VM.
const CLONE: &[Point] = &[
    Point::SourceSaved,
    Point::Pinned,
    Point::CloneMade,
    Point::CloneBegun,
    Point::CloneFollowed,
    Point::ClonesDone,
];
/// Where the supervisor of a clone is killed. `tests/clone.rs` has the one whose guest has an agent.
const START: &[Point] =
    &[Point::RunNoted, Point::QemuSpawned, Point::QemuNoted, Point::Loaded, Point::GoesOn, Point::Identified];
/// Where a command is killed that restores a VM.
const RESTORE: &[Point] = &[Point::SourceEnded, Point::DiskPutBack, Point::PutBack];
/// Where a command is killed that removes a snapshot.
const RM: &[Point] = &[Point::Unnamed, Point::Reclaimed];
/// Where the supervisor of a spare is killed while it is claimed: `tests/pool.rs` does it.
const CLAIM: &[Point] = &[Point::ClaimBegun, Point::ClaimRenamed, Point::ClaimRunRenamed, Point::ClaimNoted];
/// Where a command is killed that removes a VM.
const RM_VM: &[Point] = &[Point::OutOfSight];

#[test]
fn no_point_is_forgotten() {
    let lists =
        [HAND_OVER, SAVE_OF_CLONE, STOP, SUSPEND, DISK, STOPPED, CLONE, START, RESTORE, RM, RM_VM, CLAIM]
            .concat();
    for point in Point::ALL {
        assert!(lists.contains(point), "nobody is killed at {}", point.name());
    }
}

/// A sandbox with VMs of the unikernel that have a disk: it does not use it, and QEMU does all that it does with one.
struct Ground {
    sandbox: Sandbox,
    kernel: PathBuf,
}

impl Ground {
    fn new() -> Self {
        Self::of(Sandbox::new())
    }

    fn of(sandbox: Sandbox) -> Self {
        let folder = sandbox.path();
        let raw = folder.join("raw");
        fs::File::create(&raw).unwrap().set_len(8 << 20).unwrap();
        let mut sfdisk = Command::new("sfdisk");
        sfdisk.args(["--quiet", "raw"]).current_dir(folder).stdin(Stdio::piped());
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
        let mut sfdisk = sfdisk.env("PATH", path).spawn().unwrap();
        sfdisk.stdin.take().unwrap().write_all(b"label: gpt\nstart=2048, size=2048\n").unwrap();
        assert!(sfdisk.wait().unwrap().success());
        sandbox.ok(&["image", "import", raw.to_str().unwrap(), "--name", "blank"]);
        // The first use puts the embedded file into the store.
        sandbox.ok(&["create", "unpack", "--image", "hello"]);
        sandbox.ok(&["rm", "unpack"]);
        let mut files = fs::read_dir(sandbox.home().join("images/hello")).unwrap().map(|e| e.unwrap().path());
        let kernel =
            files.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("kernel-")).unwrap();
        Self { sandbox, kernel }
    }

    fn create(&self, vm: &str) -> u16 {
        let port = free_port();
        let kernel = self.kernel.to_str().unwrap();
        let words = ["create", vm, "--image", "blank", "--kernel", kernel, "--kind", "other"];
        let more =
            ["--ready", r"serial:\[init done\]", "-m", "32M", "--accel", "tcg", "-p", &format!("{port}:80")];
        self.sandbox.ok(&[&words[..], &more].concat());
        port
    }

    /// Runs a command in whose processes of this kind a fault happens.
    fn with_fault(&self, process: &str, point: Point, words: &[&str]) -> Done {
        let fault = format!("{process}:{}", point.name());
        Sandbox::finish(self.sandbox.midge().env(fault::VARIABLE, fault).args(words))
    }

    /// A VM that runs, whose supervisor will come to a fault.
    fn up(&self, vm: &str, fault: &str) -> u16 {
        let port = self.create(vm);
        let done =
            Sandbox::finish(self.sandbox.midge().env(fault::VARIABLE, fault).args(["start", vm, "--wait"]));
        assert_eq!(done.code, 0, "{done:?}{}", self.sandbox.logs());
        port
    }

    /// The QEMUs that run.
    fn qemus(&self) -> Vec<u32> {
        let mut found = self.sandbox.processes();
        found.retain(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).any(|argument| argument == b"-machine")
        });
        found
    }

    /// What must hold once the next command has come by: whole snapshots only, one QEMU for each VM that runs, and of what was
    /// unfinished only what a disk has come to stand on.
    #[track_caller]
    fn is_consistent(&self, what: &str, running: &[&str]) {
        let sandbox = &self.sandbox;
        // The next command puts right what it finds, but not what still has a process: a killed one takes a moment to be gone.
        eventually(&format!("{what}: it is put right"), || {
            sandbox.ok(&["gc"]);
            let layers = files(&sandbox.home().join("vms"));
            running.iter().all(|vm| sandbox.state(vm) == "running")
                && self.qemus().len() == running.len()
                && !layers.iter().any(|vm| vm.join("disk.next.qcow2").exists())
        });
        assert_eq!(self.qemus().len(), running.len(), "{what}{}", sandbox.logs());
        let snapshots = sandbox.ok(&["snapshot", "ls", "-o", "json"]);
        assert!(!snapshots.contains("\"damaged\""), "{what}: {snapshots}");
        sandbox.ok(&["snapshot", "verify", "--all"]);
        for vm in files(&sandbox.run_dir().join("vms")) {
            for file in files(&vm) {
                assert!(!file.to_str().unwrap().contains(".next."), "{what}: {} is left", file.display());
            }
        }
        for vm in files(&sandbox.home().join("vms")) {
            assert!(!vm.join("disk.next.qcow2").exists(), "{what}: a layer is left in {}", vm.display());
        }
        for folder in files(&sandbox.home().join("snapshots")) {
            if folder.ends_with("names") || folder.join("manifest.json").exists() || !folder.is_dir() {
                continue;
            }
            let left: Vec<_> = files(&folder).iter().map(|f| f.file_name().unwrap().to_owned()).collect();
            assert!(left.iter().all(|file| file == "disk.qcow2"), "{what}: {left:?} is left");
        }
    }

    /// Removes everything, and nothing is left of it.
    #[track_caller]
    fn clear(&self, what: &str) {
        let sandbox = &self.sandbox;
        let rams: Vec<PathBuf> = files(&sandbox.run_dir().join("vms"))
            .iter()
            .filter_map(|vm| sandbox.run_state(vm.file_name()?.to_str()?))
            .filter_map(|run| Some(run["ram_file"].as_str()?.into()))
            .collect();
        sandbox.ok(&["rm", "--force", "--all"]);
        for line in sandbox.ok(&["snapshot", "ls", "-o", "json"]).lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            if row["state"] != "removed" {
                sandbox.ok(&["snapshot", "rm", "--detach", row["name"].as_str().unwrap()]);
            }
        }
        sandbox.ok(&["gc"]);
        eventually("the last process ends", || sandbox.processes().is_empty());
        let left = files(&sandbox.home().join("snapshots"));
        assert!(
            left.iter().all(|file| file.ends_with("names") || file.ends_with(".lock")),
            "{what}: {left:?}"
        );
        assert_eq!(files(&sandbox.home().join("snapshots/names")), [] as [PathBuf; 0], "{what}");
        assert_eq!(files(&sandbox.run_dir().join("vms")), [] as [PathBuf; 0], "{what}");
        for ram in rams {
            assert!(!ram.exists(), "{what}: {} is left", ram.display());
        }
    }
}

/// The entries of a folder; none where it is missing.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The guest answers behind its forwarded port, and has answered so many requests since it booted.
#[track_caller]
fn answers(ground: &Ground, port: u16, requests: u32, what: &str) {
    let page = http(port, "/");
    assert!(
        page.contains(&format!("<th>requests<td>{requests}\n")),
        "{what}: {page}{}",
        ground.sandbox.logs()
    );
}

/// Whether a snapshot of this name is listed.
fn is_listed(sandbox: &Sandbox, name: &str) -> bool {
    sandbox.ok(&["snapshot", "ls", "-o", "json"]).contains(&format!("\"name\":\"{name}\""))
}

#[test]
fn a_supervisor_is_killed_while_it_hands_its_guest_over() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    for &point in HAND_OVER {
        let what = point.name();
        let port = ground.up("web", &format!("supervisor:{what}"));
        answers(&ground, port, 1, what);
        let done = sandbox.run(&["snapshot", "save", "web@one"]);
        assert_ne!(done.code, 0, "{what} is not reached: {done:?}");
        ground.is_consistent(what, &["web"]);
        // It is the same guest, behind the same port.
        answers(&ground, port, 2, what);
        let whole = matches!(point, Point::Published | Point::OriginNoted);
        assert_eq!(is_listed(sandbox, "web@one"), whole, "{what}");
        sandbox.ok(&["snapshot", "save", "web@two"]);
        answers(&ground, port, 3, what);
        sandbox.ok(&["clone", "web@two", "other", "--identity", "none"]);
        ground.is_consistent(what, &["web", "other"]);
        sandbox.ok(&["restore", "--force", "web@two"]);
        answers(&ground, port, 3, what);
        ground.clear(what);
    }
}

#[test]
fn a_supervisor_is_killed_while_it_saves_a_clone() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    ground.up("web", "");
    sandbox.ok(&["snapshot", "save", "--stop", "web@base"]);
    for &point in SAVE_OF_CLONE {
        let what = point.name();
        let cloned =
            ground.with_fault("supervisor", point, &["clone", "web@base", "copy", "--identity", "none"]);
        assert_eq!(cloned.code, 0, "{what}: {cloned:?}");
        let done = sandbox.run(&["snapshot", "save", "copy@one"]);
        assert_ne!(done.code, 0, "{what} is not reached: {done:?}");
        ground.is_consistent(what, &["copy"]);
        assert_eq!(is_listed(sandbox, "copy@one"), point == Point::Published, "{what}");
        sandbox.ok(&["snapshot", "save", "copy@two"]);
        sandbox.ok(&["clone", "copy@two", "other", "--identity", "none"]);
        ground.is_consistent(what, &["copy", "other"]);
        sandbox.ok(&["rm", "--force", "copy", "other"]);
        for name in ["copy@two", "copy@one"] {
            if is_listed(sandbox, name) {
                sandbox.ok(&["snapshot", "rm", name]);
            }
        }
    }
    ground.clear("all");
}

#[test]
fn a_supervisor_is_killed_while_its_vm_ends_with_a_save() {
    // There the RAM file is taken, and not copied.
    let ground = Ground::of(Sandbox::in_memory());
    let sandbox = &ground.sandbox;
    for &point in STOP {
        let what = point.name();
        let port = ground.up("web", &format!("supervisor:{what}"));
        answers(&ground, port, 1, what);
        let done = sandbox.run(&["snapshot", "save", "--stop", "web@one"]);
        assert_ne!(done.code, 0, "{what} is not reached: {done:?}");
        let whole = matches!(point, Point::Published | Point::OriginNoted);
        sandbox.ok(&["gc"]);
        assert_eq!(is_listed(sandbox, "web@one"), whole, "{what}");
        if whole {
            // The guest must not go on: it would write to the snapshot.
            sandbox.ok(&["wait", "web", "exit"]);
            assert_eq!(sandbox.last_end("web").unwrap()["cause"], "saved", "{what}");
            ground.is_consistent(what, &[]);
            sandbox.ok(&["restore", "web@one"]);
            answers(&ground, port, 2, what);
        } else {
            ground.is_consistent(what, &["web"]);
            answers(&ground, port, 2, what);
            sandbox.ok(&["snapshot", "save", "--stop", "web@one"]);
            sandbox.ok(&["restore", "web@one"]);
            answers(&ground, port, 3, what);
        }
        sandbox.ok(&["snapshot", "verify", "--all"]);
        ground.clear(what);
    }
}

#[test]
fn a_supervisor_is_killed_while_it_suspends_its_vm() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    for &point in SUSPEND {
        let what = point.name();
        let port = ground.up("web", &format!("supervisor:{what}"));
        answers(&ground, port, 1, what);
        let done = sandbox.run(&["suspend", "web"]);
        assert_ne!(done.code, 0, "{what} is not reached: {done:?}");
        sandbox.ok(&["gc"]);
        if point == Point::Published {
            sandbox.ok(&["wait", "web", "exit"]);
        } else {
            answers(&ground, port, 2, what);
            sandbox.ok(&["suspend", "web"]);
        }
        sandbox.ok(&["resume", "web"]);
        answers(&ground, port, if point == Point::Published { 2 } else { 3 }, what);
        ground.is_consistent(what, &["web"]);
        ground.clear(what);
    }
}

#[test]
fn a_save_of_a_disk_is_cut_short() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    for &point in DISK {
        let what = point.name();
        let port = ground.up("web", &format!("supervisor:{what}"));
        answers(&ground, port, 1, what);
        let done = sandbox.run(&["snapshot", "save", "--disk-only", "web@one"]);
        assert_ne!(done.code, 0, "{what} is not reached: {done:?}");
        ground.is_consistent(what, &["web"]);
        answers(&ground, port, 2, what);
        assert_eq!(is_listed(sandbox, "web@one"), point == Point::Published, "{what}");
        sandbox.ok(&["snapshot", "save", "--disk-only", "web@two"]);
        sandbox.ok(&["clone", "web@two", "other"]);
        ground.is_consistent(what, &["web", "other"]);
        ground.clear(what);
    }
    for &point in STOPPED {
        let what = point.name();
        let port = ground.create("web");
        let done = ground.with_fault("cli", point, &["snapshot", "save", "web@one"]);
        assert_eq!(done.code, -1, "{what} is not reached: {done:?}");
        sandbox.ok(&["gc"]);
        assert_eq!(is_listed(sandbox, "web@one"), point == Point::Published, "{what}");
        sandbox.ok(&["snapshot", "save", "web@two"]);
        ground.is_consistent(what, &[]);
        sandbox.ok(&["start", "web", "--wait"]);
        answers(&ground, port, 1, what);
        ground.clear(what);
    }
}

#[test]
fn a_process_is_killed_while_a_vm_is_cloned() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    let port = ground.up("web", "");
    let clone = ["clone", "web", "copy", "--identity", "none"];
    let mut requests = 0;
    let mut is_as_before = |what: &str| {
        // The command may have made the clone before it was killed, whose supervisor then runs.
        let mut running = vec!["web"];
        if sandbox.ok(&["ls", "-q"]).contains("copy") {
            eventually("the clone runs, or never will", || {
                ["running", "stopped"].contains(&sandbox.state("copy").as_str())
            });
            if sandbox.state("copy") == "running" {
                running.push("copy");
            }
        }
        ground.is_consistent(what, &running);
        requests += 1;
        answers(&ground, port, requests, what);
        sandbox.ok(&["rm", "--force", "--if-exists", "copy"]);
        // The snapshot that a killed command has made for it goes when it is old enough to be nobody's.
        let links = files(&sandbox.home().join("snapshots/names"));
        let manifests = links.iter().map(|link| fs::canonicalize(link).unwrap().join("manifest.json"));
        let manifests: Vec<_> = manifests.map(|path| (fs::read(&path).unwrap(), path)).collect();
        for (text, path) in &manifests {
            let mut old: serde_json::Value = serde_json::from_slice(text).unwrap();
            old["taken"] = "2000-01-01T00:00:00Z".into();
            fs::write(path, old.to_string()).unwrap();
        }
        sandbox.ok(&["gc"]);
        assert_eq!(files(&sandbox.home().join("snapshots/names")), [] as [PathBuf; 0], "{what}");
        for (text, path) in manifests.iter().filter(|(_, path)| path.exists()) {
            fs::write(path, text).unwrap();
        }
        sandbox.ok(&clone);
        ground.is_consistent(what, &["web", "copy"]);
        sandbox.ok(&["rm", "--force", "copy"]);
    };
    for &point in CLONE {
        let done = ground.with_fault("cli", point, &clone);
        assert_eq!(done.code, -1, "{} is not reached: {done:?}", point.name());
        is_as_before(point.name());
    }
    for &point in START.iter().filter(|point| **point != Point::Identified) {
        let done = ground.with_fault("supervisor", point, &clone);
        assert!(done.code > 0, "{} is not reached: {done:?}", point.name());
        // The command that has seen it takes the clone away again.
        assert!(!sandbox.ok(&["ls", "-q"]).contains("copy"), "{}: {done:?}", point.name());
        is_as_before(point.name());
    }
    // The command that would take it away is killed as well: a clone that was loaded goes on, one that was not ends.
    for (point, lives) in [(Point::Loaded, true), (Point::QemuNoted, false)] {
        let what = point.name();
        let fault = format!("supervisor:{what}:hold");
        let mut cloning = sandbox.midge();
        cloning.env(fault::VARIABLE, fault).args(clone).stdout(Stdio::null()).stderr(Stdio::null());
        let mut cloning = cloning.spawn().unwrap();
        eventually("the clone has a supervisor", || sandbox.run_state("copy").is_some());
        let supervisor = sandbox.process("copy", "supervisor").pid;
        stopped(supervisor);
        // It notices nothing of its supervisor's end before its own.
        signal(cloning.id(), Signal::STOP);
        stopped(cloning.id());
        sandbox.kill("copy", "supervisor");
        cloning.kill().unwrap();
        cloning.wait().unwrap();
        sandbox.ok(&["gc"]);
        if lives {
            ground.is_consistent(what, &["web", "copy"]);
        } else {
            sandbox.ok(&["wait", "copy", "exit"]);
            assert_eq!(sandbox.last_end("copy").unwrap()["cause"], "not-restored", "{what}");
            ground.is_consistent(what, &["web"]);
        }
        sandbox.ok(&["rm", "--force", "copy"]);
    }
    ground.clear("all");
}

#[test]
fn a_command_is_killed_while_it_restores_or_removes() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    let port = ground.up("web", "");
    answers(&ground, port, 1, "at first");
    sandbox.ok(&["snapshot", "save", "web@one"]);
    for &point in RESTORE {
        let what = point.name();
        let done = ground.with_fault("cli", point, &["restore", "--force", "web@one"]);
        assert_eq!(done.code, -1, "{what} is not reached: {done:?}");
        ground.is_consistent(what, &[]);
        sandbox.ok(&["restore", "web@one"]);
        answers(&ground, port, 2, what);
        ground.is_consistent(what, &["web"]);
    }
    sandbox.ok(&["kill", "web"]);
    for &point in RM {
        let what = point.name();
        let name = "web@gone";
        sandbox.ok(&["snapshot", "save", name]);
        let done = ground.with_fault("cli", point, &["snapshot", "rm", "--detach", name]);
        assert_eq!(done.code, -1, "{what} is not reached: {done:?}");
        assert!(!is_listed(sandbox, name), "{what}");
        ground.is_consistent(what, &[]);
        sandbox.ok(&["restore", "web@one"]);
        answers(&ground, port, 2, what);
        sandbox.ok(&["kill", "web"]);
    }
    let done = ground.with_fault("cli", RM_VM[0], &["rm", "web"]);
    assert_eq!(done.code, -1, "{done:?}");
    ground.is_consistent("rm", &[]);
    assert_eq!(sandbox.ok(&["ls", "-q"]), "");
    ground.clear("all");
}

/// Waits until a process has stopped itself.
fn stopped(pid: u32) {
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The word after the name in brackets (proc_pid_stat(5)).
    eventually("the process holds still", || {
        stat().rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    });
}

fn signal(pid: u32, signal: Signal) {
    ProcessId::of(pid).unwrap().open().unwrap().expect("it lives").signal(signal).unwrap();
}

#[test]
fn a_qemu_is_killed_while_its_guest_is_handed_over() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    // Which of the two ends, and whether the guest ends with it and the snapshot is made all the same.
    let cases = [
        (Point::Noted, "second", false, false),
        (Point::Paused, "second", false, false),
        (Point::StateLoaded, "second", false, false),
        (Point::Paused, "first", true, false),
        (Point::StateLoaded, "first", false, true),
        (Point::WentOver, "first", false, true),
        (Point::Resumed, "second", true, false),
        (Point::Sealed, "second", true, true),
    ];
    for (point, which, ends, saved) in cases {
        let what = format!("{} {which}", point.name());
        let port = ground.up("web", &format!("supervisor:{}:hold", point.name()));
        answers(&ground, port, 1, &what);
        let supervisor = sandbox.process("web", "supervisor").pid;
        let first = sandbox.process("web", "qemu").pid;
        let saving: Background = sandbox.spawn(&["snapshot", "save", "web@one"]);
        stopped(supervisor);
        let second = ground.qemus().into_iter().find(|pid| *pid != first);
        signal(if which == "first" { first } else { second.unwrap() }, Signal::KILL);
        signal(supervisor, Signal::CONT);
        let done = saving.wait();
        assert_eq!(done.code == 0, saved, "{what}: {done:?}{}", sandbox.logs());
        if ends {
            sandbox.ok(&["wait", "web", "exit"]);
            ground.is_consistent(&what, &[]);
            sandbox.ok(&["start", "web", "--wait"]);
            answers(&ground, port, 1, &what);
        } else {
            ground.is_consistent(&what, &["web"]);
            answers(&ground, port, 2, &what);
        }
        assert_eq!(is_listed(sandbox, "web@one"), saved, "{what}");
        sandbox.ok(&["snapshot", "save", "web@two"]);
        ground.clear(&what);
    }
}
