//! SHA-256 of files and of manifests.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Part;

/// The SHA-256 of a file's content, in hexadecimal, and its size in bytes.
pub(super) fn of_file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hex(&hasher.finalize()), size)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
#[must_use]
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The digest of a list of texts: each is preceded by its length, so that no two lists share one.
#[must_use]
pub(crate) fn of_list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hex(&hasher.finalize())
}

/// An image's digest: that of its parts' digests in the order disk, kernel, initrd, a part that it lacks counting as empty.
#[must_use]
pub(super) fn of_parts(parts: [Option<&Part>; 3]) -> String {
    format!("sha256:{}", of_list(parts.map(|part| part.map_or("", |p| p.sha256.as_str()))))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_bytes_give_the_published_digest() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_bytes(b"abc"), abc);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(of_file(&path).unwrap(), (abc.to_owned(), 3));
    }

    #[test]
    fn lists_that_join_to_the_same_text_differ() {
        assert_ne!(of_list(["ab", "c"]), of_list(["a", "bc"]));
        assert_ne!(of_list(["ab"]), of_list(["ab", ""]));
    }
}
