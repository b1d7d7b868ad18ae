//! Writing an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{layer_name, sparse};
use crate::snapshot::digest::Digests;
use crate::snapshot::error::{SnapshotError, io_error};
use crate::snapshot::manifest::{DiskBase, MANIFEST, Part, RAM, STATE};
use crate::snapshot::qcow2;
use crate::snapshot::ram::delta::Delta;
use crate::snapshot::ram::{self, Extent, Progress, RamFile, unwatched};
use crate::snapshot::store::{DIGESTS, Digested, Snapshot, SnapshotStore};

/// How hard to compress: zstd's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub i32);

impl Default for Level {
    /// About as fast as a disk writes.
    fn default() -> Self {
        Self(1)
    }
}

/// One file on its way.
struct Item {
    name: PathBuf,
    path: PathBuf,
    /// Its parts that are not holes; all of it where holes are not worth it.
    extents: Option<Vec<Extent>>,
    size: u64,
}

impl SnapshotStore {
    /// Writes a snapshot to `out` as one archive. It is compared with its digests first, so that no damage travels.
    pub fn export<W: Write>(
        &self,
        snapshot: &Snapshot,
        out: W,
        level: Level,
        progress: Progress<'_>,
    ) -> Result<W, SnapshotError> {
        let _pins = self.pin(snapshot)?;
        if let Some(first) = self.verify(snapshot, &mut unwatched).into_iter().next() {
            return Err(first);
        }
        let scratch = self.scratch("export")?;
        let mut manifest = snapshot.manifest.clone();
        let mut items = Vec::new();
        if let Some(part) = &manifest.state {
            items.push(Item {
                name: STATE.into(),
                path: snapshot.path(&part.file),
                extents: None,
                size: part.size,
            });
        }
        for part in manifest.kernel.iter().chain(&manifest.initrd) {
            let path = snapshot.path(&part.file);
            items.push(Item { name: part.file.clone(), path, extents: None, size: part.size });
        }
        if let Some(ram) = &mut manifest.ram {
            let path = self.whole_ram(snapshot, scratch.path())?;
            let file = RamFile::open(&path)?;
            let item = Item { name: RAM.into(), extents: Some(file.data()?), size: file.len(), path };
            ram.part = Part { file: RAM.into(), size: item.size };
            ram.base = None;
            items.push(item);
        }
        if let Some(disk) = &mut manifest.disk {
            let layers = self.layers(snapshot)?;
            disk.base = DiskBase::Image;
            disk.layers.clear();
            for (number, path) in layers.into_iter().enumerate() {
                let size = std::fs::metadata(&path).map_err(io_error("look at", &path))?.len();
                let name = layer_name(number);
                disk.layers.push(Part { file: name.clone(), size });
                items.push(Item { name, path, extents: None, size });
            }
        }
        let mut digested = Digested { id: manifest.id, files: BTreeMap::new() };
        let text = manifest.text()?;
        digested.add_bytes(MANIFEST, &text);
        for item in &items {
            digested.files.insert(item.name.clone(), Digests::of_file(&item.path, &mut unwatched)?);
        }
        write(out, level, &text, &digested.text()?, &items, progress)
    }

    /// A flat file of the snapshot's RAM: its own, or one that is made in `scratch`.
    fn whole_ram(&self, snapshot: &Snapshot, scratch: &Path) -> Result<PathBuf, SnapshotError> {
        let ram = snapshot.manifest.ram.as_ref();
        let Some((ram, base)) = ram.and_then(|ram| Some((ram, ram.base?))) else {
            return Ok(snapshot.path(RAM));
        };
        let delta = Delta::open(&snapshot.path(&ram.part.file))?;
        let flat = scratch.join(RAM);
        ram::copy(&self.folder(base).join(RAM), &flat, &mut unwatched)?;
        ram::set_writable(&flat)?;
        delta.apply_to_file(&flat, &mut unwatched)?;
        Ok(flat)
    }

    /// The layers of the snapshot's disk down to the image, the uppermost first.
    fn layers(&self, snapshot: &Snapshot) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut layers = Vec::new();
        let first = snapshot.manifest.disk.as_ref().and_then(|disk| disk.layers.first());
        let mut next = first.map(|part| snapshot.path(&part.file));
        while let Some(layer) = next {
            let below = qcow2::backing(&layer)?;
            let is_ours = |below: &PathBuf| below.starts_with(self.root());
            next = below.filter(|below| is_ours(below) && !layers.contains(below));
            layers.push(layer);
        }
        Ok(layers)
    }
}

fn write<W: Write>(
    out: W,
    level: Level,
    manifest: &[u8],
    digests: &[u8],
    items: &[Item],
    progress: Progress<'_>,
) -> Result<W, SnapshotError> {
    let failed = io_error("write", Path::new("the archive"));
    let mut packer = zstd::Encoder::new(out, level.0).map_err(&failed)?;
    packer.include_checksum(true).map_err(&failed)?;
    let mut tar = tar::Builder::new(packer);
    let mut small = |name: &str, bytes: &[u8]| {
        tar.append_data(&mut header(bytes.len() as u64), name, bytes).map_err(&failed)
    };
    small(MANIFEST, manifest)?;
    small(DIGESTS, digests)?;
    let sum = |item: &Item| item.extents.as_deref().map_or(item.size, Extent::total);
    let total = items.iter().map(sum).sum();
    let mut done = 0;
    for item in items {
        let file = File::open(&item.path).map_err(io_error("open", &item.path))?;
        let mut told = |count: u64| {
            done += count;
            progress(done, total);
        };
        let Some(extents) = &item.extents else {
            let mut reader = Told { inner: file.take(item.size), told: &mut told };
            tar.append_data(&mut header(item.size), &item.name, &mut reader).map_err(&failed)?;
            continue;
        };
        let map = sparse::write_map(extents, item.size);
        let size = item.size.to_string();
        let name = item.name.to_str().unwrap_or(RAM);
        let words = [
            ("GNU.sparse.major", b"1".as_slice()),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", name.as_bytes()),
            ("GNU.sparse.realsize", size.as_bytes()),
        ];
        tar.append_pax_extensions(words).map_err(&failed)?;
        let parts = Parts { file, extents: extents.iter(), left: 0 };
        let mut reader = Told { inner: map.as_slice().chain(parts), told: &mut told };
        let stored = map.len() as u64 + Extent::total(extents);
        let stored_name = format!("GNUSparseFile.0/{name}");
        tar.append_data(&mut header(stored), stored_name, &mut reader).map_err(&failed)?;
    }
    tar.into_inner().and_then(zstd::Encoder::finish).map_err(&failed)
}

/// The header of a file that only its owner may read.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o600);
    header
}

/// A reader that tells what was read.
struct Told<'a, R> {
    inner: R,
    told: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        (self.told)(count as u64);
        Ok(count)
    }
}

/// The extents of a file, one after the other.
struct Parts<'a> {
    file: File,
    extents: std::slice::Iter<'a, Extent>,
    left: u64,
}

impl Read for Parts<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let Some(next) = self.extents.next() else { return Ok(0) };
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(next.offset))?;
            self.left = next.length;
        }
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read(&mut into[..room])?;
        self.left -= count as u64;
        if count == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(count)
    }
}
