//! The name of a qcow2 file's backing file (QEMU, docs/interop/qcow2.txt, "Header"; all numbers are big-endian).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::{SnapshotError, io_error};

/// The longest name that the format can hold, in bytes.
const LONGEST: usize = 1023;
/// The fixed part of a header of version 2; later ones are longer.
const HEADER: usize = 72;

/// The part of a header that is of use here.
struct Header {
    /// Where the name begins, 0 without one.
    offset: u64,
    length: u32,
    cluster: u64,
    /// Where the header extensions begin.
    extensions: u64,
}

/// The backing file that a qcow2 file names, as it names it; none where it stands alone.
pub(crate) fn backing(path: &Path) -> Result<Option<PathBuf>, SnapshotError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let header = read_header(&file, path)?;
    if header.offset == 0 {
        return Ok(None);
    }
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(damaged(path, "the name of its backing file is longer than the format allows"));
    }
    let mut name = vec![0; length];
    file.read_exact_at(&mut name, header.offset).map_err(io_error("read", path))?;
    Ok(Some(PathBuf::from(OsString::from_vec(name))))
}

/// Makes a qcow2 file that nobody has open name another backing file, which must hold the same bytes.
///
/// The name goes to the end of the first cluster, behind all header extensions, where nothing else lies.
pub(super) fn set_backing(path: &Path, new: &Path) -> Result<(), SnapshotError> {
    let name = new.to_str().filter(|name| name.len() <= LONGEST).ok_or_else(|| SnapshotError::Io {
        what: "use as a backing file's name",
        path: new.to_owned(),
        source: io::Error::other("it is not UTF-8 or too long"),
    })?;
    let file =
        File::options().read(true).write(true).open(path).map_err(io_error("open for writing", path))?;
    let header = read_header(&file, path)?;
    let room = header.cluster.saturating_sub(LONGEST as u64 + 1);
    let end = extensions_end(&file, &header, path)?;
    if header.offset == 0 || end > room {
        return Err(damaged(path, "its header has no room for the name of a backing file"));
    }
    let put = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).map_err(io_error("write", path));
    put(name.as_bytes(), room)?;
    // One sector, so a reader sees the old name or the new one.
    let length = u32::try_from(name.len()).unwrap_or_default();
    put(&[room.to_be_bytes().as_slice(), &length.to_be_bytes()].concat(), 8)?;
    file.sync_all().map_err(io_error("write to disk", path))
}

fn read_header(file: &File, path: &Path) -> Result<Header, SnapshotError> {
    let mut bytes = [0; 104];
    file.read_exact_at(&mut bytes[..HEADER], 0)
        .map_err(|_| damaged(path, "it is too short for a qcow2 disk"))?;
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
    let version = word(4);
    if !bytes.starts_with(b"QFI\xfb") || !(2..=3).contains(&version) {
        return Err(damaged(path, "it does not begin as a qcow2 disk does"));
    }
    let offset = u64::from_be_bytes(std::array::from_fn(|i| bytes[8 + i]));
    let (length, bits) = (word(16), word(20));
    if !(9..=21).contains(&bits) {
        return Err(damaged(path, "its clusters have no possible size"));
    }
    let mut extensions = [0; 4];
    if version == 3 {
        file.read_exact_at(&mut extensions, 100).map_err(io_error("read", path))?;
    } else {
        extensions = 72_u32.to_be_bytes();
    }
    let extensions = u64::from(u32::from_be_bytes(extensions));
    Ok(Header { offset, length, cluster: 1 << bits, extensions })
}

/// The first byte behind the header extensions: each has a type and a length, padded to 8, until one of type 0.
fn extensions_end(file: &File, header: &Header, path: &Path) -> Result<u64, SnapshotError> {
    let mut at = header.extensions;
    while at < header.cluster {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).map_err(io_error("read", path))?;
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        at += 8;
        if word(0) == 0 {
            return Ok(at);
        }
        at += u64::from(word(4)).next_multiple_of(8);
    }
    Ok(at)
}

fn damaged(path: &Path, what: &str) -> SnapshotError {
    SnapshotError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::overlay;
    use crate::machine::DiskFormat;

    #[test]
    fn the_backing_file_is_named_and_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        File::create(at("base.raw")).unwrap().set_len(1 << 20).unwrap();
        overlay::create(&at("disk"), &at("base.raw"), DiskFormat::Raw, None).unwrap();
        assert_eq!(backing(&at("disk")).unwrap(), Some(at("base.raw")));
        let long = at(&"n".repeat(200));
        set_backing(&at("disk"), &long).unwrap();
        assert_eq!(backing(&at("disk")).unwrap(), Some(long));
        set_backing(&at("disk"), &at("b")).unwrap();
        assert_eq!(backing(&at("disk")).unwrap(), Some(at("b")));
        assert_eq!(overlay::virtual_size(&at("disk"), DiskFormat::Qcow2).unwrap(), 1 << 20);
        assert!(set_backing(&at("disk"), &at(&"n".repeat(1100))).is_err());
    }

    #[test]
    fn what_is_no_qcow2_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for bytes in [
            b"".to_vec(),
            b"QFI\xfb".to_vec(),
            vec![0; 200],
            [b"QFI\xfb\0\0\0\x09".to_vec(), vec![0; 200]].concat(),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(backing(&path), Err(SnapshotError::Damaged { .. })));
            assert!(set_backing(&path, Path::new("/x")).is_err());
        }
    }
}
