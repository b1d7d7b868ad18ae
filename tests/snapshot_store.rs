//! Snapshots once they are there: listed, checked, verified, removed, taken elsewhere. They are real ones, of VMs that run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::saved::{blank_image, start_machine};
use common::{Done, Sandbox, eventually};
use serde_json::Value;

/// A VM `web` of the image `blank`, which runs, and its snapshot `web@ready`.
fn saved() -> Sandbox {
    let sandbox = Sandbox::new();
    blank_image(&sandbox);
    start_machine(&sandbox, "web");
    sandbox.ok(&["snapshot", "save", "web@ready"]);
    sandbox
}

fn rows(sandbox: &Sandbox) -> Vec<Value> {
    let text = sandbox.ok(&["snapshot", "ls", "-o", "json"]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn folder(sandbox: &Sandbox, name: &str) -> PathBuf {
    let inspected = sandbox.json(&["snapshot", "inspect", name]);
    PathBuf::from(inspected["folder"].as_str().unwrap())
}

/// Everything that is in the snapshots' folder, and in the one for unfinished work.
fn kept(sandbox: &Sandbox) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next = vec![sandbox.home().join("snapshots"), sandbox.home().join("tmp")];
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                next.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Changes a file that is sealed, and puts it back when dropped.
struct Changed {
    path: PathBuf,
    before: Vec<u8>,
}

impl Changed {
    fn new(path: &Path, change: impl FnOnce(&File, &[u8])) -> Self {
        let before = fs::read(path).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        change(&file, &before);
        Self { path: path.to_owned(), before }
    }

    /// One bit in its middle.
    fn flipped(path: &Path) -> Self {
        Self::new(path, |file, bytes| {
            let at = bytes.len() / 2;
            file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
        })
    }

    /// Its last byte is gone.
    fn truncated(path: &Path) -> Self {
        Self::new(path, |file, bytes| file.set_len(bytes.len() as u64 - 1).unwrap())
    }

    /// The bytes of another file.
    fn exchanged(path: &Path, other: &Path) -> Self {
        Self::new(path, |file, _| {
            let other = fs::read(other).unwrap();
            file.set_len(other.len() as u64).unwrap();
            file.write_all_at(&other, 0).unwrap();
        })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        fs::write(&self.path, &self.before).unwrap();
    }
}

#[test]
fn a_snapshot_is_listed_with_what_it_takes_and_who_stands_on_it() {
    let sandbox = saved();
    sandbox.hello("unikernel", &[]);
    sandbox.ok(&["start", "unikernel", "--wait"]);
    sandbox.ok(&["snapshot", "save", "unikernel"]);

    let rows = rows(&sandbox);
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web@ready", "unikernel@latest"]);
    for row in &rows {
        assert_eq!(
            (&row["schema"], &row["state"], &row["kind"]),
            (&1.into(), &"whole".into(), &"memory".into())
        );
        assert!(row["pause_us"].as_u64().unwrap() > 0);
        // What is zero in a guest's memory takes nothing.
        let own = row["own_bytes"].as_u64().unwrap();
        assert!((8 << 10..32 << 20).contains(&own), "{row}");
    }
    assert_eq!(rows[0]["image"], "blank");
    assert_eq!(rows[0]["users"], serde_json::json!([{"kind": "clone", "name": "web"}]));
    assert!(rows[0]["shared_bytes"].as_u64().unwrap() >= 1 << 20, "its image's disk: {}", rows[0]);
    assert_eq!(rows[1]["shared_bytes"], 0, "it has no disk: {}", rows[1]);

    let table = sandbox.ok(&["snapshot", "ls"]);
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("NAME"), "{table}");
    let web = lines.next().unwrap();
    assert!(web.starts_with("web@ready ") && web.contains(" memory ") && web.ends_with(" web"), "{table}");
    assert_eq!(sandbox.ok(&["snapshot", "ls", "-q"]), "web@ready\nunikernel@latest\n");
    assert_eq!(sandbox.ok(&["snapshot", "ls", "web", "-o", "name"]), "web@ready\n");
    assert_eq!(sandbox.ok(&["snapshot", "ls", "nobody", "-q"]), "");

    // Without a tag the usual one is meant.
    let inspected = sandbox.json(&["snapshot", "inspect", "unikernel"]);
    assert_eq!(inspected["names"], serde_json::json!(["unikernel@latest"]));
    let machine = &inspected["manifest"]["machine"];
    assert!(machine["machine_type"].as_str().unwrap().starts_with("pc-q35-"), "{machine}");
    assert!(inspected["sizes"]["own"].as_u64().unwrap() > 0, "{inspected}");

    // The VMs go on.
    assert_eq!(sandbox.state("web"), "running");
    assert_eq!(sandbox.state("unikernel"), "running");
}

#[test]
fn what_does_not_exist_or_cannot_is_refused() {
    let sandbox = saved();
    for verb in ["inspect", "rm", "check", "verify", "export"] {
        let said = sandbox.fails(3, &["snapshot", verb, "web@raedy"]);
        assert!(said.contains("did you mean `web@ready`?"), "{verb}: {said}");
        let said = sandbox.fails(3, &["snapshot", verb, "other"]);
        assert!(said.contains("no snapshot `other@latest`"), "{verb}: {said}");
        for wrong in ["web@", "@ready", "web@a@b", "web@../x", "web@-x", "We b"] {
            let said = sandbox.fails(2, &["snapshot", verb, wrong]);
            assert!(said.contains("not the name of a snapshot"), "{verb} {wrong}: {said}");
        }
    }
    sandbox.fails(2, &["snapshot", "verify"]);
    sandbox.fails(2, &["snapshot", "rm"]);
    sandbox.fails(3, &["snapshot", "import", "/nowhere"]);
    sandbox.fails(2, &["snapshot", "export", "web@ready", "--level", "20"]);
    assert_eq!(rows(&sandbox).len(), 1);
}

#[test]
fn a_snapshot_that_is_needed_stays_until_nobody_needs_it() {
    let sandbox = saved();
    let before = kept(&sandbox);
    let said = sandbox.fails(4, &["snapshot", "rm", "web@ready"]);
    // It goes on as the first clone of its own snapshot.
    assert!(said.contains("its clone web") && said.contains("snapshot rm --detach web@ready"), "{said}");
    sandbox.fails(4, &["snapshot", "rm", "web@ready", "--dry-run"]);
    let told = sandbox.json(&["snapshot", "rm", "web@ready", "--detach", "--dry-run", "-o", "json"]);
    assert_eq!((&told["removed"], &told["users"][0]["name"]), (&false.into(), &"web".into()), "{told}");
    assert_eq!(kept(&sandbox), before);

    let told = sandbox.json(&["snapshot", "rm", "web@ready", "--detach", "-o", "json"]);
    assert_eq!((&told["removed"], &told["freed_bytes"]), (&true.into(), &0.into()), "{told}");
    let rows = rows(&sandbox);
    assert_eq!((&rows[0]["name"], &rows[0]["state"]), (&"web@ready (removed)".into(), &"removed".into()));
    assert_eq!(sandbox.ok(&["snapshot", "ls", "-q"]), "");
    // The VM's disk can be read as before, down to its image.
    sandbox.ok(&["kill", "web"]);
    let disk = sandbox.vm_file("web", "disk.qcow2");
    let output = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "read -P 0x5a 1M 1M", "-c", "read -P 119 2M 64k"])
        .arg(&disk)
        .output();
    assert!(output.unwrap().status.success());
    // With its last user it goes.
    sandbox.ok(&["rm", "web"]);
    assert_eq!(self::rows(&sandbox), Vec::<Value>::new());
    assert_eq!(fs::read_dir(sandbox.home().join("snapshots/names")).unwrap().count(), 0);
}

