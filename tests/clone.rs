//! Snapshots of running VMs and clones of them, with the real midge: the unikernel for what belongs to midge, and one Debian for what
//! belongs to a guest.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use common::{Sandbox, eventually, http};
use serde_json::Value;

/// A clone of the unikernel is given nothing to change inside.
const AS_IT_IS: [&str; 2] = ["--identity", "none"];

/// How many requests the guest says that it has answered, this one included.
#[track_caller]
fn requests(port: u16) -> u32 {
    let page = http(port, "/");
    let number = page.split("<th>requests<td>").nth(1).and_then(|rest| rest.lines().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{page}"))
}

#[track_caller]
fn clone(sandbox: &Sandbox, source: &str, name: &str, more: &[&str]) {
    sandbox.ok(&[&["clone", source, name], &AS_IT_IS[..], more].concat());
}

/// The snapshots that are listed, one object each.
fn snapshots(sandbox: &Sandbox) -> Vec<Value> {
    let text = sandbox.ok(&["snapshot", "ls", "-o", "json"]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The folder of a snapshot, and its manifest.
#[track_caller]
fn folder(sandbox: &Sandbox, name: &str) -> PathBuf {
    fs::canonicalize(sandbox.home().join("snapshots/names").join(name)).unwrap()
}

/// The folders that the store has.
fn folders(sandbox: &Sandbox) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.home().join("snapshots")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.ends_with("names")).collect()
}

#[test]
fn a_chain_of_clones_outlives_what_it_came_from() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    assert_eq!(requests(port), 1);
    let saved = sandbox.json(&["snapshot", "save", "web@one", "--note", "the first", "-o", "json"]);
    assert!(saved["pause_ms"].as_f64().unwrap() > 0.0, "{saved}");
    // The guest went on as a clone of its own, behind the same port.
    assert_eq!(requests(port), 2);
    assert_eq!(sandbox.json(&["snapshot", "inspect", "web@one"])["manifest"]["note"], "the first");

    clone(&sandbox, "web@one", "ci", &["-n", "3"]);
    let clones: Vec<Value> = (1..=3).map(|n| sandbox.inspect(&format!("ci-{n}"))).collect();
    let mut macs: Vec<_> = clones.iter().map(|vm| vm["record"]["macs"].to_string()).collect();
    macs.push(sandbox.inspect("web")["record"]["macs"].to_string());
    macs.sort();
    macs.dedup();
    assert_eq!(macs.len(), 4, "{macs:?}");
    assert!(clones.iter().all(|vm| vm["state"] == "running"), "{clones:?}");

    // Of a clone only what differs is written.
    sandbox.ok(&["snapshot", "save", "ci-1@two"]);
    let rows = snapshots(&sandbox);
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(row("ci-1@two")["parent"], row("web@one")["id"]);
    let own = |name: &str| row(name)["own_bytes"].as_u64().unwrap();
    assert!(own("ci-1@two") < own("web@one"), "{rows:?}");
    clone(&sandbox, "ci-1@two", "late", &[]);

    // What it stands on is removed, and still there for it.
    let refused = sandbox.fails(4, &["snapshot", "rm", "web@one"]);
    assert!(refused.contains("web@one"), "{refused}");
    sandbox.ok(&["rm", "--force", "web", "ci-1", "ci-2", "ci-3"]);
    sandbox.ok(&["snapshot", "rm", "--detach", "web@one"]);
    sandbox.fails(3, &["clone", "web@one", "never"]);
    sandbox.ok(&["snapshot", "verify", "--all"]);
    assert_eq!(sandbox.state("late"), "running");
    clone(&sandbox, "ci-1@two", "later", &[]);
    sandbox.ok(&["snapshot", "save", "later@three"]);
    clone(&sandbox, "later@three", "last", &[]);
    assert_eq!(sandbox.state("last"), "running");

    sandbox.ok(&["rm", "--force", "--all"]);
    sandbox.ok(&["snapshot", "rm", "later@three", "ci-1@two"]);
    assert_eq!(folders(&sandbox), [] as [PathBuf; 0], "with the last that needs it everything goes");
}

