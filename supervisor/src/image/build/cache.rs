//! Images built before, each in a folder named by its key.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::error::{ImageError, io_error};
use super::super::{Draft, Image};
use super::run::{Readable, wait_readable};
use super::{BuildError, ImageName, Phase, Progress};

/// Takes the lock of one key; waits for whoever builds the same.
pub(super) fn lock(
    cache: &Path,
    key: &str,
    cancel: Option<BorrowedFd<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Flock<File>, BuildError> {
    fs::create_dir_all(cache).map_err(io_error("make", cache))?;
    let path = cache.join(format!("{key}.lock"));
    let file = File::options().create(true).append(true).open(&path).map_err(io_error("open", &path))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, e)) => return Err(io_error("lock", &path)(e.into()).into()),
    };
    progress(Progress { phase: Phase::Waiting, fraction: None, detail: String::new() });
    // flock(2) cannot be waited for together with other things, so a thread waits and closes its end of a pipe.
    let (done, waiting) =
        io::pipe().map_err(|source| BuildError::Io { what: "make a pipe".to_owned(), source })?;
    let waiter = std::thread::spawn(move || {
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e);
        drop(waiting);
        lock
    });
    if wait_readable(done.as_fd(), cancel)? == Readable::Cancel {
        return Err(BuildError::Interrupted);
    }
    match waiter.join() {
        Ok(Ok(lock)) => Ok(lock),
        Ok(Err(e)) => Err(io_error("lock", &path)(e.into()).into()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The image kept in `entry`, under the name wanted now; none if there is none or if it is damaged.
pub(super) fn find(
    entry: &Path,
    name: &ImageName,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Image>, BuildError> {
    let Some(mut image) = Image::read(entry).unwrap_or_else(|e| {
        tracing::warn!("{} is built again: {e}", entry.display());
        None
    }) else {
        return Ok(None);
    };
    progress(Progress { phase: Phase::Checking, fraction: Some(0.5), detail: String::new() });
    match image.verify() {
        Ok(()) => {
            image.manifest.name = name.to_string();
            Ok(Some(image))
        }
        Err(e @ (ImageError::Damaged { .. } | ImageError::Io { .. })) => {
            tracing::warn!("{} is built again: {e}", entry.display());
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// Makes what was built into the cache's `entry`, in place of a former one.
pub(super) fn keep(entry: &Path, draft: Draft, scratch: &Path) -> Result<Image, BuildError> {
    let sealed = draft.seal()?;
    match fs::remove_dir_all(entry) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", entry)(e).into()),
        _ => Ok(sealed.write_to(entry, scratch)?),
    }
}
