//! The kernel in a bzImage, unpacked on the host.
//!
//! A bzImage unpacks itself in the guest, which takes an emulated one half a second to three seconds, at each boot. QEMU starts what is in
//! it directly (PVH), so midge unpacks it once and keeps it in `$MIDGE_HOME/kernels`. What is lost is the choice of a random address
//! (KASLR), which the part makes that unpacks: under KVM, where unpacking is quick, the bzImage is booted as it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::kernel::{self, KernelFormat};
use super::store::{self, Pruned};
use super::{Image, Manifest, Part};
use crate::spec::Arch;
use crate::store::{Home, StoreError, write_whole};

/// The largest kernel that is unpacked, in bytes; Debian's have up to 70 MB.
const LARGEST: u64 = 256 << 20;
/// The most memory, in KiB, that unpacking xz may take: Linux's build uses dictionaries of 128 MiB (scripts/xz_wrap.sh).
const MOST_MEMORY: u32 = 160 << 10;
/// How the names of unpacked kernels end.
const ENDING: &str = "elf";

/// Why a kernel cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// It is no bzImage, or one of before 2008.
    #[error("the kernel is no bzImage that tells where its content lies")]
    NoBzImage,
    /// Packed in a way that is not known here.
    #[error("the kernel is packed in a way that midge does not know")]
    Packing,
    /// What is packed is damaged.
    #[error("the kernel cannot be unpacked")]
    Data(#[source] io::Error),
    /// Larger than any kernel.
    #[error("the kernel has more than {} MiB", LARGEST >> 20)]
    TooLarge,
    /// What comes out cannot be started by itself.
    #[error("the kernel has no PVH entry point")]
    NoEntry,
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be kept.
    #[error(transparent)]
    Keep(#[from] StoreError),
}

/// The unpacked kernel of an image, made where it is not there yet.
///
/// # Errors
/// When the image's kernel is none that can be unpacked, or the result cannot be kept.
pub fn of(home: &Home, image: &Image) -> Result<PathBuf, VmlinuxError> {
    let (Some(packed), Some(part)) = (image.kernel(), &image.manifest.kernel) else {
        return Err(VmlinuxError::NoBzImage);
    };
    let path = place(home, part);
    if path.is_file() {
        return Ok(path);
    }
    let bytes = fs::read(&packed).map_err(|source| VmlinuxError::Read { path: packed, source })?;
    let unpacked = unpack(&bytes)?;
    let folder = folder(home);
    fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
    write_whole(&path, &unpacked, false)?;
    Ok(path)
}

/// Removes the unpacked kernels that belong to no image with these manifests; returns what was removed, or would be where `dry` is set.
///
/// # Errors
/// When the folder cannot be read, or a file cannot be removed.
pub fn prune(home: &Home, images: &[Manifest], dry: bool) -> io::Result<Vec<Pruned>> {
    let needed: BTreeSet<PathBuf> =
        images.iter().filter_map(|image| Some(place(home, image.kernel.as_ref()?))).collect();
    let ours = |path: &Path| path.extension().is_some_and(|ending| ending == ENDING);
    store::prune_folder(&folder(home), |path| !ours(path) || needed.contains(path), dry)
}

fn folder(home: &Home) -> PathBuf {
    home.state().join("kernels")
}

fn place(home: &Home, kernel: &Part) -> PathBuf {
    let key = kernel.sha256.get(..16).unwrap_or(&kernel.sha256);
    folder(home).join(format!("{key}.{ENDING}"))
}

/// The ELF file in a bzImage.
///
/// # Errors
/// When there is none, it is damaged, or it is not one that QEMU starts.
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let unpacked = read(payload(bytes).ok_or(VmlinuxError::NoBzImage)?)?;
    match kernel::told(&unpacked) {
        Some((KernelFormat::ElfPvh, Ok(Arch::X86_64))) => Ok(unpacked),
        _ => Err(VmlinuxError::NoEntry),
    }
}

/// Linux, Documentation/arch/x86/boot.rst: from protocol 2.08 on (0x206) the payload's place is told at 0x248, from the end of the
/// real-mode code, which has as many sectors as 0x1f1 says (none means 4) and one, and its length at 0x24c.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let byte = |at: usize| bytes.get(at).copied();
    let word = |at: usize| {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    let version = u16::from_le_bytes([byte(0x206)?, byte(0x207)?]);
    if bytes.get(0x202..0x206)? != b"HdrS" || version < 0x208 {
        return None;
    }
    let sectors = match byte(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = ((sectors + 1) * 512).checked_add(word(0x248)?)?;
    bytes.get(start..start.checked_add(word(0x24c)?)?)
}

fn read(payload: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let reader: Box<dyn Read + '_> = match payload {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(payload, false, MOST_MEMORY))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(payload);
            Box::new(decoder.map_err(|e| VmlinuxError::Data(io::Error::other(e)))?)
        }
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => return lz4(blocks),
        _ => return Err(VmlinuxError::Packing),
    };
    let mut unpacked = Vec::new();
    reader.take(LARGEST + 1).read_to_end(&mut unpacked).map_err(VmlinuxError::Data)?;
    if unpacked.len() as u64 > LARGEST { Err(VmlinuxError::TooLarge) } else { Ok(unpacked) }
}

