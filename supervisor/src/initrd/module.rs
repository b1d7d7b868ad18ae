//! A kernel module's file.

use std::io::Read;

/// The most that a module unpacks to; the largest of Debian's have 10 MB.
const MOST: u64 = 64 << 20;
/// The most memory, in KiB, that unpacking xz may take: the kernel's build uses dictionaries of 1 MiB.
const MOST_MEMORY: u32 = 64 << 10;

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// It cannot be unpacked.
    #[error("it cannot be unpacked")]
    Packed(#[source] std::io::Error),
    /// It is too large.
    #[error("it has more than {} MiB", MOST >> 20)]
    Huge,
    /// It is for another kernel.
    #[error("it is made for the kernel {found}, and the image's is {wanted}")]
    WrongKernel {
        /// What it says.
        found: String,
        /// What the image boots.
        wanted: String,
    },
}

/// A module as the kernel takes it, unpacked as its name says (`CONFIG_MODULE_COMPRESS_*` in Linux).
pub fn unpack(path: &str, bytes: Vec<u8>) -> Result<Vec<u8>, ModuleError> {
    let source = bytes.as_slice();
    let reader: Box<dyn Read + '_> = match path.rsplit_once(".ko").map(|(_, ending)| ending) {
        Some(".xz") => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, MOST_MEMORY)),
        Some(".zst") => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(source);
            Box::new(decoder.map_err(|e| ModuleError::Packed(std::io::Error::other(e.to_string())))?)
        }
        Some(".gz") => Box::new(flate2::read::MultiGzDecoder::new(source)),
        _ => return Ok(bytes),
    };
    let mut unpacked = Vec::new();
    reader.take(MOST + 1).read_to_end(&mut unpacked).map_err(ModuleError::Packed)?;
    if unpacked.len() as u64 > MOST { Err(ModuleError::Huge) } else { Ok(unpacked) }
}

/// The release of the kernel that a module is made for: the first word of `vermagic=` in its `.modinfo` (Linux, include/linux/vermagic.h).
#[must_use]
pub fn vermagic(module: &[u8]) -> Option<&str> {
    const KEY: &[u8] = b"\0vermagic=";
    let at = module.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let rest = &module[at..];
    let end = rest.iter().position(|byte| matches!(byte, 0 | b' '))?;
    std::str::from_utf8(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_release_is_found() {
        assert_eq!(
            vermagic(b"\x7fELF\0vermagic=6.1.0-56-cloud-amd64 SMP preempt\0"),
            Some("6.1.0-56-cloud-amd64")
        );
        assert_eq!(vermagic(b"\x7fELF\0vermagic=6.1"), None);
        assert_eq!(vermagic(b""), None);
    }

    /// By the programs that Debian packs its modules with.
    #[test]
    fn packed_modules_are_unpacked() {
        let module = b"a module ".repeat(1000);
        let pack = |program: &str, args: &[&str]| {
            let mut child = std::process::Command::new(program)
                .args(args)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap_or_else(|e| panic!("{program}: {e}; scripts/setup.sh --tests installs it"));
            child.stdin.take().unwrap().write_all(&module).unwrap();
            child.wait_with_output().unwrap().stdout
        };
        let xz = pack("xz", &["--check=crc32", "--lzma2=dict=1MiB"]);
        assert_eq!(unpack("a/b.ko.xz", xz.clone()).unwrap(), module);
        assert_eq!(unpack("b.ko.gz", pack("gzip", &[])).unwrap(), module);
        assert_eq!(unpack("b.ko.zst", pack("zstd", &[])).unwrap(), module);
        assert_eq!(unpack("b.ko", module.clone()).unwrap(), module);
        assert!(matches!(unpack("b.ko.xz", xz[..xz.len() / 2].to_vec()), Err(ModuleError::Packed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut xz = b"\xfd7zXZ\0\0\x01".to_vec();
            xz.extend(&bytes);
            for (name, bytes) in [("a.ko.xz", xz), ("a.ko.gz", bytes.clone()), ("a.ko.zst", bytes.clone())] {
                let _ = unpack(name, bytes);
            }
            let _ = vermagic(&bytes);
        }
    }
}
