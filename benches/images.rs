//! What a VM of an image that is there already costs: `midge create` as a whole process, and the room of its disk; beside what any
//! process costs here (`/bin/true`) and what `qemu-img` takes for the same overlay.
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
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::Sandbox;
use support::{Report, Samples, rounds, run};

fn main() {
    let rounds = rounds(40);
    let sandbox = Sandbox::with_debian();
    let inspected = sandbox.json(&["image", "inspect", "debian:12"]);
    let file = inspected["manifest"]["disk"]["file"].as_str().unwrap();
    let base = Path::new(inspected["folder"].as_str().unwrap()).join(file);
    let overlay = sandbox.path().join("overlay.qcow2");

    let mut nothing = Samples::new("/bin/true", "ms");
    let mut create = Samples::new("midge create of debian:12, 20G", "ms");
    let mut qemu_img = Samples::new("qemu-img create of the same overlay", "ms");
    let mut room = Samples::new("room of the disk", "KiB");
    for round in 0..=rounds {
        let name = format!("vm-{round}");
        let mut midge = sandbox.midge();
        midge.args(["create", &name, "--image", "debian:12", "--disk", "20G"]);
        let mut other = Command::new("qemu-img");
        other.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&base).arg(&overlay).arg("20G");
        let times = [
            (&mut nothing, run(Command::new("/bin/true"))),
            (&mut create, run(midge)),
            (&mut qemu_img, run(other)),
        ];
        // The first round fills the system's caches, and makes midge's own key.
        if round > 0 {
            for (samples, time) in times {
                samples.time(time);
            }
            let about = fs::metadata(sandbox.vm_file(&name, "disk.qcow2")).unwrap();
            room.push(about.blocks() as f64 / 2.0);
        }
        fs::remove_file(&overlay).unwrap();
    }

    let mut report = Report::new("images");
    report.promise("`midge create` from an image that is there", create.median(), 10.0, "ms");
    report.promise("room of the new VM's disk", room.median(), 16.0, "KiB");
    for row in [nothing, create, qemu_img, room] {
        report.row(row);
    }
    report.finish();
}