#[test]
fn a_vm_is_put_back_and_suspended_and_goes_on() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    assert_eq!(requests(port), 1);
    sandbox.ok(&["snapshot", "save", "web@one"]);
    assert_eq!((requests(port), requests(port)), (2, 3));
    let refused = sandbox.fails(4, &["restore", "web@one"]);
    assert!(refused.contains("--force"), "{refused}");
    sandbox.ok(&["restore", "--force", "web@one"]);
    assert_eq!(requests(port), 2, "its memory is as it was");

    sandbox.ok(&["suspend", "web"]);
    assert_eq!(sandbox.state("web"), "stopped");
    sandbox.ok(&["resume", "web"]);
    assert_eq!(requests(port), 3);
    sandbox.ok(&["suspend", "web"]);
    sandbox.ok(&["start", "web"]);
    assert_eq!(requests(port), 4);
    // A start goes on only from where the VM was suspended last.
    sandbox.ok(&["kill", "web"]);
    sandbox.ok(&["start", "web", "--wait"]);
    assert_eq!(requests(port), 1);
    sandbox.ok(&["suspend", "web"]);
    sandbox.ok(&["snapshot", "rm", "--detach", "web@suspended"]);
    sandbox.ok(&["start", "web"]);
    eventually("the guest answers", || sandbox.console("web").contains("[init done]") || requests(port) > 0);
    sandbox.ok(&["rm", "--force", "web"]);

    // One that becomes its snapshot ends, boots again, and is cloned.
    let port = sandbox.hello_up("other", &[]);
    assert_eq!(requests(port), 1);
    let saved = sandbox.json(&["snapshot", "save", "--stop", "other@end", "-o", "json"]);
    assert_eq!(saved["pause_ms"], Value::Null);
    assert_eq!(sandbox.state("other"), "stopped");
    assert_eq!(sandbox.last_end("other").unwrap()["cause"], "saved");
    clone(&sandbox, "other@end", "copy", &[]);
    sandbox.ok(&["start", "other", "--wait"]);
    assert_eq!(requests(port), 1);
    assert_eq!(sandbox.state("copy"), "running");
    sandbox.ok(&["snapshot", "verify", "--all"]);
}

#[test]
fn a_clone_of_a_running_vm_needs_no_name() {
    let sandbox = Sandbox::new();
    let port = sandbox.hello_up("web", &[]);
    assert_eq!(requests(port), 1);
    clone(&sandbox, "web", "ci", &["-n", "2"]);
    assert_eq!(requests(port), 2);
    assert!(snapshots(&sandbox).iter().all(|row| row["state"] == "removed"), "{:?}", snapshots(&sandbox));
    assert_eq!(sandbox.ok(&["ls", "--running", "-q"]), "ci-1\nci-2\nweb\n");
    sandbox.ok(&["rm", "--force", "ci-1", "ci-2", "web"]);
    assert_eq!(folders(&sandbox), [] as [PathBuf; 0]);

    // Clones that last for one run, or for a time.
    sandbox.hello_up("web", &[]);
    sandbox.ok(&["snapshot", "save", "web@one"]);
    clone(&sandbox, "web@one", "short", &["--rm"]);
    sandbox.ok(&["kill", "short"]);
    clone(&sandbox, "web@one", "timed", &["--rm", "--ttl", "1s"]);
    eventually("both are gone", || sandbox.ok(&["ls", "-q"]) == "web\n");

    // What cannot be is said before anything is made.
    sandbox.hello("off", &[]);
    for (code, words) in [
        (4, &["clone", "--memory", "off", "never"][..]),
        (4, &["clone", "web@one", "web"]),
        (3, &["clone", "web@none", "never"]),
        (3, &["clone", "nobody", "never"]),
        (2, &["clone", "web@one", "never", "--identity", "full"]),
        (2, &["snapshot", "save", "--disk-only", "web@two"]),
        (2, &["snapshot", "save", "off@two"]),
        (4, &["snapshot", "save", "web@one"]),
    ] {
        sandbox.fails(code, words);
    }
    assert_eq!(sandbox.ok(&["ls", "-q"]), "off\nweb\n");
    assert_eq!(sandbox.state("web"), "running");
    sandbox.ok(&["snapshot", "save", "--replace", "web@one"]);

    // A stopped one has no memory, and is cloned as it is; without a disk there is nothing to clone.
    clone(&sandbox, "web@one", "cold", &["--cold"]);
    clone(&sandbox, "web@one", "still", &["--stopped"]);
    assert_eq!(sandbox.state("still"), "stopped");
    eventually("the cold one boots", || sandbox.console("cold").contains("[init done]"));
}

