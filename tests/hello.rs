//! The reference unikernel on its own: what it promises to anyone who boots it, on every machine that it supports, under
//! bare QEMU command lines that midge has no part in.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{Sandbox, eventually, free_port, http};

/// The kernel's file, as midge keeps it.
fn kernel(sandbox: &Sandbox) -> PathBuf {
    // The first use puts the embedded file into the store.
    sandbox.ok(&["create", "unpack", "--image", "hello"]);
    let folder = sandbox.home().join("images").join("hello");
    let file = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("kernel-"));
    file.unwrap_or_else(|| panic!("no kernel in {}", folder.display()))
}

/// A QEMU that ends with the test.
struct Qemu {
    child: Child,
    log: PathBuf,
}

impl Qemu {
    /// Boots `kernel` on a machine. `program` comes before QEMU's name, as `ip netns exec` does.
    fn boot(program: &[&str], kernel: &Path, log: &Path, machine: &[&str], net: &str) -> Self {
        let mut words: Vec<&str> = program.to_vec();
        words.push("qemu-system-x86_64");
        let nic =
            if machine[0].starts_with("microvm") { "virtio-net-device" } else { "virtio-net-pci,romfile=" };
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg("-machine")
            .args(machine)
            .args(["-m", "64", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", &format!("file:{}", log.display())])
            .args(["-netdev", &format!("{net},id=n0"), "-device", &format!("{nic},netdev=n0")])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .arg("-kernel")
            .arg(kernel)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, log: log.to_owned() }
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn wait_for(&self, text: &str) -> String {
        eventually(&format!("{text:?} on the console"), || self.console().contains(text));
        self.console()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boots on one machine, fetches the page, and leaves by HTTP with a number.
fn boots_serves_and_leaves(machine: &[&str]) {
    let sandbox = Sandbox::new();
    let kernel = kernel(&sandbox);
    let port = free_port();
    let net = format!("user,hostfwd=tcp:127.0.0.1:{port}-:80");
    let mut qemu = Qemu::boot(&[], &kernel, &sandbox.path().join("serial"), machine, &net);
    let console = qemu.wait_for("[init done]");
    assert!(console.contains("hello: address 10.0.2.15/24 gateway 10.0.2.2"), "{machine:?}: {console}");
    let page = http(port, "/");
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("10.0.2.15"), "{machine:?}: {page}");
    assert!(http(port, "/no-such-page").starts_with("HTTP/1.1 404"));
    http(port, "/exit?code=21");
    let status = qemu.child.wait().unwrap();
    assert_eq!(status.code(), Some(21 << 1 | 1), "{machine:?}: {}", qemu.console());
}

#[test]
fn it_boots_on_q35() {
    boots_serves_and_leaves(&["q35", "-accel", "tcg"]);
}

#[test]
fn it_boots_on_pc() {
    boots_serves_and_leaves(&["pc", "-accel", "tcg"]);
}

#[test]
fn it_boots_on_microvm_with_acpi_and_without() {
    boots_serves_and_leaves(&["microvm,acpi=off", "-accel", "tcg"]);
    boots_serves_and_leaves(&["microvm", "-accel", "tcg"]);
}

/// A network namespace of the test's own, with a tap and a DHCP server behind it.
struct Network {
    name: String,
    dnsmasq: Child,
}

impl Network {
    fn new(folder: &Path) -> Self {
        let name = format!("midge-test-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let within = |words: &[&str]| run("ip", &[&["-n", name.as_str()], words].concat());
        within(&["link", "set", "lo", "up"]);
        within(&["tuntap", "add", "tap0", "mode", "tap"]);
        within(&["address", "add", "10.77.0.1/24", "dev", "tap0"]);
        within(&["link", "set", "tap0", "up"]);
        let dnsmasq = Command::new("ip")
            .args([
                "netns",
                "exec",
                &name,
                "dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--port=0",
            ])
            .args([
                "--interface=tap0",
                "--bind-interfaces",
                "--dhcp-authoritative",
                "--no-ping",
                "--user=root",
            ])
            .args(["--dhcp-range=10.77.0.50,10.77.0.60,1h", "--pid-file="])
            .arg(format!("--dhcp-leasefile={}", folder.join("leases").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("dnsmasq.log")).unwrap())
            .spawn()
            .unwrap();
        Self { name, dnsmasq }
    }

    fn exec(&self, words: &[&str]) -> Output {
        Command::new("ip").args(["netns", "exec", &self.name]).args(words).output().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.dnsmasq.kill();
        let _ = self.dnsmasq.wait();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn it_takes_a_lease_from_a_real_server_and_answers_ping() {
    let sandbox = Sandbox::new();
    let kernel = kernel(&sandbox);
    let network = Network::new(sandbox.path());
    let log = sandbox.path().join("serial");
    let tap = "tap,ifname=tap0,script=no,downscript=no";
    let program = ["ip", "netns", "exec", network.name.as_str()];
    let qemu = Qemu::boot(&program, &kernel, &log, &["q35", "-accel", "tcg"], tap);
    let console = qemu.wait_for("[init done]");
    let address = console
        .lines()
        .find_map(|line| line.strip_prefix("hello: address ")?.split('/').next())
        .unwrap_or_else(|| panic!("no address: {console}"))
        .to_owned();
    assert!(address.starts_with("10.77.0."), "{address} is not of the server's range");
    let leases = fs::read_to_string(sandbox.path().join("leases")).unwrap();
    assert!(leases.contains(&address), "the server knows of the lease: {leases}");
    let ping = network.exec(&["ping", "-n", "-c", "3", "-W", "20", &address]);
    let said = String::from_utf8_lossy(&ping.stdout);
    assert!(ping.status.success() && said.contains("3 received"), "{said}");
}
