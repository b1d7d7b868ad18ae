//! Unix sockets in a VM's run folder.
//!
//! QEMU's listening sockets are made here and passed to it by number. A connection made before QEMU accepts waits in the
//! backlog, so nobody polls for a socket to appear; and the names stay for a later supervisor to find.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A folder whose sockets can be named however long its path is: `sun_path` holds 107 bytes (unix(7)), and
/// `/proc/self/fd/N/NAME` always fits.
#[derive(Debug)]
pub(crate) struct SocketDir {
    dir: File,
}

impl SocketDir {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let dir = File::options()
            .read(true)
            .custom_flags(nix::libc::O_DIRECTORY | nix::libc::O_CLOEXEC)
            .open(path)?;
        Ok(Self { dir })
    }

    fn name(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// A listening socket of this name, in the place of whatever had it.
    pub(crate) fn listen(&self, name: &str) -> io::Result<UnixListener> {
        let path = self.name(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        UnixListener::bind(&path)
    }

    /// Connects to the socket of this name.
    pub(crate) fn connect(&self, name: &str) -> io::Result<UnixStream> {
        UnixStream::connect(self.name(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_with_long_paths_hold_sockets() {
        let tmp = tempfile::tempdir().unwrap();
        let deep = tmp.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let dir = SocketDir::open(&deep).unwrap();
        let _first = dir.listen("control.sock").unwrap();
        let listener = dir.listen("control.sock").unwrap();
        dir.connect("control.sock").unwrap();
        listener.accept().unwrap();
        assert!(deep.join("control.sock").exists());
    }
}
