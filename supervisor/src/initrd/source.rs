//! Reading an image's modules from its disk, without mounting it: qcow2 or raw by imago, ext4 by ext4-view.

use std::error::Error;
use std::io;
use std::path::Path;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;

use super::{InitrdError, ModuleFiles};
use crate::machine::DiskFormat;

/// The root file system of a disk that has no partitions.
pub(super) struct Files(Ext4);

impl Files {
    /// Opens it.
    pub(super) fn open(disk: &Path, format: DiskFormat) -> Result<Self, InitrdError> {
        let failed = |e: io::Error| InitrdError::Disk(e.to_string());
        let access = match format {
            DiskFormat::Qcow2 => {
                FormatAccess::new(Qcow2::<imago::file::File>::open_path(disk, false).map_err(failed)?)
            }
            DiskFormat::Raw => {
                FormatAccess::new(Raw::<imago::file::File>::open_path(disk, false).map_err(failed)?)
            }
        };
        Ext4::load(Box::new(Bytes(access))).map(Self).map_err(|e| InitrdError::Disk(e.to_string()))
    }
}

impl ModuleFiles for Files {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InitrdError> {
        match self.0.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Ext4Error::NotFound) => Ok(None),
            Err(e) => Err(InitrdError::Disk(format!("{path}: {e}"))),
        }
    }
}

/// The disk's bytes.
struct Bytes(FormatAccess<imago::file::File>);

impl Ext4Read for Bytes {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.read(into, start).map_err(Into::into)
    }
}
