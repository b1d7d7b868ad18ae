//! Who needs a snapshot's files, and removing what nobody needs.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use uuid::Uuid;

use super::{Listing, Snapshot, SnapshotStore, linked, read_dir, try_own};
use crate::snapshot::SnapshotName;
use crate::snapshot::error::{SnapshotError, io_error};
use crate::snapshot::manifest::{DISK, DiskBase, RAM, RAM_DELTA, STATE};
use crate::snapshot::qcow2;

/// Somebody who needs files of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A VM that was cloned from it and maps its memory while it runs.
    Clone(String),
    /// A VM whose disk stands on it.
    Disk(String),
    /// A snapshot whose memory stands on its.
    SnapshotRam(String),
    /// A snapshot whose disk stands on its.
    SnapshotDisk(String),
}

impl User {
    /// It is the memory that is needed (and the state, which has a clone's ROMs).
    const fn needs_ram(&self) -> bool {
        matches!(self, Self::Clone(_) | Self::SnapshotRam(_))
    }

    const fn needs_disk(&self) -> bool {
        matches!(self, Self::Clone(_) | Self::Disk(_) | Self::SnapshotDisk(_))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clone(name) => write!(f, "its clone {name}"),
            Self::Disk(name) => write!(f, "the disk of {name}"),
            Self::SnapshotRam(name) => write!(f, "the memory of the snapshot {name}"),
            Self::SnapshotDisk(name) => write!(f, "the disk of the snapshot {name}"),
        }
    }
}

/// What a removal does with a snapshot that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Refuses.
    Refuse,
    /// Takes its name away and keeps the files that are needed until they are not.
    Detach,
}

/// What a removal came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Bytes given back to the file system.
    pub freed: u64,
    /// Who needs what is left of it; empty where nothing is.
    pub users: Vec<User>,
}

impl SnapshotStore {
    /// Who needs the files of a snapshot.
    pub fn users(&self, id: Uuid) -> Result<Vec<User>, SnapshotError> {
        self.users_among(id, &self.list()?)
    }

    fn users_among(&self, id: Uuid, listing: &Listing) -> Result<Vec<User>, SnapshotError> {
        let mut users = Vec::new();
        for name in self.home.vm_names()? {
            let vm = self.home.vm(&name);
            // What cannot be read may be a clone of this one.
            if vm.origin().map_or(true, |origin| origin.is_some_and(|o| o.snapshot == id && o.memory)) {
                users.push(User::Clone(name.clone()));
            } else if self.disks_stand_on(vm.state_dir(), id)? {
                users.push(User::Disk(name.clone()));
            }
        }
        for other in self.ids()?.into_iter().filter(|other| *other != id) {
            let published = listing.snapshots.iter().find(|snapshot| snapshot.id() == other);
            let shown = || published.map_or_else(|| format!("{other} (unfinished)"), Snapshot::shown);
            let ram = published.and_then(|snapshot| snapshot.manifest.ram.as_ref());
            if ram.is_some_and(|ram| ram.base == Some(id)) {
                users.push(User::SnapshotRam(shown()));
            }
            if self.disks_stand_on(&self.folder(other), id)? {
                users.push(User::SnapshotDisk(shown()));
            }
        }
        users.sort();
        users.dedup();
        Ok(users)
    }

