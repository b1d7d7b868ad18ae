//! The folders of pools: `pools/NAME@TAG/{pool.json, spares/ID/}`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::home::{create_dirs, write_whole};
use super::vms::{names_in, read_json, write_json};
use super::{Home, Lock, StoreError, VmDir};
use crate::snapshot::SnapshotName;
use crate::spec::Size;
use crate::vm::Identity;

/// `pool.json`: how many spares of a snapshot are kept ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolRecord {
    /// [`super::SCHEMA`] at the time of writing.
    pub schema: u32,
    /// How many.
    pub size: u32,
    /// Who each is told that it is.
    pub identity: Identity,
    /// What all of them may take of the host's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
}

/// One pool's folder.
#[derive(Debug, Clone)]
pub struct PoolDir {
    name: SnapshotName,
    home: Home,
    path: PathBuf,
}

impl Home {
    fn pools_dir(&self) -> PathBuf {
        self.state().join("pools")
    }

    /// The pool of the snapshot of this name, which need not exist.
    #[must_use]
    pub fn pool(&self, name: &SnapshotName) -> PoolDir {
        PoolDir { name: name.clone(), home: self.clone(), path: self.pools_dir().join(name.to_string()) }
    }

    /// All pools, by name; also what is left of one whose removal was cut short.
    pub fn pools(&self) -> Result<Vec<PoolDir>, StoreError> {
        let names = names_in(&self.pools_dir())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).map(|name| self.pool(&name)).collect())
    }
}

impl PoolDir {
    /// The snapshot's name, which is the pool's.
    #[must_use]
    pub fn name(&self) -> &SnapshotName {
        &self.name
    }

    pub(super) fn spares_dir(&self) -> PathBuf {
        self.path.join("spares")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is wanted of it; nothing where there is no such pool, or no longer.
    pub fn record(&self) -> Result<Option<PoolRecord>, StoreError> {
        read_json(&self.name.to_string(), &self.file("pool.json"))
    }

    /// Writes what is wanted of it, and makes it where there is none.
    pub fn write_record(&self, record: &PoolRecord) -> Result<(), StoreError> {
        create_dirs(&self.path)?;
        write_json(&self.file("pool.json"), record, true)
    }

    /// From now on there is no such pool; what is left of it is nobody's.
    pub fn forget(&self) -> Result<(), StoreError> {
        gone(fs::remove_file(self.file("pool.json")), &self.path)
    }

    /// Removes its folder, whose spares have gone. The caller holds [`PoolDir::lock`].
    pub fn remove(&self) -> Result<(), StoreError> {
        gone(fs::remove_dir_all(&self.path), &self.path)
    }

    /// Waits for the right to make and to end spares. Of those who wait one is enough: nothing is answered where another does already, or
    /// where there is no such pool.
    pub fn lock(&self) -> Result<Option<Lock>, StoreError> {
        if !self.path.is_dir() {
            return Ok(None);
        }
        match Lock::try_take(&self.file("next"))? {
            Some(_next) => Lock::take(&self.file("lock")),
            None => Ok(None),
        }
    }

    /// As [`PoolDir::lock`], however many wait.
    pub fn lock_surely(&self) -> Result<Option<Lock>, StoreError> {
        Lock::take(&self.file("lock"))
    }

    /// As [`PoolDir::lock`], and answers nothing when somebody has it.
    pub fn try_lock(&self) -> Result<Option<Lock>, StoreError> {
        if self.path.is_dir() { Lock::try_take(&self.file("lock")) } else { Ok(None) }
    }

    /// Its spares, whatever state they are in.
    pub fn spares(&self) -> Result<Vec<VmDir>, StoreError> {
        let names = names_in(&self.spares_dir())?;
        Ok(names.iter().map(|name| self.home.spare(&self.name, name)).collect())
    }

    /// Why there are fewer spares than are wanted.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        fs::read_to_string(self.file("note")).ok().filter(|note| !note.is_empty())
    }

    /// Notes why, or that there is nothing to note.
    pub fn write_note(&self, note: Option<&str>) -> Result<(), StoreError> {
        match note {
            Some(note) => write_whole(&self.file("note"), note.as_bytes(), false),
            None => gone(fs::remove_file(self.file("note")), &self.path),
        }
    }
}

/// A removal of what may have gone already.
fn gone(removed: io::Result<()>, path: &Path) -> Result<(), StoreError> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove from", path)(e)),
        _ => Ok(()),
    }
}