#[test]
fn an_image_stays_while_a_snapshot_stands_on_it() {
    let sandbox = saved();
    sandbox.ok(&["rm", "--force", "web"]);
    let said = sandbox.fails(4, &["image", "rm", "blank"]);
    assert!(said.contains("web@ready"), "{said}");
    // Replaced, its files stay for the snapshot.
    let file = sandbox.path().join("other.raw");
    fs::write(&file, vec![1; 1 << 20]).unwrap();
    sandbox.ok(&["image", "prune"]);
    sandbox.ok(&["gc"]);
    sandbox.ok(&["snapshot", "verify", "web@ready"]);
    sandbox.ok(&["snapshot", "check", "web@ready"]);
    sandbox.ok(&["snapshot", "rm", "web@ready"]);
    sandbox.ok(&["image", "rm", "blank"]);
}

#[test]
fn damage_is_found_wherever_it_is_and_named() {
    let sandbox = saved();
    start_machine(&sandbox, "other");
    sandbox.ok(&["snapshot", "save", "other@x"]);
    let (own, others) = (folder(&sandbox, "web@ready"), folder(&sandbox, "other@x"));
    assert_eq!(sandbox.ok(&["snapshot", "verify", "--all"]).lines().count(), 2);
    for part in ["state", "ram", "disk.qcow2", "digests", "manifest.json"] {
        let path = own.join(part);
        let ways: [(&str, &dyn Fn() -> Changed); 3] = [
            ("flipped", &|| Changed::flipped(&path)),
            ("truncated", &|| Changed::truncated(&path)),
            ("exchanged", &|| Changed::exchanged(&path, &others.join(part))),
        ];
        for (way, change) in ways {
            let _changed = change();
            let said = sandbox.fails(1, &["snapshot", "verify", "web@ready"]);
            assert!(said.contains(path.to_str().unwrap()), "{part} {way}: {said}");
            let said = sandbox.fails(1, &["snapshot", "verify", "--all"]);
            assert!(said.contains(path.to_str().unwrap()), "{part} {way}: {said}");
            // It does not travel.
            let file = sandbox.path().join("damaged.tar.zst");
            sandbox.fails(1, &["snapshot", "export", "web@ready", file.to_str().unwrap()]);
            assert!(!file.exists());
        }
    }
    let told = {
        let _changed = Changed::flipped(&own.join("ram"));
        sandbox.run(&["snapshot", "verify", "web@ready", "-o", "json"])
    };
    let document: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!((told.code, &document["intact"]), (1, &false.into()), "{told:?}");
    assert!(document["damage"][0].as_str().unwrap().contains("/ram is damaged"), "{document}");
    sandbox.ok(&["snapshot", "verify", "web@ready", "other@x"]);

    // What shows without reading everything is shown by a list too, and a damaged one can be removed.
    fs::remove_file(own.join("state")).unwrap();
    let listed = rows(&sandbox);
    let web = listed.iter().find(|row| row["name"] == "web@ready").unwrap();
    assert_eq!(web["state"], "damaged");
    assert!(web["problem"].as_str().unwrap().contains("state"), "{web}");
    fs::write(own.join("manifest.json"), "{").unwrap();
    let listed = rows(&sandbox);
    let web = listed.iter().find(|row| row["name"] == "web@ready").unwrap();
    assert_eq!(web["state"], "damaged");
    let done = sandbox.run(&["snapshot", "ls"]);
    assert!(
        done.code == 0 && done.stdout.contains("web@ready") && done.stderr.contains("manifest"),
        "{done:?}"
    );
    // It may name any image.
    sandbox.fails(1, &["image", "rm", "blank"]);
    sandbox.ok(&["rm", "--force", "web"]);
    sandbox.ok(&["snapshot", "rm", "web@ready"]);
    assert_eq!(rows(&sandbox).len(), 1);
}

