//! Reading an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{layer_name, sparse};
use crate::image::{self, Image};
use crate::snapshot::SnapshotName;
use crate::snapshot::digest::CHUNK;
use crate::snapshot::error::{SnapshotError, io_error};
use crate::snapshot::manifest::{DiskBase, INITRD, KERNEL, MANIFEST, Manifest, RAM, STATE};
use crate::snapshot::qcow2;
use crate::snapshot::ram::{Progress, is_zero, unwatched};
use crate::snapshot::store::{DIGESTS, Digested, Draft, Snapshot, SnapshotStore, create};

/// The most that a manifest or a list of digests may take: a snapshot of 1 TiB has 32 MiB of digests.
const MOST_TEXT: u64 = 64 << 20;

type Entry<'a, R> = tar::Entry<'a, zstd::Decoder<'static, io::BufReader<R>>>;

impl SnapshotStore {
    /// Reads an archive from `from` and keeps it as `name`, or under the name that it was saved by. It is seen by nobody before every byte
    /// has been compared with its digest; an archive that is cut short or damaged leaves nothing.
    ///
    /// # Errors
    /// [`SnapshotError::Archive`], [`SnapshotError::Newer`], [`SnapshotError::NoImage`] when the image that its disk stands on is not here,
    /// [`SnapshotError::Taken`].
    pub fn import(
        &self,
        from: impl Read,
        name: Option<&SnapshotName>,
        progress: Progress<'_>,
    ) -> Result<Snapshot, SnapshotError> {
        let unpacker = zstd::Decoder::new(from).map_err(broken)?;
        let mut archive = tar::Archive::new(unpacker);
        let mut entries = archive.entries().map_err(broken)?;
        let mut next = |wanted: &Path| match entries.next() {
            Some(Ok(entry)) => Ok(entry),
            Some(Err(e)) => Err(broken(e)),
            None => Err(SnapshotError::Archive(format!("it ends where `{}` should be", wanted.display()))),
        };

        let text = read_text(next(Path::new(MANIFEST))?, MANIFEST)?;
        let mut manifest = Manifest::parse(&text, Path::new(MANIFEST)).map_err(in_archive)?;
        check_shape(&manifest)?;
        let digests = read_text(next(Path::new(DIGESTS))?, DIGESTS)?;
        let digested = Digested::parse(&digests, Path::new(DIGESTS)).map_err(in_archive)?;
        let mut told = Digested { id: manifest.id, files: BTreeMap::new() };
        told.add_bytes(MANIFEST, &text);
        if digested.id != manifest.id
            || digested.files.get(Path::new(MANIFEST)) != told.files.get(Path::new(MANIFEST))
        {
            return Err(SnapshotError::Archive(
                "its manifest is not the one that its digests are of".to_owned(),
            ));
        }
        if let Some(name) = name {
            manifest.name = name.clone();
        }
        // Before anything large is read.
        let image_disk = self.image_here(&manifest)?;
        let draft = self.begin(&manifest.name, &[])?;

        let total = manifest.parts().iter().map(|part| part.size).sum();
        let mut done = 0;
        for part in manifest.parts() {
            let mut entry = next(&part.file)?;
            let path = draft.folder().join(&part.file);
            if part.file == Path::new(RAM) {
                write_sparse(&mut entry, part.size, &path)?;
            } else {
                expect(&entry, &part.file)?;
                write_plain(&mut entry, part.size, &path)?;
            }
            let Some(wanted) = digested.files.get(&part.file) else {
                return Err(SnapshotError::Archive(format!("it has no digest of `{}`", part.file.display())));
            };
            wanted.verify(&path, &mut unwatched).map_err(in_archive)?;
            done += part.size;
            progress(done, total);
        }
        // To the end of the stream: its checksum comes last.
        if entries.next().is_some() {
            return Err(SnapshotError::Archive("there is more in it than its manifest names".to_owned()));
        }
        let mut unpacker = archive.into_inner();
        io::copy(&mut unpacker, &mut io::sink()).map_err(broken)?;

        relink(&draft, &manifest, image_disk.as_deref())?;
        manifest.id = draft.id();
        draft.publish(&manifest, BTreeMap::new())
    }

    /// Makes sure that the image is here that the snapshot stands on; answers its disk, where the snapshot has one.
    fn image_here(&self, manifest: &Manifest) -> Result<Option<PathBuf>, SnapshotError> {
        let Some(image) = &manifest.image else {
            return match manifest.disk {
                None => Ok(None),
                Some(_) => {
                    let what = "its disk stands on an image that it does not name";
                    Err(SnapshotError::Archive(what.to_owned()))
                }
            };
        };
        let missing = || SnapshotError::NoImage { name: image.name.clone(), digest: image.digest.clone() };
        let recorded = Image::recorded(self.home(), image).map_err(|_| missing())?;
        let is_here =
            image.parts().into_iter().flatten().all(|part| recorded.folder.join(&part.file).is_file());
        // One that is a part of the program is there as soon as it is asked for.
        let same = || {
            image::store(self.home())
                .get(&image.name)
                .is_ok_and(|found| found.manifest.digest == image.digest)
        };
        if is_here || same() {
            Ok(manifest.disk.as_ref().and_then(|_| recorded.disk()))
        } else {
            Err(missing())
        }
    }
}

