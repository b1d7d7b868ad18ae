//! The pure functions on the path of every start: writing QEMU's command line, reading the console, reading the monitor.
//!
//! Each is timed over batches of some milliseconds; the table shows the time of one call.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and what it cannot do ends it")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of samples and milliseconds are small"
)]
#![allow(unreachable_pub, missing_docs, reason = "what benches share is not an interface")]

mod support;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use qmp::wire::{self, Frame, Framer, MONITOR_LIMIT};
use regex::bytes::Regex;
use supervisor::host::QemuFacts;
use supervisor::machine::{self, Ram, ResolvedAccel, Resources};
use supervisor::spec::{Arch, Kind, Net, VmSpec};
use supervisor::vm::ConsoleReader;
use support::{Report, Samples, rounds};

/// A batch lasts about this long: far more than reading the clock takes, far less than a turn of the scheduler.
const BATCH: Duration = Duration::from_millis(2);

fn main() {
    let rounds = rounds(100);
    let mut report = Report::new("pure");

    let (spec, qemu, resources) = (spec(), qemu(), resources());
    report.row(time("machine::arguments, q35", rounds, || {
        machine::arguments(&spec, &qemu, &resources).unwrap()
    }));

    let boot = console();
    let reader = || ConsoleReader::new(Kind::Linux, Some(Regex::new("login: ?$").unwrap()));
    report.row(time("ConsoleReader::new, Linux", rounds, reader));
    // Pieces of the size that a 16550's FIFO fills.
    let read = || {
        let mut reader = reader();
        boot.chunks(16).map(|piece| reader.push(piece).len()).sum::<usize>()
    };
    let whole = time(format!("ConsoleReader, a boot of {} kB", boot.len() / 1000), rounds, read);
    report.line(format!("the console is read at {:.0} MB/s", boot.len() as f64 / whole.median()));
    report.row(whole);

    let event = br#"{"timestamp": {"seconds": 1763650000, "microseconds": 123456}, "event": "VSERPORT_CHANGE", "data": {"open": true, "id": "agent"}}"#;
    report.row(time("wire::parse, an event", rounds, || wire::parse(event).unwrap()));
    let encode = || wire::encode("cont", &(), wire::Mode::InBand, Some("midge-17")).unwrap();
    report.row(time("wire::encode, `cont`", rounds, encode));
    let stream: Vec<u8> = event.iter().chain(b"\r\n").copied().collect::<Vec<u8>>().repeat(1000);
    let frames = || {
        let mut framer = Framer::monitor(MONITOR_LIMIT);
        let mut lines = 0;
        for piece in stream.chunks(4096) {
            framer.push(piece);
            while let Ok(Some(Frame::Line(_))) = framer.next_frame() {
                lines += 1;
            }
        }
        assert_eq!(lines, 1000);
    };
    report.row(time("Framer, 1000 events", rounds, frames));
    report.finish();
}

/// Times `work`: one sample is the mean of one batch.
fn time<T>(name: impl Into<String>, rounds: usize, mut work: impl FnMut() -> T) -> Samples {
    let mut batch = |count: u32| {
        let begun = Instant::now();
        for _ in 0..count {
            black_box(work());
        }
        begun.elapsed()
    };
    let mut count = 1;
    while batch(count) < BATCH {
        count *= 2;
    }
    let mut samples = Samples::new(name, "µs");
    for _ in 0..rounds {
        samples.push(batch(count).as_secs_f64() * 1e6 / f64::from(count));
    }
    samples
}

fn spec() -> VmSpec {
    let mut spec = VmSpec::named("bench");
    spec.arch = Arch::X86_64;
    spec.nets = vec![Net::User { forwards: vec!["8080:80".parse().unwrap()], mac: None }];
    spec
}

fn qemu() -> QemuFacts {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    QemuFacts {
        path: PathBuf::from("/usr/bin/qemu-system-x86_64"),
        arch: Arch::X86_64,
        version: (10, 0, 2),
        version_line: "QEMU emulator version 10.0.2".to_owned(),
        machines: texts(&["microvm", "pc-q35-9.2", "pc-q35-10.0", "q35"]),
        devices: texts(&[
            "virtio-net-pci",
            "virtio-rng-pci",
            "virtio-serial-pci",
            "virtio-blk-pci",
            "vmgenid",
        ]),
        cpus: texts(&["max", "qemu64"]),
    }
}

fn resources() -> Resources {
    Resources {
        kind: Kind::Other,
        accel: ResolvedAccel::Tcg,
        kvm_cpu: false,
        kernel: Some(PathBuf::from("/var/lib/midge/images/hello/kernel-0123456789ab")),
        initrd: None,
        append: String::new(),
        bios: None,
        disk: None,
        ram: Ram::File(PathBuf::from("/run/midge/0.ram")),
        monitor_fd: 10,
        serial_fd: 11,
        serial_log: PathBuf::from("/var/lib/midge/vms/bench/console.log"),
        agent_fd: 12,
        macs: vec!["52:54:00:12:34:56".parse().unwrap()],
        taps: vec![None],
        uuid: uuid::Uuid::nil(),
        credentials: Vec::new(),
        restore: None,
        seed: None,
    }
}

/// What a Linux guest writes, in shape: a kernel's messages, a few hundred units, a prompt.
fn console() -> Vec<u8> {
    let mut text =
        String::from("[    0.000000] Linux version 6.1.0-35-amd64 (debian-kernel@lists.debian.org)\r\n");
    for line in 0..600 {
        text.push_str(&format!(
            "[    {:.6}] pci 0000:00:{:02x}.0: BAR 0 [mem 0xfebd4000-0xfebd4fff]: assigned\r\n",
            f64::from(line) / 300.0,
            line % 32
        ));
    }
    text.push_str("[    2.100000] systemd[1]: systemd 252.38-1~deb12u1 running in system mode\r\n");
    for line in 0..300 {
        text.push_str(&format!("[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mservice-{line}.service\x1b[0m - Service {line}.\r\n"));
    }
    text.push_str("\r\nDebian GNU/Linux 12 bench ttyS0\r\n\r\nbench login: ");
    text.into_bytes()
}
