//! Where guest memory can be a file that is nevertheless RAM: a folder on tmpfs.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

use super::cgroup::Cgroup;
use super::memory::Memory;
use super::root::HostRoot;
use super::space::Space;

/// The tmpfs that every Linux has (POSIX shared memory, shm_overview(7)).
const SHM: &str = "/dev/shm";

/// tmpfs's number in statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Room left beside the memory asked for, in bytes: sockets, logs and records live on tmpfs too, and a guest that
/// meets a full tmpfs dies by SIGBUS.
const MARGIN: u64 = 16 << 20;

/// No folder for guest memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no tmpfs has room for {} of guest memory: {}", mib(*need), refusals.join("; "))]
pub struct NoRoom {
    /// What was asked for, in bytes.
    pub need: u64,
    /// Each place looked at, and what was wrong with it.
    pub refusals: Vec<String>,
}

impl NoRoom {
    /// What to do about it, in a sentence.
    #[must_use]
    pub fn next_step(&self) -> String {
        let size = mib(self.need.saturating_add(MARGIN));
        format!(
            "stop other VMs, give the VM less memory, or enlarge /dev/shm by {size} (`mount -o remount,size=`)"
        )
    }
}

/// The folder for a file of `need` bytes of guest memory: `run_dir` if it is on tmpfs, else `/dev/shm/midge-UID`, which
/// is made (mode 0700) where missing.
///
/// "Room" takes into account what files already in that folder were promised and have not touched yet, and what the host
/// and our control group have left. Two calls at the same moment may be given the same room: it is a forecast, not
/// a reservation.
pub fn ram_dir(run_dir: &Path, need: u64) -> Result<PathBuf, NoRoom> {
    choose(run_dir, Path::new(SHM), available(&HostRoot::system()), need, make_private)
}

/// The folder that [`ram_dir`] would give, without making it.
pub(super) fn preview(run_dir: &Path, need: u64) -> Result<PathBuf, NoRoom> {
    let check =
        |folder: &Path| if folder.symlink_metadata().is_ok() { check_private(folder) } else { Ok(()) };
    choose(run_dir, Path::new(SHM), available(&HostRoot::system()), need, check)
}

/// Memory that can be had, in bytes, and who says so.
fn available(root: &HostRoot) -> Option<(u64, String)> {
    let host = Memory::of(root)
        .ok()
        .map(|memory| (memory.available.saturating_add(memory.swap_free), "the host".to_owned()));
    let group =
        Cgroup::of(root).memory_limit().map(|limit| (limit.room(), limit.group.display().to_string()));
    host.into_iter().chain(group).min_by_key(|(bytes, _)| *bytes)
}

fn choose(
    run_dir: &Path,
    shm: &Path,
    memory: Option<(u64, String)>,
    need: u64,
    claim: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, NoRoom> {
    if let Some((bytes, owner)) = memory
        && bytes < need.saturating_add(MARGIN)
    {
        return Err(NoRoom { need, refusals: vec![format!("{owner} has {} of memory left", mib(bytes))] });
    }
    let own = shm.join(format!("midge-{}", rustix::process::geteuid().as_raw()));
    let mut refusals = Vec::new();
    match check(run_dir, need) {
        Ok(()) => return Ok(run_dir.to_owned()),
        Err(refusal) => refusals.push(refusal),
    }
    // Looked at before it is made, so that a folder is not left where nothing comes of it.
    match check(&own, need).and_then(|()| claim(&own)) {
        Ok(()) => return Ok(own),
        Err(refusal) => refusals.push(refusal),
    }
    Err(NoRoom { need, refusals })
}

/// Whether a file of `need` bytes fits; else what is wrong.
fn check(folder: &Path, need: u64) -> Result<(), String> {
    let shown = folder.display();
    let there = super::space::nearest_existing(folder);
    let about =
        statfs(&there).map_err(|error| format!("{shown} cannot be looked at: {}", io::Error::from(error)))?;
    #[allow(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "the field's type differs by architecture"
    )]
    if about.f_type as u64 != TMPFS_MAGIC {
        return Err(format!("{shown} is not on tmpfs"));
    }
    let space = Space::of(&there).map_err(|error| format!("{shown} cannot be looked at: {error}"))?;
    let free = space.available.saturating_sub(promised(folder, 4));
    if free < need.saturating_add(MARGIN) {
        return Err(format!("{shown} has {} to give", mib(free)));
    }
    Ok(())
}