/// Makes each layer stand on the next, where they lie now.
fn relink(draft: &Draft, manifest: &Manifest, image: Option<&Path>) -> Result<(), SnapshotError> {
    let layers = manifest.disk.iter().flat_map(|disk| &disk.layers);
    let paths: Vec<PathBuf> = layers.map(|part| draft.folder().join(&part.file)).collect();
    for (number, path) in paths.iter().enumerate() {
        if let Some(below) = paths.get(number + 1).map(PathBuf::as_path).or(image) {
            qcow2::set_backing(path, below)?;
        }
    }
    Ok(())
}

/// Whether the manifest is that of an archive: everything in it, under the names that an archive uses.
fn check_shape(manifest: &Manifest) -> Result<(), SnapshotError> {
    let wrong =
        |what: &str| Err(SnapshotError::Archive(format!("its manifest is none of an archive: {what}")));
    for (part, name) in [(&manifest.state, STATE), (&manifest.kernel, KERNEL), (&manifest.initrd, INITRD)] {
        if part.as_ref().is_some_and(|part| part.file != Path::new(name)) {
            return wrong(&format!("the {name} has another name"));
        }
    }
    if manifest.ram.as_ref().is_some_and(|ram| ram.base.is_some() || ram.part.file != Path::new(RAM)) {
        return wrong("its memory is not whole");
    }
    if let Some(disk) = &manifest.disk {
        let named = (0..).zip(&disk.layers).all(|(number, part)| part.file == layer_name(number));
        if disk.base != DiskBase::Image || !named {
            return wrong("its disk is not whole");
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn broken(error: io::Error) -> SnapshotError {
    SnapshotError::Archive(error.to_string())
}

/// What is wrong with a file is wrong with the archive: it is not kept, so its path would tell nothing.
fn in_archive(error: SnapshotError) -> SnapshotError {
    match error {
        SnapshotError::Damaged { path, what } => {
            let name = path.file_name().unwrap_or_default().display();
            SnapshotError::Archive(format!("`{name}` in it is damaged: {what}"))
        }
        other => other,
    }
}

/// Refuses an entry of another name or kind: no link, no folder, no path that leads elsewhere.
fn expect<R: Read>(entry: &Entry<'_, R>, wanted: &Path) -> Result<(), SnapshotError> {
    let found = entry.path().map_err(broken)?;
    if found != wanted || !entry.header().entry_type().is_file() {
        let (found, wanted) = (found.display(), wanted.display());
        return Err(SnapshotError::Archive(format!("it has `{found}` where the file `{wanted}` should be")));
    }
    Ok(())
}

fn read_text<R: Read>(mut entry: Entry<'_, R>, name: &str) -> Result<Vec<u8>, SnapshotError> {
    expect(&entry, Path::new(name))?;
    if entry.size() > MOST_TEXT {
        return Err(SnapshotError::Archive(format!("`{name}` has {} bytes", entry.size())));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(broken)?;
    Ok(text)
}

fn write_plain(entry: &mut impl Read, size: u64, path: &Path) -> Result<(), SnapshotError> {
    let file = create(path)?;
    file.set_len(size).map_err(io_error("set the size of", path))?;
    write_extent(entry, &file, 0, size, path)?;
    at_end(entry, path)
}

fn write_sparse<R: Read>(entry: &mut Entry<'_, R>, size: u64, path: &Path) -> Result<(), SnapshotError> {
    let mut found = BTreeMap::new();
    for word in entry.pax_extensions().map_err(broken)?.into_iter().flatten() {
        let word = word.map_err(broken)?;
        found.insert(word.key_bytes().to_vec(), word.value_bytes().to_vec());
    }
    let size_text = size.to_string();
    let wanted = [
        ("GNU.sparse.major", b"1".as_slice()),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", RAM.as_bytes()),
        ("GNU.sparse.realsize", size_text.as_bytes()),
    ];
    if !wanted.iter().all(|(key, value)| found.get(key.as_bytes()).is_some_and(|has| has == value)) {
        return Err(SnapshotError::Archive(
            "its memory is not in the form or of the size that it should be".to_owned(),
        ));
    }
    let extents = sparse::read_map(entry, size).map_err(broken)?;
    let file = create(path)?;
    file.set_len(size).map_err(io_error("set the size of", path))?;
    for extent in extents {
        write_extent(entry, &file, extent.offset, extent.length, path)?;
    }
    at_end(entry, path)
}

/// Copies bytes to their place; those that are zero stay holes.
fn write_extent(
    from: &mut impl Read,
    file: &File,
    at: u64,
    length: u64,
    path: &Path,
) -> Result<(), SnapshotError> {
    /// The unit in which zeros are left out.
    const UNIT: usize = 1 << 16;
    let mut buffer = vec![0; usize::try_from(CHUNK.min(length)).unwrap_or_default()];
    let (mut at, end) = (at, at + length);
    while at < end {
        let count = usize::try_from(CHUNK.min(end - at)).unwrap_or_default();
        let part = &mut buffer[..count];
        from.read_exact(part).map_err(broken)?;
        for (number, unit) in (0_u64..).zip(part.chunks(UNIT)) {
            if !is_zero(unit) {
                file.write_all_at(unit, at + number * UNIT as u64).map_err(io_error("write", path))?;
            }
        }
        at += count as u64;
    }
    Ok(())
}

fn at_end(entry: &mut impl Read, path: &Path) -> Result<(), SnapshotError> {
    match entry.read(&mut [0]).map_err(broken)? {
        0 => Ok(()),
        _ => {
            let name = path.file_name().unwrap_or_default().display();
            Err(SnapshotError::Archive(format!("`{name}` is longer than its manifest says")))
        }
    }
}
