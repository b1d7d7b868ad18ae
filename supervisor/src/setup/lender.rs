//! The program that lends what ports are watched by, the frames of a packet socket that it keeps: midge itself under another name, with one file capability.
//!
//! Installed it is `root:root`, mode 0755, and has `cap_net_raw=ep` in its extended attribute (capabilities(7), "File capabilities").
//! Whoever runs it under this name gets nothing but [`netbr::packet::lend`]; see `cli::lend`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, fsetxattr};

/// The program's name, by which midge knows that it is to lend and nothing else.
pub const NAME: &str = "midge-port";

/// Where it is installed.
const PATH: &str = "/usr/local/libexec/midge-port";

/// Names another place, for who installs it and for who runs it. The program itself reads no environment.
const VARIABLE: &str = "MIDGE_PORT";

/// The attribute that holds a file's capabilities (xattr(7)).
const ATTRIBUTE: &str = "security.capability";

/// `CAP_NET_RAW` (capabilities(7)), by its number.
const CAP_NET_RAW: u32 = 13;

/// Why it cannot be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum LenderError {
    /// A file cannot be made, changed or removed.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was to be done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file system takes no capabilities.
    #[error(
        "the file system of {} keeps no file capabilities (security.capability), which midge's helper for watching ports needs; name a folder on another one in MIDGE_PORT",
        path.display()
    )]
    NoCapabilities {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Where it is, or is to be: `$MIDGE_PORT`, else `/usr/local/libexec/midge-port`.
#[must_use]
pub fn path() -> PathBuf {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map_or_else(|| PATH.into(), PathBuf::from)
}

/// Installs a copy of this program as the lender. What is there is replaced as a whole: who runs it at this moment keeps the old one.
pub fn install(path: &Path) -> Result<(), LenderError> {
    let failed = |operation| {
        let path = path.to_owned();
        move |source| LenderError::File { operation, path, source }
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    // Not by the program's path: a newer midge may have been installed there in the meantime.
    let mut program = File::open("/proc/self/exe").map_err(failed("read this program for"))?;
    let mut draft = tempfile::Builder::new()
        .prefix(".midge-port-")
        .permissions(Permissions::from_mode(0o700))
        .tempfile_in(folder)
        .map_err(failed("make"))?;
    io::copy(&mut program, draft.as_file_mut()).map_err(failed("write"))?;
    // A change of owner takes capabilities away (capabilities(7)), so it comes first; nobody else may run it before all is set.
    fchown(draft.as_file(), Some(0), Some(0)).map_err(failed("give root"))?;
    fsetxattr(draft.as_file(), ATTRIBUTE, &capability(CAP_NET_RAW), XattrFlags::empty()).map_err(|e| {
        let source = io::Error::from(e);
        match e {
            rustix::io::Errno::OPNOTSUPP => LenderError::NoCapabilities { path: path.to_owned(), source },
            _ => failed("give a capability to")(source),
        }
    })?;
    draft.as_file().set_permissions(Permissions::from_mode(0o755)).map_err(failed("let everybody run"))?;
    // A program that is open for writing cannot be run (ETXTBSY): it is closed before it has its name.
    let draft = draft.into_temp_path();
    draft.persist(path).map_err(|e| failed("put into place")(e.error))
}

/// Removes it; says whether it was there.
pub fn remove(path: &Path) -> Result<bool, LenderError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LenderError::File { operation: "remove", path: path.to_owned(), source }),
    }
}

/// The attribute's value that gives one capability, permitted and effective (`struct vfs_cap_data` of linux/capability.h, revision 2:
/// the low and the high half of each set, little-endian).
fn capability(number: u32) -> [u8; 20] {
    const VFS_CAP_REVISION_2: u32 = 0x0200_0000;
    const VFS_CAP_FLAGS_EFFECTIVE: u32 = 1;
    let words = [VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, 1 << number, 0, 0, 0];
    let mut value = [0; 20];
    for (bytes, word) in value.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_is_what_setcap_writes() {
        // `setcap cap_net_raw=ep FILE; getfattr -e hex -n security.capability FILE`
        let expected = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(capability(CAP_NET_RAW), expected);
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        assert!(!remove(&path).unwrap());
        fs::write(&path, "").unwrap();
        assert!(remove(&path).unwrap() && !path.exists());
    }
}
