//! Guests besides Debian, and another QEMU: the same flags boot bare-metal programs of others and unikernels of every kind, on the
//! QEMU of Debian 12 as well as on a newer one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::collections::BTreeSet;

use common::{Sandbox, free_port, http};
use serde_json::{Value, json};

/// iPXE as a bare-metal kernel (package `ipxe`).
const IPXE: &str = "/usr/lib/ipxe/ipxe.lkrn";
/// Memtest86+ as a bare-metal kernel (package `memtest86+`).
const MEMTEST: &str = "/boot/memtest86+x64.bin";

#[test]
fn ipxe_boots_gets_an_address_and_prints_it() {
    let sandbox = Sandbox::new();
    // iPXE knows the BIOS's screen only. With graphics=off QEMU has SeaBIOS show that on the serial port.
    let screen = ["--qemu-arg", "-machine", "--qemu-arg", "graphics=off"];
    let flags =
        ["create", "ipxe", "--kernel", IPXE, "--append", "dhcp && show net0/ip && shell", "--accel", "tcg"];
    sandbox.ok(&[&flags[..], &screen, &["--ready", r"serial:net0\S*/ip:ipv4 = 10\.0\.2\.15"]].concat());
    sandbox.ok(&["start", "ipxe", "--wait"]);
    assert_eq!(sandbox.inspect("ipxe")["state"], "running");
    sandbox.ok(&["wait", "ipxe", "serial:iPXE> "]);
    // It cannot be asked to end, so it is ended at once.
    sandbox.ok(&["stop", "ipxe"]);
    assert_eq!(sandbox.last_end("ipxe"), Some(json!({ "cause": "killed", "asked_by": "user" })));
}

#[test]
fn memtest_shows_its_screen_on_the_console() {
    let sandbox = Sandbox::new();
    // It measures each cache that CPUID lists by copying many times its size, which takes minutes under emulation: this CPU
    // lists none.
    let cpu = ["--cpu", "Conroe,level=2", "--accel", "tcg", "--memory", "64M"];
    let kernel = ["--kernel", MEMTEST, "--append", "console=ttyS0,115200"];
    sandbox.ok(&[&["create", "memtest"], &cpu[..], &kernel].concat());
    sandbox.ok(&["start", "memtest", "--wait=serial:Memtest86\\+ v[67]"]);
    sandbox.ok(&["wait", "memtest", "serial:Pass|Testing"]);
}

/// What differs between two VMs' command lines, as `option part property`.
fn differences(sandbox: &Sandbox, left: &str, right: &str) -> Vec<Value> {
    let told = sandbox.json(&["cmdline", left, "--diff", right, "-o", "json"]);
    assert_eq!((&told["left"], &told["right"]), (&json!(left), &json!(right)));
    told["differences"].as_array().unwrap().clone()
}

fn places(differences: &[Value]) -> BTreeSet<String> {
    let place = |difference: &Value| {
        ["option", "part", "property"]
            .map(|key| difference[key].as_str().unwrap_or(""))
            .join(" ")
            .trim()
            .to_owned()
    };
    differences.iter().map(place).collect()
}

/// What makes a VM this one and no other: its name, its numbers and its files.
const IDENTITY: [&str; 8] = [
    "-name  guest",
    "-name  process",
    "-uuid",
    "-object ram mem-path",
    "-fw_cfg opt/io.systemd.credentials/ssh.authorized_keys.root file",
    "-fw_cfg opt/io.systemd.credentials/tmpfiles.extra file",
    "-chardev serial logfile",
    "-device nic0 mac",
];

