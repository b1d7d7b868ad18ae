//! Reading a disk at any place, through whatever format its file has, and no more of it than was agreed.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::rc::Rc;

use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

use crate::machine::DiskFormat;

/// What may be read of one disk to find out what is in it. A kernel and its initial RAM disk are far below; a disk made to keep its
/// reader busy is not.
const BUDGET: u64 = 2 << 30;

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `buffer` with those that begin at `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where there are not so many.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let found = start.and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |about| about.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// The disk that a guest would see in a file.
pub struct GuestDisk {
    access: FormatAccess<imago::file::File>,
    left: Cell<u64>,
}

impl GuestDisk {
    /// Opens a disk for reading. A qcow2 disk was looked at by [`super::super::import::qcow2::check`] before: it names no other file.
    ///
    /// # Errors
    /// When it cannot be read, or is not what `format` says.
    pub fn open(file: &File, format: DiskFormat) -> io::Result<Self> {
        let storage = imago::file::File::try_from(file.try_clone()?)?;
        let access = match format {
            DiskFormat::Raw => FormatAccess::new(Raw::open_image(storage, false)?),
            DiskFormat::Qcow2 => {
                let builder = Qcow2::<imago::file::File>::builder(storage).write(false).backing(None);
                FormatAccess::new(builder.open(DenyImplicitOpenGate::default())?)
            }
        };
        Ok(Self { access, left: Cell::new(BUDGET) })
    }
}

impl ReadAt for GuestDisk {
    fn size(&self) -> u64 {
        self.access.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = buffer.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.left.get().checked_sub(length) {
            Some(left) => self.left.set(left),
            None => {
                return Err(io::Error::other(
                    "finding out what is in the disk takes more reading than it is worth",
                ));
            }
        }
        self.access.read(buffer, offset)
    }
}

impl fmt::Debug for GuestDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestDisk")
            .field("size", &self.size())
            .field("left", &self.left.get())
            .finish_non_exhaustive()
    }
}

/// A part of a disk, as the file system in it sees it.
pub(super) struct Window {
    pub(super) disk: Rc<dyn ReadAt>,
    pub(super) start: u64,
    pub(super) length: u64,
}

impl ReadAt for Window {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = self.start.checked_add(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.disk.read_at(start, buffer)
    }
}

impl ext4_view::Ext4Read for Window {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_at(start_byte, dst)?)
    }
}
