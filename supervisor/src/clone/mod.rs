//! Clones: new VMs from snapshots.
//!
//! A clone's record is its source's, with a name, an id and MAC addresses of its own; its disk is an overlay on the snapshot's, and its
//! `origin` names the snapshot, which stays for as long as the clone does. Whether it goes on from the snapshot's memory or boots is
//! decided by whoever starts it ([`crate::vm::Begin`]).

mod capacity;

use std::collections::BTreeSet;

pub use capacity::{Needs, Shortage, shortages};

use crate::fault::{self, Point};
use crate::image::overlay::{self, OverlayError};
use crate::machine::DiskFormat;
use crate::snapshot::store::Snapshot;
use crate::snapshot::{SnapshotError, SnapshotName};
use crate::spec::{Mac, Net};
use crate::store::{Home, Origin, Record, SCHEMA, StoreError, VmDir, spare_name};

/// How often a MAC address is drawn anew when it is in use: with 2^24 of them, twice is rare already.
const DRAWS: usize = 64;

/// Why a clone cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The snapshot cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The clone's record cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its disk cannot be made.
    #[error(transparent)]
    Disk(#[from] OverlayError),
    /// There is no MAC address left.
    #[error("no MAC address is free; remove VMs that nobody needs")]
    NoMac,
}

/// What a clone has otherwise than its source.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// It is removed when it ends.
    pub ephemeral: bool,
    /// It is ended after this many seconds.
    pub ttl_seconds: Option<u64>,
    /// It is to go on from the snapshot's memory.
    pub memory: bool,
}

/// Where a clone is made.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// As the VM of this name.
    Vm(&'a str),
    /// As a spare of this pool.
    Spare(&'a SnapshotName),
}

/// The MAC addresses of all VMs, from which each new one is to differ.
#[derive(Debug, Clone)]
pub struct Macs(BTreeSet<String>);

impl Macs {
    /// Those in use now.
    ///
    /// # Errors
    /// When the VMs cannot be listed.
    pub fn in_use(home: &Home) -> Result<Self, StoreError> {
        let records = home.vms_and_spares()?.into_iter().filter_map(|vm| vm.record().ok());
        Ok(Self(records.flat_map(|record| record.macs).collect()))
    }

    fn draw(&mut self) -> Result<String, CloneError> {
        let drawn = (0..DRAWS).map(|_| Mac::random().to_string()).find(|mac| !self.0.contains(mac));
        let mac = drawn.ok_or(CloneError::NoMac)?;
        self.0.insert(mac.clone());
        Ok(mac)
    }
}

/// Makes a VM from a snapshot, which is pinned by the caller ([`SnapshotStore::pin`](crate::snapshot::store::SnapshotStore::pin)). It does not run yet.
///
/// Forwarded ports are its source's alone, and so is an address that was asked for.
///
/// # Errors
/// [`StoreError::Taken`] when the name is in use; nothing is left of a clone that could not be made.
pub fn make(
    home: &Home,
    snapshot: &Snapshot,
    place: Place<'_>,
    options: &Options,
    macs: &mut Macs,
) -> Result<VmDir, CloneError> {
    let manifest = &snapshot.manifest;
    let mut spec = manifest.spec.clone();
    let id = uuid::Uuid::new_v4();
    let dir = match place {
        Place::Vm(name) => home.vm(name),
        Place::Spare(pool) => home.spare(pool, &spare_name(id)),
    };
    dir.name().clone_into(&mut spec.name);
    spec.ephemeral = options.ephemeral;
    spec.ttl_seconds = options.ttl_seconds;
    for net in &mut spec.nets {
        *net = match net {
            Net::User { .. } => Net::User { forwards: Vec::new(), mac: None },
            Net::Nat { .. } => Net::Nat { forwards: Vec::new(), mac: None, ip: None },
            Net::Bridge { bridge, .. } => {
                Net::Bridge { bridge: bridge.clone(), mac: None, ip: None, gateway: None, dns: Vec::new() }
            }
            Net::None { .. } => Net::None { mac: None },
        };
    }
    // A kernel of the user's own may be gone; the snapshot has kept it.
    if let Some(kernel) = &manifest.kernel {
        spec.boot.kernel = Some(snapshot.path(&kernel.file));
        spec.boot.initrd = manifest.initrd.as_ref().map(|initrd| snapshot.path(&initrd.file));
    }
    let record = Record {
        schema: SCHEMA,
        id,
        created: jiff::Timestamp::now(),
        image: manifest.image.clone(),
        macs: spec.nets.iter().map(|_| macs.draw()).collect::<Result<_, _>>()?,
        spec,
    };
    home.create_at(dir, &record, |folder| {
        if let Some(layer) = manifest.disk.as_ref().and_then(|disk| disk.layers.first()) {
            overlay::create(
                &folder.join("disk.qcow2"),
                &snapshot.path(&layer.file),
                DiskFormat::Qcow2,
                None,
            )?;
        }
        Ok(Origin { snapshot: snapshot.id(), memory: options.memory }.write_to(folder)?)
    })
}

/// Gives a VM that does not run the disk of a snapshot of it, and loses what it has had on its own since.
///
/// # Errors
/// What the file system says; the disk is then the one or the other, whole.
pub fn put_back(vm: &VmDir, snapshot: &Snapshot, memory: bool) -> Result<(), CloneError> {
    // From here on there is no way back to where it was suspended: that memory belongs to the disk that goes.
    vm.clear_suspended();
    if let Some(layer) = snapshot.manifest.disk.as_ref().and_then(|disk| disk.layers.first()) {
        let disk = vm.disk();
        // What a save that was cut short has left would be put over the new disk by the next start.
        crate::snapshot::save::settle_disk(&disk)?;
        let fresh = vm.state_dir().join("disk.restored.qcow2");
        let failed = |what: &'static str| {
            let path = disk.clone();
            move |source| SnapshotError::Io { what, path, source }
        };
        match std::fs::remove_file(&fresh) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("make anew")(e).into()),
            _ => {}
        }
        overlay::create(&fresh, &snapshot.path(&layer.file), DiskFormat::Qcow2, None)?;
        std::fs::rename(&fresh, &disk).map_err(failed("put in place"))?;
        fault::at(Point::DiskPutBack);
    }
    vm.write_origin(Origin { snapshot: snapshot.id(), memory })?;
    fault::at(Point::PutBack);
    Ok(())
}
