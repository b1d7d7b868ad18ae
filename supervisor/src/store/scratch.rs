//! Folders for unfinished work. Each is locked by its maker for as long as it is used, so that whoever finds one that nobody
//! holds may remove it: what a killed command leaves behind is swept by the next.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use super::StoreError;

/// A folder for unfinished work; dropping it removes it with everything in it.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: Flock<File>,
    /// It was renamed away: there is nothing to remove.
    published: bool,
}

impl Scratch {
    /// Makes one in `parent`, which is made too where it is missing. `purpose` begins its name, `mode` is its permissions.
    pub(crate) fn new(parent: &Path, purpose: &str, mode: u32) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        loop {
            let path = parent.join(format!("{purpose}-{}", uuid::Uuid::new_v4().simple()));
            fs::DirBuilder::new().mode(mode).create(&path)?;
            // A sweep may have come between the two calls: then the folder is gone or the lock is on a removed one, and another
            // is made.
            match try_lock(&path) {
                Ok(Some(lock)) if is_same(&lock, &path) => {
                    return Ok(Self { path, _lock: lock, published: false });
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the finished folder to `target`. Answers `false`, and removes the work, when `target` exists.
    pub(crate) fn publish(mut self, target: &Path) -> Result<bool, StoreError> {
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, &self.path, cwd, target, rustix::fs::RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.published = true;
                Ok(true)
            }
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(e) => Err(StoreError::io("rename into place", target)(e.into())),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        if let Err(e) = remove(&self.path) {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// Removes the folders for unfinished work in `parent` whose makers are gone, and answers which there were. Anything else in
/// there is nobody's work of midge, and stays.
pub(crate) fn sweep(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut swept = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        match try_lock(&path) {
            Ok(Some(lock)) if is_same(&lock, &path) => {
                remove(&path)?;
                swept.push(path);
            }
            // In use, or gone meanwhile.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(swept)
}

/// Locks a folder, or says by `None` that another holds it.
fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e.into()),
    }
}

/// Whether the path still leads to this folder.
fn is_same(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Removes a folder, also when an unprivileged build was killed and left files of its subordinate users in it: only root of a
/// user namespace that maps them may remove those (user_namespaces(7)).
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let removed = Command::new("unshare")
                .args(["--user", "--map-auto", "--map-root-user", "rm", "-rf", "--"])
                .arg(path)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if removed.is_ok_and(|status| status.success()) { Ok(()) } else { Err(e) }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_takes_what_nobody_holds_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let held = Scratch::new(parent.path(), "image", 0o711).unwrap();
        let left_behind = parent.path().join("create-dead");
        fs::create_dir_all(left_behind.join("deep")).unwrap();
        fs::write(left_behind.join("deep/file"), "x").unwrap();

        assert_eq!(sweep(parent.path()).unwrap(), std::slice::from_ref(&left_behind));
        assert!(held.path().exists() && !left_behind.exists());
        drop(held);
        assert!(sweep(parent.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_folder_stays_and_stops_nobody() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("notes"), parent.path().join("link"));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("/", &link).unwrap();
        nix::unistd::mkfifo(&parent.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(sweep(parent.path()).unwrap().is_empty());
        assert!(file.exists() && link.exists());
    }

    #[test]
    fn making_goes_on_beside_a_sweep_that_never_stops() {
        let parent = tempfile::tempdir().unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    sweep(parent.path()).unwrap();
                }
            });
            let made = (0..300).try_for_each(|_| {
                let scratch = Scratch::new(parent.path(), "create", 0o700)?;
                fs::write(scratch.path().join("file"), "x")
            });
            over.store(true, std::sync::atomic::Ordering::SeqCst);
            made.unwrap();
        });
    }

    #[test]
    fn sweeping_where_nothing_was_made_is_no_error() {
        assert!(sweep(Path::new("/nonexistent/midge")).unwrap().is_empty());
    }
}
