//! Namespaces of a test's own, and frames through taps.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netbr::Namespace;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

/// How long a frame or an event may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A nameless network namespace, gone with its last user.
#[track_caller]
pub fn namespace() -> Namespace {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("cannot make a network namespace: {e}; run the tests as root"))?;
        Ok::<_, String>(Namespace::at(Path::new("/proc/thread-self/ns/net")).unwrap())
    });
    made.join().unwrap().unwrap_or_else(|said| panic!("{said}"))
}

/// Runs `ip` in the namespace, as an opinion of its own; what it prints.
#[track_caller]
pub fn ip(namespace: &Namespace, args: &str) -> String {
    let args: Vec<&str> = args.split_whitespace().collect();
    let done = namespace.run(|| Command::new("ip").args(&args).output()).unwrap();
    let done = done.unwrap_or_else(|e| panic!("cannot run `ip` (Debian package iproute2): {e}"));
    assert!(done.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The EtherType for experiments (IEEE 802, 9.2.3): nothing but the test sends it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A broadcast frame of the test's own that holds `text`.
pub fn send(tap: BorrowedFd<'_>, from: [u8; 6], text: &str) {
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    frame.extend(EXPERIMENT);
    frame.push(u8::try_from(text.len()).unwrap());
    frame.extend(text.as_bytes());
    frame.resize(60, 0);
    assert_eq!(nix::unistd::write(tap, &frame).unwrap(), frame.len());
}

/// The text of the next frame of the test's own.
#[track_caller]
pub fn receive(tap: BorrowedFd<'_>) -> String {
    let end = Instant::now() + PATIENCE;
    let mut frame = [0; 2048];
    loop {
        match nix::unistd::read(tap, &mut frame) {
            Ok(length) if length > 15 && frame[12..14] == EXPERIMENT => {
                let text = &frame[15..15 + usize::from(frame[14])];
                return String::from_utf8(text.to_vec()).unwrap();
            }
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => {
                let left = end.saturating_duration_since(Instant::now());
                let mut fds = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
                assert!(ready > 0, "no frame came in {PATIENCE:?}");
            }
            Err(error) => panic!("{}", io::Error::from(error)),
        }
    }
}

/// Joins two namespaces by a cable: `host` gets the end `near`, `router` the end `far`; both are up.
#[track_caller]
pub fn cable(host: &Namespace, near: &str, router: &Namespace, far: &str) {
    let other = router.run(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&other));
    ip(host, &format!("link add {near} type veth peer name {far}"));
    ip(host, &format!("link set {far} netns {path}"));
    ip(host, &format!("link set {near} up"));
    ip(router, &format!("link set {far} up"));
}

/// Runs `nft` in the namespace with a ruleset on its input.
#[track_caller]
pub fn nft(namespace: &Namespace, rules: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.nft");
    std::fs::write(&file, rules).unwrap();
    let done = namespace.run(|| Command::new("nft").arg("-f").arg(&file).output()).unwrap();
    let done = done.unwrap_or_else(|e| panic!("cannot run `nft` (Debian package nftables): {e}"));
    assert!(done.status.success(), "nft: {}", String::from_utf8_lossy(&done.stderr));
}

/// Writes a setting below `/proc/sys/net` of the namespace.
#[track_caller]
pub fn sysctl(namespace: &Namespace, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    namespace.run(|| std::fs::write(&path, value)).unwrap().unwrap_or_else(|e| panic!("{path}: {e}"));
}
