//! Comparing a snapshot with what was saved: which part is damaged, and where.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Snapshot, SnapshotStore};
use crate::snapshot::digest::{Digester, Digests, seal_of};
use crate::snapshot::error::{SnapshotError, io_error};
use crate::snapshot::manifest::{DiskBase, MANIFEST};
use crate::snapshot::qcow2;
use crate::snapshot::ram::delta::Delta;
use crate::snapshot::ram::{Extent, Progress, RamFile, unwatched};

/// The file of the digests: a line of JSON, and a line with its SHA-256.
pub const DIGESTS: &str = "digests";

/// What the file of the digests says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::snapshot) struct Digested {
    /// The snapshot whose they are.
    pub(in crate::snapshot) id: Uuid,
    /// Each file's, the manifest's among them.
    pub(in crate::snapshot) files: BTreeMap<PathBuf, Digests>,
}

impl Digested {
    /// Adds the digests of a file of these bytes.
    pub(in crate::snapshot) fn add_bytes(&mut self, file: &str, bytes: &[u8]) {
        let chunk = crate::snapshot::digest::CHUNK;
        let mut digester = Digester::new(bytes.len() as u64);
        let size = usize::try_from(chunk).unwrap_or(usize::MAX);
        for (index, part) in (0_u64..).zip(bytes.chunks(size)) {
            digester.chunk(index * chunk, part);
        }
        self.files.insert(PathBuf::from(file), digester.finish());
    }

    pub(in crate::snapshot) fn text(&self) -> Result<Vec<u8>, SnapshotError> {
        let json = serde_json::to_string(self).map_err(|e| {
            io_error("write", Path::new(DIGESTS))(std::io::Error::new(std::io::ErrorKind::InvalidData, e))
        })?;
        let seal = seal_of(json.as_bytes());
        Ok(format!("{json}\nsha256:{seal}\n").into_bytes())
    }

    pub(in crate::snapshot) fn parse(text: &[u8], path: &Path) -> Result<Self, SnapshotError> {
        let damaged = |what: &str| SnapshotError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let text = std::str::from_utf8(text).map_err(|_| damaged("it is no text"))?;
        let (json, seal) = text.split_once('\n').ok_or_else(|| damaged("it is cut short"))?;
        if seal != format!("sha256:{}\n", seal_of(json.as_bytes())) {
            return Err(damaged("its own digest is not that of its text"));
        }
        serde_json::from_str(json).map_err(|e| damaged(&format!("it is no list of digests ({e})")))
    }

    fn read(snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        let path = snapshot.path(DIGESTS);
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        let digested = Self::parse(&text, &path)?;
        if digested.id == snapshot.id() {
            return Ok(digested);
        }
        let what = format!("they are the digests of another snapshot, {}", digested.id);
        Err(SnapshotError::Damaged { path, what })
    }
}

/// How much of all files was read.
struct Read<'a> {
    done: u64,
    total: u64,
    progress: Progress<'a>,
}

impl Read<'_> {
    /// So much of the next file was read.
    fn tell(&mut self, of_this: u64) {
        (self.progress)(self.done + of_this, self.total);
    }
}

/// The bytes of a file that are to be read: holes are not.
fn data_of(path: &Path) -> u64 {
    RamFile::open(path).and_then(|file| file.data()).map_or(0, |data| Extent::total(&data))
}

impl SnapshotStore {
    /// Reads every byte of a snapshot, and of those that it stands on, and compares it with its digest. Answers everything that is wrong;
    /// empty is well.
    #[must_use]
    pub fn verify(&self, snapshot: &Snapshot, progress: Progress<'_>) -> Vec<SnapshotError> {
        let mut wrong = Vec::new();
        let mut found = vec![snapshot.clone()];
        let mut next = snapshot.manifest.needs();
        while let Some(id) = next.pop() {
            if found.iter().any(|known| known.id() == id) {
                continue;
            }
            match self.by_id(id) {
                Ok(Some(base)) => {
                    next.extend(base.manifest.needs());
                    found.push(base);
                }
                // Of a save that was cut short a disk may be left, which nothing but its user knows.
                Ok(None) if self.folder(id).is_dir() => {}
                Ok(None) => {
                    let what = "the snapshot that it stands on is missing".to_owned();
                    wrong.push(SnapshotError::Damaged { path: self.folder(id), what });
                }
                Err(e) => wrong.push(e),
            }
        }
        let mut known = Vec::new();
        for snapshot in &found {
            match Digested::read(snapshot) {
                Ok(digested) => known.push((snapshot, digested)),
                Err(e) => wrong.push(e),
            }
        }
        let size = |(snapshot, digested): &(&Snapshot, Digested)| -> u64 {
            digested.files.keys().map(|file| data_of(&snapshot.path(file))).sum()
        };
        let mut read = Read { done: 0, total: known.iter().map(size).sum(), progress };
        for (snapshot, digested) in &known {
            wrong.extend(self.verify_own(snapshot, digested, &mut read));
        }
        wrong
    }

