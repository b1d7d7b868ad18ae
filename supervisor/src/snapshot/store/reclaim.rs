//! Who needs a snapshot's files, and removing what nobody needs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use serde::Serialize;
use uuid::Uuid;

use super::{Listing, Snapshot, SnapshotStore, linked, read_dir, try_own};
use crate::fault::{self, Point};
use crate::snapshot::SnapshotName;
use crate::snapshot::error::{SnapshotError, io_error};
use crate::snapshot::manifest::{DiskBase, MANIFEST, RAM, RAM_DELTA, STATE};
use crate::snapshot::qcow2;

/// How long a command may take from the end of a save to its pin.
const PINNED_WITHIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Somebody who needs files of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "kebab-case")]
pub enum User {
    /// A VM that was cloned from it and maps its memory while it runs.
    Clone(String),
    /// A VM whose disk stands on it.
    Disk(String),
    /// A VM that boots the kernel that it has kept: one of the user's own.
    Kernel(String),
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
            Self::Kernel(name) => write!(f, "the kernel of {name}"),
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

/// Files, and the bytes that each takes.
pub type Files = BTreeMap<PathBuf, u64>;

/// One need of a snapshot's files.
struct Use {
    /// The snapshot; none for one that may be of any.
    of: Option<Uuid>,
    user: User,
    /// The snapshot that has the need, if it is one.
    by: Option<Uuid>,
}

/// What became, or would become, of a snapshot that has lost its name.
#[derive(Default)]
struct Reclaimed {
    /// The files that went.
    files: Files,
    /// The folder went with them.
    whole: bool,
    /// Who needs the others.
    users: Vec<User>,
}

impl SnapshotStore {
    /// Who needs the files of a snapshot.
    pub fn users(&self, id: Uuid) -> Result<Vec<User>, SnapshotError> {
        Ok(users_of(id, &self.uses(&self.list()?)?))
    }

    /// Who needs the files of each of these snapshots, in their order.
    pub fn all_users(&self, listing: &Listing) -> Result<Vec<Vec<User>>, SnapshotError> {
        let uses = self.uses(listing)?;
        Ok(listing.snapshots.iter().map(|snapshot| users_of(snapshot.id(), &uses)).collect())
    }

    /// Everything that needs a snapshot's files.
    fn uses(&self, listing: &Listing) -> Result<Vec<Use>, SnapshotError> {
        let mut uses = Vec::new();
        for vm in self.home.vms_and_spares()? {
            let name = vm.name().to_owned();
            let user = || User::Clone(name.clone());
            let Ok(origin) = vm.origin() else {
                // What cannot be read may be a clone of any.
                uses.push(Use { of: None, user: user(), by: None });
                continue;
            };
            let of = origin.filter(|origin| origin.memory).map(|origin| origin.snapshot);
            uses.extend(of.map(|of| Use { of: Some(of), user: user(), by: None }));
            let kernel = vm.record().ok().and_then(|record| self.owner(record.spec.boot.kernel.as_deref()?));
            uses.extend(kernel.filter(|id| Some(*id) != of).map(|id| Use {
                of: Some(id),
                user: User::Kernel(name.clone()),
                by: None,
            }));
            for id in self.disks_below(vm.state_dir())?.into_iter().filter(|id| Some(*id) != of) {
                uses.push(Use { of: Some(id), user: User::Disk(name.clone()), by: None });
            }
        }
        for other in self.ids()? {
            let published = listing.snapshots.iter().find(|snapshot| snapshot.id() == other);
            let shown = published.map_or_else(|| format!("{other} (unfinished)"), Snapshot::shown);
            let base = published.and_then(|snapshot| snapshot.manifest.ram.as_ref()?.base);
            let by = Some(other);
            uses.extend(base.map(|of| Use { of: Some(of), user: User::SnapshotRam(shown.clone()), by }));
            for id in self.disks_below(&self.folder(other))?.into_iter().filter(|id| *id != other) {
                uses.push(Use { of: Some(id), user: User::SnapshotDisk(shown.clone()), by });
            }
        }
        Ok(uses)
    }

