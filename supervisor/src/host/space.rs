//! Room on a file system.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Room on the file system of some path, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What may still be written, without what is kept for root (`f_bavail`, statvfs(3)).
    pub available: u64,
}

impl Space {
    /// Of the file system that `path` is on, or would be on once made.
    pub fn of(path: &Path) -> io::Result<Self> {
        let about = rustix::fs::statvfs(nearest_existing(path))?;
        Ok(Self {
            total: about.f_blocks.saturating_mul(about.f_frsize),
            available: about.f_bavail.saturating_mul(about.f_frsize),
        })
    }
}

/// `path` itself, or the nearest folder above it that exists.
pub(super) fn nearest_existing(path: &Path) -> PathBuf {
    let start = if path.is_absolute() { "/" } else { "." };
    path.ancestors().find(|path| path.exists()).map_or_else(|| PathBuf::from(start), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_of_a_path_not_yet_made_is_its_parents() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::of(&folder.path().join("a/b/c")).unwrap();
        assert_eq!(space.total, Space::of(folder.path()).unwrap().total);
        assert!(space.available <= space.total && space.total > 0);
    }

    #[test]
    fn nearest_existing_of_relative_names_ends_here() {
        assert_eq!(nearest_existing(Path::new("no/such/folder")), Path::new("."));
        assert_eq!(nearest_existing(Path::new("/no/such/folder")), Path::new("/"));
    }
}