#[test]
fn whether_this_host_can_run_it_is_told_field_by_field() {
    let sandbox = saved();
    assert_eq!(sandbox.ok(&["snapshot", "check", "web@ready"]).split_whitespace().next(), Some("ok"));
    let fit = sandbox.json(&["snapshot", "check", "web@ready", "-o", "json"]);
    assert_eq!((&fit["fit"], &fit["differences"]), (&true.into(), &serde_json::json!([])), "{fit}");

    // The QEMU of Debian 12 is too old for what a newer one saved.
    let old =
        |words: &[&str]| Sandbox::finish(sandbox.midge().args(words).env("MIDGE_QEMU", common::qemu_7_2()));
    let done = old(&["snapshot", "check", "web@ready"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(
        done.stdout.contains("QEMU version: the snapshot needs") && done.stdout.contains("7.2"),
        "{done:?}"
    );
    let done = old(&["snapshot", "check", "web@ready", "-o", "json"]);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let fields: Vec<_> =
        report["differences"].as_array().unwrap().iter().map(|d| d["field"].as_str().unwrap()).collect();
    assert_eq!((done.code, &report["fit"], fields), (7, &false.into(), vec!["qemu", "machine-type"]));

    // Without any QEMU nothing can be compared.
    let done = Sandbox::finish(
        sandbox.midge().args(["snapshot", "check", "web@ready"]).env("MIDGE_QEMU", "/nowhere/qemu"),
    );
    assert!(done.code == 6 && done.stderr.contains("hint: "), "{done:?}");
}

/// Where what is exported goes on: another home with the same image.
fn elsewhere() -> Sandbox {
    let other = Sandbox::new();
    blank_image(&other);
    other
}

#[test]
fn a_snapshot_travels_as_a_file_and_through_a_pipe() {
    let sandbox = saved();
    let file = sandbox.path().join("web.tar.zst");
    let file = file.to_str().unwrap();
    sandbox.ok(&["snapshot", "export", "web@ready", file]);
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "it holds a guest's memory");
    sandbox.ok(&["snapshot", "export", "web@ready", file, "--level", "3"]);
    let beside: Vec<_> =
        fs::read_dir(sandbox.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_str().unwrap().starts_with(".midge-")), "{beside:?}");

    let other = elsewhere();
    assert_eq!(other.ok(&["snapshot", "import", file]), "web@ready\n");
    other.ok(&["snapshot", "verify", "web@ready"]);
    other.ok(&["snapshot", "check", "web@ready"]);
    let before = kept(&other);
    let said = other.fails(4, &["snapshot", "import", file]);
    assert!(said.contains("a snapshot `web@ready` exists already"), "{said}");
    assert_eq!(kept(&other), before);
    let told = other.json(&["snapshot", "import", file, "--name", "copy@two", "-o", "json"]);
    assert_eq!(told["name"], "copy@two");

    let exporter = sandbox.midge().args(["snapshot", "export", "web@ready"]).stdout(Stdio::piped()).spawn();
    let mut exporter = exporter.unwrap();
    let pipe = exporter.stdout.take().unwrap();
    let import = ["snapshot", "import", "-", "--name", "piped"];
    let done = Sandbox::finish(other.midge().args(import).stdin(pipe));
    assert!(exporter.wait().unwrap().success());
    assert_eq!((done.code, done.stdout.as_str()), (0, "piped@latest\n"), "{done:?}");
    other.ok(&["snapshot", "verify", "--all"]);
    let memory = |name: &str| fs::read(folder(&other, name).join("ram")).unwrap();
    assert_eq!(memory("piped"), fs::read(folder(&sandbox, "web@ready").join("ram")).unwrap());

    // Where its image is missing it is of no use.
    let bare = Sandbox::new();
    let said = bare.fails(3, &["snapshot", "import", file]);
    assert!(said.contains("image `blank`"), "{said}");
    assert_eq!(bare.ok(&["snapshot", "ls", "-q"]), "");
}

