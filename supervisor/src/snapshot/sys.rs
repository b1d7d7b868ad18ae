//! Calls of the kernel for which nix and rustix have no safe form: file leases, and a scan of another process's pages.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Takes a read lease on a file that is open for reading only, and gives it back. `EAGAIN` tells that somebody has the file open
/// for writing (fcntl(2), "Leases").
pub(super) fn try_read_lease(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is borrowed, so it is open.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    Errno::result(taken)?;
    // SAFETY: as above.
    let given = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    Errno::result(given).map(drop)
}

/// A run of pages, as `PAGEMAP_SCAN` tells it: `struct page_region` in `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PageRegion {
    /// The first byte's address.
    pub(super) start: u64,
    /// The address behind the last byte.
    pub(super) end: u64,
    /// What the pages are, of what was asked for.
    pub(super) categories: u64,
}

/// `struct pm_scan_arg` in `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

nix::ioctl_readwrite!(
    /// `PAGEMAP_SCAN` (Documentation/admin-guide/mm/pagemap.rst; since Linux 6.7).
    pagemap_scan,
    b'f',
    16,
    ScanArguments
);

/// Finds pages between two addresses that are there, in memory or swapped out, and no file's. `pagemap` is a process's `/proc/PID/pagemap`.
/// Answers how many regions were filled and from which address on to look further, which is `end` when all have been found.
pub(super) fn scan_own_pages(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    regions: &mut [PageRegion],
) -> Result<(usize, u64), Errno> {
    let mut arguments = ScanArguments {
        size: size_of::<ScanArguments>() as u64,
        start,
        end,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        category_inverted: PAGE_IS_FILE,
        category_mask: PAGE_IS_FILE,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_PRESENT,
        ..ScanArguments::default()
    };
    // SAFETY: the descriptor is borrowed, so it is open; the kernel reads and writes `arguments`, which has the layout and the size
    // that it says, and writes at most `vec_len` regions to `vec`, which is `regions`, borrowed mutably until this returns.
    let found = unsafe { pagemap_scan(pagemap.as_raw_fd(), &raw mut arguments) }?;
    let count = usize::try_from(found).unwrap_or_default().min(regions.len());
    Ok((count, arguments.walk_end))
}