/// Bytes that files below `folder` may still come to use: their holes.
fn promised(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let mut sum = 0_u64;
    for entry in entries.flatten() {
        let Ok(about) = entry.metadata() else { continue };
        sum = sum.saturating_add(if about.is_file() {
            about.len().saturating_sub(about.blocks() * 512)
        } else if about.is_dir() && depth > 0 {
            promised(&entry.path(), depth - 1)
        } else {
            0
        });
    }
    sum
}

/// Makes a folder that nobody else may enter, or makes sure that an existing one is that.
///
/// Its parent is open to all (sticky), so another user may have put something of that name there first: a folder of theirs
/// would let them read guest memory, a symbolic link would lead files elsewhere.
fn make_private(folder: &Path) -> Result<(), String> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_private(folder),
        Err(error) => Err(format!("{} cannot be made: {error}", folder.display())),
    }
}

/// Whether an existing folder is ours and nobody else may enter it.
fn check_private(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let about = folder.symlink_metadata().map_err(|error| format!("{shown} cannot be looked at: {error}"))?;
    if !about.is_dir() {
        return Err(format!("{shown} is not a folder; remove it"));
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("{shown} belongs to user {}; it should be removed", about.uid()));
    }
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} is open to others (mode {mode:o}); `chmod 700` it"));
    }
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: u64 = 1 << 20;

    /// A folder on tmpfs, and one that is not (none where the test's own temporary folder is on tmpfs).
    fn folders() -> (tempfile::TempDir, Option<tempfile::TempDir>) {
        let plain = tempfile::tempdir().unwrap();
        let is_plain = check(plain.path(), 0).is_err_and(|refusal| refusal.contains("not on tmpfs"));
        (tempfile::tempdir_in("/dev/shm").unwrap(), is_plain.then_some(plain))
    }

    fn own(shm: &Path) -> PathBuf {
        shm.join(format!("midge-{}", rustix::process::geteuid().as_raw()))
    }

    #[test]
    fn run_dir_on_tmpfs_is_taken_even_before_it_exists() {
        let (shm, _plain) = folders();
        let run = shm.path().join("not/there/yet");
        assert_eq!(choose(&run, shm.path(), None, NEED, make_private), Ok(run));
        assert!(!own(shm.path()).exists(), "nothing is made without need");
    }

    #[test]
    fn shm_folder_is_made_private_and_taken_again() {
        let (shm, Some(plain)) = folders() else { return };
        for _ in 0..2 {
            assert_eq!(choose(plain.path(), shm.path(), None, NEED, make_private), Ok(own(shm.path())));
        }
        assert_eq!(own(shm.path()).metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn shm_folder_laid_by_another_is_refused() {
        let (shm, Some(plain)) = folders() else { return };
        let place = own(shm.path());
        let refused = |word: &str| {
            let error = choose(plain.path(), shm.path(), None, NEED, make_private).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("is not on tmpfs"), "{error}");
        };
        std::os::unix::fs::symlink(shm.path(), &place).unwrap();
        refused("not a folder");
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        refused("open to others");
        fs::remove_dir(&place).unwrap();
        fs::write(&place, "").unwrap();
        refused("not a folder");
    }

    #[test]
    fn more_than_there_is_has_no_room() {
        let (shm, _plain) = folders();
        let error = choose(shm.path(), shm.path(), None, 1 << 50, make_private).unwrap_err();
        assert_eq!(error.refusals.len(), 2, "{error}");
        assert!(error.to_string().contains("1073741824 MiB"), "{error}");
        let error = choose(shm.path(), shm.path(), Some((NEED, "the host".to_owned())), NEED, make_private)
            .unwrap_err();
        assert_eq!(error.refusals, ["the host has 1 MiB of memory left"]);
        assert!(error.next_step().contains("/dev/shm"));
    }

    #[test]
    fn promised_counts_holes_and_not_what_is_there() {
        let (shm, _plain) = folders();
        fs::create_dir(shm.path().join("vm")).unwrap();
        let file = fs::File::create(shm.path().join("vm/ram")).unwrap();
        file.set_len(8 << 20).unwrap();
        assert_eq!(promised(shm.path(), 4), 8 << 20);
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; 1 << 20], 0).unwrap();
        assert_eq!(promised(shm.path(), 4), 7 << 20);
    }
}
