//! What a clone costs: midge's against QEMU alone, a plain script, and the clones of other tools, which take turns in one run.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and what it cannot do ends it")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of samples and milliseconds are small"
)]
#![allow(unreachable_pub, missing_docs, reason = "what benches and tests share is not an interface")]

mod bare;
#[path = "../../tests/common/mod.rs"]
mod common;
mod peers;
mod stopped;
#[path = "../support/mod.rs"]
mod support;
mod template;

use std::process::{Command, Stdio};

use support::{Report, Samples, rounds};
use template::Template;

fn main() {
    let rounds = rounds(30);
    let mut report = Report::new("clone");
    let template = Template::new();
    stopped::measure(&template, rounds, &mut report);
    running(&template, rounds, &mut report);
    peers::measure(&template, rounds, &mut report);
    report.finish();
}

/// From a memory snapshot to a guest that runs, and that answers.
fn running(template: &Template, rounds: usize, report: &mut Report) {
    let bare = bare::Bare::of(template);
    let mut qemu = Samples::new("bare QEMU: spawn, greeting, state load, running", "ms");
    let mut script = Samples::new("plain script: spawn, state load, running", "ms");
    let mut script_answers = Samples::new("plain script: … to the first `exec true` answered", "ms");
    let [mut same, mut same_answers, mut other, mut other_answers] = [
        "midge clone --identity none: until the command has ended, the guest running",
        "midge clone --identity none: … to the first `exec true` answered",
        "midge clone: until the command has ended, the guest another machine",
        "midge clone: … to the first `exec true` answered",
    ]
    .map(|name| Samples::new(name, "ms"));
    let scripted = has(report, "python3", &["--version"]);
    // A first round of each fills the caches, midge's and the system's.
    for round in 0..=rounds {
        let alone = bare.restore();
        let plain = scripted.then(|| bare.script());
        let [none, full] = ["none", "full"]
            .map(|identity| template.clone_and_exec(&format!("{identity}-{round}"), identity));
        if round == 0 {
            continue;
        }
        qemu.time(alone);
        if let Some([running, answered]) = plain {
            script.time(running);
            script_answers.time(answered);
        }
        same.time(none[0]);
        same_answers.time(none[1]);
        other.time(full[0]);
        other_answers.time(full[1]);
    }
    report.promise("midge clone to running, by bare QEMU", same.median() / qemu.median(), 1.25, "times");
    if scripted {
        let ratio = other_answers.median() / script_answers.median();
        report.promise("midge clone to `exec true`, by the plain script", ratio, 0.75, "times");
    }
    report.rows_with_tail([qemu, script, script_answers, same, same_answers, other, other_answers]);
}

/// Whether a program that only some rows need is there. Where it is not, the report says so.
fn has(report: &mut Report, program: &str, version: &[&str]) -> bool {
    let run = Command::new(program)
        .args(version)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if run.is_err() {
        report.line(format!("left out: what needs {program}, which is not installed"));
    }
    run.is_ok()
}