#[test]
fn the_same_flags_give_every_guest_the_same_machine() {
    let sandbox = Sandbox::with_debian();
    let flags = ["--cpus", "2", "--memory", "256M", "--label", "a=b", "--ttl", "1h", "-p"];
    for (vm, image) in [("uni", "hello"), ("deb", "debian:12")] {
        let port = format!("{}:80", 40080);
        sandbox.ok(&[&["create", vm, "--image", image], &flags[..], &[&port]].concat());
    }
    // What is booted, and nothing else.
    let source = ["-kernel", "-initrd", "-append", "-blockdev disk-file", "-blockdev disk", "-device disk0"];
    let expected: BTreeSet<String> = IDENTITY.iter().chain(&source).map(ToString::to_string).collect();
    assert_eq!(places(&differences(&sandbox, "uni", "deb")), expected);

    // The kind decides which generations of virtio the network card speaks, and nothing else.
    for kind in ["unikraft", "solo5", "hermit", "nanos", "other", "linux"] {
        let image = ["create", kind, "--image", "hello", "--kind", kind];
        let port = format!("{}:80", 40080);
        sandbox.ok(&[&image[..], &flags, &[&port]].concat());
        let found = differences(&sandbox, "uni", kind);
        let mut places = places(&found);
        let legacy = found.iter().find(|difference| difference["property"] == "disable-legacy");
        assert_eq!(legacy.is_some(), kind == "hermit", "{kind}: {found:?}");
        if let Some(legacy) = legacy {
            assert_eq!((&legacy["left"], &legacy["right"]), (&json!("off"), &json!("on")));
            places.remove("-device nic0 disable-legacy");
        }
        // A Linux is told its console.
        if kind == "linux" {
            places.remove("-append");
        }
        let identity: BTreeSet<String> = IDENTITY.iter().map(ToString::to_string).collect();
        assert_eq!(places, identity, "{kind}");
    }
    let refused =
        sandbox.fails(2, &["create", "x", "--kernel", IPXE, "--kind", "solo5", "--arch", "aarch64"]);
    assert!(refused.contains("Solo5 has no virtio target for aarch64"), "{refused}");
}

#[test]
fn a_unikernel_of_every_kind_runs_and_is_ended_at_once() {
    let sandbox = Sandbox::new();
    let kinds = ["unikraft", "solo5", "hermit", "nanos", "other"];
    for kind in kinds {
        let port = free_port();
        let publish = format!("{port}:80");
        let flags = ["--image", "hello", "--memory", "32M", "--accel", "tcg", "--kind", kind, "-p", &publish];
        sandbox.ok(&[&["create", kind], &flags[..]].concat());
        // The kind's own sign of readiness is in words that this guest does not use.
        sandbox.ok(&["start", kind, r"--wait=serial:address 10\.0\.2\.15"]);
        assert!(http(port, "/").starts_with("HTTP/1.1 200"), "{kind} answers no requests");
        sandbox.ok(&["stop", kind]);
        assert_eq!(sandbox.last_end(kind), Some(json!({ "cause": "killed", "asked_by": "user" })), "{kind}");
    }
}

#[test]
fn qemu_7_2_serves_as_well() {
    let sandbox = Sandbox::with_qemu(&common::qemu_7_2());
    sandbox.ok(&["image", "build", "debian:12"]);
    sandbox.ok(&["create", "deb", "--image", "debian:12"]);
    let booting = sandbox.spawn(&["start", "deb", "--wait"]);

    // Each end of the unikernel is told for what it is.
    let ends = [
        ("/exit?code=33", json!({ "cause": "debug-exit", "code": 33 })),
        ("/exit?code=0", json!({ "cause": "debug-exit", "code": 0 })),
        ("/poweroff", json!({ "cause": "powered-off" })),
        ("/panic", json!({ "cause": "panicked" })),
    ];
    for (index, (path, end)) in ends.into_iter().enumerate() {
        let (vm, port) = (format!("uni{index}"), free_port());
        let flags = ["--image", "hello", "--memory", "32M", "--accel", "tcg", "-p"];
        sandbox.ok(&[&["create", &vm], &flags[..], &[&format!("{port}:80")]].concat());
        sandbox.ok(&["start", &vm, r"--wait=serial:address 10\.0\.2\.15"]);
        let version = sandbox.inspect(&vm)["run"]["qemu_version"].as_str().unwrap().to_owned();
        assert!(version.contains("7.2"), "{version}");
        http(port, path);
        sandbox.ok(&["wait", &vm, "exit"]);
        assert_eq!(sandbox.last_end(&vm), Some(end), "{path}");
    }

    let booted = booting.wait();
    assert_eq!(booted.code, 0, "{}{}", booted.stderr, sandbox.logs());
    let done = sandbox.run(&["exec", "deb", "--", "sh", "-c", "hostname; exit 3"]);
    assert_eq!((done.code, done.stdout.as_str()), (3, "deb\n"), "{}", done.stderr);
    sandbox.ok(&["pause", "deb"]);
    assert_eq!(sandbox.inspect("deb")["state"], "paused");
    sandbox.ok(&["resume", "deb"]);
    assert_eq!(sandbox.ok(&["exec", "deb", "--", "echo", "back"]), "back\n");
    sandbox.ok(&["stop", "deb"]);
    assert_eq!(sandbox.last_end("deb"), Some(json!({ "cause": "powered-off", "asked_by": "user" })));
}
