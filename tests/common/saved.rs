//! VMs to be saved.

use std::fs;
use std::process::Command;

use super::Sandbox;

/// A VM with a disk and without a system on it: its firmware runs, and finds nothing to boot. The first letter of its name is written
/// on its disk from 2 MiB on. Needs the image `blank` of [`blank_image`].
pub fn start_machine(sandbox: &Sandbox, vm: &str) {
    sandbox.ok(&["create", vm, "--image", "blank", "--memory", "32M", "--accel", "tcg", "--machine", "q35"]);
    let write = format!("write -P {} 2M 64k", vm.as_bytes()[0]);
    let disk = sandbox.vm_file(vm, "disk.qcow2");
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(disk).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    sandbox.ok(&["start", vm]);
}

/// An image with nothing but a disk of zeros and some bytes.
pub fn blank_image(sandbox: &Sandbox) {
    let [raw, qcow2] = ["blank.raw", "blank.qcow2"].map(|name| sandbox.path().join(name));
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20..2 << 20].fill(0x5a);
    fs::write(&raw, bytes).unwrap();
    // Of the same bytes in every sandbox, and so the same image.
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    let output = Command::new("qemu-img").args(convert).args([&raw, &qcow2]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    sandbox.ok(&["image", "import", qcow2.to_str().unwrap(), "--name", "blank"]);
}
