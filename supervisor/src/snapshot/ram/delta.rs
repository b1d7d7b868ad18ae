//! The pages of a clone that differ from the RAM file it maps, in a file.
//!
//! ```text
//! offset   length
//! 0        8       "MIDGEDLT"
//! 8        4       version, 1
//! 12       4       size of the pages it was made of, in bytes
//! 16       8       size of the guest's RAM
//! 24       16      id of the snapshot whose flat RAM file it stands on
//! 40       8       number of extents
//! 48       8       where the index begins
//! 4096             the extents' bytes, one after the other, those of zeros left out
//! index    16 each offset in RAM; length, its uppermost bit set for zeros
//! ```
//!
//! All numbers are little-endian. The index comes last, so that the file is written in one go while the guest stands still; the header is
//! written when the rest is, so that an unfinished file is none. Its bytes are covered by the snapshot's digests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::copy::{create, seal};
use super::file::punch;
use super::process::{Mapping, push};
use super::{Extent, Progress, nonzero_runs, page_size};
use crate::snapshot::digest::CHUNK;
use crate::snapshot::error::{SnapshotError, io_error};

const MAGIC: &[u8; 8] = b"MIDGEDLT";
const VERSION: u32 = 1;
const HEADER: u64 = 4096;
const ENTRY: u64 = 16;
const ZEROS: u64 = 1 << 63;

/// A delta that was opened, and whose index makes sense.
#[derive(Debug)]
pub struct Delta {
    path: PathBuf,
    file: File,
    /// The size of the guest's RAM in bytes.
    pub ram: u64,
    /// The snapshot whose flat RAM file it stands on.
    pub base: Uuid,
    parts: Vec<Part>,
}

/// One extent and where its bytes lie; none for zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    extent: Extent,
    data: Option<u64>,
}

/// Writes the delta `path`, which must not exist, of the pages `own`, sorted and apart, that `read` gives. Answers the bytes that
/// were not zero.
pub fn write(
    path: &Path,
    base: Uuid,
    ram: u64,
    own: &[Extent],
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), SnapshotError>,
) -> Result<u64, SnapshotError> {
    let page = page_size();
    let file = create(path)?;
    // Also one without pages has its header.
    file.set_len(HEADER).map_err(io_error("set the size of", path))?;
    let put = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).map_err(io_error("write", path));
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or_default()];
    let mut at = HEADER;
    let (mut full, mut zeros): (Vec<Extent>, Vec<Extent>) = (Vec::new(), Vec::new());
    for extent in own {
        let mut offset = extent.offset;
        while offset < extent.end() {
            let length = usize::try_from(CHUNK.min(extent.end() - offset)).unwrap_or_default();
            let chunk = &mut buffer[..length];
            read(offset, chunk)?;
            let mut start = 0;
            for run in nonzero_runs(chunk, page).into_iter().chain(std::iter::once(length..length)) {
                let part = |range: std::ops::Range<usize>| Extent {
                    offset: offset + range.start as u64,
                    length: range.len() as u64,
                };
                if run.start > start {
                    push(&mut zeros, part(start..run.start));
                }
                if !run.is_empty() {
                    put(&chunk[run.clone()], at)?;
                    at += run.len() as u64;
                    push(&mut full, part(run.clone()));
                }
                start = run.end;
            }
            offset += length as u64;
        }
    }
    let index: Vec<u8> = full
        .iter()
        .map(|extent| (extent.offset, extent.length))
        .chain(zeros.iter().map(|extent| (extent.offset, extent.length | ZEROS)))
        .flat_map(|(offset, length)| [offset.to_le_bytes(), length.to_le_bytes()].concat())
        .collect();
    put(&index, at)?;
    let count = (full.len() + zeros.len()) as u64;
    let page = u32::try_from(page).unwrap_or(u32::MAX);
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(page.to_le_bytes());
    header.extend(ram.to_le_bytes());
    header.extend(base.as_bytes());
    header.extend(count.to_le_bytes());
    header.extend(at.to_le_bytes());
    put(&header, 0)?;
    seal(&file, path)?;
    Ok(at - HEADER)
}