#[test]
fn an_archive_that_is_none_or_not_whole_leaves_nothing() {
    let sandbox = saved();
    let file = sandbox.path().join("web.tar.zst");
    sandbox.ok(&["snapshot", "export", "web@ready", file.to_str().unwrap()]);
    let archive = fs::read(&file).unwrap();
    let other = elsewhere();
    other.ok(&["snapshot", "ls"]);
    let changed = |at: usize| {
        let mut bytes = archive.clone();
        bytes[at..at + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
        bytes
    };
    let cases = [
        ("empty", Vec::new()),
        ("garbage", vec![0xa5; 10_000]),
        ("text", b"hello\n".repeat(100)),
        ("its first half", archive[..archive.len() / 2].to_vec()),
        ("all but its last byte", archive[..archive.len() - 1].to_vec()),
        ("changed in its middle", changed(archive.len() / 2)),
        ("changed at its end", changed(archive.len() - 16)),
    ];
    for (what, bytes) in cases {
        let path = other.path().join("archive");
        fs::write(&path, bytes).unwrap();
        let said = other.fails(1, &["snapshot", "import", path.to_str().unwrap()]);
        assert!(said.contains("the archive cannot be read"), "{what}: {said}");
        assert_eq!(other.ok(&["snapshot", "ls", "-q"]), "", "{what}");
        let left = kept(&other);
        assert!(
            left.iter().all(|path| ["names", ".lock"].iter().any(|ours| path.ends_with(ours))),
            "{what}: {left:?}"
        );
    }
}

/// Runs a script in a mount namespace of its own, so that the file systems that it mounts are gone with it. `$1` is midge.
fn with_mounts(sandbox: &Sandbox, script: &str, arguments: &[&str]) -> Done {
    let inner = sandbox.midge();
    let mut outer = Command::new("unshare");
    if !nix::unistd::Uid::effective().is_root() {
        outer.args(["--user", "--map-root-user"]);
    }
    outer.args(["--mount", "sh", "-c", script, "sh"]).arg(inner.get_program()).args(arguments);
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    Sandbox::finish(outer.stdin(Stdio::null()))
}

#[test]
fn a_full_disk_leaves_neither_half_an_archive_nor_half_a_snapshot() {
    let sandbox = saved();
    let small = sandbox.path().join("small");
    fs::create_dir(&small).unwrap();
    let script = r#"
        mount -t tmpfs -o size=64k tmpfs "$2" || exit 99
        "$1" snapshot export web@ready "$2/web.tar.zst"; echo "file: $?"
        "$1" snapshot export web@ready > "$2/piped"; echo "stream: $?"
        rm "$2/piped"; ls -A "$2""#;
    let done = with_mounts(&sandbox, script, &[small.to_str().unwrap()]);
    assert_eq!(done.stdout, "file: 8\nstream: 8\n", "{done:?}");
    assert!(done.stderr.contains("No space left"), "{done:?}");

    let file = sandbox.path().join("web.tar.zst");
    sandbox.ok(&["snapshot", "export", "web@ready", file.to_str().unwrap()]);
    let other = elsewhere();
    let snapshots = other.home().join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    let script = r#"
        mount -t tmpfs -o size=100k tmpfs "$2" || exit 99
        "$1" snapshot import "$3"; echo "code: $?"
        find "$2" -mindepth 1 ! -name names ! -name .lock
        mount -o remount,size=40m "$2"
        "$1" snapshot import "$3"; "$1" snapshot verify --all"#;
    let done = with_mounts(&other, script, &[snapshots.to_str().unwrap(), file.to_str().unwrap()]);
    let expected = "code: 8\nweb@ready\nweb@ready: every byte is as it was saved\n";
    assert_eq!(done.stdout, expected, "{done:?}");
    assert!(done.stderr.contains("No space left"), "{done:?}");
}

#[test]
fn no_archive_goes_to_a_terminal_or_comes_from_one() {
    let sandbox = saved();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = sandbox.midge();
    command.args(["snapshot", "export", "web@ready"]).stdout(terminal.slave.try_clone().unwrap());
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("midge snapshot export web@ready web@ready.tar.zst"),
        "{said}"
    );
    let mut command = sandbox.midge();
    let done = Sandbox::finish(command.args(["snapshot", "import", "-"]).stdin(terminal.slave));
    assert!(done.code == 2 && done.stderr.contains("terminal"), "{done:?}");
}

