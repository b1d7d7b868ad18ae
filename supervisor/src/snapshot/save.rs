//! From a running VM to a snapshot: the steps in their order, with what happens when one fails.
//!
//! A VM's disk is `disk.qcow2`. A save links that file into the snapshot's folder, makes `disk.next.qcow2` on top of the link, has QEMU
//! go on with that one, and renames it to `disk.qcow2`. A save that is killed in between leaves `disk.next.qcow2` behind, which
//! [`settle_disk`] puts right: whether QEMU had come to write to it or not, it stands on everything that was written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::qmp::Monitor;

use super::digest::Digests;
use super::engine::{self, HandOverError, HandedOver};
use super::error::{SnapshotError, io_error};
use super::manifest::{DISK, Disk, Part, RAM, RAM_DELTA, Ram, STATE};
use super::ram::delta::{self, Delta};
use super::ram::process::Mapping;
use super::ram::{self, Copied, Extent, Form, Progress};
use super::store::{Draft, Snapshot, SnapshotStore};
use crate::fault::{self, Point};
use crate::image::overlay;
use crate::machine::{DiskFormat, READONLY_RAM};

/// What was captured of a VM: the parts of its snapshot, which lie in the draft's folder.
#[derive(Debug)]
pub struct Captured {
    /// How long the guest stood still; none where it has not gone on.
    pub pause: Option<Duration>,
    /// The device state; none where only the disk was captured.
    pub state: Option<Part>,
    /// RAM, likewise.
    pub ram: Option<Ram>,
    /// The disk, of a VM that has one.
    pub disk: Option<Disk>,
    /// The digests that are known already.
    pub digests: BTreeMap<PathBuf, Digests>,
}

/// The name of the next layer of a VM's disk until it is the VM's disk.
#[must_use]
pub fn next_disk(disk: &Path) -> PathBuf {
    disk.with_file_name("disk.next.qcow2")
}

/// Puts right what a save that was killed has left of a VM's disk. To be called before a VM is started and before it is saved; does nothing
/// where there is nothing to do.
pub fn settle_disk(disk: &Path) -> Result<(), SnapshotError> {
    let next = next_disk(disk);
    // It may have been killed before the layer was whole, and then nobody has used it.
    let whole = match super::qcow2::backing(&next) {
        Ok(backing) => backing.is_some_and(|below| below.exists()),
        Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(SnapshotError::Damaged { .. }) => false,
        Err(e) => return Err(e),
    };
    if whole {
        fs::rename(&next, disk).map_err(io_error("rename into place", disk))
    } else {
        fs::remove_file(&next).map_err(io_error("remove", &next))
    }
}

/// As [`settle_disk`], for the disk of a VM that runs in the process `qemu`: a layer that it has not opened was of no use to anyone.
pub fn settle_disk_of(disk: &Path, qemu: u32) -> Result<(), SnapshotError> {
    let next = next_disk(disk);
    if !next.exists() {
        return Ok(());
    }
    if is_open_in(&next, qemu)? {
        settle_disk(disk)
    } else {
        fs::remove_file(&next).map_err(io_error("remove", &next))
    }
}

/// Whether a process has this very file open, by whatever name.
pub fn is_open_in(file: &Path, pid: u32) -> Result<bool, SnapshotError> {
    let wanted = fs::metadata(file).map_err(io_error("look at", file))?;
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut open = fs::read_dir(&folder).map_err(io_error("list", &folder))?.flatten();
    let is_it = |about: fs::Metadata| (about.dev(), about.ino()) == (wanted.dev(), wanted.ino());
    Ok(open.any(|entry| fs::metadata(entry.path()).is_ok_and(is_it)))
}

/// Takes a VM's disk into the draft and makes the layer that the VM is to go on with. Answers where that is.
///
/// # Errors
/// [`SnapshotError::NotMigratable`] for a raw disk: QEMU can put no layer on it that the VM would find again.
pub fn prepare_disk(draft: &Draft, disk: &Path) -> Result<PathBuf, SnapshotError> {
    if disk.extension().is_some_and(|extension| extension == "raw") {
        let why = "its disk is a raw file that shares blocks with its image's; create it with `--cow qcow2`";
        return Err(SnapshotError::NotMigratable(vec![why.to_owned()]));
    }
    settle_disk(disk)?;
    let below = draft.link_disk(disk)?;
    fault::at(Point::DiskLinked);
    let next = next_disk(disk);
    overlay::create(&next, &below, DiskFormat::Qcow2, None).map_err(|e| {
        let source = io::Error::other(e);
        SnapshotError::Io { what: "make the next layer of the disk,", path: next.clone(), source }
    })?;
    fault::at(Point::LayerMade);
    Ok(next)
}

