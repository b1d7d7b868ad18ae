//! Images: built once for every `$MIDGE_HOME`, checked, kept while a VM needs them, and never left half made.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Done, Sandbox, eventually};
use serde_json::Value;
use supervisor::host::proc::{ProcessId, Signal};

/// Runs `command` where /usr/bin lacks a program: in a mount namespace in which another folder lies over it, with a link to everything
/// else that is in the true one.
fn without(program: &str, folder: &Path, command: &Command) -> Done {
    let script = "set -e
        mkdir \"$0\" \"$0/bin\" \"$0/links\"
        mount --bind /usr/bin \"$0/bin\"
        cp -as \"$0/bin/.\" \"$0/links\"
        rm \"$0/links/$1\"
        mount --bind \"$0/links\" /usr/bin
        shift
        exec \"$@\"";
    let mut outer = Command::new("unshare");
    if !nix::unistd::Uid::effective().is_root() {
        outer.args(["--user", "--map-root-user"]);
    }
    outer.args(["--mount", "sh", "-c", script]).arg(folder).arg(program);
    outer.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    Sandbox::finish(&mut outer)
}

fn build(sandbox: &Sandbox) -> Command {
    let mut command = sandbox.midge();
    command.args(["image", "build", "debian:12"]);
    command
}

#[test]
fn what_was_built_once_is_found_again_and_a_missing_program_is_named() {
    let _built = Sandbox::with_debian();
    let other = Sandbox::new();
    // Nothing could be built here, so it is not built.
    let found = without("mmdebstrap", &other.path().join("a"), &build(&other));
    assert_eq!((found.code, found.stdout.as_str()), (0, "debian:12\n"), "{}", found.stderr);
    assert_eq!(other.ok(&["image", "verify"]).lines().count(), 2);

    let mut fresh = build(&Sandbox::new());
    fresh.env("XDG_CACHE_HOME", other.path().join("cache"));
    let missing = without("mmdebstrap", &other.path().join("b"), &fresh);
    assert_eq!(missing.code, 6, "{}", missing.stderr);
    assert!(missing.stderr.contains("install the package mmdebstrap"), "{}", missing.stderr);

    // Of several at once, in one home and in another, each has the image.
    let third = Sandbox::new();
    let builds: Vec<_> =
        [&third, &third, &other].map(|sandbox| sandbox.spawn(&["image", "build", "debian:12"])).into();
    for build in builds {
        let done = build.wait();
        assert_eq!((done.code, done.stdout.as_str()), (0, "debian:12\n"), "{}", done.stderr);
    }
    third.ok(&["image", "verify", "debian:12"]);
    assert_eq!(left_behind(&third.home().join("tmp")), 0);
}