#[test]
fn what_cannot_be_loaded_or_saved_is_refused_before() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    sandbox.ok(&["snapshot", "save", "web@one"]);
    let manifest = folder(&sandbox, "web@one").join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let mut edited: Value = serde_json::from_str(&text).unwrap();
    edited["machine"]["qemu"][0] = 99.into();
    fs::write(&manifest, edited.to_string()).unwrap();
    let refused = sandbox.fails(7, &["clone", "web@one", "never", "--identity", "none"]);
    assert!(refused.contains("99") && refused.contains("--or-boot"), "{refused}");
    sandbox.fails(7, &["snapshot", "check", "web@one"]);
    sandbox.fails(7, &["restore", "--force", "web@one"]);
    assert_eq!(sandbox.state("web"), "running", "it is not ended for what cannot be loaded");
    clone(&sandbox, "web@one", "boots", &["--or-boot"]);
    eventually("it boots", || sandbox.console("boots").contains("[init done]"));
    fs::write(&manifest, text).unwrap();
    sandbox.ok(&["snapshot", "check", "web@one"]);

    // Its memory is open for writing elsewhere.
    let ram = folder(&sandbox, "web@one").join("ram");
    let writer = fs::File::options().write(true).open(&ram).unwrap();
    for words in [&["clone", "web@one", "never", "--identity", "none"][..], &["snapshot", "check", "web@one"]]
    {
        let refused = sandbox.fails(4, words);
        assert!(refused.contains("open for writing"), "{refused}");
    }
    drop(writer);
    clone(&sandbox, "web@one", "again", &[]);
    sandbox.ok(&["rm", "--force", "--all"]);

    // A guest that cannot be saved goes on.
    let share = sandbox.path().join("share");
    fs::create_dir(&share).unwrap();
    let fsdev = format!("local,id=fs0,path={},security_model=none", share.display());
    let args = ["--qemu-arg", "-fsdev", "--qemu-arg", &fsdev, "--qemu-arg", "-device", "--qemu-arg"];
    let nine = [&args[..], &["virtio-9p-pci,fsdev=fs0,mount_tag=share"]].concat();
    for (vm, flags, why) in [("nine", nine, "9p"), ("micro", vec!["--machine", "microvm"], "microvm")] {
        let port = sandbox.hello_up(vm, &flags);
        for words in [vec!["snapshot", "save"], vec!["snapshot", "save", "--stop"]] {
            let name = format!("{vm}@one");
            let refused = sandbox.fails(4, &[&words[..], &[&name]].concat());
            assert!(refused.contains(why), "{refused}");
        }
        sandbox.fails(4, &["suspend", vm]);
        assert_eq!(requests(port), 1);
    }
    let rows = snapshots(&sandbox);
    assert!(rows.iter().all(|row| row["name"] == "web@one"), "{rows:?}");
}

/// What is done to a file.
type Damage<'a> = &'a dyn Fn(&Path);

#[test]
fn a_damaged_part_is_found_and_a_clone_of_it_fails_cleanly() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    sandbox.ok(&["snapshot", "save", "web@one"]);
    sandbox.ok(&["snapshot", "save", "--stop", "web@two"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let (one, two) = (folder(&sandbox, "web@one"), folder(&sandbox, "web@two"));
    let flip = |path: &Path| {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let at = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    };
    let truncate = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 4096).unwrap();
    };
    let exchange = |path: &Path| {
        fs::copy(two.join(path.file_name().unwrap()), path).unwrap();
    };
    // What is done to which part, and whether a clone notices.
    let cases: [(&str, Damage<'_>, bool); 6] = [
        ("state", &flip, true),
        ("state", &truncate, true),
        ("state", &exchange, true),
        ("ram", &truncate, true),
        // Reading all of it would take longer than the clone: `verify` does.
        ("ram", &flip, false),
        ("manifest.json", &truncate_text, true),
    ];
    for (file, damage, noticed) in cases {
        let path = one.join(file);
        assert!(path.exists(), "{} is missing", path.display());
        let whole = fs::read(&path).unwrap();
        damage(&path);
        assert_ne!(sandbox.run(&["snapshot", "verify", "web@one"]).code, 0, "{file}");
        if noticed {
            let done = sandbox.run(&["clone", "web@one", "never", "--identity", "none"]);
            assert!(done.code > 0, "{file}: {done:?}");
            assert!(!done.stderr.contains("panicked"), "{file}: {done:?}");
            assert_eq!(sandbox.ok(&["ls", "-q"]), "web\n", "{file}");
        }
        fs::write(&path, whole).unwrap();
        sandbox.ok(&["snapshot", "verify", "web@one"]);
    }
    clone(&sandbox, "web@one", "fine", &[]);
}

