//! Reading an image's modules from its disk, without mounting it.

use std::fs::File;
use std::path::Path;

use super::{InitrdError, ModuleFiles};
use crate::image::contents::{Contents, GuestDisk};
use crate::machine::DiskFormat;

/// The largest file that is read: Debian's largest module has 10 MB.
const LARGEST: u64 = 64 << 20;

/// The root file system of a disk, with partitions or without.
pub(super) struct Files(Contents);

impl Files {
    /// Opens it.
    pub(super) fn open(disk: &Path, format: DiskFormat) -> Result<Self, InitrdError> {
        let failed = |e: &dyn std::error::Error| InitrdError::Disk(crate::error::chain(e));
        let disk =
            File::open(disk).and_then(|file| GuestDisk::open(&file, format)).map_err(|e| failed(&e))?;
        Contents::of(disk).map(Self).map_err(|e| failed(&e))
    }
}

impl ModuleFiles for Files {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InitrdError> {
        let root = self.0.root().ok_or(InitrdError::NoRoot)?;
        let mut bytes = Vec::new();
        let found = root.copy(path, &mut bytes, LARGEST);
        let found = found.map_err(|e| InitrdError::Disk(crate::error::chain(&e)))?;
        Ok(found.then_some(bytes))
    }
}
