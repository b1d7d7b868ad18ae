//! Provisioning, end to end: `midge start --wait=ssh` of a Debian 12 with 512 MiB on the fast path (credentials, the small initial RAM disk),
//! against the same disk with Debian's own initial RAM disk and cloud-init; and the two halves of the difference. virtme-ng takes
//! part where it is installed, with the same kernel and the same root. All take turns.
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

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Sandbox;
use serde_json::Value;
use support::{Report, Samples, rounds, run};

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
    let virtme = Virtme::find(&sandbox);
    let mut other = Samples::new("virtme-ng, same kernel and root: until a command has run", "s");
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
        if let Ok(virtme) = &virtme {
            other.push(virtme.run().as_secs_f64());
        }
    }
    let mut report = Report::new("provision");
    let (fast, slow) = (times[0].median(), times[3].median());
    let part = fast / slow;
    let line = format!("the fast path is {:.2} times as fast, promised at least {RATIO}", slow / fast);
    report.line(line);
    report.promise("the fast path's part of the slow one's time", part, 1.0 / RATIO, "");
    match virtme {
        Ok(_) => {
            report.promise("the fast path's part of virtme-ng's time", fast / other.median(), 1.0, "");
            report.row(other);
        }
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

/// virtme-ng, with the image's kernel and its root in a folder.
struct Virtme {
    program: PathBuf,
    kernel: PathBuf,
    root: PathBuf,
}

impl Virtme {
    /// Finds the program, and unpacks the image's root file system for it, which needs root.
    fn find(sandbox: &Sandbox) -> Result<Self, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .map(|folder| folder.join("vng"))
            .find(|path| path.is_file())
            .ok_or("there is no `vng`; `pip install virtme-ng` brings it")?;
        let (disk, kernel) = (image_part(sandbox, "disk"), image_part(sandbox, "kernel"));
        let raw = sandbox.path().join("root.raw");
        let root = sandbox.path().join("root");
        fs::create_dir(&root).map_err(|e| e.to_string())?;
        let step = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(format!("{program}: {words}")) }
        };
        let text = |path: &Path| path.to_str().unwrap_or_default().to_owned();
        step("qemu-img", &["convert", "-O", "raw", &text(&disk), &text(&raw)])?;
        // e2fsprogs' own reader: nothing is mounted.
        step("/sbin/debugfs", &["-R", &format!("rdump / {}", root.display()), &text(&raw)])?;
        fs::remove_file(&raw).map_err(|e| e.to_string())?;
        let found = Self { program, kernel, root };
        found.try_run()?;
        Ok(found)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--run").arg(&self.kernel).arg("--root").arg(&self.root);
        command.args(["--disable-kvm", "--memory", "512M", "--cpus", "1", "--exec", "true"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Once, to see whether it works here.
    fn try_run(&self) -> Result<(), String> {
        let output = self.command().stderr(Stdio::piped()).output().map_err(|e| e.to_string())?;
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().last().unwrap_or("without a word").to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("it does not run here: {last}")) }
    }

    fn run(&self) -> Duration {
        let mut command = self.command();
        command.stderr(Stdio::null());
        run(command)
    }
}
