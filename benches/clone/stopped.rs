//! Clones that do not run: a record and a disk that stands on another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::support::{self, Report, Samples};
use super::template::{STOPPED, Template};

pub fn measure(template: &Template, can_clone: bool, rounds: usize, report: &mut Report) {
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
        let own = can_clone.then(|| {
            let name = format!("stopped-{round}");
            let mut command = sandbox.midge();
            command.args(["clone", "--stopped", STOPPED, &name]);
            let took = support::run(command);
            let folder = sandbox.vm_file(&name, "");
            let sizes = [allocated(&folder), allocated(&folder.join("disk.qcow2"))];
            sandbox.ok(&["rm", &name]);
            (took, sizes)
        });
        if round == 0 {
            continue;
        }
        qemu_img.time(alone);
        if let Some((took, [all, of_disk])) = own {
            midge.time(took);
            whole.push(all);
            disk.push(of_disk);
        }
    }
    if can_clone {
        let ratio = midge.median() / qemu_img.median();
        report.promise("`clone --stopped`, by `qemu-img create -b`", ratio, 1.0, "times");
        report.promise("`clone --stopped`, allocated in all", whole.median(), 16.0, "KiB");
        report.promise("`clone --stopped`, allocated for the disk", disk.median(), 12.0, "KiB");
    }
    report.rows_with_tail([qemu_img, midge]);
    for row in [whole, disk].into_iter().filter(Samples::is_measured) {
        report.row(row);
    }
}

/// KiB that a file takes, or a folder with its files.
fn allocated(path: &Path) -> f64 {
    let about = fs::metadata(path).unwrap();
    let files = fs::read_dir(path).into_iter().flatten().map(|entry| allocated(&entry.unwrap().path()));
    about.blocks() as f64 / 2.0 + files.sum::<f64>()
}
