//! A VM's own disk: a qcow2 file that holds only what differs from the disk below it, its base.
//!
//! The base is named by its absolute path and must never change or move while an overlay on it exists.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use imago::FormatCreateBuilder;
use imago::qcow2::{Qcow2, Qcow2CreateBuilder};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::machine::DiskFormat;
use crate::spec::Size;

/// Sizes of disks are whole sectors.
const SECTOR: u64 = 512;
/// Unit in which file systems leave holes.
const PAGE: u16 = 4096;
/// The longest name of a base that the format can hold, in bytes (QEMU, docs/interop/qcow2.txt, "Backing file name").
const LONGEST_NAME: usize = 1023;

/// Why an overlay cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A smaller disk than the base's.
    #[error(
        "a disk of {wanted} would cut off the end of the image's disk, which has {base}; ask for {base} or more"
    )]
    Shrinks {
        /// The size asked for.
        wanted: Size,
        /// The size of the base.
        base: Size,
    },
    /// Not a whole number of sectors.
    #[error("a disk of {0} bytes is not a whole number of 512-byte sectors")]
    Unaligned(u64),
    /// The base is no qcow2 file.
    #[error("{} is not a qcow2 disk: it does not start with `QFI\\xfb`", .0.display())]
    NotQcow2(PathBuf),
    /// The base's path does not fit into the overlay.
    #[error("the path {} cannot be written into a qcow2 disk: it must be UTF-8 of at most {LONGEST_NAME} bytes", .0.display())]
    BaseName(PathBuf),
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The size in bytes of the disk that a guest sees in `path`.
pub fn virtual_size(path: &Path, format: DiskFormat) -> Result<u64, OverlayError> {
    let failed = |source| OverlayError::Io { what: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    match format {
        DiskFormat::Raw => Ok(file.metadata().map_err(failed)?.len()),
        DiskFormat::Qcow2 => {
            // docs/interop/qcow2.txt, "Header": magic at 0, size at 24, both big-endian.
            let mut header = [0; 32];
            match file.read_exact_at(&mut header, 0) {
                Ok(()) if header.starts_with(b"QFI\xfb") => {}
                Ok(()) => return Err(OverlayError::NotQcow2(path.to_owned())),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(OverlayError::NotQcow2(path.to_owned()));
                }
                Err(e) => return Err(failed(e)),
            }
            let size: [u8; 8] = std::array::from_fn(|i| header[24 + i]);
            Ok(u64::from_be_bytes(size))
        }
    }
}

/// Makes the overlay `path`, which must not exist, on `base`. It is as large as the base, or as `size` where given; returns
/// that size in bytes. The file takes 12 KiB of disk.
pub fn create(
    path: &Path,
    base: &Path,
    format: DiskFormat,
    size: Option<Size>,
) -> Result<Size, OverlayError> {
    let base = fs::canonicalize(base).map_err(|source| OverlayError::Io {
        what: "find",
        path: base.to_owned(),
        source,
    })?;
    let base_size = Size::from_bytes(virtual_size(&base, format)?);
    let size = size.unwrap_or(base_size);
    if size < base_size {
        return Err(OverlayError::Shrinks { wanted: size, base: base_size });
    }
    if !size.bytes().is_multiple_of(SECTOR) {
        return Err(OverlayError::Unaligned(size.bytes()));
    }
    let base_name = match base.to_str() {
        Some(name) if name.len() <= LONGEST_NAME => name.to_owned(),
        _ => return Err(OverlayError::BaseName(base)),
    };

    let failed = |source| OverlayError::Io { what: "write", path: path.to_owned(), source };
    let file =
        File::options().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = (|| {
        let storage = imago::file::File::try_from(file.try_clone()?)?;
        let builder: Qcow2CreateBuilder<imago::file::File> = Qcow2::create_builder(storage);
        let format = match format {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        };
        builder.size(size.bytes()).backing(base_name, format.to_owned()).create()?;
        leave_holes(&file)
    })();
    if let Err(source) = written {
        // It was made above, so it is ours to remove.
        let _ = fs::remove_file(path);
        return Err(failed(source));
    }
    Ok(size)
}

/// Gives back the pages of a file that hold only zeros: whole clusters of 64 KiB are written for a few bytes in each.
fn leave_holes(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len().cast_signed();
    let mut page = [0; PAGE as usize];
    let mut offset = 0;
    while offset + i64::from(PAGE) <= length {
        file.read_exact_at(&mut page, offset.cast_unsigned())?;
        if page.iter().all(|byte| *byte == 0) {
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(file, punch, offset, PAGE.into()) {
                Ok(()) => {}
                // A file system without holes keeps the zeros.
                Err(nix::errno::Errno::EOPNOTSUPP) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        offset += i64::from(PAGE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn raw_base(folder: &Path, size: u64) -> PathBuf {
        let path = folder.join("base.raw");
        File::create(&path).and_then(|f| f.set_len(size)).unwrap();
        path
    }

    #[test]
    fn overlay_is_small_and_as_large_as_its_base() {
        let folder = tempfile::tempdir().unwrap();
        let base = raw_base(folder.path(), 2 << 30);
        let overlay = folder.path().join("vm.qcow2");

        let size = create(&overlay, &base, DiskFormat::Raw, None).unwrap();

        assert_eq!(size.bytes(), 2 << 30);
        assert_eq!(virtual_size(&overlay, DiskFormat::Qcow2).unwrap(), 2 << 30);
        let allocated = fs::metadata(&overlay).unwrap().blocks() * 512;
        assert!(allocated <= 12 * 1024, "{allocated} bytes");
    }

    #[test]
    fn overlay_on_an_overlay_may_be_larger_but_not_smaller() {
        let folder = tempfile::tempdir().unwrap();
        let base = raw_base(folder.path(), 1 << 30);
        let first = folder.path().join("first.qcow2");
        create(&first, &base, DiskFormat::Raw, None).unwrap();

        let larger = Some(Size::from_mib(5 * 1024));
        let second = folder.path().join("second.qcow2");
        assert_eq!(create(&second, &first, DiskFormat::Qcow2, larger).unwrap().bytes(), 5 << 30);

        let third = folder.path().join("third.qcow2");
        let error = create(&third, &second, DiskFormat::Qcow2, Some(Size::from_mib(1024))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a disk of 1G would cut off the end of the image's disk, which has 5G; ask for 5G or more"
        );
        assert!(!third.exists());
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        fs::write(&text, "short").unwrap();
        let overlay = folder.path().join("overlay");
        let on = |base: &Path, format, size| create(&overlay, base, format, size).unwrap_err();

        assert!(matches!(on(&text, DiskFormat::Qcow2, None), OverlayError::NotQcow2(_)));
        assert!(matches!(on(&text, DiskFormat::Raw, None), OverlayError::Unaligned(5)));
        assert!(matches!(
            on(&folder.path().join("absent"), DiskFormat::Raw, None),
            OverlayError::Io { what: "find", .. }
        ));
        assert!(!overlay.exists());
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let base = raw_base(folder.path(), 1 << 20);
        let overlay = folder.path().join("vm.qcow2");
        fs::write(&overlay, "precious").unwrap();

        assert!(create(&overlay, &base, DiskFormat::Raw, None).is_err());
        assert_eq!(fs::read(&overlay).unwrap(), b"precious");
    }
}