/// How much is in a folder, which may be missing.
fn left_behind(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The files of an image.
fn files(sandbox: &Sandbox, image: &str) -> Vec<PathBuf> {
    let folder = sandbox.json(&["image", "inspect", image])["folder"].as_str().unwrap().to_owned();
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_image_is_immutable_checked_and_kept_while_a_vm_needs_it() {
    let sandbox = Sandbox::with_debian();
    let listed: Vec<Value> = sandbox
        .ok(&["image", "ls", "-o", "json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = listed.iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["debian:12", "hello"]);
    assert_eq!((listed[0]["kind"].as_str(), listed[1]["kind"].as_str()), (Some("linux"), Some("other")));
    // The unikernel is a part of the program: no file was written for it.
    assert!(!sandbox.home().join("images/hello").exists());
    let digest = listed[0]["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && digest.len() == 7 + 64, "{digest}");

    let parts = files(&sandbox, "debian:12");
    for part in parts.iter().filter(|part| part.extension().is_none_or(|e| e != "json")) {
        let mode = fs::metadata(part).unwrap().permissions().mode();
        assert_eq!(mode & 0o222, 0, "{} can be written: {mode:o}", part.display());
    }

    // A VM's disk is next to nothing, and smaller than the image it cannot be.
    sandbox.ok(&["create", "deb", "--image", "debian:12", "--disk", "20G"]);
    let overlay = fs::metadata(sandbox.vm_file("deb", "disk.qcow2")).unwrap();
    assert!(overlay.blocks() * 512 <= 12 << 10, "{} blocks", overlay.blocks());
    let small = sandbox.fails(2, &["create", "small", "--image", "debian:12", "--disk", "1G"]);
    assert!(small.contains("2G") && small.contains("1G"), "{small}");
    assert_eq!(sandbox.ok(&["ls", "-q"]), "deb\n");

    // Needed, then damaged, then removed.
    let used = sandbox.fails(4, &["image", "rm", "debian:12"]);
    assert!(used.contains("deb"), "{used}");
    sandbox.ok(&["image", "verify", "debian:12"]);
    let disk = parts.iter().find(|part| part.extension().is_some_and(|e| e == "qcow2")).unwrap();
    flip_a_byte(disk);
    let damaged = sandbox.fails(1, &["image", "verify"]);
    assert!(damaged.contains(disk.file_name().unwrap().to_str().unwrap()), "{damaged}");
    sandbox.fails(4, &["image", "rm", "debian:12", "--dry-run"]);
    sandbox.ok(&["rm", "deb"]);
    sandbox.ok(&["image", "rm", "debian:12", "--dry-run"]);
    assert_eq!(sandbox.ok(&["image", "ls", "-q"]), "debian:12\nhello\n");
    sandbox.ok(&["image", "rm", "debian:12"]);
    assert_eq!(sandbox.ok(&["image", "ls", "-q"]), "hello\n");
    assert!(!disk.parent().unwrap().exists());
    assert_eq!(left_behind(&sandbox.home().join("tmp")), 0);

    sandbox.fails(4, &["image", "rm", "hello"]);
    let foreign = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
    let foreign = sandbox.fails(6, &["image", "build", "debian:12", "--arch", foreign]);
    assert!(foreign.contains("cannot be built on this machine"), "{foreign}");
    let unknown = sandbox.fails(3, &["image", "build", "debian:11"]);
    assert!(unknown.contains("debian:12") && unknown.contains("debian:13"), "{unknown}");
    sandbox.fails(3, &["image", "rm", "debian:12"]);
    sandbox.fails(3, &["image", "inspect", "nosuch"]);
    sandbox.fails(3, &["image", "inspect", "../home"]);
}

/// Changes one bit in the middle of a file. The image's files are links to those of the cache, so a copy takes the file's place.
fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_build_that_is_killed_leaves_no_process_and_what_it_wrote_is_swept() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path().join("cache");
    let tmp = cache.join("midge/images/tmp");
    let build = || {
        let mut command = build(&sandbox);
        command.env("XDG_CACHE_HOME", &cache).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let fetching = words.by_ref().find(|line| line.contains("fetching packages"));
        assert!(fetching.is_some(), "the build does not say that it fetches packages");
        assert_eq!(left_behind(&tmp), 1);
        assert!(sandbox.processes().len() > 1, "only midge itself is at work");
        let process = ProcessId::of(child.id()).unwrap().open().unwrap().unwrap();
        (child, process, words)
    };
    let gone = || {
        eventually("the end of the build's processes", || sandbox.processes().is_empty());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(sandbox.path().to_str().unwrap()), "{mounts}");
    };

    let (mut killed, process, _) = build();
    process.signal(Signal::KILL).unwrap();
    assert!(!killed.wait().unwrap().success());
    gone();
    assert_eq!(left_behind(&tmp), 1);

    // The next one sweeps that away, and when it is interrupted, it cleans up after itself.
    let (mut interrupted, process, words) = build();
    process.signal(Signal::INT).unwrap();
    let last: Vec<String> = words.collect();
    assert_eq!(interrupted.wait().unwrap().code(), Some(130), "{last:?}");
    gone();
    assert_eq!((left_behind(&tmp), left_behind(&sandbox.home().join("tmp"))), (0, 0));
    assert_eq!(sandbox.ok(&["image", "ls", "-q"]), "hello\n");
}