    /// The snapshots of which a file is the backing file of a qcow2 file in this folder.
    fn disks_below(&self, folder: &Path) -> Result<Vec<Uuid>, SnapshotError> {
        let mut below = Vec::new();
        for entry in read_dir(folder)? {
            let path = entry.map_err(io_error("list", folder))?.path();
            // One that cannot be read is another's trouble.
            if path.extension().is_some_and(|extension| extension == "qcow2")
                && let Ok(DiskBase::Snapshot(id)) = self.disk_base(&path)
            {
                below.push(id);
            }
        }
        Ok(below)
    }

    /// What a disk stands on, as its own header says: a VM that has been saved before has a snapshot's disk below its own.
    pub fn disk_base(&self, disk: &Path) -> Result<DiskBase, SnapshotError> {
        let below = qcow2::backing(disk)?;
        let id = below.and_then(|below| self.owner(&below));
        Ok(id.map_or(DiskBase::Image, DiskBase::Snapshot))
    }

    /// Who needs what a removal would leave of a snapshot; empty where nothing would be left. Removes nothing.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] when somebody needs it and `how` is to refuse then.
    pub fn check_removal(&self, name: &SnapshotName, how: Removal) -> Result<Vec<User>, SnapshotError> {
        Ok(self.removal(name, how)?.1)
    }

    fn removal(&self, name: &SnapshotName, how: Removal) -> Result<(Uuid, Vec<User>), SnapshotError> {
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
        Ok((id, users))
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] when somebody needs it and `how` is to refuse then.
    pub fn remove(&self, name: &SnapshotName, how: Removal) -> Result<Removed, SnapshotError> {
        let _lock = self.lock()?;
        let (id, _) = self.removal(name, how)?;
        let link = self.names_folder().join(name.to_string());
        // One step takes it out of sight; what follows may be cut short at any point.
        fs::remove_file(&link).map_err(io_error("remove", &link))?;
        fault::at(Point::Unnamed);
        let first = self.reclaim(id, &[], false)?;
        fault::at(Point::Reclaimed);
        // What it stood on may have been kept for it alone.
        let others = self.reclaim_all(false)?;
        Ok(Removed { freed: first.files.values().chain(others.values()).sum(), users: first.users })
    }

    /// Removes what nobody needs any more, and what killed commands left unfinished, or only tells of it. Answers the files and the
    /// bytes that each takes.
    pub fn prune(&self, dry: bool) -> Result<Files, SnapshotError> {
        // Before the first snapshot nothing is made for the lock.
        if !self.root().exists() {
            return Ok(Files::new());
        }
        let _lock = self.lock()?;
        if !dry {
            self.unname_abandoned()?;
        }
        self.reclaim_all(dry)
    }

    /// Takes their names from snapshots that were made for clones whose command was killed before it could. The caller holds the store's
    /// lock.
    fn unname_abandoned(&self) -> Result<(), SnapshotError> {
        for (name, id) in self.names()?.into_iter().filter(|(name, _)| name.is_implicit()) {
            let Ok(Some(snapshot)) = self.load(id, &[]) else { continue };
            let age = jiff::Timestamp::now().duration_since(snapshot.manifest.taken);
            if age > PINNED_WITHIN && try_own(&snapshot.folder)?.is_some() {
                let link = self.names_folder().join(name.to_string());
                fs::remove_file(&link).map_err(io_error("remove", &link))?;
            }
        }
        Ok(())
    }

    /// Removes a snapshot that was not published.
    pub(super) fn abandon(&self, id: Uuid, own: Flock<File>) -> Result<(), SnapshotError> {
        let _lock = self.lock()?;
        drop(own);
        self.reclaim(id, &[], false).map(drop)
    }