/// Presses Ctrl-C.
fn interrupt(child: &std::process::Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn ctrl_c_leaves_nothing_half_done() {
    let sandbox = saved();
    let mut archive = Vec::new();
    let mut whole =
        sandbox.midge().args(["snapshot", "export", "web@ready"]).stdout(Stdio::piped()).spawn().unwrap();
    whole.stdout.take().unwrap().read_to_end(&mut archive).unwrap();
    assert!(whole.wait().unwrap().success());

    // Nobody reads on: it waits for the other side.
    let (from, to) = nix::unistd::pipe().unwrap();
    // Less than the archive has.
    nix::fcntl::fcntl(&to, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    assert!(archive.len() > 8192);
    let mut command = sandbox.midge();
    command.args(["snapshot", "export", "web@ready"]).stdout(to).stderr(Stdio::piped());
    let export = command.spawn().unwrap();
    drop(command);
    let mut from = fs::File::from(from);
    from.read_exact(&mut [0; 100]).unwrap();
    interrupt(&export);
    let output = export.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(130) && said.contains("interrupted"), "{output:?}");
    drop(from);

    let other = elsewhere();
    let mut command = other.midge();
    command.args(["snapshot", "import", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut import = command.spawn().unwrap();
    let mut pipe = import.stdin.take().unwrap();
    pipe.write_all(&archive[..archive.len() - 1]).unwrap();
    let begun = || kept(&other).iter().any(|path| path.ends_with("state"));
    eventually("the import is under way", begun);
    interrupt(&import);
    let output = import.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(!begun());
    drop(pipe);
}

#[test]
fn what_a_killed_command_left_is_cleared_away() {
    let sandbox = saved();
    let left = sandbox.home().join("snapshots").join(uuid::Uuid::new_v4().to_string());
    let leave = || {
        fs::create_dir(&left).unwrap();
        fs::write(left.join("ram"), vec![7; 1 << 16]).unwrap();
    };
    leave();
    assert_eq!(sandbox.ok(&["snapshot", "ls", "-q"]), "web@ready\n");
    let told = sandbox.ok(&["gc", "--dry-run", "-o", "json"]);
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let file = left.join("ram");
    let of_it = |line: &&Value| line["path"] == file.to_str().unwrap();
    assert_eq!(told.iter().find(of_it).unwrap()["bytes"], 1 << 16, "{told:?}");
    assert!(left.exists());
    assert!(sandbox.ok(&["gc"]).contains(file.to_str().unwrap()));
    assert!(!left.exists());
    // The next command that adds something does the same.
    leave();
    sandbox.hello("other", &[]);
    assert!(!left.exists());
    assert_eq!(sandbox.ok(&["snapshot", "ls", "-q"]), "web@ready\n");
}
