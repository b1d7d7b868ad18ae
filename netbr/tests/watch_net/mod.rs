//! Networks for tests: namespaces that are removed with the value that made them, also when a test fails.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

pub mod home;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netbr::Namespace;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Bounds every wait of a test. It is only reached when something is broken: a busy machine is slow, never this slow.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for something that must come.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("what the test waits for did not come")
}

/// Runs a program to its end, which must be a good one.
pub fn run<I: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = I>) -> String {
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; `make setup-tests` installs it"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}(making networks needs root)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace, and the programs started in it.
pub struct Net {
    pub name: String,
    children: Vec<Child>,
}

impl Net {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("netbr-w{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", ["netns", "add", &name]);
        let net = Self { name, children: Vec::new() };
        net.ip("link set lo up");
        net
    }

    pub fn namespace(&self) -> Namespace {
        Namespace::named(&self.name).unwrap()
    }

    /// `ip` with these words in the namespace.
    pub fn ip(&self, words: &str) -> String {
        let all = ["-netns", &self.name].into_iter().chain(words.split_whitespace());
        run("ip", all)
    }

    /// Waits until interfaces are up and carry frames: an end of a new cable drops what is sent until the kernel has got round
    /// to it.
    pub fn wait_up(&self, interfaces: &[&str]) {
        let up = |name: &&str| self.ip(&format!("link show dev {name}")).contains("state UP");
        self.wait_links(|| interfaces.iter().all(up));
    }

    /// Waits until something is true of the namespace's interfaces: it is asked for anew when the kernel has news of them.
    pub fn wait_links(&self, wanted: impl Fn() -> bool) {
        let subscribe = || {
            let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
            // RTMGRP_LINK (rtnetlink(7)).
            socket.bind(&SocketAddr::new(0, 1)).unwrap();
            socket
        };
        let news = self.namespace().run(subscribe).unwrap();
        while !wanted() {
            news.recv_from_full().unwrap();
        }
    }

    /// Any program with these words in the namespace, to its end.
    pub fn exec(&self, words: &str) -> String {
        let all = ["netns", "exec", &self.name].into_iter().chain(words.split_whitespace());
        run("ip", all)
    }

    /// A program that stays until the namespace goes, or until [`Self::stop`].
    pub fn spawn(&mut self, words: &[&str]) -> usize {
        let found = Command::new(words[0])
            .arg("--help")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.unwrap_or_else(|e| panic!("{}: {e}; `make setup-tests` installs it", words[0]));
        // `ip netns exec` becomes the program, so the child's number is the program's.
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.len() - 1
    }

    /// Waits until a program of [`Self::spawn`] says something on its standard error. It may say little more afterwards, as
    /// nobody reads it.
    pub fn wait_for_line(&mut self, child: usize, wanted: &str) {
        let mut said = String::new();
        let lines = BufReader::new(self.children[child].stderr.as_mut().unwrap());
        for line in lines.lines() {
            let line = line.unwrap();
            if line.contains(wanted) {
                return;
            }
            said += &line;
            said.push('\n');
        }
        panic!("it ended without saying `{wanted}`:\n{said}");
    }

    /// Sends a signal to a program of [`Self::spawn`].
    pub fn signal(&self, child: usize, signal: nix::sys::signal::Signal) {
        let id = i32::try_from(self.children[child].id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).unwrap();
    }

    /// Ends a program of [`Self::spawn`] and waits for it.
    pub fn stop(&mut self, child: usize) {
        let _ = self.children[child].kill();
        let _ = self.children[child].wait();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in 0..self.children.len() {
            self.stop(child);
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