    /// Until nothing more can go: each that goes may have been the last user of another. The caller holds the store's lock.
    fn reclaim_all(&self, dry: bool) -> Result<Files, SnapshotError> {
        let mut files = Files::new();
        let mut gone = Vec::new();
        loop {
            let before = gone.len();
            for id in self.ids()? {
                if !gone.contains(&id) {
                    let found = self.reclaim(id, &gone, dry)?;
                    files.extend(found.files);
                    gone.extend(found.whole.then_some(id));
                }
            }
            if gone.len() == before {
                break;
            }
        }
        // A name is given just before the manifest is written, and taken before anything else goes.
        let folder = self.names_folder();
        for entry in read_dir(&folder)?.filter(|_| !dry) {
            let path = entry.map_err(io_error("list", &folder))?.path();
            if linked(&path).is_some_and(|id| !self.folder(id).exists()) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(files)
    }

    /// Removes those files of a snapshot that nobody needs but the snapshots that are `gone`, the folder with the last of them. The
    /// caller holds the store's lock.
    fn reclaim(&self, id: Uuid, gone: &[Uuid], dry: bool) -> Result<Reclaimed, SnapshotError> {
        let folder = self.folder(id);
        // A name without a manifest is that of a publication that was cut short.
        let is_whole = folder.join(MANIFEST).try_exists().unwrap_or(true);
        let names = super::names_of(id, &self.names()?);
        if is_whole && !names.is_empty() {
            return Ok(Reclaimed::default());
        }
        let Some(_own) = try_own(&folder)? else { return Ok(Reclaimed::default()) };
        // Its folder may stay for its disk: the name is free.
        for name in names.iter().filter(|_| !dry) {
            let link = self.names_folder().join(name.to_string());
            fs::remove_file(&link).map_err(io_error("remove", &link))?;
        }
        // From now on nobody begins to use it.
        let mut uses = self.uses(&self.list()?)?;
        uses.retain(|found| found.by.is_none_or(|by| !gone.contains(&by)));
        let users = users_of(id, &uses);
        let needs_ram = users.iter().any(User::needs_ram);
        let needs_disk = users.iter().any(User::needs_disk);
        let files: Files = files(&folder)?
            .into_iter()
            .filter(|(path, _)| match path.file_name().and_then(|name| name.to_str()).unwrap_or_default() {
                RAM | RAM_DELTA | STATE => !needs_ram,
                name if name.starts_with("disk") => !needs_disk,
                // Of one that was never published nobody needs to know anything.
                _ => users.is_empty() || !is_whole,
            })
            .collect();
        if !dry && users.is_empty() {
            fs::remove_dir_all(&folder).map_err(io_error("remove", &folder))?;
        } else if !dry {
            for path in files.keys() {
                fs::remove_file(path).map_err(io_error("remove", path))?;
            }
        }
        Ok(Reclaimed { files, whole: users.is_empty(), users })
    }

    /// The images that snapshots stand on, with the snapshot's name: no image may be removed that is among them.
    ///
    /// # Errors
    /// When a manifest cannot be read: it may name any image.
    pub fn images(&self) -> Result<Vec<(String, crate::image::Manifest)>, SnapshotError> {
        let named = |snapshot: Snapshot| {
            let shown = snapshot.shown();
            snapshot.manifest.image.map(|image| (shown, image))
        };
        let listing = self.list()?;
        match listing.damaged.into_iter().next() {
            Some(broken) => Err(broken.error),
            None => Ok(listing.snapshots.into_iter().filter_map(named).collect()),
        }
    }
}

fn users_of(id: Uuid, uses: &[Use]) -> Vec<User> {
    let of_it = uses.iter().filter(|found| found.of.is_none_or(|of| of == id) && found.by != Some(id));
    let mut users: Vec<User> = of_it.map(|found| found.user.clone()).collect();
    users.sort();
    users.dedup();
    users
}

/// The files of a folder, and the bytes that each takes.
fn files(folder: &Path) -> Result<Files, SnapshotError> {
    let mut files = Files::new();
    for entry in read_dir(folder)? {
        let entry = entry.map_err(io_error("list", folder))?;
        files.insert(entry.path(), entry.metadata().map_or(0, |about| about.blocks() * 512));
    }
    Ok(files)
}

/// Bytes that the files of a folder take.
pub(super) fn allocated(folder: &Path) -> Result<u64, SnapshotError> {
    Ok(files(folder)?.values().sum())
}
