//! The RAM of a running QEMU, seen from outside: which pages of a private mapping are its own, and what they hold.
//!
//! `/proc/PID/pagemap` has one word for each page (Documentation/admin-guide/mm/pagemap.rst). A page of a private file mapping
//! that was never written is the file's (bit 61, "page is file-page or shared-anon") or not there at all; one that was is anonymous, present
//! (bit 63) or swapped out (bit 62) with bit 61 clear. From Linux 6.7 on the kernel searches for such pages itself, by the ioctl
//! `PAGEMAP_SCAN` of that file. Reading those bits and `/proc/PID/mem` asks for the same user, and where
//! Yama restricts ptrace(2) for being the process's parent or root.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Extent, page_size};
use crate::snapshot::error::SnapshotError;
use crate::snapshot::sys::{self, PageRegion};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

/// The mapping of one file in one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pid: u32,
    /// In the order of the file, without gaps.
    areas: Vec<Area>,
}

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Area {
    start: u64,
    length: u64,
    /// Where in the file it begins.
    offset: u64,
    private: bool,
    device: (u64, u64),
    inode: u64,
    path: String,
}

impl Mapping {
    /// Finds where the process maps the whole of this file, privately.
    pub fn private_of(pid: u32, file: &Path) -> Result<Self, SnapshotError> {
        let mapping = Self::of(pid, file)?;
        if mapping.areas.iter().all(|area| area.private) {
            return Ok(mapping);
        }
        let why = format!("it shares {} with others: it is no clone", file.display());
        Err(SnapshotError::Process { pid, why })
    }

    fn of(pid: u32, file: &Path) -> Result<Self, SnapshotError> {
        let maps = PathBuf::from(format!("/proc/{pid}/maps"));
        let text =
            std::fs::read_to_string(&maps).map_err(|e| process(pid, "its mappings cannot be read", &e))?;
        let about = std::fs::metadata(file).map_err(super::super::error::io_error("look at", file))?;
        let device = (u64::from(rustix::fs::major(about.dev())), u64::from(rustix::fs::minor(about.dev())));
        let mut areas: Vec<Area> = text
            .lines()
            .filter_map(parse)
            // Some file systems (btrfs, overlayfs) show another device here than stat(2) does.
            .filter(|area| {
                (area.device == device && area.inode == about.ino()) || Path::new(&area.path) == file
            })
            .collect();
        areas.sort_by_key(|area| area.offset);
        let mut next = 0;
        for area in &areas {
            if area.offset != next {
                let why = format!("it maps {} in parts that do not fit together", file.display());
                return Err(SnapshotError::Process { pid, why });
            }
            next += area.length;
        }
        // The last page of a file may be cut short.
        if areas.is_empty() || next < about.len() {
            let why = format!("it does not map the whole of {}", file.display());
            return Err(SnapshotError::Process { pid, why });
        }
        Ok(Self { pid, areas })
    }

    /// The bytes that are mapped.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.areas.iter().map(|area| area.length).sum()
    }

    /// The pages that are the process's own: those that may differ from the file. The process must stand still meanwhile, or some that
    /// it writes are missed.
    ///
    /// Takes time by what is there, and on a kernel before 6.7 by what could be: 36 ms for 4 GiB.
    pub fn own_pages(&self) -> Result<Vec<Extent>, SnapshotError> {
        let path = PathBuf::from(format!("/proc/{}/pagemap", self.pid));
        let file = File::open(path).map_err(|e| process(self.pid, "its page map cannot be opened", &e))?;
        match self.scan(&file) {
            Ok(extents) => Ok(extents),
            // An older kernel, or one that has the call switched off.
            Err(Errno::ENOTTY | Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => self.read_words(&file),
            Err(e) => Err(process(self.pid, "its page map cannot be searched", &e.into())),
        }
    }

    /// As [`Mapping::own_pages`], by the kernel's own search.
    pub(super) fn scan(&self, pagemap: &File) -> Result<Vec<Extent>, Errno> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut regions = vec![PageRegion::default(); 1024];
        for area in &self.areas {
            let (mut at, end) = (area.start, area.start + area.length);
            while at < end {
                let (count, next) = sys::scan_own_pages(pagemap.as_fd(), at, end, &mut regions)?;
                for region in &regions[..count] {
                    let offset = area.offset + (region.start - area.start);
                    push(&mut extents, Extent { offset, length: region.end - region.start });
                }
                if next <= at {
                    return Err(Errno::EINVAL);
                }
                at = next;
            }
        }
        Ok(extents)
    }

    /// As [`Mapping::own_pages`], by the words of all pages.
    pub(super) fn read_words(&self, file: &File) -> Result<Vec<Extent>, SnapshotError> {
        const WORDS: usize = 8192;
        let page = page_size() as u64;
        let mut extents: Vec<Extent> = Vec::new();
        let mut bytes = vec![0; WORDS * 8];
        for area in &self.areas {
            let pages = area.length / page;
            let mut index = 0;
            while index < pages {
                let count = (pages - index).min(WORDS as u64);
                let part = &mut bytes[..usize::try_from(count * 8).unwrap_or_default()];
                file.read_exact_at(part, (area.start / page + index) * 8)
                    .map_err(|e| process(self.pid, "its page map cannot be read", &e))?;
                for (number, word) in (index..).zip(part.as_chunks::<8>().0) {
                    if is_own(u64::from_ne_bytes(*word)) {
                        push(&mut extents, Extent { offset: area.offset + number * page, length: page });
                    }
                }
                index += count;
            }
        }
        Ok(extents)
    }

    /// The process's memory.
    pub fn memory(&self) -> Result<Memory<'_>, SnapshotError> {
        let path = format!("/proc/{}/mem", self.pid);
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| process(self.pid, "it cannot be opened", &e))?;
        Ok(Memory { mapping: self, file })
    }

    /// Where a place of the file is mapped, and how many bytes follow it there.
    fn address(&self, offset: u64) -> Option<(u64, u64)> {
        let area =
            self.areas.iter().find(|area| (area.offset..area.offset + area.length).contains(&offset))?;
        let inside = offset - area.offset;
        Some((area.start + inside, area.length - inside))
    }
}