/// Gives up the layer that [`prepare_disk`] made: the VM goes on with its disk as it was.
pub fn forget_next(disk: Option<&Path>) {
    let Some(next) = disk.map(next_disk) else { return };
    if let Err(e) = fs::remove_file(&next) {
        tracing::warn!("cannot remove {}: {e}", next.display());
    }
}

/// The first half of a save by handing over ([`engine::hand_over`]): the guest goes on in `new`, which was started on `ram` and on
/// what [`prepare_disk`] made. [`finish_hand_over`] is the second.
///
/// A guest that stood still before goes over as it is: `goes_on` is false then. Where this fails the VM's disk is as it was before
/// [`prepare_disk`], unless the guest stands still.
pub async fn hand_over<F: Future<Output = ()>>(
    old: &Monitor,
    new: &Monitor,
    disk: Option<&Path>,
    stderr: Option<&Path>,
    goes_on: bool,
    keep: impl FnOnce(&[u8]),
    discard: impl FnOnce() -> F,
) -> Result<HandedOver, HandOverError> {
    let handed = engine::hand_over(old, new, stderr, goes_on, keep, discard).await;
    match &handed {
        Ok(_) => {
            // What fails here is done by the next start of the VM.
            if let Some(Err(e)) = disk.map(settle_disk) {
                tracing::warn!("{}", crate::error::chain(&e));
            }
            fault::at(Point::DiskTaken);
        }
        Err(_) => forget_next(disk),
    }
    handed
}

/// Writes the snapshot of a guest that was handed over, while it runs: `ram` is the file that the first QEMU, which is gone, has written to.
/// Takes as long as that many bytes take to be written, so it belongs on a thread of its own.
pub fn finish_hand_over(
    store: &SnapshotStore,
    draft: &Draft,
    handed: &HandedOver,
    ram: &Path,
    progress: Progress<'_>,
) -> Result<Captured, SnapshotError> {
    let copied = ram::copy(ram, &draft.path(RAM), progress)?;
    fault::at(Point::RamCopied);
    finish(store, draft, &handed.state, Some(handed.pause), None, Some(copied))
}

/// Captures a VM that booted itself and is to end: its RAM file is moved where it lies on the store's file system, and copied where it does
/// not. The guest stands still from now on, and goes on only where this fails.
pub async fn save_and_stop(
    store: &SnapshotStore,
    draft: &Draft,
    monitor: &Monitor,
    ram: &Path,
    disk: Option<&Path>,
    progress: Progress<'_>,
) -> Result<Captured, SnapshotError> {
    engine::check_migratable(monitor).await?;
    if let Some(disk) = disk {
        prepare_disk(draft, disk)?;
    }
    engine::pause(monitor).await.inspect_err(|_| forget_next(disk))?;
    fault::at(Point::Paused);
    let captured = async {
        switch(monitor, draft, disk).await?;
        let state = engine::state_of_template(monitor).await?;
        fault::at(Point::StateSaved);
        let flat = draft.path(RAM);
        let copied = if ram::take(ram, &flat)? { None } else { Some(ram::copy(ram, &flat, progress)?) };
        fault::at(Point::RamTaken);
        finish(store, draft, &state, None, None, copied)
    };
    let captured = captured.await;
    if captured.is_err() {
        // The error that led here says more than one of this would.
        let _ = engine::resume(monitor).await;
    }
    captured
}

/// Captures the disk of a VM that runs, as it is at one moment, and lets it go on.
pub async fn save_disk(
    store: &SnapshotStore,
    draft: &Draft,
    monitor: &Monitor,
    disk: &Path,
) -> Result<Captured, SnapshotError> {
    prepare_disk(draft, disk)?;
    // Putting the layer on the disk drains and flushes it (QEMU, block.c, `bdrv_append()` between drained sections).
    switch(monitor, draft, Some(disk)).await?;
    captured_disk(store, draft)
}

