//! `midge ls` with 200 VMs as a whole process, and the other commands that only touch records, beside what any process
//! costs here (`/bin/true`) and what listing a folder costs (`ls -l`).
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

use std::process::Command;

use common::Sandbox;
use supervisor::store::{Home, LastRun, SCHEMA, StoreError};
use supervisor::vm::{Cause, End};
use support::{Report, Samples, rounds, run};

/// VMs in the store.
const VMS: usize = 200;

fn main() {
    let rounds = rounds(50);
    let sandbox = Sandbox::new();
    fill(&sandbox);

    let midge = |args: &[&str]| {
        let mut command = sandbox.midge();
        command.args(args);
        command
    };
    let listing = sandbox.ok(&["ls"]);
    assert_eq!(listing.lines().count(), VMS + 1, "a header and a line for each VM");

    let vms = sandbox.home().join("vms");
    let list_folder = || {
        let mut command = Command::new("/bin/ls");
        command.arg("-l").arg(&vms);
        command
    };
    let mut nothing = Samples::new("/bin/true", "ms");
    let mut folder = Samples::new(format!("ls -l of {VMS} folders"), "ms");
    let mut version = Samples::new("midge version", "ms");
    let mut ls = Samples::new(format!("midge ls, {VMS} VMs"), "ms");
    let mut json = Samples::new(format!("midge ls -o json, {VMS} VMs"), "ms");
    let mut names = Samples::new(format!("midge ls -q, {VMS} VMs"), "ms");
    let mut inspect = Samples::new("midge inspect", "ms");
    let mut create = Samples::new("midge create", "ms");
    let mut rm = Samples::new("midge rm", "ms");
    for round in 0..=rounds {
        let new = format!("new-{round}");
        let times = [
            (&mut nothing, run(Command::new("/bin/true"))),
            (&mut folder, run(list_folder())),
            (&mut version, run(midge(&["version"]))),
            (&mut ls, run(midge(&["ls"]))),
            (&mut json, run(midge(&["ls", "-o", "json"]))),
            (&mut names, run(midge(&["ls", "-q"]))),
            (&mut inspect, run(midge(&["inspect", "vm-100"]))),
            (&mut create, run(midge(&["create", &new, "--image", "hello"]))),
            (&mut rm, run(midge(&["rm", &new]))),
        ];
        // The first round fills the system's caches.
        if round > 0 {
            for (samples, time) in times {
                samples.time(time);
            }
        }
    }

    let mut report = Report::new("ls");
    report.promise(&format!("`midge ls` of {VMS} VMs"), ls.median(), 10.0, "ms");
    report.line(format!(
        "`midge ls` takes {:.1} times as long as /bin/true, and {:.1} times as long as `ls -l`",
        ls.median() / nothing.median(),
        ls.median() / folder.median()
    ));
    for row in [nothing, folder, version, ls, json, names, inspect, create, rm] {
        report.row(row);
    }
    report.finish();
}

/// Fills the store: one VM by the command, the others as it would have made them, each after a run.
fn fill(sandbox: &Sandbox) {
    sandbox.ok(&["create", "vm-0", "--image", "hello", "-p", "8080:80", "--label", "job=7"]);
    let home = Home::new(sandbox.home(), sandbox.run_dir());
    let first = home.existing_vm("vm-0").unwrap().record().unwrap();
    for number in 1..VMS {
        let mut record = first.clone();
        record.spec.name = format!("vm-{number}");
        let vm = home.create_vm::<StoreError>(&record, |_| Ok(())).unwrap();
        let last = LastRun {
            schema: SCHEMA,
            started: record.created,
            ended: record.created,
            end: End { cause: Cause::PoweredOff, asked_by: None },
            phases: Vec::new(),
        };
        vm.write_last_run(&last).unwrap();
    }
}
