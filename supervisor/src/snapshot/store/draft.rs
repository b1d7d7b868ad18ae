//! A snapshot in the making.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use uuid::Uuid;

use super::verify::{DIGESTS, Digested};
use super::{Pin, Snapshot, SnapshotStore, try_own};
use crate::fault::{self, Point};
use crate::machine::READONLY_RAM;
use crate::snapshot::SnapshotName;
use crate::snapshot::digest::Digests;
use crate::snapshot::error::{SnapshotError, io_error};
use crate::snapshot::manifest::{DISK, MANIFEST, Manifest, Part, RAM};
use crate::snapshot::ram::unwatched;
use crate::store::StoreError;

/// A snapshot in the making: its folder is where it will be, and seen by nobody. Dropping it unpublished removes it, but for a disk that a
/// VM has come to stand on.
#[derive(Debug)]
pub struct Draft {
    store: SnapshotStore,
    id: Uuid,
    lock: Option<Flock<File>>,
    /// It takes the name from a snapshot that has it.
    replaces: bool,
    /// What the snapshot will stand on stays until it is published and says so itself.
    _needs: Vec<Pin>,
}

impl SnapshotStore {
    /// Begins a snapshot that will stand on `needs`.
    ///
    /// # Errors
    /// [`SnapshotError::Taken`] when the name is in use: told before the guest is stopped. It is looked at again when the snapshot is
    /// published, as two may be in the making.
    pub fn begin(&self, name: &SnapshotName, needs: &[Snapshot]) -> Result<Draft, SnapshotError> {
        if self.names()?.iter().any(|(known, _)| known == name) {
            return Err(SnapshotError::Taken(name.to_string()));
        }
        self.begin_unnamed(needs)
    }

    /// As [`Self::begin`], for a snapshot that takes its name from another one, in one step when it is published. The files of the one
    /// before stay for as long as somebody needs them.
    pub fn begin_over(&self, needs: &[Snapshot]) -> Result<Draft, SnapshotError> {
        let mut draft = self.begin_unnamed(needs)?;
        draft.replaces = true;
        Ok(draft)
    }

    fn begin_unnamed(&self, needs: &[Snapshot]) -> Result<Draft, SnapshotError> {
        let mut pins = Vec::new();
        for snapshot in needs {
            pins.extend(self.pin(snapshot)?);
        }
        loop {
            let id = Uuid::new_v4();
            let folder = self.folder(id);
            // The lock of the store keeps others from sweeping the folder away before it is locked.
            let _lock = self.lock()?;
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(io_error("make", &folder))?,
            }
            let lock = try_own(&folder)?;
            fault::at(Point::SaveBegun);
            return Ok(Draft { store: self.clone(), id, lock, replaces: false, _needs: pins });
        }
    }
}

