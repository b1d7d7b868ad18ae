//! File leases (fcntl(2), "Leases"), for which nix and rustix have no safe call.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Takes a read lease on a file that is open for reading only, and gives it back. `EAGAIN` tells that somebody has the file open
/// for writing.
pub(super) fn try_read_lease(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is borrowed, so it is open.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    Errno::result(taken)?;
    // SAFETY: as above.
    let given = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    Errno::result(given).map(drop)
}
