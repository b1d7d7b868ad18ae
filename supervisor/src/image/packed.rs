//! Kernels that are packed: inside an EFI program (EFI zboot), or by gzip alone, as Arm's often are.

use std::io::{self, Read};

use super::kernel::{self, KernelFormat};
use crate::spec::Arch;

/// The largest kernel that is unpacked, in bytes; the largest in use have a fifth of it.
const LARGEST: u64 = 512 << 20;

/// Why a packed kernel cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PackedError {
    /// The header of the EFI program does not fit the file.
    #[error("the packed kernel is damaged: its header says that it lies beyond the file's end")]
    Header,
    /// Packed in a way that is not known here.
    #[error("the kernel is packed by `{0}`, and midge unpacks gzip and zstd; give the unpacked kernel")]
    Method(String),
    /// The packed data.
    #[error("the packed kernel is damaged")]
    Data(#[source] io::Error),
    /// Larger than any kernel.
    #[error("the kernel is larger than {} MiB when unpacked, which no kernel is", LARGEST >> 20)]
    TooLarge,
    /// Something else was in it.
    #[error("what is packed in it is no kernel")]
    NoKernel,
}

/// How a kernel is packed.
#[derive(Clone, Copy)]
enum Packing<'a> {
    Gzip(&'a [u8]),
    Zstd(&'a [u8]),
}

/// Unpacks a kernel; none when it is not packed.
///
/// # Errors
/// When it is packed and cannot be unpacked, or what comes out is no kernel.
pub fn unpack(bytes: &[u8]) -> Result<Option<Vec<u8>>, PackedError> {
    let Some(packing) = packing(bytes)? else { return Ok(None) };
    let unpacked = read(packing, LARGEST)?;
    if kernel::told(&unpacked).is_none() {
        return Err(PackedError::NoKernel);
    }
    Ok(Some(unpacked))
}

/// What a packed file's kernel is, by its beginning alone; none when it is not packed, or holds no kernel.
#[must_use]
pub fn told(start: &[u8]) -> Option<(KernelFormat, Result<Arch, &'static str>)> {
    // Of an EFI program the beginning may be too short to hold all that its header speaks of; its own header tells enough.
    let Ok(Some(Packing::Gzip(packed))) = packing(start) else { return None };
    let mut unpacked = Vec::new();
    // What comes out before the beginning's end is enough.
    let _ = flate2::read::GzDecoder::new(packed).take(kernel::LOOKED_AT).read_to_end(&mut unpacked);
    kernel::told(&unpacked)
}

fn packing(bytes: &[u8]) -> Result<Option<Packing<'_>>, PackedError> {
    if bytes.starts_with(b"\x1f\x8b\x08") {
        return Ok(Some(Packing::Gzip(bytes)));
    }
    // Linux, drivers/firmware/efi/libstub/zboot-header.S: "MZ", "zimg" at 4, offset and size of the payload at 8 and 12, the method's
    // name at 24.
    if !bytes.starts_with(b"MZ") || bytes.get(4..8) != Some(b"zimg") {
        return Ok(None);
    }
    let word = |at: usize| {
        let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(word)).ok()
    };
    let payload =
        word(8).zip(word(12)).and_then(|(offset, size)| bytes.get(offset..offset.checked_add(size)?));
    let payload = payload.ok_or(PackedError::Header)?;
    let name = bytes.get(24..56).ok_or(PackedError::Header)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    match name {
        b"gzip" => Ok(Some(Packing::Gzip(payload))),
        b"zstd" | b"zstd22" => Ok(Some(Packing::Zstd(payload))),
        other => Err(PackedError::Method(String::from_utf8_lossy(other).into_owned())),
    }
}

fn read(packing: Packing<'_>, limit: u64) -> Result<Vec<u8>, PackedError> {
    let mut unpacked = Vec::new();
    let length = match packing {
        Packing::Gzip(bytes) => {
            flate2::read::GzDecoder::new(bytes).take(limit + 1).read_to_end(&mut unpacked)
        }
        Packing::Zstd(bytes) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
            let decoder =
                decoder.map_err(|e| PackedError::Data(io::Error::new(io::ErrorKind::InvalidData, e)))?;
            decoder.take(limit + 1).read_to_end(&mut unpacked)
        }
    };
    if length.map_err(PackedError::Data)? as u64 > limit {
        return Err(PackedError::TooLarge);
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// A kernel for Arm, as far as its header goes.
    fn image() -> Vec<u8> {
        let mut image = vec![7; 300 << 10];
        image[56..60].copy_from_slice(b"ARM\x64");
        image
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zboot(method: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 0x100];
        file[..8].copy_from_slice(b"MZ\0\0zimg");
        file[8..12].copy_from_slice(&0x100_u32.to_le_bytes());
        file[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file[24..24 + method.len()].copy_from_slice(method);
        file.extend_from_slice(payload);
        // The unpacked size follows in real ones.
        file.extend_from_slice(&[0; 4]);
        file
    }

    #[test]
    fn kernels_come_out_as_they_went_in() {
        assert_eq!(unpack(&gzip(&image())).unwrap(), Some(image()));
        assert_eq!(unpack(&zboot(b"gzip", &gzip(&image()))).unwrap(), Some(image()));
        let mut zstd = Command::new("zstd")
            .args(["-q", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        zstd.stdin.take().unwrap().write_all(&image()).unwrap();
        let packed = zstd.wait_with_output().unwrap().stdout;
        assert_eq!(unpack(&zboot(b"zstd22", &packed)).unwrap(), Some(image()));
        assert_eq!(unpack(&image()).unwrap(), None);
        assert_eq!(told(&gzip(&image())[..200]).unwrap().0, KernelFormat::Arm64Image);
    }

    #[test]
    fn damage_is_told_apart() {
        let packed = gzip(&image());
        assert!(matches!(unpack(&packed[..packed.len() / 2]), Err(PackedError::Data(_))));
        assert!(matches!(unpack(&zboot(b"gzip", &packed)[..0x120]), Err(PackedError::Header)));
        assert!(matches!(unpack(&zboot(b"zstd", b"no zstd")), Err(PackedError::Data(_))));
        assert!(matches!(unpack(&zboot(b"xz", &packed)), Err(PackedError::Method(m)) if m == "xz"));
        assert!(matches!(unpack(&gzip(b"a text")), Err(PackedError::NoKernel)));
        assert!(matches!(read(Packing::Gzip(&packed), 1000), Err(PackedError::TooLarge)));
    }
}