/// Captures the disk of a VM that does not run.
pub fn take_disk(store: &SnapshotStore, draft: &Draft, disk: &Path) -> Result<Captured, SnapshotError> {
    prepare_disk(draft, disk)?;
    settle_disk(disk)?;
    fault::at(Point::DiskTaken);
    captured_disk(store, draft)
}

fn captured_disk(store: &SnapshotStore, draft: &Draft) -> Result<Captured, SnapshotError> {
    let disk = disk_of(store, draft)?;
    Ok(Captured { pause: None, state: None, ram: None, disk, digests: BTreeMap::new() })
}

/// A clone that is to be saved.
#[derive(Debug)]
pub struct CloneSource<'a> {
    /// Its QEMU's monitor.
    pub monitor: &'a Monitor,
    /// Its QEMU's process.
    pub pid: u32,
    /// The state that it was loaded from.
    pub state: &'a [u8],
    /// The snapshot whose flat RAM file holds the same bytes as the one that it maps ([`SnapshotStore::ram_base`]); none where there is no
    /// such snapshot, and its RAM has to be saved whole.
    pub base: Option<uuid::Uuid>,
    /// The flat RAM file that it maps: [`SnapshotStore::flat_ram`], or the file of a VM that went on as the first clone of its own
    /// snapshot.
    pub mapped: &'a Path,
    /// Its disk.
    pub disk: Option<&'a Path>,
    /// It goes on afterwards.
    pub goes_on: bool,
}

/// Saves a clone: only what differs from its parent is written.
pub async fn save_clone(
    store: &SnapshotStore,
    draft: &Draft,
    source: &CloneSource<'_>,
    progress: Progress<'_>,
) -> Result<Captured, SnapshotError> {
    let CloneSource { monitor, pid, state: parent_state, base, mapped, disk, goes_on } = *source;
    engine::check_migratable(monitor).await?;
    let mapping = Mapping::private_of(pid, mapped)?;
    let size = fs::metadata(mapped).map_err(io_error("look at", mapped))?.len();
    // What is known before the guest stops decides the form, and what need not wait for that is done.
    let before = Extent::total(&mapping.own_pages()?);
    let flat = draft.path(RAM);
    let reflink = ram::reflink(mapped, &flat)?;
    let form = if base.is_some() { Form::choose(before, reflink) } else { Form::Flat };
    if form == Form::Flat && !reflink {
        ram::copy(mapped, &flat, progress)?;
        ram::set_writable(&flat)?;
    }
    if let Some(disk) = disk {
        prepare_disk(draft, disk)?;
    }

    let since = engine::pause(monitor).await.inspect_err(|_| forget_next(disk))?;
    fault::at(Point::Paused);
    let captured = async {
        switch(monitor, draft, disk).await?;
        let state = engine::state_of_clone(monitor, parent_state).await?;
        fault::at(Point::StateSaved);
        let own = mapping.own_pages()?;
        let memory = mapping.memory()?;
        // The name of its base is of no account where the delta is only on its way into a flat file.
        let base = base.unwrap_or_default();
        delta::write(&draft.path(RAM_DELTA), base, size, &own, |at, into| memory.read(at, into))?;
        fault::at(Point::DeltaWritten);
        Ok::<_, SnapshotError>(state)
    };
    let captured = captured.await;
    let resumed = if goes_on || captured.is_err() { engine::resume(monitor).await } else { Ok(()) };
    let pause = goes_on.then(|| since.elapsed());
    fault::at(Point::Resumed);
    let state = captured?;
    resumed?;

    if form == Form::Delta {
        return finish(store, draft, &state, pause, base, None);
    }
    let file = draft.path(RAM_DELTA);
    Delta::open(&file)?.apply_to_file(&flat, progress)?;
    fs::remove_file(&file).map_err(io_error("remove", &file))?;
    finish(store, draft, &state, pause, None, None)
}

/// Has QEMU go on with the next layer, and makes that the VM's disk.
async fn switch(monitor: &Monitor, draft: &Draft, disk: Option<&Path>) -> Result<(), SnapshotError> {
    let Some(disk) = disk else { return Ok(()) };
    // Node names are at most 31 bytes long (block.c, `bdrv_assign_node_name()`).
    let suffix = draft.id().simple().to_string();
    let switched = engine::switch_disk(monitor, &next_disk(disk), &suffix[..12]).await;
    if switched.is_err() {
        forget_next(Some(disk));
    }
    switched?;
    fault::at(Point::Switched);
    settle_disk(disk)?;
    fault::at(Point::DiskTaken);
    Ok(())
}

