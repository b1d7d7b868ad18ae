//! Images built before, each in a folder named by its key.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::error::{ImageError, io_error};
use super::super::{Draft, Image, Pruned};
use super::run::{Readable, wait_readable};
use super::{BuildError, ImageName, Phase, Progress};

/// Says which scripts made an image, in its folder.
const GENERATION: &str = "generation";

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

/// Makes what was built into the cache's `entry`, in place of a former one; `generation` says by which scripts.
pub(super) fn keep(
    entry: &Path,
    draft: Draft,
    scratch: &Path,
    generation: &str,
) -> Result<Image, BuildError> {
    let sealed = draft.seal()?;
    match fs::remove_dir_all(entry) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", entry)(e).into()),
        _ => {}
    }
    let mark = entry.join(GENERATION);
    fs::create_dir_all(entry)
        .and_then(|()| fs::write(&mark, generation))
        .map_err(io_error("write", &mark))?;
    Ok(sealed.write_to(entry, scratch)?)
}

/// Removes the images of other generations that nobody is building, or only says which where `dry` is set.
pub(super) fn prune(cache: &Path, generation: &str, dry: bool) -> Result<Vec<Pruned>, ImageError> {
    let mut pruned = Vec::new();
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(pruned),
        Err(e) => return Err(io_error("list", cache)(e)),
    };
    for entry in entries {
        let path = entry.map_err(io_error("list", cache))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_key = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_key || fs::read_to_string(path.join(GENERATION)).is_ok_and(|found| found == generation) {
            continue;
        }
        let lock = cache.join(format!("{name}.lock"));
        let file = File::options().create(true).append(true).open(&lock).map_err(io_error("open", &lock))?;
        let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
        let mut bytes = 0;
        for file in fs::read_dir(&path).map_err(io_error("list", &path))? {
            let about = file.and_then(|file| file.metadata()).map_err(io_error("read", &path))?;
            bytes += about.len();
        }
        if !dry {
            fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        }
        pruned.push(Pruned { path, bytes });
    }
    pruned.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_other_scripts_are_pruned_unless_somebody_builds_them() {
        let cache = tempfile::tempdir().unwrap();
        let entry = |digit: &str, generation: Option<&str>| {
            let path = cache.path().join(digit.repeat(64));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("disk"), "1234").unwrap();
            if let Some(text) = generation {
                fs::write(path.join(GENERATION), text).unwrap();
            }
            path
        };
        let (current, old, older) = (entry("a", Some("now")), entry("b", Some("then")), entry("c", None));
        let busy = entry("d", None);
        let other = cache.path().join("notes");
        fs::create_dir(&other).unwrap();
        let lock = File::create(cache.path().join(format!("{}.lock", "d".repeat(64)))).unwrap();
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();

        let asked = prune(cache.path(), "now", true).unwrap();
        assert_eq!(asked.iter().map(|pruned| &pruned.path).collect::<Vec<_>>(), [&old, &older]);
        assert_eq!(asked[1].bytes, 4);
        assert!(old.exists());
        assert_eq!(prune(cache.path(), "now", false).unwrap(), asked);
        assert!(!old.exists() && !older.exists() && current.exists() && busy.exists() && other.exists());
    }
}