/// LZ4's legacy frame (lz4, doc/lz4_Frame_format.md): blocks of 8 MiB, each with its packed size before it. The kernel's build adds the
/// whole's unpacked size in 4 bytes.
fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    const BLOCK: usize = 8 << 20;
    let mut unpacked = Vec::new();
    while let Some((size, rest)) = blocks.split_first_chunk() {
        let size = u32::from_le_bytes(*size);
        if rest.is_empty() {
            break;
        }
        let block = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size));
        let (block, rest) = block.ok_or_else(|| VmlinuxError::Data(io::ErrorKind::UnexpectedEof.into()))?;
        let content = lz4_flex::block::decompress(block, BLOCK);
        unpacked.extend(content.map_err(|e| VmlinuxError::Data(io::Error::other(e)))?);
        if unpacked.len() as u64 > LARGEST {
            return Err(VmlinuxError::TooLarge);
        }
        blocks = rest;
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    /// How what is packed begins.
    static MAGICS: [&[u8]; 4] =
        [b"\x1f\x8b\x08", b"\xfd7zXZ\0\0\x01", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"];

    /// A small ELF file with a PVH note, and noise behind it that does not shrink to nothing.
    fn elf() -> Vec<u8> {
        let mut elf = vec![0; 120];
        elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        elf[18] = 62;
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 4;
        elf[72] = 120;
        elf[96] = 24;
        elf.extend(b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\0\0\0\x01\0\0\0\0");
        elf.extend((0..100_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()));
        elf
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 1024 + 0x300];
        bytes[0x1f1] = 1;
        bytes[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        bytes[0x248..0x24c].copy_from_slice(&0x300_u32.to_le_bytes());
        bytes[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    /// As Linux's build packs (scripts/Makefile.lib), by the same programs.
    fn packed(program: &str, arguments: &[&str], elf: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}; scripts/setup.sh --tests installs it"));
        let mut input = child.stdin.take().unwrap();
        let elf = elf.to_owned();
        let writer = std::thread::spawn(move || input.write_all(&elf));
        let mut bytes = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap().unwrap();
        bytes.extend(400_144_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn kernels_of_every_packing_are_unpacked() {
        let elf = elf();
        let lz4 = {
            let block = lz4_flex::block::compress(&elf);
            let size = u32::try_from(block.len()).unwrap();
            [&b"\x02\x21\x4c\x18"[..], &size.to_le_bytes(), &block, &400_144_u32.to_le_bytes()].concat()
        };
        let xz = ["--check=crc32", "--x86", "--lzma2=dict=32MiB"];
        for (name, payload) in [
            ("gzip", packed("gzip", &["-n", "-9"], &elf)),
            ("xz", packed("xz", &xz, &elf)),
            ("zstd", packed("zstd", &["-19"], &elf)),
            ("lz4", lz4),
        ] {
            let kernel = bzimage(&payload);
            assert!(unpack(&kernel).unwrap() == elf, "{name}");
            let cut = bzimage(&payload[..payload.len() / 2]);
            assert!(unpack(&cut).is_err(), "{name}");
        }
        let other = packed("gzip", &[], b"no kernel");
        assert!(matches!(unpack(&bzimage(&other)), Err(VmlinuxError::NoEntry)));
        assert!(matches!(unpack(&bzimage(b"what")), Err(VmlinuxError::Packing)));
        let mut old = bzimage(&packed("gzip", &[], &elf));
        old[0x206] = 7;
        assert!(matches!(unpack(&old), Err(VmlinuxError::NoBzImage)));
    }

    #[test]
    fn what_no_image_needs_is_pruned() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("home"), folder.path().join("run"));
        let image = |digest: &str| {
            let mut image = Manifest::bare(
                "x".to_owned(),
                crate::spec::Kind::Linux,
                Arch::X86_64,
                String::new(),
                String::new(),
            );
            image.kernel = Some(Part { file: "k".into(), size: 1, sha256: digest.repeat(64) });
            image
        };
        let (used, old) = (image("a"), image("b"));
        let path = |image: &Manifest| place(&home, image.kernel.as_ref().unwrap());
        fs::create_dir_all(super::folder(&home)).unwrap();
        fs::write(path(&used), "1").unwrap();
        fs::write(path(&old), "12").unwrap();
        let expected = [Pruned { path: path(&old), bytes: 2 }];
        assert_eq!(prune(&home, std::slice::from_ref(&used), true).unwrap(), expected);
        assert_eq!(prune(&home, std::slice::from_ref(&used), false).unwrap(), expected);
        assert!(path(&used).exists() && !path(&old).exists());
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(
            start in prop::sample::select(&MAGICS[..]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = unpack(&bzimage(&[start, &bytes].concat()));
            let _ = unpack(&bytes);
        }
    }
}
