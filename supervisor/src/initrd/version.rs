//! The release of a Linux kernel, from its file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Where the text may end: the part of the file that runs in real mode has at most 64 sectors.
const LOOKED_AT: u64 = 64 << 10;

/// The release that a bzImage says it is, such as `6.1.0-56-cloud-amd64`.
pub(super) fn of(kernel: &Path) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    File::open(kernel)?.take(LOOKED_AT).read_to_end(&mut bytes)?;
    Ok(parse(&bytes))
}

/// Linux, Documentation/arch/x86/boot.rst: `HdrS` at 0x202; at 0x20e the place, less 0x200, of a text that ends with a zero, whose first
/// word is the release.
fn parse(bytes: &[u8]) -> Option<String> {
    if bytes.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let place = usize::from(u16::from_le_bytes([*bytes.get(0x20e)?, *bytes.get(0x20f)?]));
    if place == 0 {
        return None;
    }
    let text = bytes.get(place + 0x200..)?;
    let end = text.iter().position(|byte| matches!(byte, 0 | b' '))?;
    let release = std::str::from_utf8(&text[..end]).ok()?;
    // It becomes a part of a path.
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-~".contains(c);
    (!release.is_empty() && !release.starts_with('.') && release.chars().all(plain))
        .then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x300];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e] = 0x40;
        bytes[0x240..0x240 + text.len()].copy_from_slice(text);
        bytes
    }

    #[test]
    fn the_release_is_the_first_word() {
        let text = b"6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP\0";
        assert_eq!(parse(&header(text)).as_deref(), Some("6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn what_is_no_release_is_passed_over() {
        for text in [&b"../../etc \0"[..], b"/etc \0", b" \0", b"6.1\xff\0"] {
            assert_eq!(parse(&header(text)), None);
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(&[0; 0x300]), None);
    }
}
