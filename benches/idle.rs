//! What a supervisor costs while nothing happens: its memory, and how often it wakes up in a minute.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and what it cannot do ends it")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of samples and kilobytes are small"
)]
#![allow(unreachable_pub, missing_docs, reason = "what benches and tests share is not an interface")]

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::Sandbox;
use supervisor::host::proc::{ProcessId, Signal};
use support::{Report, Samples};

/// How long nothing happens.
const QUIET: Duration = Duration::from_secs(60);
/// The guest's start and strace's coming are over after this.
const SETTLED: Duration = Duration::from_secs(3);

fn main() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "hello", "--image", "hello"]);
    sandbox.ok(&["start", "hello", "--wait"]);
    let supervisor = sandbox.process("hello", "supervisor");
    thread::sleep(SETTLED);

    let mut report = Report::new("idle");
    let memory = memory(supervisor.pid);
    for name in ["Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous"] {
        let mut row = Samples::new(name, "MB");
        row.push(memory[name] as f64 / 1e3);
        report.row(row);
    }
    let private = (memory["Private_Clean"] + memory["Private_Dirty"]) as f64 / 1e3;
    report.promise("private memory of a supervisor", private, 8.0, "MB");

    println!("nothing happens for {} s", QUIET.as_secs());
    let before = switches(supervisor.pid);
    thread::sleep(QUIET);
    let after = switches(supervisor.pid);
    report.line(format!("{} thread(s)", after.len()));
    for (thread, count) in &after {
        let more = count - before.get(thread).unwrap_or(&0);
        report.line(format!("thread {thread}: {more} context switches in {} s", QUIET.as_secs()));
    }
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    report.promise(
        &format!("wake-ups of a supervisor in {} s", QUIET.as_secs()),
        sum(&after) as f64 - sum(&before) as f64,
        0.0,
        "context switches",
    );

    println!("nothing happens for {} s more, under strace", QUIET.as_secs());
    match system_calls(&supervisor, &sandbox.path().join("strace")) {
        Some(calls) => {
            report.promise(
                &format!("system calls of a supervisor in {} s", QUIET.as_secs()),
                calls.len() as f64,
                0.0,
                "calls",
            );
            for call in calls.iter().take(20) {
                report.line(format!("  {call}"));
            }
        }
        None => report.line("strace is not installed: system calls were not counted"),
    }
    assert!(supervisor.is_alive(), "the supervisor ended{}", sandbox.logs());
    report.finish();
}

/// The sums of proc_pid_smaps(5), in kB of 1024 bytes scaled to kB of 1000.
fn memory(pid: u32) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let sizes = text.lines().filter_map(|line| {
        let (name, size) = line.split_once(':')?;
        let kib: u64 = size.trim().strip_suffix(" kB")?.parse().ok()?;
        Some((name.to_owned(), kib * 1024 / 1000))
    });
    sizes.collect()
}

/// How often each thread was switched away from, by its own will or not: it ran once more than that at most.
fn switches(pid: u32) -> BTreeMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let count = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
        let number = |key: &str| value(key).and_then(|text| text.trim().parse::<u64>().ok());
        let sum = number("voluntary_ctxt_switches:")? + number("nonvoluntary_ctxt_switches:")?;
        let name = value("Name:")?.trim();
        Some((format!("{} ({name})", thread.file_name().to_string_lossy()), sum))
    };
    threads.filter_map(count).collect()
}

/// The system calls of every thread in [`QUIET`], one line each; nothing without strace.
///
/// Attaching wakes each thread once, and `epoll_wait(2)` then ends with EINTR and is called again (signal(7)); so the
/// first moments do not count.
fn system_calls(process: &ProcessId, file: &Path) -> Option<Vec<String>> {
    let mut command = Command::new("strace");
    command.args(["-f", "-ttt", "-p"]).arg(process.pid.to_string()).arg("-o").arg(file);
    let mut strace = match command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(strace) => strace,
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        Err(e) => panic!("{command:?}: {e}"),
    };
    thread::sleep(SETTLED);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let from = now();
    thread::sleep(QUIET);
    let until = now();
    let tracer = ProcessId::of(strace.id()).unwrap().open().unwrap().expect("strace lives");
    tracer.signal(Signal::INT).unwrap();
    strace.wait().unwrap();
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("epoll_wait") || text.contains("detached"), "strace saw nothing at all: {text}");
    let at = |line: &str| line.split_whitespace().nth(1).and_then(|time| time.parse::<f64>().ok());
    let counted = |line: &&str| at(line).is_some_and(|time| (from..until).contains(&time));
    Some(text.lines().filter(counted).map(ToOwned::to_owned).collect())
}