impl Delta {
    /// Opens a delta, and makes sure that its index leads nowhere but into its own file and the guest's RAM.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let length = file.metadata().map_err(io_error("look at", path))?.len();
        let damaged = |what: &str| SnapshotError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let mut header = [0; 56];
        if length < HEADER.min(56) {
            return Err(damaged("it is too short for a delta"));
        }
        file.read_exact_at(&mut header, 0).map_err(io_error("read", path))?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        if !header.starts_with(MAGIC) {
            return Err(damaged("it does not begin as a delta does"));
        }
        if word(8) != VERSION {
            let (path, found) = (path.to_owned(), u64::from(word(8)));
            return Err(SnapshotError::Newer { path, found, known: VERSION });
        }
        let (ram, count, index_at) = (number(16), number(40), number(48));
        let base = Uuid::from_bytes(std::array::from_fn(|i| header[24 + i]));
        let size = count.checked_mul(ENTRY).filter(|size| index_at.checked_add(*size) == Some(length));
        let size = size.and_then(|size| usize::try_from(size).ok());
        let Some(size) = size.filter(|_| index_at >= HEADER) else {
            return Err(damaged("its index does not end where the file does"));
        };
        let mut index = vec![0; size];
        file.read_exact_at(&mut index, index_at).map_err(io_error("read", path))?;
        let mut parts = Vec::with_capacity(size / 16);
        let mut data = HEADER;
        for entry in index.as_chunks::<16>().0 {
            let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| entry[at + i]));
            let (offset, length) = (number(0), number(8));
            let extent = Extent { offset, length: length & !ZEROS };
            let inside = offset.checked_add(extent.length).is_some_and(|end| end <= ram);
            if extent.length == 0 || !inside {
                return Err(damaged("its index names bytes outside of the guest's RAM"));
            }
            let place = if length & ZEROS == 0 {
                let place = data;
                data = data.saturating_add(extent.length);
                Some(place)
            } else {
                None
            };
            parts.push(Part { extent, data: place });
        }
        if data != index_at {
            return Err(damaged("its index names more or fewer bytes than it has"));
        }
        Ok(Self { path: path.to_owned(), file, ram, base, parts })
    }

    /// Bytes of RAM that it decides, those that it makes zero among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.extent.length).sum()
    }

    /// Hands every part to `put`; none for zeros.
    fn each(
        &self,
        progress: Progress<'_>,
        mut put: impl FnMut(Extent, Option<&[u8]>) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let total = self.bytes();
        let (mut done, mut buffer) = (0, vec![0; usize::try_from(CHUNK).unwrap_or_default()]);
        for part in &self.parts {
            let Some(place) = part.data else {
                put(part.extent, None)?;
                done += part.extent.length;
                continue;
            };
            let mut at = 0;
            while at < part.extent.length {
                let length = CHUNK.min(part.extent.length - at);
                let chunk = &mut buffer[..usize::try_from(length).unwrap_or_default()];
                self.file.read_exact_at(chunk, place + at).map_err(io_error("read", &self.path))?;
                put(Extent { offset: part.extent.offset + at, length }, Some(chunk))?;
                at += length;
                done += length;
                progress(done, total);
            }
        }
        Ok(())
    }

    /// Writes the pages into a file that holds the base's RAM, which then holds the clone's.
    pub fn apply_to_file(&self, target: &Path, progress: Progress<'_>) -> Result<(), SnapshotError> {
        let file = File::options().write(true).open(target).map_err(io_error("open for writing", target))?;
        let length = file.metadata().map_err(io_error("look at", target))?.len();
        if length != self.ram {
            let what = format!("the file it stands on has {length} bytes instead of {}", self.ram);
            return Err(SnapshotError::Damaged { path: self.path.clone(), what });
        }
        self.each(progress, |extent, bytes| {
            let write = |bytes: &[u8], at| file.write_all_at(bytes, at).map_err(io_error("write", target));
            match bytes {
                Some(bytes) => write(bytes, extent.offset),
                None if punch(&file, extent, target)? => Ok(()),
                None => in_zeros(extent, write),
            }
        })
    }

    /// Writes the pages into a QEMU that maps the base's RAM privately and has not loaded its device state yet.
    pub fn apply_to_process(&self, mapping: &Mapping, progress: Progress<'_>) -> Result<(), SnapshotError> {
        let memory = mapping.memory()?;
        self.each(progress, |extent, bytes| match bytes {
            Some(bytes) => memory.write(extent.offset, bytes),
            None => in_zeros(extent, |bytes, at| memory.write(at, bytes)),
        })
    }
}

/// Writes zeros over an extent.
fn in_zeros(
    extent: Extent,
    mut write: impl FnMut(&[u8], u64) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    static PART: [u8; 1 << 16] = [0; 1 << 16];
    let mut at = extent.offset;
    while at < extent.end() {
        let length = usize::try_from(extent.end() - at).unwrap_or(usize::MAX).min(PART.len());
        write(&PART[..length], at)?;
        at += length as u64;
    }
    Ok(())
}
