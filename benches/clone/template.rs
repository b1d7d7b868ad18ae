//! The VM that is cloned: Debian with 512 MiB under emulation, with its guest agent up, saved once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::common::Sandbox;
use supervisor::image::overlay;
use supervisor::machine::DiskFormat;
use supervisor::snapshot::manifest::{DISK, Manifest, RAM, STATE};
use supervisor::snapshot::store::{Snapshot, SnapshotStore};
use supervisor::store::Home;

/// The template's name.
pub const VM: &str = "template";
/// Its snapshot's.
pub const SNAPSHOT: &str = "template@bench";
/// A VM of the same image that never ran.
pub const STOPPED: &str = "stopped";

/// A sandbox with a snapshot of a VM that stands still.
pub struct Template {
    pub sandbox: Sandbox,
    pub snapshot: Snapshot,
}

impl Template {
    pub fn new() -> Self {
        let sandbox = Sandbox::with_debian();
        for vm in [VM, STOPPED] {
            sandbox.ok(&["create", vm, "--image", "debian:12", "--memory", "512M", "--accel", "tcg"]);
        }
        sandbox.ok(&["start", VM, "--wait=agent"]);
        sandbox.ok(&["snapshot", "save", SNAPSHOT]);
        // What its QEMU was started with stays for as long as it lives.
        sandbox.ok(&["pause", VM]);
        let home = Home::new(sandbox.home(), sandbox.run_dir());
        let snapshot = SnapshotStore::new(&home).get(&SNAPSHOT.parse().unwrap()).unwrap();
        Self { sandbox, snapshot }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.snapshot.manifest
    }

    pub fn ram(&self) -> PathBuf {
        self.snapshot.path(RAM)
    }

    pub fn state(&self) -> PathBuf {
        self.snapshot.path(STATE)
    }

    pub fn disk(&self) -> PathBuf {
        self.snapshot.path(DISK)
    }

    /// Makes a disk on the snapshot's.
    pub fn overlay(&self, path: &std::path::Path) {
        let _ = std::fs::remove_file(path);
        overlay::create(path, &self.disk(), DiskFormat::Qcow2, None).unwrap();
    }

    /// midge's own clone, with this identity: how long until the command has ended, the guest running, and until it has answered.
    pub fn clone_and_exec(&self, name: &str, identity: &str) -> [Duration; 2] {
        let begun = Instant::now();
        self.sandbox.ok(&["clone", SNAPSHOT, name, "--identity", identity]);
        let running = begun.elapsed();
        self.sandbox.ok(&["exec", name, "--", "true"]);
        let answered = begun.elapsed();
        self.sandbox.ok(&["rm", "--force", name]);
        [running, answered]
    }
}
