//! Clones that do not run: a record and a disk that stands on another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::support::{self, Report, Samples};
use super::template::{STOPPED, Template};

pub fn measure(template: &Template, rounds: usize, report: &mut Report) {
    let mut qemu_img = Samples::new("stopped: `qemu-img create -b` alone", "ms");
    let mut midge = Samples::new("stopped: `midge clone --stopped`", "ms");
    let mut whole = Samples::new("stopped: … allocated in all", "KiB");
    let mut disk = Samples::new("stopped: … of it the disk", "KiB");
    let sandbox = &template.sandbox;
    let base = sandbox.vm_file(STOPPED, "disk.qcow2");
    for round in 0..=rounds {
        let overlay = sandbox.path().join(format!("overlay-{round}.qcow2"));
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&base).arg(&overlay);
        let alone = support::run(command);
        fs::remove_file(overlay).unwrap();
        let name = format!("stopped-{round}");
        let mut command = sandbox.midge();
        command.args(["clone", "--stopped", STOPPED, &name]);
        let own = support::run(command);
        let folder = sandbox.vm_file(&name, "");
        let sizes = [allocated(&folder), allocated(&folder.join("disk.qcow2"))];
        sandbox.ok(&["rm", &name]);
        if round > 0 {
            qemu_img.time(alone);
            midge.time(own);
            whole.push(sizes[0]);
            disk.push(sizes[1]);
        }
    }
    let ratio = midge.median() / qemu_img.median();
    report.promise("`clone --stopped`, by `qemu-img create -b`", ratio, 1.0, "times");
    report.promise("`clone --stopped`, allocated in all", whole.median(), 16.0, "KiB");
    report.promise("`clone --stopped`, allocated for the disk", disk.median(), 12.0, "KiB");
    report.rows_with_tail([qemu_img, midge]);
    report.row(whole);
    report.row(disk);
}

/// KiB that a file takes, or a folder with its files.
fn allocated(path: &Path) -> f64 {
    let about = fs::metadata(path).unwrap();
    let files = fs::read_dir(path).into_iter().flatten().map(|entry| allocated(&entry.unwrap().path()));
    about.blocks() as f64 / 2.0 + files.sum::<f64>()
}
