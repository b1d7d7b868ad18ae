//! The two folders, and writing files in them whole.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::scratch::{self, Scratch};

/// The state and run folders in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    state: PathBuf,
    run: PathBuf,
}

impl Home {
    /// The folders that the environment asks for: `$MIDGE_HOME` and `$MIDGE_RUN`, else `/var/lib/midge` and
    /// `/run/midge` for root, else below the XDG data and run-time folders (XDG Base Directory Specification).
    ///
    /// # Errors
    /// When none can be named. Nothing is created yet.
    pub fn from_env() -> Result<Self, StoreError> {
        let root = nix::unistd::geteuid().is_root();
        let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let state = match var("MIDGE_HOME") {
            Some(path) => path,
            None if root => PathBuf::from("/var/lib/midge"),
            None => match (var("XDG_DATA_HOME"), var("HOME")) {
                (Some(data), _) if data.is_absolute() => data.join("midge"),
                (_, Some(home)) => home.join(".local/share/midge"),
                _ => {
                    let why = "neither XDG_DATA_HOME nor HOME is set".to_owned();
                    return Err(StoreError::NoFolder { what: "state", why, variable: "MIDGE_HOME" });
                }
            },
        };
        let run = match var("MIDGE_RUN") {
            Some(path) => path,
            None if root => PathBuf::from("/run/midge"),
            None => match var("XDG_RUNTIME_DIR") {
                Some(dir) if dir.is_absolute() => dir.join("midge"),
                _ => Self::private_tmp()?,
            },
        };
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(StoreError::io("make absolute the path", &path))
        };
        Ok(Self { state: absolute(state)?, run: absolute(run)? })
    }

    /// These two folders.
    #[must_use]
    pub fn new(state: PathBuf, run: PathBuf) -> Self {
        Self { state, run }
    }

    /// A run folder for a session without `XDG_RUNTIME_DIR` (a cron job, `su`): in `/tmp`, so ours alone or not at all.
    fn private_tmp() -> Result<PathBuf, StoreError> {
        let uid = nix::unistd::geteuid().as_raw();
        let path = PathBuf::from(format!("/tmp/midge-{uid}"));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("create", &path)(e)),
        }
        let meta = fs::symlink_metadata(&path).map_err(StoreError::io("look at", &path))?;
        let for_others = meta.mode() & 0o077;
        if meta.is_dir() && meta.uid() == uid && for_others == 0 {
            return Ok(path);
        }
        let why = format!("XDG_RUNTIME_DIR is not set and {} is not a folder of yours alone", path.display());
        Err(StoreError::NoFolder { what: "run-time files", why, variable: "MIDGE_RUN" })
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The run folder.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Where the VMs' records lie.
    #[must_use]
    pub fn vms(&self) -> PathBuf {
        self.state.join("vms")
    }

    /// Where the images lie.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// Where unfinished work lies: on the same file system as the records, so that it can be renamed into place.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.state.join("tmp")
    }

    /// A new private folder for unfinished work.
    pub(crate) fn scratch(&self, purpose: &str) -> Result<Scratch, StoreError> {
        let tmp = self.tmp();
        Scratch::new(&tmp, purpose, 0o700).map_err(StoreError::io("create a folder in", &tmp))
    }

    /// Removes what killed commands have left under `tmp/`, and answers which folders there were.
    pub fn sweep(&self) -> Result<Vec<PathBuf>, StoreError> {
        let tmp = self.tmp();
        scratch::sweep(&tmp).map_err(StoreError::io("clear", &tmp))
    }
}

/// Creates a folder and its parents. Others may look into them; what is to be private is made so where it lies.
pub(crate) fn create_dirs(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(StoreError::io("create", path))
}

/// Writes a file whole or not at all: to a temporary file in the same folder, then renamed (rename(2) is atomic).
///
/// `durable` adds the `fsync(2)` that makes it survive a power cut; run-time files do not need it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], durable: bool) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(StoreError::io("create a file in", folder))?;
    file.write_all(bytes).map_err(StoreError::io("write", path))?;
    if durable {
        file.as_file().sync_data().map_err(StoreError::io("write to disk", path))?;
    }
    file.persist(path).map_err(|e| StoreError::io("rename into place", path)(e.error))?;
    Ok(())
}
