//! A download in the making: a `.part` file with what is known of it beside it, both kept for the next attempt.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PullError;
use crate::image::{Pruned, digest};
use crate::store::Lock;

/// A download, which nobody else works at as long as this lives.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    notes: PathBuf,
    lock_path: PathBuf,
    file: File,
    have: u64,
    patchwork: bool,
    mark: Option<String>,
    _lock: Lock,
}

/// What is known of the content of a part.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Notes {
    url: String,
    /// The digest of the whole.
    sum: Option<String>,
    /// The server's mark of the file (an entity tag or a date).
    mark: Option<String>,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PullError {
    move |source| PullError::Io { what, path: path.to_owned(), source }
}

impl Part {
    /// The part of `url` in a folder; `waiting` is called when another works at it, until that one is done. What an earlier attempt left is
    /// kept, if it was to have the same digest.
    pub(super) fn open(
        folder: &Path,
        url: &str,
        sum: Option<&str>,
        waiting: impl FnOnce(),
    ) -> Result<Self, PullError> {
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
        let key = &digest::of_bytes(url.as_bytes())[..16];
        let at = |suffix: &str| folder.join(format!("{key}.{suffix}"));
        let (path, notes, lock_path) = (at("part"), at("json"), at("lock"));
        let lock = if let Some(lock) = Lock::try_take(&lock_path)? {
            lock
        } else {
            waiting();
            let gone = || PullError::Io {
                what: "lock",
                path: lock_path.clone(),
                source: io::ErrorKind::NotFound.into(),
            };
            Lock::take(&lock_path)?.ok_or_else(gone)?
        };
        let known: Notes =
            fs::read(&notes).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let mut part = Self {
            file: file.map_err(failed("make", &path))?,
            path,
            notes,
            lock_path,
            have: 0,
            patchwork: false,
            mark: known.mark,
            _lock: lock,
        };
        if known.url == url && known.sum.as_deref() == sum {
            part.have = part.file.seek(SeekFrom::End(0)).map_err(failed("read", &part.path))?;
            part.patchwork = part.have > 0;
        } else {
            part.restart()?;
        }
        part.note(url, sum)?;
        Ok(part)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes there are.
    pub(super) fn have(&self) -> u64 {
        self.have
    }

    /// Notes that what follows comes by another answer than what there is.
    pub(super) fn patch(&mut self) {
        self.patchwork = true;
    }

    /// Whether it was put together of several answers, as far as this process knows.
    pub(super) fn is_patchwork(&self) -> bool {
        self.patchwork
    }

    /// The server's mark of the file, as it was when its first byte came.
    pub(super) fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// Throws away what there is.
    pub(super) fn restart(&mut self) -> Result<(), PullError> {
        self.file.set_len(0).map_err(failed("write", &self.path))?;
        self.file.rewind().map_err(failed("write", &self.path))?;
        self.have = 0;
        self.patchwork = false;
        self.mark = None;
        Ok(())
    }

    /// Notes the server's mark, before the first byte of that file is written.
    pub(super) fn set_mark(
        &mut self,
        url: &str,
        sum: Option<&str>,
        mark: Option<String>,
    ) -> Result<(), PullError> {
        self.mark = mark;
        self.note(url, sum)
    }

    fn note(&self, url: &str, sum: Option<&str>) -> Result<(), PullError> {
        let notes = Notes { url: url.to_owned(), sum: sum.map(str::to_owned), mark: self.mark.clone() };
        let text =
            serde_json::to_vec(&notes).map_err(io::Error::from).map_err(failed("write", &self.notes))?;
        fs::write(&self.notes, text).map_err(failed("write", &self.notes))
    }

    /// Adds bytes at its end. What could be written before a failure counts.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        let written = self.file.write_all(bytes);
        match written {
            Ok(()) => {
                self.have += bytes.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.have = self.file.metadata().map_or(self.have, |about| about.len());
                Err(failed("write", &self.path)(e))
            }
        }
    }

    /// Removes everything: it is in the store now, or of no use.
    pub(super) fn remove(self) {
        for path in [&self.path, &self.notes, &self.lock_path] {
            if let Err(e) = fs::remove_file(path) {
                tracing::warn!("cannot remove {}: {e}", path.display());
            }
        }
    }
}

/// Removes the parts in a folder at which nobody works, or only says which.
pub(crate) fn sweep(folder: &Path, dry: bool) -> io::Result<Vec<Pruned>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut freed = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|suffix| suffix != "part") {
            continue;
        }
        let lock_path = path.with_extension("lock");
        let Ok(Some(_lock)) = Lock::try_take(&lock_path) else { continue };
        let bytes = fs::metadata(&path).map_or(0, |about| about.len());
        if !dry {
            for path in [&path, &path.with_extension("json"), &lock_path] {
                match fs::remove_file(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        freed.push(Pruned { path, bytes });
    }
    Ok(freed)
}