fn truncate_text(path: &Path) {
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() / 2]).unwrap();
}

#[test]
fn a_full_disk_fails_a_save_cleanly() {
    let sandbox = Sandbox::new();
    let small = sandbox.path().join("small");
    fs::create_dir(&small).unwrap();
    // In a mount namespace of its own the file system goes with the last process that sees it.
    let script = r#"set -eu
mount -t tmpfs -o size=64m tmpfs "$1"
export MIDGE_HOME="$1/home"
"$2" create web --image hello -m 32M --accel tcg >&2
"$2" start web --wait >&2
for room in 0 4 8 64 512; do
    head -c 64M /dev/zero > "$1/ballast" 2>/dev/null || true
    truncate -s -"$room"k "$1/ballast"
    code=0; "$2" snapshot save web@one >&2 || code=$?
    echo "code $code"
    rm "$1/ballast"
    "$2" gc >&2
    "$2" snapshot ls -o json
    "$2" snapshot verify --all >&2
    "$2" ls --running -q
done
"$2" snapshot save web@two
"$2" clone web@two copy --identity none
"$2" rm --force --all
"$2" snapshot rm web@two
find "$1/home/snapshots" -mindepth 2
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
    let wanted = format!("{}web@two\ncopy\n", "code 8\nweb\n".repeat(5));
    assert_eq!(done.stdout, wanted, "{done:?}");
}

#[test]
fn a_save_disturbs_nobody_who_is_attached() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let mut console = sandbox
        .midge()
        .args(["console", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut notes = BufReader::new(console.stderr.take().unwrap()).lines();
    // Its note tells that it is attached.
    assert!(notes.any(|line| line.unwrap().contains("console of `web`")));
    sandbox.ok(&["snapshot", "save", "web@one"]);
    let mut keys = console.stdin.take().unwrap();
    keys.write_all(b"help\n").unwrap();
    let mut shown = BufReader::new(console.stdout.take().unwrap()).lines();
    assert!(shown.any(|line| line.unwrap().contains("poweroff")), "{}", sandbox.logs());
    drop(keys);
    common::stop_child(console);
}

#[test]
fn a_snapshot_may_go_while_it_is_cloned() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    for round in 0..8 {
        sandbox.ok(&["snapshot", "save", "--replace", "web@one"]);
        let cloning = sandbox.spawn(&["clone", "web@one", "copy", "--identity", "none"]);
        // Each moment must do.
        thread::sleep(std::time::Duration::from_millis(round * 15));
        let removed = sandbox.run(&["snapshot", "rm", "--detach", "web@one"]);
        assert_eq!(removed.code, 0, "{removed:?}");
        let cloned = cloning.wait();
        match cloned.code {
            0 => {
                assert_eq!(sandbox.state("copy"), "running");
                sandbox.ok(&["rm", "--force", "copy"]);
            }
            3 => assert_eq!(sandbox.ok(&["ls", "-q"]), "web\n"),
            _ => panic!("{round}: {cloned:?}{}", sandbox.logs()),
        }
    }
    // Two saves at once: one is made, and the other may be refused.
    let saves: Vec<_> =
        (0..2).map(|n| sandbox.spawn(&["snapshot", "save", &format!("web@at-{n}")])).collect();
    let codes: Vec<i32> = saves.into_iter().map(|save| save.wait().code).collect();
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 4].contains(code)), "{codes:?}");
    let named = snapshots(&sandbox).iter().filter(|row| row["state"] == "whole").count();
    assert_eq!(named, codes.iter().filter(|code| **code == 0).count());
}

