//! What is kept of a VM that is a clone: `origin.json`, beside its record.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{SCHEMA, StoreError, VmDir};

/// The snapshot that a VM was cloned from. As long as the VM exists, that snapshot's files stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// [`super::SCHEMA`] at the time of writing.
    pub schema: u32,
    /// The snapshot.
    pub snapshot: uuid::Uuid,
    /// Its name at that time, for people.
    pub name: String,
    /// The VM's RAM is mapped from the snapshot while it runs; else only its disk stands on it.
    pub memory: bool,
}

/// Name of the file.
const FILE: &str = "origin.json";
/// Name of the file that marks a suspended VM: the id of the snapshot that it goes on from.
const SUSPENDED: &str = "suspended";

impl Origin {
    /// An origin of this version.
    #[must_use]
    pub const fn new(snapshot: uuid::Uuid, name: String, memory: bool) -> Self {
        Self { schema: SCHEMA, snapshot, name, memory }
    }

    /// Writes it into the folder of a VM that is being created (see [`super::Home::create_vm`]).
    pub fn write_to(&self, folder: &Path) -> Result<(), StoreError> {
        super::vms::write_json(&folder.join(FILE), self, true)
    }
}

impl VmDir {
    /// The snapshot that the VM was cloned from, if it was.
    pub fn origin(&self) -> Result<Option<Origin>, StoreError> {
        self.read_json(&self.state_dir().join(FILE))
    }

    /// The snapshot that the VM's next start is to go on from, if it was suspended.
    #[must_use]
    pub fn suspended(&self) -> Option<uuid::Uuid> {
        std::fs::read_to_string(self.state_dir().join(SUSPENDED)).ok()?.trim().parse().ok()
    }

    /// Notes that the VM's next start is to go on from this snapshot.
    pub fn write_suspended(&self, snapshot: uuid::Uuid) -> Result<(), StoreError> {
        super::write_whole(&self.state_dir().join(SUSPENDED), format!("{snapshot}\n").as_bytes(), true)
    }

    /// Forgets that the VM was suspended: it goes on, or boots.
    pub fn clear_suspended(&self) {
        let _ = std::fs::remove_file(self.state_dir().join(SUSPENDED));
    }

    /// Notes that the VM stands on a snapshot from now on: that it goes on as the first clone of its own. The caller holds
    /// [`VmDir::lock`].
    pub fn write_origin(&self, origin: &Origin) -> Result<(), StoreError> {
        origin.write_to(self.state_dir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Home;

    #[test]
    fn a_clone_knows_its_origin_and_others_have_none() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("state"), folder.path().join("run"));
        let vm = home.vm("clone");
        assert_eq!(vm.origin().unwrap(), None);
        std::fs::create_dir_all(vm.state_dir()).unwrap();
        let origin = Origin::new(uuid::Uuid::new_v4(), "web@x".to_owned(), true);
        vm.write_origin(&origin).unwrap();
        assert_eq!(vm.origin().unwrap(), Some(origin));
        std::fs::write(vm.state_dir().join(FILE), "{").unwrap();
        assert!(matches!(vm.origin(), Err(StoreError::Damaged { .. })));
    }
}
