//! One RAM file: mapped through vm-memory, looked at page by page, its zeros given back.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use nix::unistd::{Whence, lseek};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::{Extent, Progress, nonzero_runs, page_size};
use crate::snapshot::digest::CHUNK;
use crate::snapshot::error::{SnapshotError, io_error};

/// A RAM file, mapped for reading.
///
/// It must not become shorter while it is mapped: reading behind the new end would end this process by SIGBUS. A snapshot's files never
/// change, and the file of a running VM belongs to its supervisor.
#[derive(Debug)]
pub struct RamFile {
    path: PathBuf,
    file: File,
    length: u64,
    map: Option<MmapRegion>,
}

/// What a RAM file holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Scan {
    /// Its size in bytes.
    pub length: u64,
    /// Bytes in pages that hold something.
    pub nonzero: u64,
    /// Bytes in pages of zeros that are not holes: what [`punch_zeros`] gives back.
    pub zero: u64,
    /// Bytes that the file takes on its file system.
    pub allocated: u64,
}

impl RamFile {
    /// Opens and maps a RAM file.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let length = file.metadata().map_err(io_error("look at", path))?.len();
        let map = if length == 0 {
            None
        } else {
            let kept = file.try_clone().map_err(io_error("open", path))?;
            let size =
                usize::try_from(length).map_err(|e| io_error("map", path)(std::io::Error::other(e)))?;
            let map = MmapRegionBuilder::new(size)
                .with_file_offset(FileOffset::new(kept, 0))
                .with_mmap_prot(libc::PROT_READ)
                .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
                .build()
                .map_err(|e| io_error("map", path)(std::io::Error::other(e)))?;
            Some(map)
        };
        Ok(Self { path: path.to_owned(), file, length, map })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes that it takes on its file system.
    pub fn allocated(&self) -> Result<u64, SnapshotError> {
        allocated(&self.file, &self.path)
    }

    /// The parts that are not holes, whole pages each, in order.
    ///
    /// On a file system that knows no holes that is the whole file (lseek(2), `SEEK_DATA`).
    pub fn data(&self) -> Result<Vec<Extent>, SnapshotError> {
        data(self.file.as_fd(), self.length, &self.path)
    }

    /// Copies bytes out of the mapping.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SnapshotError> {
        let outside = || io_error("read", &self.path)(std::io::ErrorKind::UnexpectedEof.into());
        let Some(map) = &self.map else {
            return if into.is_empty() { Ok(()) } else { Err(outside()) };
        };
        let start = usize::try_from(offset).map_err(|_| outside())?;
        let slice = map.get_slice(start, into.len()).map_err(|_| outside())?;
        slice.copy_to(into);
        Ok(())
    }

    /// Hands every chunk that is not a hole to `each`, with its place.
    ///
    /// Holes inside of a chunk are not touched: to read one through a mapping makes tmpfs allocate its pages.
    pub(crate) fn chunks(
        &self,
        progress: Progress<'_>,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let data = self.data()?;
        let total = Extent::total(&data);
        let (mut done, mut next) = (0, 0);
        let mut buffer = vec![0; usize::try_from(CHUNK.min(self.length)).unwrap_or_default()];
        let mut rest = data.as_slice();
        while let Some(first) = rest.first() {
            // Extents that end before this chunk have been taken off.
            let start = (first.offset / CHUNK * CHUNK).max(next);
            let end = start.saturating_add(CHUNK).min(self.length);
            buffer.fill(0);
            let mut in_chunk = 0;
            for extent in rest.iter().take_while(|extent| extent.offset < end) {
                let (from, to) = (extent.offset.max(start), extent.end().min(end));
                let range = to_usize(from - start)..to_usize(to - start);
                if let Some(part) = buffer.get_mut(range) {
                    self.read(from, part)?;
                }
                in_chunk += to - from;
            }
            if let Some(chunk) = buffer.get(..to_usize(end - start)) {
                each(start, chunk)?;
            }
            (done, next) = (done + in_chunk, end);
            let passed = rest.iter().take_while(|extent| extent.end() <= end).count();
            rest = &rest[passed..];
            progress(done, total);
        }
        Ok(())
    }

    /// Counts its pages.
    pub fn scan(&self, progress: Progress<'_>) -> Result<Scan, SnapshotError> {
        let page = page_size();
        let data = Extent::total(&self.data()?);
        let mut nonzero = 0;
        self.chunks(progress, |_, chunk| {
            nonzero += nonzero_runs(chunk, page).iter().map(|run| run.len() as u64).sum::<u64>();
            Ok(())
        })?;
        let allocated = self.allocated()?;
        Ok(Scan { length: self.length, nonzero, zero: data.saturating_sub(nonzero), allocated })
    }
}

