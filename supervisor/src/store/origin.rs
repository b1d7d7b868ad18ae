//! What is kept of a VM that is a clone, beside its record.
//!
//! `origin` is a symbolic link that leads nowhere: its target is the snapshot's id and a word. A file of so few bytes would take a
//! block of the disk; a short link lies in its inode (ext4(5), xfs(5), btrfs(5)), and is replaced in one step like a file.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{StoreError, VmDir};

/// The snapshot that a VM was cloned from. As long as the VM exists, that snapshot's files stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The snapshot.
    pub snapshot: uuid::Uuid,
    /// The VM's RAM is mapped from the snapshot while it runs; else only its disk stands on it.
    pub memory: bool,
}

/// Name of the link.
const LINK: &str = "origin";
/// Its name until it is in place.
const NEW: &str = ".new-origin";
/// Name of the file that marks a suspended VM: the id of the snapshot that it goes on from.
const SUSPENDED: &str = "suspended";

impl Origin {
    /// Writes it into the folder of a VM that is being created (see [`super::Home::create_vm`]).
    pub fn write_to(self, folder: &Path) -> Result<(), StoreError> {
        let (path, new) = (folder.join(LINK), folder.join(NEW));
        let word = if self.memory { "memory" } else { "disk" };
        let failed = |action| StoreError::io(action, &path);
        match fs::remove_file(&new) {
            // Left by a command that was killed at this place.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("write")(e)),
            _ => {}
        }
        symlink(format!("{} {word}", self.snapshot), &new).map_err(failed("write"))?;
        fs::rename(&new, &path).map_err(failed("rename into place"))
    }

    fn parse(target: &Path) -> Option<Self> {
        let (snapshot, word) = target.to_str()?.split_once(' ')?;
        let memory = match word {
            "memory" => true,
            "disk" => false,
            _ => return None,
        };
        Some(Self { snapshot: snapshot.parse().ok()?, memory })
    }
}

impl VmDir {
    /// The snapshot that the VM was cloned from, if it was.
    pub fn origin(&self) -> Result<Option<Origin>, StoreError> {
        let path = self.state_dir().join(LINK);
        let target = match fs::read_link(&path) {
            Ok(target) => target,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("read", &path)(e)),
        };
        let damaged = || StoreError::Damaged {
            name: self.name().to_owned(),
            path: path.clone(),
            reason: format!("it leads to `{}`, which is no snapshot's id", target.display()),
        };
        Origin::parse(&target).map(Some).ok_or_else(damaged)
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
    /// [`VmDir::lock`], or is the VM's supervisor.
    pub fn write_origin(&self, origin: Origin) -> Result<(), StoreError> {
        origin.write_to(self.state_dir())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::store::Home;

    #[test]
    fn a_clone_knows_its_origin_and_others_have_none() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("state"), folder.path().join("run"));
        let vm = home.vm("clone");
        assert_eq!(vm.origin().unwrap(), None);
        fs::create_dir_all(vm.state_dir()).unwrap();
        for memory in [true, false] {
            let origin = Origin { snapshot: uuid::Uuid::new_v4(), memory };
            vm.write_origin(origin).unwrap();
            assert_eq!(vm.origin().unwrap(), Some(origin));
        }
        let link = vm.state_dir().join(LINK);
        assert_eq!(fs::symlink_metadata(&link).unwrap().blocks(), 0);
        fs::remove_file(&link).unwrap();
        symlink("elsewhere", &link).unwrap();
        assert!(matches!(vm.origin(), Err(StoreError::Damaged { .. })));
    }
}
