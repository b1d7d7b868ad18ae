//! Programs in `$PATH`.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Why a program was not found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// No file of that name.
    NoFile,
    /// Only this one, which is not executable.
    NotExecutable(PathBuf),
}

/// The first executable file of this name in `path`, a list of folders like `$PATH`. Relative folders are passed over: what
/// they hold depends on where one stands.
pub(super) fn find(name: &str, path: &OsStr) -> Result<PathBuf, Missing> {
    let mut missing = Missing::NoFile;
    for folder in std::env::split_paths(path).filter(|folder| folder.is_absolute()) {
        let file = folder.join(name);
        match std::fs::metadata(&file) {
            Ok(about) if is_executable(&about) => return Ok(file),
            Ok(about) if about.is_file() && missing == Missing::NoFile => {
                missing = Missing::NotExecutable(file);
            }
            _ => {}
        }
    }
    Err(missing)
}

/// Whether this is a file that somebody may execute.
pub(super) fn is_executable(about: &Metadata) -> bool {
    about.is_file() && about.permissions().mode() & 0o111 != 0
}