    fn verify_own(
        &self,
        snapshot: &Snapshot,
        digested: &Digested,
        read: &mut Read<'_>,
    ) -> Vec<SnapshotError> {
        let mut wrong = Vec::new();
        // Of a snapshot that was removed, files are gone that nobody needs.
        let detached = snapshot.names.is_empty();
        for (file, digests) in &digested.files {
            let path = snapshot.path(file);
            if path.exists() {
                wrong.extend(digests.verify(&path, &mut |done, _| read.tell(done)).err());
                read.done += data_of(&path);
            } else if !detached {
                wrong.push(SnapshotError::Damaged { path, what: "it is missing".to_owned() });
            }
        }
        for part in snapshot.manifest.parts() {
            let known = digested.files.get(&part.file);
            if known.is_none_or(|digests| digests.length != part.size) {
                let what = format!("it says otherwise of `{}` than the digests do", part.file.display());
                wrong.push(SnapshotError::Damaged { path: snapshot.path(MANIFEST), what });
            }
        }
        wrong.extend(self.check_links(snapshot).err());
        wrong
    }

    /// Whether the parts of a snapshot fit together and lead where the manifest says: what has to be right before it is used. Takes well
    /// under a millisecond.
    pub fn check_links(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let damaged = |path: PathBuf, what: String| SnapshotError::Damaged { path, what };
        let detached = snapshot.names.is_empty();
        for part in snapshot.manifest.parts() {
            let path = snapshot.path(&part.file);
            match fs::metadata(&path) {
                Ok(about) if about.len() != part.size => {
                    let what = format!("it has {} bytes instead of {}", about.len(), part.size);
                    return Err(damaged(path, what));
                }
                Err(e) if !detached => return Err(io_error("look at", &path)(e)),
                _ => {}
            }
        }
        if let Some(ram) = &snapshot.manifest.ram {
            let path = snapshot.path(&ram.part.file);
            let memory = snapshot.manifest.machine.as_ref().map(|machine| machine.memory);
            if let Some(base) = ram.base.filter(|_| path.exists()) {
                let delta = Delta::open(&path)?;
                let flat = self.folder(base).join(crate::snapshot::manifest::RAM);
                let about = fs::metadata(&flat).map_err(io_error("look at", &flat))?;
                if delta.base != base || about.len() != delta.ram || memory.is_some_and(|m| m != delta.ram) {
                    return Err(damaged(
                        path,
                        "it stands on another memory than the manifest says".to_owned(),
                    ));
                }
            } else if ram.base.is_none() && memory.is_some_and(|memory| memory != ram.part.size) {
                return Err(damaged(path, "its size is not that of the guest's memory".to_owned()));
            }
        }
        let Some(disk) = &snapshot.manifest.disk else { return Ok(()) };
        let mut layers = disk.layers.iter().map(|part| snapshot.path(&part.file)).peekable();
        while let Some(layer) = layers.next() {
            if detached && !layer.exists() {
                continue;
            }
            let below = qcow2::backing(&layer)?;
            let fits = match (layers.peek(), disk.base) {
                (Some(next), _) => below.as_ref() == Some(next),
                (None, DiskBase::Snapshot(id)) => below
                    .as_ref()
                    .is_some_and(|below| below.parent() == Some(&self.folder(id)) && below.exists()),
                (None, DiskBase::Image) => {
                    let image = snapshot.manifest.image.as_ref().and_then(|image| image.disk.as_ref());
                    let file = image.and_then(|disk| disk.part.file.file_name());
                    below.as_ref().is_some_and(|below| {
                        file.is_some_and(|f| below.file_name() == Some(f)) && below.exists()
                    })
                }
            };
            if !fits {
                let what = match below {
                    Some(below) => format!(
                        "it stands on {}, which is not there or not what it should stand on",
                        below.display()
                    ),
                    None => "it stands on nothing".to_owned(),
                };
                return Err(damaged(layer, what));
            }
        }
        Ok(())
    }

    /// Reads a snapshot's state and compares it with its digest: before each load, as a flipped bit would load.
    pub fn state(&self, snapshot: &Snapshot) -> Result<Option<Vec<u8>>, SnapshotError> {
        let Some(part) = &snapshot.manifest.state else { return Ok(None) };
        let path = snapshot.path(&part.file);
        let digested = Digested::read(snapshot)?;
        let Some(digests) = digested.files.get(&part.file) else {
            let what = "it has no digest of the state".to_owned();
            return Err(SnapshotError::Damaged { path: snapshot.path(DIGESTS), what });
        };
        digests.verify(&path, &mut unwatched)?;
        fs::read(&path).map(Some).map_err(io_error("read", &path))
    }
}