/// The mapped bytes, by their place in the file.
#[derive(Debug)]
pub struct Memory<'a> {
    mapping: &'a Mapping,
    file: File,
}

impl Memory<'_> {
    /// Reads what the process sees at this place.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SnapshotError> {
        self.each(offset, into.len(), |address, range| self.file.read_exact_at(&mut into[range], address))
    }

    /// Writes to the process's own copy of the pages: the file stays as it is.
    ///
    /// The kernel makes the copy as it would for the process itself (proc_pid_mem(5)).
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.each(offset, bytes.len(), |address, range| self.file.write_all_at(&bytes[range], address))
    }

    fn each(
        &self,
        offset: u64,
        length: usize,
        mut act: impl FnMut(u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> Result<(), SnapshotError> {
        let pid = self.mapping.pid;
        let mut done = 0;
        while done < length {
            let Some((address, room)) = self.mapping.address(offset + done as u64) else {
                let why = format!("the place {} is outside of its RAM", offset + done as u64);
                return Err(SnapshotError::Process { pid, why });
            };
            let count = usize::try_from(room).unwrap_or(usize::MAX).min(length - done);
            act(address, done..done + count).map_err(|e| process(pid, "its RAM cannot be reached", &e))?;
            done += count;
        }
        Ok(())
    }
}

fn process(pid: u32, what: &str, error: &io::Error) -> SnapshotError {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (is it another user's, or does kernel.yama.ptrace_scope forbid it?)"
        }
        _ => "",
    };
    SnapshotError::Process { pid, why: format!("{what}: {error}{hint}") }
}

const fn is_own(word: u64) -> bool {
    word & (PRESENT | SWAPPED) != 0 && word & FILE_OR_SHARED == 0
}

/// Adds an extent, joined to the last where it follows it.
pub(super) fn push(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.end() == extent.offset => last.length += extent.length,
        _ => extents.push(extent),
    }
}

/// One line of `/proc/PID/maps` (proc_pid_maps(5)): `START-END PERMS OFFSET MAJOR:MINOR INODE PATH`.
fn parse(line: &str) -> Option<Area> {
    let mut words = line.splitn(6, ' ');
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let private = words.next()?.as_bytes().get(3) == Some(&b'p');
    let offset = hex(words.next()?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    let device = (hex(major)?, hex(minor)?);
    let inode = words.next()?.parse().ok()?;
    let path = words.next().unwrap_or_default().trim_start();
    let path = path.strip_suffix(" (deleted)").unwrap_or(path).replace("\\012", "\n");
    Some(Area { start, length: end.checked_sub(start)?, offset, private, device, inode, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_read() {
        let line =
            "7fd4d3fff000-7fd4d7fff000 rw-p 00001000 00:1b 2945                       /dev/shm/a b (deleted)";
        let area = parse(line).unwrap();
        assert_eq!((area.length, area.offset, area.private), (0x400_0000, 0x1000, true));
        assert_eq!((area.device, area.inode, area.path.as_str()), ((0, 0x1b), 2945, "/dev/shm/a b"));
        assert!(!parse("0-1000 rw-s 00000000 00:1b 1 /x").unwrap().private);
        assert_eq!(parse("7ffc0000-7ffc1000 rw-p 00000000 00:00 0 ").unwrap().path, "");
        assert!(parse("nonsense").is_none());
        assert!(parse("2000-1000 rw-p 00000000 00:00 0 ").is_none());
    }

    #[test]
    fn a_page_is_own_when_it_is_there_and_not_the_files() {
        assert!(is_own(PRESENT) && is_own(SWAPPED));
        assert!(!is_own(0) && !is_own(PRESENT | FILE_OR_SHARED) && !is_own(FILE_OR_SHARED));
    }
}