/// An offset within a chunk.
fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Gives the pages of zeros of a file back to its file system; answers how many bytes. On a file system without holes that is none.
///
/// The caller knows that nobody writes to the file meanwhile.
pub fn punch_zeros(path: &Path, progress: Progress<'_>) -> Result<u64, SnapshotError> {
    let ram = RamFile::open(path)?;
    let file = File::options().write(true).open(path).map_err(io_error("open for writing", path))?;
    let page = page_size();
    let mut freed = 0;
    for extent in ram.data()? {
        let mut at = extent.offset;
        let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or_default()];
        while at < extent.end() {
            let length = usize::try_from(CHUNK.min(extent.end() - at)).unwrap_or_default();
            let chunk = &mut buffer[..length];
            ram.read(at, chunk)?;
            let mut start = 0;
            let ends = nonzero_runs(chunk, page).into_iter().chain(std::iter::once(length..length));
            for run in ends {
                if run.start > start {
                    let zeros = Extent { offset: at + start as u64, length: (run.start - start) as u64 };
                    if !punch(&file, zeros, path)? {
                        return Ok(freed);
                    }
                    freed += zeros.length;
                }
                start = run.end;
            }
            at += length as u64;
            progress(at, ram.length);
        }
    }
    Ok(freed)
}

/// Makes a hole; answers `false` where the file system has none.
pub(super) fn punch(file: &File, extent: Extent, path: &Path) -> Result<bool, SnapshotError> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, extent.offset.cast_signed(), extent.length.cast_signed()) {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(io_error("make a hole in", path)(e.into())),
    }
}

fn allocated(file: &File, path: &Path) -> Result<u64, SnapshotError> {
    let about = file.metadata().map_err(io_error("look at", path))?;
    // st_blocks counts in 512 bytes whatever the file system's own unit (inode(7)).
    Ok(std::os::unix::fs::MetadataExt::blocks(&about) * 512)
}

/// The parts of a file that are not holes.
fn data(file: BorrowedFd<'_>, length: u64, path: &Path) -> Result<Vec<Extent>, SnapshotError> {
    let failed = |e: Errno| io_error("find the holes of", path)(e.into());
    let mut extents = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match lseek(file, at.cast_signed(), Whence::SeekData) {
            Ok(start) => start.cast_unsigned(),
            // Nothing but holes from here on.
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(failed(e)),
        };
        let end = lseek(file, start.cast_signed(), Whence::SeekHole).map_err(failed)?.cast_unsigned();
        let end = end.min(length);
        if start >= end {
            break;
        }
        extents.push(Extent { offset: start, length: end - start });
        at = end;
    }
    Ok(extents)
}

/// Whether any process has this file open for writing: a snapshot's RAM must not change while clones map it, as a private mapping shows
/// later writes in the pages that were not yet copied (mmap(2)).
///
/// Found by a read lease, which the kernel gives only where there is no writer (fcntl(2), `F_SETLEASE`); it asks for the file's
/// owner or root. `None` where it cannot be told: the file is another's, or its file system knows no leases.
pub fn is_open_for_writing(path: &Path) -> Result<Option<bool>, SnapshotError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    match crate::snapshot::sys::try_read_lease(file.as_fd()) {
        Ok(()) => Ok(Some(false)),
        Err(Errno::EAGAIN) => Ok(Some(true)),
        Err(Errno::EACCES | Errno::EINVAL) => Ok(None),
        Err(e) => Err(io_error("ask who writes to", path)(e.into())),
    }
}
