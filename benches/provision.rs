//! Provisioning, end to end: `midge start --wait=ssh` of a Debian 12 with 512 MiB on the fast path (credentials, the small initial RAM disk),
//! against the same disk with Debian's own initial RAM disk and cloud-init; and the two halves of the difference. All take turns. Where
//! virtme-ng is installed, the fast path and virtme-ng take turns with another kernel and disk, the same for both.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and what it cannot do ends it")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of samples and milliseconds are small"
)]
#![allow(unreachable_pub, missing_docs, reason = "what benches and tests share is not an interface")]

#[path = "../tests/common/mod.rs"]
mod common;
mod support;
mod virtme;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::Sandbox;
use serde_json::Value;
use support::{Report, Samples, rounds};

/// What is compared: a name, and the flags of `midge create`.
struct Case {
    what: &'static str,
    flags: &'static [&'static str],
    /// With the image's own initial RAM disk.
    own_initrd: bool,
}

const CASES: [Case; 4] = [
    Case { what: "credentials, small initrd", flags: &["--provision", "credentials"], own_initrd: false },
    Case { what: "credentials, Debian's initrd", flags: &["--provision", "credentials"], own_initrd: true },
    Case { what: "cloud-init, small initrd", flags: &["--provision", "cloud-init"], own_initrd: false },
    Case { what: "cloud-init, Debian's initrd", flags: &["--provision", "cloud-init"], own_initrd: true },
];

/// The least that the fast path is to be quicker.
const RATIO: f64 = 1.8;

fn main() {
    let rounds = rounds(5);
    let sandbox = Sandbox::new();
    sandbox.ok(&["image", "build", "debian:12", "--with", "cloud-init"]);
    let initrd = image_part(&sandbox, "initrd");
    let mut times: Vec<Samples> =
        CASES.iter().map(|case| Samples::new(format!("{}: until SSH greets", case.what), "s")).collect();
    let mut cpu: Vec<Samples> =
        CASES.iter().map(|case| Samples::new(format!("{}: QEMU's CPU time", case.what), "s")).collect();
    let mut phases: Vec<(String, Samples)> = Vec::new();
    let mut peers = virtme::Peers::find();
    for _ in 0..rounds {
        for (index, case) in CASES.iter().enumerate() {
            let one = boot(&sandbox, case, &initrd);
            times[index].push(one.took.as_secs_f64());
            cpu[index].push(one.cpu);
            for (name, ms) in one.phases.into_iter().filter(|_| index == 0 || index == 3) {
                let name = format!("{}: `{name}`", case.what);
                let place = phases.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                    phases.push((name.clone(), Samples::new(name.clone(), "s")));
                    phases.len() - 1
                });
                phases[place].1.push(ms / 1e3);
            }
        }
        if let Ok(peers) = &mut peers {
            peers.round();
        }
    }
    let mut report = Report::new("provision");
    let (fast, slow) = (times[0].median(), times[3].median());
    report.promise_at_least("the slow path's time in those of the fast one", slow / fast, RATIO);
    match peers {
        Ok(peers) => peers.tell(&mut report),
        Err(why) => report.line(format!("virtme-ng is left out: {why}")),
    }
    let phases = phases.into_iter().map(|(_, samples)| samples);
    times.into_iter().chain(cpu).chain(phases).for_each(|row| report.row(row));
    report.finish();
}

/// One boot of a fresh VM.
struct One {
    /// From before the command's spawn to its end.
    took: Duration,
    /// Seconds of CPU that QEMU had used by then, which a busy host changes less.
    cpu: f64,
    /// Milliseconds since QEMU's spawn.
    phases: Vec<(String, f64)>,
}

fn boot(sandbox: &Sandbox, case: &Case, initrd: &Path) -> One {
    let own = ["--initrd", initrd.to_str().unwrap()];
    let own: &[&str] = if case.own_initrd { &own } else { &[] };
    let base = ["create", "deb", "--image", "debian:12", "--memory", "512M", "--net", "user"];
    sandbox.ok(&[&base, case.flags, own].concat());
    let begun = Instant::now();
    let text = sandbox.ok(&["start", "deb", "--wait=ssh", "-q", "-o", "json"]);
    let took = begun.elapsed();
    let pid = sandbox.process("deb", "qemu").pid;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let phases = answer["phases"].as_array().unwrap().iter();
    let phases =
        phases.map(|p| (p["name"].as_str().unwrap().to_owned(), p["ms"].as_f64().unwrap())).collect();
    let one = One { took, cpu: cpu_seconds(pid), phases };
    sandbox.ok(&["rm", "--force", "deb"]);
    one
}

/// User and system time of a process (proc_pid_stat(5), fields 14 and 15, in hundredths of a second on every architecture of Linux's).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let field =
        |number: usize| after_name.split_whitespace().nth(number - 3).unwrap().parse::<f64>().unwrap();
    (field(14) + field(15)) / 100.0
}

/// The file of a part of the image.
fn image_part(sandbox: &Sandbox, part: &str) -> PathBuf {
    let manifest = sandbox.json(&["image", "inspect", "debian:12"]);
    let manifest = manifest.get("manifest").unwrap_or(&manifest);
    let file = manifest[part]["file"].as_str().unwrap().to_owned();
    let folder = fs::read_dir(sandbox.home().join("images")).unwrap().flatten();
    folder.map(|image| image.path().join(&file)).find(|path| path.is_file()).unwrap()
}
