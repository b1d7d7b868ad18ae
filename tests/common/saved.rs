//! Snapshots of VMs that `midge` runs.

use std::fs;
use std::process::Command;

use supervisor::machine::{Ram, ResolvedAccel};
use supervisor::snapshot::check::HostView;
use supervisor::snapshot::manifest::{MANIFEST_SCHEMA, Machine, Manifest, Source};
use supervisor::snapshot::ram::unwatched;
use supervisor::snapshot::store::SnapshotStore;
use supervisor::snapshot::{SnapshotName, migratable, save};
use supervisor::store::{Home, RunState};

use super::{PATIENCE, Sandbox};

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

/// Saves a running VM that booted itself, and lets it go on.
///
/// Its supervisor is killed, as a monitor serves one client at a time; the next command that touches the VM gives it another.
pub fn save(sandbox: &Sandbox, vm: &str, name: &str) {
    let home = Home::new(sandbox.home(), sandbox.run_dir());
    let run: RunState = serde_json::from_value(sandbox.run_state(vm).unwrap()).unwrap();
    sandbox.kill(vm, "supervisor");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = sandbox.run_dir().join("vms").join(vm).join("monitor.sock");
        let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let (monitor, _events) = qmp::Monitor::connect(stream, PATIENCE).await.unwrap();
        let dir = home.vm(vm);
        let record = dir.record().unwrap();
        let disk = Some(dir.disk()).filter(|disk| disk.exists());
        let ram = run.ram_file.clone().expect("the RAM is a file");
        let pid = run.qemu.as_ref().unwrap().pid;
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let words = line.strip_suffix(b"\0").unwrap().split(|byte| *byte == 0).skip(1);
        let arguments: Vec<String> = words.map(|word| String::from_utf8(word.to_vec()).unwrap()).collect();

        let store = SnapshotStore::new(&home);
        let name: SnapshotName = name.parse().unwrap();
        let draft = store.begin(&name, &[]).unwrap();
        let captured = save::save_with_copy(&store, &draft, &monitor, &ram, disk.as_deref(), &mut unwatched)
            .await
            .unwrap();
        let host = HostView::of_this_host(record.spec.arch).unwrap();
        let manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            id: draft.id(),
            name,
            taken: jiff::Timestamp::now(),
            pause_us: u64::try_from(captured.pause.as_micros()).ok(),
            note: None,
            parent: None,
            source: Source {
                id: record.id,
                macs: record.macs.clone(),
                hostname: None,
                addresses: Vec::new(),
                machine_id: None,
            },
            kind: record.spec.kind,
            image: record.image.clone(),
            machine: Machine::of(&arguments, &record.spec, ResolvedAccel::Tcg, &host),
            tied: migratable::judge(&record.spec, &arguments, &Ram::File(ram)).tied,
            spec: record.spec,
            state: Some(captured.state),
            kernel: None,
            initrd: None,
            ram: Some(captured.ram),
            disk: captured.disk,
        };
        draft.publish(&manifest, captured.digests).unwrap();
    });
}