fn finish(
    store: &SnapshotStore,
    draft: &Draft,
    state: &[u8],
    pause: Option<Duration>,
    base: Option<uuid::Uuid>,
    copied: Option<Copied>,
) -> Result<Captured, SnapshotError> {
    draft.write(STATE, state)?;
    let ram = Ram { part: part(draft, if base.is_some() { RAM_DELTA } else { RAM })?, base };
    let disk = disk_of(store, draft)?;
    let digests = copied.map(|copied| (PathBuf::from(RAM), copied.digests)).into_iter().collect();
    Ok(Captured { pause, state: Some(part(draft, STATE)?), ram: Some(ram), disk, digests })
}

/// The disk that was taken into the draft, if there is one.
fn disk_of(store: &SnapshotStore, draft: &Draft) -> Result<Option<Disk>, SnapshotError> {
    let path = draft.path(DISK);
    if !path.exists() {
        return Ok(None);
    }
    let virtual_size = overlay::virtual_size(&path, DiskFormat::Qcow2).map_err(|e| SnapshotError::Io {
        what: "read the size of",
        path: path.clone(),
        source: io::Error::other(e),
    })?;
    Ok(Some(Disk { layers: vec![part(draft, DISK)?], base: store.disk_base(&path)?, virtual_size }))
}

/// A file of the draft.
fn part(draft: &Draft, file: &str) -> Result<Part, SnapshotError> {
    let path = draft.path(file);
    let size = fs::metadata(&path).map_err(io_error("look at", &path))?.len();
    Ok(Part { file: file.into(), size })
}

/// Loads a snapshot into a QEMU that was started for it: with `-incoming defer`, on [`SnapshotStore::flat_ram`], with a disk on the
/// snapshot's. The guest then stands where it was saved.
///
/// State and links are compared before; RAM and disk, which are large, by [`SnapshotStore::verify`] when that is asked for.
pub async fn load(
    store: &SnapshotStore,
    snapshot: &Snapshot,
    monitor: &Monitor,
    pid: u32,
    stderr: Option<&Path>,
) -> Result<(), SnapshotError> {
    store.check_links(snapshot)?;
    store.refuse_writers(snapshot)?;
    let no_state = || SnapshotError::Damaged {
        path: snapshot.folder.clone(),
        what: "it has no state: it is a snapshot of a disk only".to_owned(),
    };
    let state = store.state(snapshot)?.ok_or_else(no_state)?;
    if let Some(ram) = snapshot.manifest.ram.as_ref().filter(|ram| ram.base.is_some()) {
        let flat = store.flat_ram(snapshot).ok_or_else(no_state)?;
        let mapping = Mapping::private_of(pid, &flat)?;
        Delta::open(&snapshot.path(&ram.part.file))?.apply_to_process(&mapping, &mut ram::unwatched)?;
    }
    engine::load(monitor, &state, stderr).await
}

impl SnapshotStore {
    /// The snapshot whose flat RAM file the clones of this one map: its own, or that which its delta stands on.
    #[must_use]
    pub fn ram_base(&self, snapshot: &Snapshot) -> Option<uuid::Uuid> {
        snapshot.manifest.ram.as_ref().map(|ram| ram.base.unwrap_or(snapshot.id()))
    }

    /// Refuses a snapshot whose RAM file another program has open for writing: a private mapping shows what is written to the file
    /// in all pages that were not yet copied (mmap(2)). What cannot be told is not held against it.
    pub fn refuse_writers(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let old = |machine: &super::manifest::Machine| (machine.qemu.0, machine.qemu.1) < READONLY_RAM;
        // An older QEMU opens it so itself, and does not write.
        if snapshot.manifest.machine.as_ref().is_some_and(old) {
            return Ok(());
        }
        match self.flat_ram(snapshot) {
            Some(flat) if ram::is_open_for_writing(&flat)? == Some(true) => {
                Err(SnapshotError::OpenForWriting(flat))
            }
            _ => Ok(()),
        }
    }

    /// The flat RAM file that clones of this snapshot map.
    #[must_use]
    pub fn flat_ram(&self, snapshot: &Snapshot) -> Option<PathBuf> {
        self.ram_base(snapshot).map(|base| self.folder(base).join(RAM))
    }
}
