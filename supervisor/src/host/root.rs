//! Where the host's files are read from, so that a recorded tree of another machine can stand in for them.

use std::io;
use std::path::{Path, PathBuf};

/// The directory under which `proc`, `sys`, `dev` and `etc` are looked up.
///
/// On a real host this is `/`; recorded trees of other machines are read by naming their folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoot(PathBuf);

impl HostRoot {
    /// This machine.
    #[must_use]
    pub fn system() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A recorded tree.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The place of a file given by its absolute or relative path on the host.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file. Bytes that are not UTF-8 are replaced: files of the kernel may hold any byte that a process
    /// or device chose as a name.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        std::fs::read(self.path(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text of a one-line file, without the newline (or the NUL that device-tree properties end in).
    pub fn read_line(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = self.read(path).ok()?;
        let text = text.trim_matches(['\0', '\n', ' ']);
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Identity of this boot, a random UUID (random(4), `/proc/sys/kernel/random/boot_id`).
    pub fn boot_id(&self) -> io::Result<String> {
        self.read("proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
    }
}

impl Default for HostRoot {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_absolute_name_stays_below_the_root() {
        assert_eq!(HostRoot::at("/recorded").path("/proc/meminfo"), Path::new("/recorded/proc/meminfo"));
        assert_eq!(HostRoot::system().path("proc/meminfo"), Path::new("/proc/meminfo"));
    }

    #[test]
    fn device_tree_text_loses_its_nul() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("model"), b"Raspberry Pi 5 Model B Rev 1.0\0").unwrap();
        std::fs::write(tree.path().join("empty"), b"\n").unwrap();
        let root = HostRoot::at(tree.path());
        assert_eq!(root.read_line("model").as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
        assert_eq!(root.read_line("empty"), None);
        assert_eq!(root.read_line("missing"), None);
    }
}
