//! Guest RAM as files.
//!
//! # Which form RAM takes in a snapshot
//!
//! QEMU maps the RAM of a clone from one complete flat file, privately: pages that the clone has not written are the page
//! cache's, shared by all clones. So there are two forms:
//!
//! - **flat** ([`copy()`]): a sparse file of the RAM's full size in which pages of zeros are holes. What it takes on the disk is what
//!   is not zero. It lies in the snapshot's folder, not on tmpfs: the page cache gives clones the same sharing, can give its
//!   pages up again when memory is short, and survives a reboot.
//! - **delta** ([`delta`]): the pages of a clone that differ from the flat file it maps, in a compact file. Loading maps the
//!   *same* flat file and writes those pages into QEMU's private mapping before the device state is loaded
//!   ([`delta::Delta::apply_to_process`]). Nothing has to be materialised, neither on the disk nor on tmpfs, and a clone of a clone
//!   still shares the first ancestor's pages. A delta always stands on a flat file, never on another delta: the pages that are
//!   private in a clone of a delta are those of the delta and its own. So a chain is never longer than one, and the flat
//!   file is all that must stay when the snapshots in between are removed.
//!
//! The price of a delta is paid by each clone of it: its pages are written, and so private, in every one. [`Form::choose`] draws the
//! line: a delta where the file system cannot share blocks and the pages are few, a flat file (by `FICLONE` where that is possible)
//! otherwise.
//!
//! # Pages
//!
//! The unit is the host's page, from sysconf(3): 4 KiB on most hosts, 16 KiB on a Raspberry Pi 5, 64 KiB on some servers.

mod copy;
pub mod delta;
mod file;
pub mod process;
#[cfg(test)]
mod tests;

pub use copy::{Copied, copy, reflink, set_writable, take};
pub use file::{RamFile, Scan, is_open_for_writing, punch_zeros};

/// A run of bytes of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// Where it begins, in bytes from the beginning of RAM.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

impl Extent {
    /// The first byte behind it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The sum of the lengths.
    #[must_use]
    pub fn total(extents: &[Self]) -> u64 {
        extents.iter().map(|extent| extent.length).sum()
    }
}

/// Told how far a long operation has come: bytes done, bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A progress that nobody watches.
pub fn unwatched(_done: u64, _total: u64) {}

/// The form in which a clone's RAM is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A complete file.
    Flat,
    /// The pages that differ from the file that the clone maps.
    Delta,
}

/// The most that a delta may hold, in bytes: what each clone of it has to copy (about 10 ms) and cannot share.
pub const LARGEST_DELTA: u64 = 48 << 20;

impl Form {
    /// The form for a clone of which `differing` bytes differ from its base. `reflink`: the file system shares blocks, so that a
    /// flat file costs no more than a delta.
    #[must_use]
    pub const fn choose(differing: u64, reflink: bool) -> Self {
        if reflink || differing > LARGEST_DELTA { Self::Flat } else { Self::Delta }
    }
}

/// The size of the host's pages in bytes (sysconf(3), `_SC_PAGESIZE`).
#[must_use]
pub fn page_size() -> usize {
    let asked = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    // POSIX has every system answer; the smallest page that any has is as good for looking at bytes.
    asked.ok().flatten().and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

/// Whether there are only zeros. Compared by memcmp(3), which is fast in every build.
pub(in crate::snapshot) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Runs of pages in `bytes` that are not zero, as ranges of it. The last page may be cut short.
pub(super) fn nonzero_runs(bytes: &[u8], page: usize) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, part) in bytes.chunks(page).enumerate() {
        if is_zero(part) {
            continue;
        }
        let (start, end) = (index * page, index * page + part.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}