/// QEMU 7.2, as Debian 12 has it, with its own libraries, unpacked once into the user's cache.
fn qemu_7_2() -> PathBuf {
    let cache = supervisor::image::build::default_cache().expect("a cache folder");
    let folder = cache.parent().unwrap().join("qemu-7.2-apart");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/qemu-7.2.sh");
    let output = Command::new(script).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("qemu-system-x86_64")
}

#[test]
fn each_qemu_saves_and_clones_and_refuses_what_the_other_saved() {
    let old = qemu_7_2();
    let sandbox = Sandbox::new();
    let run = |qemu: Option<&Path>, words: &[&str]| {
        let mut command = sandbox.midge();
        if let Some(qemu) = qemu {
            command.env("MIDGE_QEMU", qemu);
        }
        Sandbox::finish(command.args(words))
    };
    for (qemu, vm) in [(None, "new"), (Some(old.as_path()), "old")] {
        sandbox.hello(vm, &[]);
        for words in [
            &["start", vm, "--wait"][..],
            &["snapshot", "save", vm],
            &["clone", vm, &format!("{vm}-copy"), "--identity", "none"],
            &["snapshot", "save", &format!("{vm}-copy@two")],
            &["clone", &format!("{vm}-copy@two"), &format!("{vm}-more"), "--identity", "none"],
            &["snapshot", "verify", "--all"],
        ] {
            // The tag makes it the snapshot, not the VM, that is cloned.
            let words: Vec<String> = words
                .iter()
                .enumerate()
                .map(|(at, word)| {
                    if words[0] == "clone" && at == 1 && !word.contains('@') {
                        format!("{word}@latest")
                    } else {
                        (*word).to_owned()
                    }
                })
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let done = run(qemu, &words);
            assert_eq!(done.code, 0, "{words:?}: {done:?}{}", sandbox.logs());
        }
        assert_eq!(sandbox.state(&format!("{vm}-more")), "running");
    }
    // A machine of an older version is one that a newer QEMU still has; the other way round there is no way.
    let done = run(Some(&old), &["clone", "new@latest", "never", "--identity", "none"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(!sandbox.ok(&["ls", "-q"]).contains("never"));
    let done = run(None, &["clone", "old@latest", "newer", "--identity", "none"]);
    assert_eq!(done.code, 0, "{done:?}{}", sandbox.logs());
    assert_eq!(sandbox.state("newer"), "running");
}

#[test]
fn the_unikernel_is_saved_and_cloned_under_kvm() {
    let sandbox = Sandbox::new();
    let report = sandbox.json(&["doctor", "-o", "json"]);
    let check = report["checks"].as_array().unwrap().iter().find(|c| c["id"] == "kvm").unwrap().clone();
    if !Path::new("/dev/kvm").exists() {
        assert_ne!(check["status"], "ok", "{check}");
        return;
    }
    let port = sandbox.hello_up("web", &["--accel", "kvm"]);
    assert_eq!(requests(port), 1);
    sandbox.ok(&["snapshot", "save", "web@one"]);
    assert_eq!(requests(port), 2);
    clone(&sandbox, "web@one", "copy", &[]);
    assert_eq!(sandbox.inspect("copy")["run"]["accel"], "kvm");
    assert_eq!(sandbox.state("copy"), "running");
    sandbox.ok(&["restore", "--force", "web@one"]);
    assert_eq!(requests(port), 2);
}

#[test]
fn cycles_leave_nothing_behind() {
    let rounds = std::env::var("MIDGE_TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let supervisor = sandbox.process("web", "supervisor").pid;
    let descriptors = || fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    let files = || {
        let output = Command::new("find").arg(sandbox.path()).args(["-type", "f"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let cycle = || {
        sandbox.ok(&["snapshot", "save", "web@one"]);
        clone(&sandbox, "web@one", "copy", &["--rm"]);
        sandbox.ok(&["rm", "--force", "copy"]);
        sandbox.ok(&["snapshot", "rm", "--detach", "web@one"]);
    };
    // What is made once is there after a few.
    (0..4).for_each(|_| cycle());
    let before = (descriptors(), files(), resident());
    for _ in 4..rounds {
        cycle();
    }
    assert_eq!((descriptors(), files()), (before.0, before.1), "{}", sandbox.logs());
    assert!(resident() < before.2 + (4 << 10), "{} kB after {} kB", resident(), before.2);
    sandbox.ok(&["rm", "--force", "web"]);
    assert_eq!(folders(&sandbox), [] as [PathBuf; 0]);
}

#[test]
fn clones_of_a_debian_are_machines_of_their_own() {
    let sandbox = Sandbox::with_debian();
    sandbox.ok(&["create", "deb", "--image", "debian:12"]);
    sandbox.ok(&["start", "deb", "--wait"]);
    let shell = |vm: &str, script: &str| sandbox.ok(&["exec", vm, "--", "sh", "-c", script]);
    // A process that runs all the time and draws when it is told to, from a generator that it seeds then.
    shell(
        "deb",
        "echo before > /root/file; echo before > /run/file; mkfifo /run/ask
         (while read word < /run/ask; do head -c 32 /dev/urandom | sha256sum > /run/answer.new; mv /run/answer.new /run/answer; done) \
         > /dev/null 2>&1 &",
    );
    sandbox.ok(&["snapshot", "save", "deb@ready"]);
    let facts = "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub /sys/class/net/e*/address; hostname; \
                 head -c 32 /dev/urandom | sha256sum; echo go > /run/ask; \
                 while [ ! -s /run/answer ]; do sleep 0.1; done; cat /run/answer";
    let mut told = Vec::new();
    for vm in ["one", "two"] {
        let line = sandbox.json(&["clone", "deb@ready", vm, "--rm", "-o", "json"]);
        let items = line["identity"]["items"].as_object().unwrap();
        assert!(items.values().all(|item| item["state"] != "failed"), "{line}");
        assert_eq!(shell(vm, "cat /root/file /run/file"), "before\nbefore\n");
        told.push(shell(vm, facts));
        sandbox.ok(&["rm", "--force", vm]);
    }
    told.push(shell("deb", facts));
    let lines: Vec<Vec<&str>> = told.iter().map(|text| text.lines().collect()).collect();
    assert!(lines.iter().all(|of| of.len() == lines[0].len()), "{told:?}");
    for (at, first) in lines[0].iter().enumerate() {
        let all = [first, &lines[1][at], &lines[2][at]];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{all:?} are the same");
    }

    // One whose supervisor is killed before it could note the answer is nobody.
    #[cfg(debug_assertions)]
    {
        use supervisor::fault::{Point, VARIABLE};
        let fault = format!("supervisor:{}", Point::Identified.name());
        let done =
            Sandbox::finish(sandbox.midge().env(VARIABLE, fault).args(["clone", "deb@ready", "never"]));
        assert!(done.code > 0, "{done:?}");
        assert_eq!(sandbox.ok(&["ls", "-q"]), "deb\n");
    }

    // In place: disk and memory are as they were.
    shell("deb", "echo after > /root/file; echo after > /run/file; sync");
    sandbox.ok(&["restore", "--force", "deb@ready"]);
    sandbox.ok(&["wait", "deb", "agent"]);
    assert_eq!(shell("deb", "cat /root/file /run/file; hostname"), "before\nbefore\ndeb\n");

    // A clone whose agent says nothing is not ready, and does not stay.
    let stop =
        "systemd-run --on-active=1 --timer-property=AccuracySec=100ms sh -c 'kill -STOP $(pidof qemu-ga)'";
    shell("deb", stop);
    eventually("the agent is silent", || {
        let asked = Command::new("timeout")
            .args(["3", env!("CARGO_BIN_EXE_midge"), "exec", "deb", "--", "true"])
            .env("MIDGE_HOME", sandbox.home())
            .env("MIDGE_RUN", sandbox.run_dir())
            .env("MIDGE_NET", "user")
            .status();
        !asked.unwrap().success()
    });
    sandbox.ok(&["snapshot", "save", "--stop", "deb@silent"]);
    let refused = sandbox.fails(9, &["clone", "deb@silent", "never"]);
    assert!(refused.contains("identity"), "{refused}");
    assert_eq!(sandbox.ok(&["ls", "-q"]), "deb\n");
}
