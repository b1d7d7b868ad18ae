//! The leases on disk, shared between the processes that answer for one network.
//!
//! A process can be killed at any moment: the file is only ever replaced whole (rename(2)), under a lock that ends with the
//! process that holds it (flock(2)). It is not forced to disk: after a loss of power an older state, or an empty file, costs no
//! more than a few guests asking anew.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::leases::Leases;

/// The form that this crate writes.
const VERSION: u32 = 1;

/// A file of leases.
#[derive(Debug, Clone)]
pub struct LeaseFile {
    path: PathBuf,
}

/// Why leases cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFileError {
    /// A file cannot be worked with.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It was written by a later release.
    #[error(
        "{} has the form {version}, and this release knows {VERSION}: use the release that wrote it, or remove the file",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its form.
        version: u32,
    },
}

#[derive(Deserialize)]
struct Form {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Whole<L> {
    version: u32,
    #[serde(flatten)]
    leases: L,
}

impl LeaseFile {
    /// The file at `path`, made by the first transaction; its folder is made here.
    pub fn open(path: &Path) -> Result<Self, LeaseFileError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| failed("make the folder", folder, e))?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lends the leases out to change them, and writes them if that was done. It waits for others that have them, which is a
    /// matter of microseconds: keep `change` short.
    ///
    /// A file that is no file of leases is set aside as `….corrupt` with a warning, and service goes on without its leases: guests
    /// keep their addresses by asking for them.
    pub fn transaction<T>(&self, change: impl FnOnce(&mut Leases) -> T) -> Result<T, LeaseFileError> {
        let lock = self.beside("lock");
        // The lock is a file of its own: the leases' file is another one after each change. It ends when `held` is closed.
        let held = File::create(&lock).map_err(|e| failed("open", &lock, e))?;
        held.lock().map_err(|e| failed("lock", &lock, e))?;
        let before = match self.load()? {
            Ok(leases) => leases,
            Err(reason) => {
                let aside = self.beside("corrupt");
                fs::rename(&self.path, &aside).map_err(|e| failed("set aside", &self.path, e))?;
                tracing::warn!(file = %self.path.display(), aside = %aside.display(), %reason, "set a damaged file of leases aside");
                Leases::default()
            }
        };
        let mut leases = before.clone();
        let result = change(&mut leases);
        if leases != before {
            self.replace(&leases)?;
        }
        Ok(result)
    }

    /// The leases as they are, without waiting for anybody.
    pub fn read(&self) -> Result<Leases, LeaseFileError> {
        match self.load()? {
            Ok(leases) => Ok(leases),
            Err(_) => self.transaction(|leases| leases.clone()),
        }
    }

    /// The leases, or why what the file holds is none.
    fn load(&self) -> Result<Result<Leases, serde_json::Error>, LeaseFileError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ok(Leases::default())),
            Err(e) => return Err(failed("read", &self.path, e)),
        };
        match serde_json::from_slice::<Form>(&text) {
            Ok(Form { version }) if version != VERSION => {
                Err(LeaseFileError::Version { path: self.path.clone(), version })
            }
            _ => Ok(serde_json::from_slice::<Whole<Leases>>(&text).map(|whole| whole.leases)),
        }
    }

    fn replace(&self, leases: &Leases) -> Result<(), LeaseFileError> {
        // Under the lock nobody else writes here; what a killed process left is written over.
        let new = self.beside("new");
        let whole = Whole { version: VERSION, leases };
        let text = serde_json::to_vec_pretty(&whole).map_err(|e| failed("write", &new, e.into()))?;
        fs::write(&new, text).map_err(|e| failed("write", &new, e))?;
        fs::rename(&new, &self.path).map_err(|e| failed("replace", &self.path, e))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name: OsString = self.path.clone().into();
        name.push(".");
        name.push(suffix);
        name.into()
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> LeaseFileError {
    LeaseFileError::File { what, path: path.to_owned(), source }
}
