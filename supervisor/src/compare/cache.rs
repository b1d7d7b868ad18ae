//! The page cache, for measurements that are to begin cold.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Lets the kernel drop what it holds of a file in memory (posix_fadvise(2), `POSIX_FADV_DONTNEED`). Pages that are still to be written
/// cannot be dropped, so they are written first. Pages that a program maps stay: so QEMU itself and its firmware are never cold while
/// another one runs.
pub fn drop_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    // A length of zero is to the end.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_dropped_file_is_no_longer_in_memory() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        io::Write::write_all(&mut file, &vec![1; 1 << 20]).unwrap();
        // fincore(1), of util-linux, counts the pages in the cache.
        let pages = || {
            let output = Command::new("fincore")
                .args(["--bytes", "--noheadings", "--raw", "--output", "RES"])
                .arg(file.path())
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
        };
        assert!(pages() > 0);
        drop_file(file.path()).unwrap();
        assert_eq!(pages(), 0);
    }
}
