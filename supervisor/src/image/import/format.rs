//! What a file is that somebody wants for an image, by its content alone: names lie, and `.img` says nothing.

use crate::image::kernel::{self, KernelFormat};
use crate::image::packed;
use crate::spec::Arch;

/// How much of a file is looked at.
pub(super) const LOOKED_AT: u64 = kernel::LOOKED_AT;

/// What a file can be to become an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// QEMU's disk format.
    Qcow2,
    /// A disk byte by byte.
    Raw,
    /// VMware's disk format.
    Vmdk,
    /// Hyper-V's disk format.
    Vhdx,
    /// A kernel, packed or not, and for which instruction set, or for one of which only the name is known.
    Kernel(KernelFormat, Result<Arch, &'static str>),
}

/// The format of a file that begins like this.
///
/// # Errors
/// What it looks like instead, and what to do about it.
pub fn identify(start: &[u8]) -> Result<Format, &'static str> {
    let at = |offset: usize, mark: &[u8]| start.get(offset..offset + mark.len()) == Some(mark);
    if at(0, b"QFI\xfb") {
        return Ok(Format::Qcow2);
    }
    if at(0, b"KDMV") {
        return Ok(Format::Vmdk);
    }
    if at(0, b"vhdxfile") {
        return Ok(Format::Vhdx);
    }
    // Before disks: a bzImage ends its first sector as a boot sector does.
    if let Some((format, arch)) = kernel::told(start).or_else(|| packed::told(start)) {
        return Ok(Format::Kernel(format, arch));
    }
    refuse(start)?;
    let marks: [(usize, &[u8]); 8] = [
        (510, b"\x55\xaa"),
        (512, b"EFI PART"),
        (0x438, b"\x53\xef"),
        (0, b"XFSB"),
        (0x1_0040, b"_BHRfS_M"),
        (0x218, b"LVM2 001"),
        (0, b"LUKS\xba\xbe"),
        (0, b"hsqs"),
    ];
    let blank = start.len() >= 512 && start.iter().all(|byte| *byte == 0);
    if blank || marks.iter().any(|(offset, mark)| at(*offset, mark)) {
        return Ok(Format::Raw);
    }
    Err(if start.is_empty() {
        "it is empty"
    } else if start.iter().take(512).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "it looks like text"
    } else {
        "it is no disk (qcow2, raw, vmdk, vhdx) and no kernel (ELF, bzImage, arm64 Image, EFI zboot) that midge knows"
    })
}

/// What is known, and not to be had.
fn refuse(start: &[u8]) -> Result<(), &'static str> {
    let at = |offset: usize, mark: &[u8]| start.get(offset..offset + mark.len()) == Some(mark);
    if at(0, b"\x1f\x8b")
        || at(0, b"\xfd7zXZ\0")
        || at(0, b"\x28\xb5\x2f\xfd")
        || at(0, b"BZh")
        || at(0, b"PK\x03\x04")
    {
        return Err("it looks like compressed data; unpack it first");
    }
    if at(257, b"ustar") {
        return Err("it looks like a tar archive; unpack it first and import the disk in it");
    }
    if at(0, b"# Disk DescriptorFile") || at(0, b"COWD") {
        return Err(
            "it looks like a VMware disk in several files; join them: qemu-img convert -O qcow2 FILE joined.qcow2",
        );
    }
    if at(0, b"conectix") {
        return Err(
            "it looks like a disk of Virtual PC (VHD); convert it: qemu-img convert -f vpc -O qcow2 FILE disk.qcow2",
        );
    }
    if at(0, b"<<< ") {
        return Err(
            "it looks like a disk of VirtualBox (VDI); convert it: qemu-img convert -f vdi -O qcow2 FILE disk.qcow2",
        );
    }
    if at(0x8001, b"CD001") {
        return Err("it looks like a CD image, and those are installers; import an installed disk");
    }
    if at(0, b"070701") || at(0, b"070702") {
        return Err("it looks like an initial RAM disk; it is given with a kernel: --initrd");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(offset: usize, mark: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xee; 0x1_1000];
        bytes[offset..offset + mark.len()].copy_from_slice(mark);
        bytes
    }

    #[test]
    fn disks_are_told_by_their_marks() {
        assert_eq!(identify(&with(0, b"QFI\xfb")), Ok(Format::Qcow2));
        assert_eq!(identify(&with(0, b"KDMV")), Ok(Format::Vmdk));
        assert_eq!(identify(&with(0, b"vhdxfile")), Ok(Format::Vhdx));
        for (offset, mark) in
            [(510, &b"\x55\xaa"[..]), (0x438, b"\x53\xef"), (0, b"XFSB"), (0x1_0040, b"_BHRfS_M")]
        {
            assert_eq!(identify(&with(offset, mark)), Ok(Format::Raw));
        }
        assert_eq!(identify(&[0; 4096]), Ok(Format::Raw));
        let linux = with(0x202, b"HdrS\x0f\x02");
        let kernel = Ok(Format::Kernel(KernelFormat::BzImage, Ok(Arch::X86_64)));
        assert_eq!(identify(&linux), kernel);
        let mut linux = linux;
        linux[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(identify(&linux), kernel);
    }

    #[test]
    fn what_cannot_be_an_image_is_named() {
        assert!(identify(&with(0, b"\x1f\x8b\x08")).unwrap_err().contains("unpack"));
        assert!(identify(&with(0, b"PK\x03\x04")).unwrap_err().contains("unpack"));
        assert!(identify(&with(0x8001, b"CD001")).unwrap_err().contains("installed disk"));
        assert!(identify(b"# Disk DescriptorFile\nversion=1\n").unwrap_err().contains("several files"));
        assert!(identify(b"").unwrap_err().contains("empty"));
        assert!(identify(b"hello").unwrap_err().contains("text"));
        assert!(identify(&with(0, b"\x01")).unwrap_err().contains("no disk"));
    }
}
