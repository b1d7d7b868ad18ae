//! A VM's own disk, which begins as what its image's is: an overlay, or a copy that shares its blocks where the file system can.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use imago::FormatAccess;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;

use super::overlay::{self, OverlayError};
use super::sparse;
use crate::machine::DiskFormat;
use crate::spec::Size;

/// How a VM's disk is made of its image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cow {
    /// By sharing blocks where the image's disk is raw and the file system can, else as an overlay.
    #[default]
    Auto,
    /// As a qcow2 overlay.
    Qcow2,
    /// By sharing blocks (ioctl_ficlone(2); btrfs, XFS), or not at all.
    Reflink,
}

impl FromStr for Cow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "qcow2" => Ok(Self::Qcow2),
            "reflink" => Ok(Self::Reflink),
            _ => Err("write auto, qcow2 or reflink".to_owned()),
        }
    }
}

impl fmt::Display for Cow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Qcow2 => "qcow2",
            Self::Reflink => "reflink",
        })
    }
}

/// Why a disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CowError {
    /// The overlay.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The file system keeps every file's blocks apart.
    #[error(
        "{} and the image are not on one file system whose files can share blocks (btrfs, or XFS with reflink=1): use --cow qcow2",
        .0.display()
    )]
    NoSharing(PathBuf),
}

/// Makes a VM's disk in `folder`, of `base`, and as large as `size` where given. It is `disk.qcow2` or `disk.raw`; the answer is which.
///
/// # Errors
/// [`CowError`]; nothing is left in the folder then.
pub fn make(
    folder: &Path,
    base: &Path,
    format: DiskFormat,
    size: Option<Size>,
    cow: Cow,
) -> Result<DiskFormat, CowError> {
    let by_sharing = match cow {
        Cow::Qcow2 => false,
        Cow::Auto => format == DiskFormat::Raw,
        Cow::Reflink => true,
    };
    if by_sharing {
        let path = folder.join(match format {
            DiskFormat::Raw => "disk.raw",
            DiskFormat::Qcow2 => "disk.qcow2",
        });
        match share(&path, base, format, size) {
            Ok(true) => return Ok(format),
            Ok(false) if cow == Cow::Reflink => return Err(CowError::NoSharing(path)),
            Ok(false) => {}
            Err(e) => {
                // Ours, and of no use.
                let _ = fs::remove_file(&path);
                return Err(e.into());
            }
        }
    }
    overlay::create(&folder.join("disk.qcow2"), base, format, size)?;
    Ok(DiskFormat::Qcow2)
}

/// Makes a disk that shares its blocks with `base`; answers whether that can be.
fn share(path: &Path, base: &Path, format: DiskFormat, size: Option<Size>) -> Result<bool, OverlayError> {
    let now = Size::from_bytes(overlay::virtual_size(base, format)?);
    if let Some(wanted) = size.filter(|size| *size < now) {
        return Err(OverlayError::Shrinks { wanted, base: now });
    }
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| OverlayError::Io { what, path, source }
    };
    let source = File::open(base).map_err(io("open", base))?;
    let target =
        File::options().write(true).create_new(true).mode(0o600).open(path).map_err(io("write", path))?;
    match sparse::share(&source, &target) {
        Ok(()) => {}
        Err(e) if sparse::cannot_share(&e) => {
            fs::remove_file(path).map_err(io("remove", path))?;
            return Ok(false);
        }
        Err(e) => return Err(io("write", path)(e)),
    }
    if let Some(size) = size.filter(|size| *size > now) {
        grow(path, format, size)?;
    }
    Ok(true)
}

/// Makes a disk larger; what is new in it is zero.
///
/// # Errors
/// [`OverlayError::Shrinks`], or what the file system refuses.
pub fn grow(path: &Path, format: DiskFormat, size: Size) -> Result<(), OverlayError> {
    let now = Size::from_bytes(overlay::virtual_size(path, format)?);
    if size < now {
        return Err(OverlayError::Shrinks { wanted: size, base: now });
    }
    if size == now {
        return Ok(());
    }
    if !size.bytes().is_multiple_of(512) {
        return Err(OverlayError::Unaligned(size.bytes()));
    }
    let grow = || -> io::Result<()> {
        match format {
            DiskFormat::Raw => {
                let file = File::options().write(true).open(path)?;
                file.set_len(size.bytes())?;
                file.sync_all()
            }
            DiskFormat::Qcow2 => {
                let access = FormatAccess::new(Qcow2::<imago::file::File>::open_path(path, true)?);
                access.resize_grow(size.bytes(), PreallocateMode::None)?;
                // Written out and to the disk before anything says so.
                access.sync()
            }
        }
    };
    grow().map_err(|source| OverlayError::Io { what: "make larger", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn raw(folder: &Path) -> PathBuf {
        let path = folder.join("base.raw");
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        path
    }

    /// Whichever the file system of the tests can: both ways give a disk of the same content.
    #[test]
    fn auto_gives_a_disk_on_any_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let base = raw(folder.path());
        let size = Some(Size::from_mib(64));
        let format = make(folder.path(), &base, DiskFormat::Raw, size, Cow::Auto).unwrap();
        let disk = folder.path().join(if format == DiskFormat::Raw { "disk.raw" } else { "disk.qcow2" });
        assert_eq!(overlay::virtual_size(&disk, format).unwrap(), 64 << 20);
        assert!(fs::metadata(&disk).unwrap().blocks() * 512 <= 1 << 20);
    }

    /// /dev/shm is tmpfs, which shares no blocks.
    #[test]
    fn sharing_where_it_cannot_be_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let base = raw(folder.path());
        let refused = make(folder.path(), &base, DiskFormat::Raw, None, Cow::Reflink).unwrap_err();
        assert!(matches!(refused, CowError::NoSharing(_)), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(make(folder.path(), &base, DiskFormat::Raw, None, Cow::Auto).unwrap(), DiskFormat::Qcow2);
    }

    #[test]
    fn a_disk_grows_and_is_still_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let base = raw(folder.path());
        make(folder.path(), &base, DiskFormat::Raw, None, Cow::Qcow2).unwrap();
        let disk = folder.path().join("disk.qcow2");
        // Larger than one table of the format's first level covers.
        let size = Size::from_mib(64 << 10);
        grow(&disk, DiskFormat::Qcow2, size).unwrap();
        grow(&disk, DiskFormat::Qcow2, size).unwrap();
        grow(&base, DiskFormat::Raw, size).unwrap();
        for (path, format) in [(&disk, DiskFormat::Qcow2), (&base, DiskFormat::Raw)] {
            assert_eq!(overlay::virtual_size(path, format).unwrap(), size.bytes());
            let smaller = grow(path, format, Size::from_mib(1));
            assert!(matches!(smaller, Err(OverlayError::Shrinks { .. })));
        }
    }
}
