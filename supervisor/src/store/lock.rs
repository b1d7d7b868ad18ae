//! Locks that end with their holder (`flock(2)`): no stale lock can exist.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StoreError;

/// A held lock; dropping it frees it.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// Waits for the lock on `path`, which is created where it is missing. Answers nothing when the folder that holds
    /// it does not exist (any more).
    pub fn take(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let file = match OpenOptions::new().write(true).create(true).truncate(false).open(path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(StoreError::io("open", path)(e)),
            };
            let locked = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, e)| StoreError::io("lock", path)(e.into()))?;
            // Whoever held it may have removed or replaced the file: a lock on a file that nobody else finds is none.
            if is_at(&locked, path) {
                return Ok(Some(Self(locked)));
            }
        }
    }

    /// A copy for a child's standard input: while the child lives the lock is held, also when this process is killed. Dropping the
    /// lock here frees it all the same, so keep it until the child has ended.
    pub fn for_child(&self) -> io::Result<Stdio> {
        Ok(Stdio::from(self.0.try_clone()?))
    }

    /// Takes the lock on `path`, created where it is missing, or answers nothing when it is held.
    pub fn try_take(path: &Path) -> Result<Option<Self>, StoreError> {
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = open.map_err(StoreError::io("open", path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) if is_at(&locked, path) => Ok(Some(Self(locked))),
            Ok(_) | Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(StoreError::io("lock", path)(e.into())),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
