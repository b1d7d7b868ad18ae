//! Copies of RAM files that cost what is not zero, or nothing.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{Progress, RamFile, nonzero_runs, page_size};
use crate::snapshot::digest::{Digester, Digests};
use crate::snapshot::error::{SnapshotError, io_error};

/// A copy that was made.
#[derive(Debug)]
pub struct Copied {
    /// Its chunks' digests, taken from what was read of the source.
    pub digests: Digests,
    /// Bytes written; none where the file system shares the blocks.
    pub written: u64,
    /// Whether the file system shares the blocks.
    pub reflink: bool,
}

/// Copies a RAM file to `target`, which must not exist, and reads it for its digests: blocks are shared where the file system can,
/// else pages of zeros are left out. The copy can only be read (mode 0400): it is a snapshot's, and never changes.
///
/// copy_file_range(2) is not used: the pages have to be looked at anyway, for zeros and for the digests, and once is enough.
pub fn copy(source: &Path, target: &Path, progress: Progress<'_>) -> Result<Copied, SnapshotError> {
    let ram = RamFile::open(source)?;
    let file = create(target)?;
    let reflink = clone_blocks(ram.file(), &file);
    if !reflink {
        file.set_len(ram.len()).map_err(io_error("set the size of", target))?;
    }
    let page = page_size();
    let mut digester = Digester::new(ram.len());
    let mut written = 0;
    ram.chunks(progress, |at, chunk| {
        digester.chunk(at, chunk);
        if reflink {
            return Ok(());
        }
        for run in nonzero_runs(chunk, page) {
            file.write_all_at(&chunk[run.clone()], at + run.start as u64)
                .map_err(io_error("write", target))?;
            written += run.len() as u64;
        }
        Ok(())
    })?;
    seal(&file, target)?;
    Ok(Copied { digests: digester.finish(), written, reflink })
}

/// Makes `target` share the blocks of `source`; answers `false`, and leaves nothing behind, where the file system cannot.
pub fn reflink(source: &Path, target: &Path) -> Result<bool, SnapshotError> {
    let from = File::open(source).map_err(io_error("open", source))?;
    let file = create(target)?;
    if clone_blocks(&from, &file) {
        return Ok(true);
    }
    std::fs::remove_file(target).map_err(io_error("remove", target))?;
    Ok(false)
}

/// Moves a RAM file that nobody needs where it is any more; answers `false` where `target` is on another file system.
///
/// QEMU may have it mapped, and must not write to it any more.
pub fn take(source: &Path, target: &Path) -> Result<bool, SnapshotError> {
    // A second name first: until the snapshot is whole the VM may still have to go on with the first.
    match std::fs::hard_link(source, target) {
        Ok(()) => {
            let file = File::open(target).map_err(io_error("open", target))?;
            seal(&file, target).map(|()| true)
        }
        Err(e) if matches!(e.kind(), std::io::ErrorKind::CrossesDevices) => Ok(false),
        // A file system without hard links, or another's file (`fs.protected_hardlinks`): it is copied.
        Err(e)
            if matches!(e.kind(), std::io::ErrorKind::Unsupported | std::io::ErrorKind::PermissionDenied) =>
        {
            Ok(false)
        }
        Err(e) => Err(io_error("take in", source)(e)),
    }
}

/// Gives the right to write back: to a copy that is not a snapshot's yet.
pub fn set_writable(path: &Path) -> Result<(), SnapshotError> {
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io_error("open for writing", path))
}

/// A new file, ours alone: it is to hold a guest's memory.
pub(super) fn create(path: &Path) -> Result<File, SnapshotError> {
    let open = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    open.map_err(io_error("create", path))
}

/// Takes the right to write away, as a help against mistakes.
pub(super) fn seal(file: &File, path: &Path) -> Result<(), SnapshotError> {
    file.set_permissions(Permissions::from_mode(0o400)).map_err(io_error("seal", path))
}

/// `FICLONE` (ioctl_ficlone(2)). Every failure means that the bytes have to be copied: another file system, one without reflinks, a
/// full one, which the copy will then say more clearly.
fn clone_blocks(source: &File, target: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}
