//! The snapshots of one `$MIDGE_HOME`.
//!
//! ```text
//! snapshots/ID/            manifest.json, digests, and the parts: state, ram or ram.delta, disk.qcow2
//! snapshots/names/NAME@TAG a symbolic link to ../ID
//! snapshots/.lock          held while names are given or taken and while anything is removed
//! ```
//!
//! **A folder by id, in its place from the beginning.** A QEMU that is to go on as the first clone opens its disk, whose backing file is
//! the snapshot's, before the snapshot is whole; so the folder cannot be made elsewhere and moved. It is published by its manifest, which
//! is written last and renamed into place, and by its name. Until then it is nobody's but its maker's, who holds a lock on it (as on a
//! folder for unfinished work); one without a manifest that nobody holds was left by a killed command.
//!
//! **References are counted by looking.** Who needs a snapshot's files is read from what needs them: the backing files that the disks of VMs
//! name (as QEMU itself sees it, whatever a killed command has left unwritten), the `origin` of clones, the manifests of other snapshots.
//! No count can be wrong. A removed snapshot loses its name at once; of its files those that are still needed stay, *detached*,
//! until nobody needs them: [`SnapshotStore::prune`].
//!
//! **Pins.** Whoever is about to use a snapshot holds a shared lock on its folder ([`SnapshotStore::pin`]) until its own record says so.
//! Nothing is removed from a folder that is pinned.

mod draft;
mod reclaim;
mod tree;
mod verify;

#[cfg(test)]
pub(in crate::snapshot) mod tests;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use uuid::Uuid;

use super::SnapshotName;
use super::error::{SnapshotError, io_error};
use super::manifest::{MANIFEST, Manifest};
use crate::store::scratch::Scratch;
use crate::store::{Home, Lock};

pub use draft::Draft;
pub(in crate::snapshot) use draft::create;
pub use reclaim::{Files, Removal, Removed, User};
pub use tree::{Branch, Sizes, tree};
pub use verify::DIGESTS;
pub(in crate::snapshot) use verify::Digested;

/// The snapshots of one `$MIDGE_HOME`.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    home: Home,
}

/// A snapshot as found in its folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What is known of it.
    pub manifest: Manifest,
    /// The folder with its files.
    pub folder: PathBuf,
    /// The names that lead to it; none for one that was removed and whose files are still needed.
    pub names: Vec<SnapshotName>,
}

/// All snapshots: the whole ones, oldest first, and those that cannot be read.
#[derive(Debug, Default)]
pub struct Listing {
    /// Snapshots with a manifest that holds.
    pub snapshots: Vec<Snapshot>,
    /// Those whose manifest does not.
    pub damaged: Vec<Unreadable>,
}

/// A snapshot whose manifest cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The folder with its files.
    pub folder: PathBuf,
    /// The names that lead to it.
    pub names: Vec<SnapshotName>,
    /// What is wrong with the manifest.
    pub error: SnapshotError,
}

/// A lock on a snapshot's folder: as long as it is held none of its files is removed.
#[derive(Debug)]
pub struct Pin(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Snapshot {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.manifest.id
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.folder.join(file)
    }

    /// How it is called: by its name, or by the one it once had.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.names.first() {
            Some(name) => name.to_string(),
            None => format!("{} (removed)", self.manifest.name),
        }
    }
}

impl SnapshotStore {
    /// The store in `home`, which need not exist yet.
    #[must_use]
    pub fn new(home: &Home) -> Self {
        Self { home: home.clone() }
    }

    pub(in crate::snapshot) const fn home(&self) -> &Home {
        &self.home
    }

    /// A private folder for unfinished work.
    pub(in crate::snapshot) fn scratch(&self, purpose: &str) -> Result<Scratch, SnapshotError> {
        Ok(self.home.scratch(purpose)?)
    }

    /// Where all snapshots are.
    pub(in crate::snapshot) fn root(&self) -> PathBuf {
        self.home.state().join("snapshots")
    }

    fn names_folder(&self) -> PathBuf {
        self.root().join("names")
    }

    /// The folder of the snapshot of this id, which need not exist.
    #[must_use]
    pub fn folder(&self, id: Uuid) -> PathBuf {
        self.root().join(id.to_string())
    }

    /// The snapshot to whose folder a path leads.
    #[must_use]
    pub fn owner(&self, path: &Path) -> Option<Uuid> {
        path.strip_prefix(self.root()).ok()?.iter().next()?.to_str()?.parse().ok()
    }