impl Draft {
    /// The id that the snapshot will have.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// Where its files belong. Each is to be readable by its owner only, as they hold a guest's memory.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.store.folder(self.id)
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder().join(file)
    }

    /// Takes a VM's disk in, by a further name of the same file: from the moment that the VM writes to another layer on top of this path it
    /// never changes. Until then the VM may go on using it under its own name.
    pub fn link_disk(&self, disk: &Path) -> Result<PathBuf, SnapshotError> {
        let path = self.path(DISK);
        fs::hard_link(disk, &path).map_err(io_error("take in", disk))?;
        Ok(path)
    }

    /// Takes a copy of a file in, such as a kernel of the user's own; blocks are shared where the file system can.
    pub fn copy_in(&self, file: &str, from: &Path) -> Result<Part, SnapshotError> {
        let path = self.path(file);
        let size = fs::copy(from, &path).map_err(io_error("take in", from))?;
        Ok(Part { file: file.into(), size })
    }

    /// Writes a small part, such as the state.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
        let path = self.path(file);
        let mut out = create(&path)?;
        io::Write::write_all(&mut out, bytes).map_err(io_error("write", &path))
    }

    /// Publishes it under the manifest's name. `known` are digests that were taken while parts were written; the others are taken
    /// now.
    ///
    /// All parts are on the disk before the manifest is, so that a power cut leaves a whole snapshot or none.
    ///
    /// # Errors
    /// [`SnapshotError::Taken`] when the name is in use: nothing is published then.
    pub fn publish(
        mut self,
        manifest: &Manifest,
        mut known: BTreeMap<PathBuf, Digests>,
    ) -> Result<Snapshot, SnapshotError> {
        let folder = self.folder();
        let text = manifest.text()?;
        let mut digested = Digested { id: self.id, files: BTreeMap::new() };
        digested.add_bytes(MANIFEST, &text);
        for part in manifest.parts() {
            let path = folder.join(&part.file);
            let digests = match known.remove(&part.file) {
                Some(digests) => digests,
                None => Digests::of_file(&path, &mut unwatched)?,
            };
            if digests.length != part.size {
                let what = format!("it has {} bytes and should have {}", digests.length, part.size);
                return Err(SnapshotError::Damaged { path, what });
            }
            digested.files.insert(part.file.clone(), digests);
            let file = File::open(&path).map_err(io_error("open", &path))?;
            // A hard link to the disk that a VM had is no longer that VM's to write.
            let mode = if opened_for_writing(manifest, &part.file) { 0o600 } else { 0o400 };
            file.set_permissions(Permissions::from_mode(mode)).map_err(io_error("seal", &path))?;
            file.sync_all().map_err(io_error("write to disk", &path))?;
        }
        write_whole(&folder, DIGESTS, &digested.text()?)?;
        fault::at(Point::Sealed);

        let _lock = self.store.lock()?;
        let link = self.store.names_folder().join(manifest.name.to_string());
        let target = Path::new("..").join(self.id.to_string());
        let before = fs::read_link(&link).ok().filter(|_| self.replaces);
        if before.is_some() {
            // The manifest first: the name leads to a whole snapshot at every moment.
            write_whole(&folder, MANIFEST, &text)?;
        }
        match named(&target, &link, before.is_some()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(SnapshotError::Taken(manifest.name.to_string()));
            }
            Err(e) => return Err(io_error("name", &link)(e)),
        }
        fault::at(Point::Named);
        // A name that leads to a folder without a manifest is seen by nobody, so this is the moment.
        if before.is_none()
            && let Err(e) = write_whole(&folder, MANIFEST, &text)
        {
            let _ = fs::remove_file(&link);
            return Err(e);
        }
        fault::at(Point::Published);
        self.lock = None;
        Ok(Snapshot { manifest: manifest.clone(), folder, names: vec![manifest.name.clone()] })
    }
}

/// Gives a name, in the place of what had it where that is wanted.
fn named(target: &Path, link: &Path, replace: bool) -> io::Result<()> {
    if !replace {
        return symlink(target, link);
    }
    // No snapshot's name begins with a dot.
    let new = link.with_file_name(format!(".new-{}", Uuid::new_v4()));
    symlink(target, &new)?;
    fs::rename(&new, link).inspect_err(|_| drop(fs::remove_file(&new)))
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(own) = self.lock.take() else { return };
        if let Err(e) = self.store.abandon(self.id, own) {
            tracing::warn!("cannot remove an unfinished snapshot: {}", crate::error::chain(&e));
        }
    }
}

/// Whether the QEMU that a snapshot is for opens this file for writing, although it maps it privately and never writes: RAM before 8.2.
fn opened_for_writing(manifest: &Manifest, file: &Path) -> bool {
    let old = manifest.machine.as_ref().is_some_and(|m| (m.qemu.0, m.qemu.1) < READONLY_RAM);
    old && file == Path::new(RAM)
}

/// A new file, readable by its owner only.
pub(in crate::snapshot) fn create(path: &Path) -> Result<File, SnapshotError> {
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.read(true).write(true).create_new(true).open(path).map_err(io_error("create", path))
}

/// Writes a file whole or not at all, also after a power cut.
fn write_whole(folder: &Path, file: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
    let path = folder.join(file);
    crate::store::write_whole(&path, bytes, true).map_err(|e| match e {
        StoreError::Io { action, path, source } => SnapshotError::Io { what: action, path, source },
        other => other.into(),
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("write to disk", folder))
}