    /// Whether a qcow2 file in this folder names a file of the snapshot as its backing file.
    fn disks_stand_on(&self, folder: &Path, id: Uuid) -> Result<bool, SnapshotError> {
        let below = self.folder(id);
        for entry in read_dir(folder)? {
            let path = entry.map_err(io_error("list", folder))?.path();
            let is_disk = path.extension().is_some_and(|extension| extension == "qcow2");
            // One that cannot be read is another's trouble.
            if is_disk
                && let Ok(Some(backing)) = qcow2::backing(&path)
                && backing.starts_with(&below)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a disk stands on, as its own header says: a VM that has been saved before has a snapshot's disk below its own.
    pub fn disk_base(&self, disk: &Path) -> Result<DiskBase, SnapshotError> {
        let below = qcow2::backing(disk)?;
        let id = below.and_then(|below| self.owner(&below));
        Ok(id.map_or(DiskBase::Image, DiskBase::Snapshot))
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] when somebody needs it and `how` is to refuse then.
    pub fn remove(&self, name: &SnapshotName, how: Removal) -> Result<Removed, SnapshotError> {
        let _lock = self.lock()?;
        let link = self.names_folder().join(name.to_string());
        let id = match (self.get(name), linked(&link)) {
            (Ok(snapshot), _) => snapshot.id(),
            // Removing is the way out of a damaged one.
            (Err(SnapshotError::Damaged { .. }), Some(id)) => id,
            (Err(e), _) => return Err(e),
        };
        let users = self.users(id)?;
        if how == Removal::Refuse && !users.is_empty() {
            let users = users.iter().map(ToString::to_string).collect();
            return Err(SnapshotError::InUse { name: name.to_string(), users });
        }
        // One step takes it out of sight; what follows may be cut short at any point.
        fs::remove_file(&link).map_err(io_error("remove", &link))?;
        let mut removed = self.reclaim(id)?;
        // What it stood on may have been kept for it alone.
        removed.freed += self.reclaim_all()?;
        Ok(removed)
    }

    /// Removes what nobody needs any more, and what killed commands left unfinished; returns the bytes freed.
    pub fn prune(&self) -> Result<u64, SnapshotError> {
        let _lock = self.lock()?;
        self.reclaim_all()
    }

    /// Removes a snapshot that was not published.
    pub(super) fn abandon(&self, id: Uuid, own: Flock<File>) -> Result<(), SnapshotError> {
        let _lock = self.lock()?;
        drop(own);
        self.reclaim(id).map(drop)
    }

    /// Until nothing more can go: each that goes may have been the last user of another.
    fn reclaim_all(&self) -> Result<u64, SnapshotError> {
        let mut freed = 0;
        loop {
            let mut before = self.ids()?;
            for id in &before {
                freed += self.reclaim(*id)?.freed;
            }
            let mut after = self.ids()?;
            before.sort_unstable();
            after.sort_unstable();
            if before == after {
                break;
            }
        }
        // A name is given just before the manifest is written, and taken before anything else goes.
        let folder = self.names_folder();
        for entry in read_dir(&folder)? {
            let path = entry.map_err(io_error("list", &folder))?.path();
            if linked(&path).is_some_and(|id| !self.folder(id).exists()) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(freed)
    }

    /// Removes those files of a snapshot that nobody needs, the folder with the last of them. The caller holds the store's lock.
    fn reclaim(&self, id: Uuid) -> Result<Removed, SnapshotError> {
        let folder = self.folder(id);
        let Some(_own) = try_own(&folder)? else { return Ok(Removed::default()) };
        let listing = self.list()?;
        let found = listing.snapshots.iter().find(|snapshot| snapshot.id() == id);
        let damaged = listing.damaged.iter().any(|(path, _)| *path == folder);
        let named = self.names()?.iter().any(|(_, known)| *known == id);
        // A name without a manifest is that of a publication that was cut short.
        if named && (found.is_some() || damaged) {
            return Ok(Removed::default());
        }
        let users = self.users_among(id, &listing)?;
        if users.is_empty() {
            let freed = allocated(&folder)?;
            fs::remove_dir_all(&folder).map_err(io_error("remove", &folder))?;
            return Ok(Removed { freed, users });
        }
        let mut freed = 0;
        if !users.iter().any(User::needs_ram) {
            freed += remove_files(&folder, |name| [RAM, RAM_DELTA, STATE].contains(&name))?;
        }
        if !users.iter().any(User::needs_disk) {
            freed += remove_files(&folder, |name| name.starts_with("disk") || name == DISK)?;
        }
        Ok(Removed { freed, users })
    }

    /// The images that snapshots stand on, with the snapshot's name: no image may be removed that is among them.
    pub fn images(&self) -> Result<Vec<(String, crate::image::Manifest)>, SnapshotError> {
        let named = |snapshot: Snapshot| {
            let shown = snapshot.shown();
            snapshot.manifest.image.map(|image| (shown, image))
        };
        Ok(self.list()?.snapshots.into_iter().filter_map(named).collect())
    }
}

fn remove_files(folder: &Path, which: impl Fn(&str) -> bool) -> Result<u64, SnapshotError> {
    let mut freed = 0;
    for entry in read_dir(folder)? {
        let path: PathBuf = entry.map_err(io_error("list", folder))?.path();
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(&which) {
            continue;
        }
        freed += path.metadata().map_or(0, |about| about.blocks() * 512);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &path)(e)),
            _ => {}
        }
    }
    Ok(freed)
}

/// Bytes that the files of a folder take.
pub(super) fn allocated(folder: &Path) -> Result<u64, SnapshotError> {
    let mut sum = 0;
    for entry in read_dir(folder)? {
        let entry = entry.map_err(io_error("list", folder))?;
        sum += entry.metadata().map_or(0, |about| about.blocks() * 512);
    }
    Ok(sum)
}
