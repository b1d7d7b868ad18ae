//! The release of a Linux kernel, from its file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::image::packed;

/// The largest kernel that is read.
const LARGEST: u64 = 256 << 20;
/// The longest release (Linux, include/uapi/linux/utsname.h, `__NEW_UTS_LEN`), and what ends it.
const LONGEST: usize = 65;
/// How the text begins by which a kernel tells its release (Linux, init/version.c).
const BANNER: &[u8] = b"Linux version ";

/// The release that a kernel's file says it is, such as `6.1.0-56-cloud-amd64`.
pub(super) fn of(kernel: &Path) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    File::open(kernel)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(release(&bytes))
}

/// The release that a kernel says it is: a bzImage in its header, others, packed or not, by the text that they boot with.
#[must_use]
pub fn release(bytes: &[u8]) -> Option<String> {
    if bytes.get(0x202..0x206) == Some(b"HdrS") {
        return in_header(bytes);
    }
    let unpacked = packed::unpack(bytes).ok()?;
    let bytes = unpacked.as_deref().unwrap_or(bytes);
    let at = bytes.windows(BANNER.len()).position(|window| window == BANNER)?;
    first_word(&bytes[at + BANNER.len()..])
}

/// Linux, Documentation/arch/x86/boot.rst: at 0x20e the place, less 0x200, of a text that ends with a zero, whose first word is the
/// release.
fn in_header(bytes: &[u8]) -> Option<String> {
    let place = usize::from(u16::from_le_bytes([*bytes.get(0x20e)?, *bytes.get(0x20f)?]));
    if place == 0 {
        return None;
    }
    first_word(bytes.get(place + 0x200..)?)
}

fn first_word(text: &[u8]) -> Option<String> {
    let end = text.iter().take(LONGEST).position(|byte| matches!(byte, 0 | b' '))?;
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
        assert_eq!(release(&header(text)).as_deref(), Some("6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn kernels_without_such_a_header_tell_it_by_the_text_they_boot_with() {
        let mut image = vec![0; 64];
        image[56..60].copy_from_slice(b"ARM\x64");
        image.extend(b"%s version %s\0Linux version 6.1.0-56-cloud-arm64 (debian-kernel@lists.debian.org)\0");
        assert_eq!(release(&image).as_deref(), Some("6.1.0-56-cloud-arm64"));
        let mut packed = Vec::new();
        let mut writer = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        io::Write::write_all(&mut writer, &image).unwrap();
        writer.finish().unwrap();
        assert_eq!(release(&packed).as_deref(), Some("6.1.0-56-cloud-arm64"));
        assert_eq!(release(b"Linux version ../x y"), None);
    }

    #[test]
    fn what_is_no_release_is_passed_over() {
        for text in [&b"../../etc \0"[..], b"/etc \0", b" \0", b"6.1\xff\0"] {
            assert_eq!(release(&header(text)), None);
        }
        assert_eq!(release(b""), None);
        assert_eq!(release(&[0; 0x300]), None);
    }
}