    /// Held while names are given or taken and while anything is removed.
    fn lock(&self) -> Result<Lock, SnapshotError> {
        let root = self.root();
        fs::create_dir_all(self.names_folder()).map_err(io_error("make", &root))?;
        let path = root.join(".lock");
        Lock::take(&path)?.ok_or_else(|| io_error("lock", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Every name and the id that it leads to, by name.
    fn names(&self) -> Result<Vec<(SnapshotName, Uuid)>, SnapshotError> {
        let folder = self.names_folder();
        let mut names = Vec::new();
        for entry in read_dir(&folder)? {
            let path = entry.map_err(io_error("list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            // What midge did not put there is not midge's.
            if let (Some(name), Some(id)) = (name, linked(&path)) {
                names.push((name, id));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The ids of all folders, of unfinished snapshots too.
    fn ids(&self) -> Result<Vec<Uuid>, SnapshotError> {
        let root = self.root();
        let mut ids = Vec::new();
        for entry in read_dir(&root)? {
            let name = entry.map_err(io_error("list", &root))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<Uuid>().ok()));
        }
        Ok(ids)
    }

    /// All snapshots.
    pub fn list(&self) -> Result<Listing, SnapshotError> {
        let names = self.names()?;
        let mut listing = Listing::default();
        for id in self.ids()? {
            match self.load(id, &names) {
                Ok(Some(snapshot)) => listing.snapshots.push(snapshot),
                // Not published yet, or never.
                Ok(None) => {}
                Err(error) => listing.damaged.push(Unreadable {
                    folder: self.folder(id),
                    names: names_of(id, &names),
                    error,
                }),
            }
        }
        listing.snapshots.sort_by_key(|snapshot| (snapshot.manifest.taken, snapshot.manifest.id));
        listing.damaged.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(listing)
    }

    /// The snapshot of this name.
    pub fn get(&self, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let names = self.names()?;
        let found = names.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
        match found.map(|id| self.load(id, &names)).transpose()?.flatten() {
            Some(snapshot) => Ok(snapshot),
            None => Err(not_found(name, &names)),
        }
    }

    /// The snapshot of this id, with or without a name; none where there is none.
    pub fn by_id(&self, id: Uuid) -> Result<Option<Snapshot>, SnapshotError> {
        self.load(id, &self.names()?)
    }

    fn load(&self, id: Uuid, names: &[(SnapshotName, Uuid)]) -> Result<Option<Snapshot>, SnapshotError> {
        let folder = self.folder(id);
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let manifest = Manifest::parse(&text, &path)?;
        if manifest.id != id {
            let what = format!("it is the manifest of another snapshot, {}", manifest.id);
            return Err(SnapshotError::Damaged { path, what });
        }
        Ok(Some(Snapshot { manifest, folder, names: names_of(id, names) }))
    }

    /// Keeps a snapshot's files, and those of the snapshots that it stands on, until the pins are dropped.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] when it has been removed meanwhile.
    pub fn pin(&self, snapshot: &Snapshot) -> Result<Vec<Pin>, SnapshotError> {
        let gone = || SnapshotError::NotFound { name: snapshot.shown(), near: None };
        let mut pins = Vec::new();
        let mut next = vec![snapshot.id()];
        let mut seen = Vec::new();
        while let Some(id) = next.pop() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            pins.push(self.pin_folder(id)?.ok_or_else(gone)?);
            // Read under the lock: what it stands on is pinned before it can go.
            next.extend(self.load(id, &[])?.map(|found| found.manifest.needs()).unwrap_or_default());
        }
        Ok(pins)
    }

    fn pin_folder(&self, id: Uuid) -> Result<Option<Pin>, SnapshotError> {
        let folder = self.folder(id);
        let lock = match File::open(&folder) {
            Ok(file) => Flock::lock(file, FlockArg::LockShared),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("open", &folder)(e)),
        };
        let lock = lock.map_err(|(_, e)| io_error("lock", &folder)(e.into()))?;
        // It may have been removed while it was waited for.
        Ok(is_at(&lock, &folder).then_some(Pin(lock)))
    }
}

/// The entries of a folder; none where it is missing.
fn read_dir(folder: &Path) -> Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>, SnapshotError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io_error("list", folder)(e)),
    };
    Ok(entries.into_iter().flatten())
}

/// The names that lead to an id.
fn names_of(id: Uuid, names: &[(SnapshotName, Uuid)]) -> Vec<SnapshotName> {
    names.iter().filter(|(_, known)| *known == id).map(|(name, _)| name.clone()).collect()
}

/// The id that a name leads to.
fn linked(path: &Path) -> Option<Uuid> {
    fs::read_link(path).ok()?.file_name()?.to_str()?.parse().ok()
}

fn not_found(name: &SnapshotName, names: &[(SnapshotName, Uuid)]) -> SnapshotError {
    let wanted = name.to_string();
    let near = names
        .iter()
        .map(|(known, _)| known.to_string())
        .map(|known| (strsim::damerau_levenshtein(&known, &wanted), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min()
        .map(|(_, known)| known);
    SnapshotError::NotFound { name: wanted, near }
}

/// Locks a folder for its owner alone; none where another holds or pins it, or where it is gone.
fn try_own(folder: &Path) -> Result<Option<Flock<File>>, SnapshotError> {
    let file = match File::open(folder) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("open", folder)(e)),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(is_at(&lock, folder).then_some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(io_error("lock", folder)(e.into())),
    }
}

/// Whether the path still leads to this folder.
fn is_at(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
