//! What a file that is to be booted by QEMU's `-kernel` really is, judged by its content.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::spec::Arch;

/// How much of a file is looked at. ELF notes and Multiboot headers lie near the start: Multiboot's within 8 KiB
/// (Multiboot Specification, 3.1.1), and linkers put notes before the code.
pub(super) const LOOKED_AT: u64 = 1 << 20;

/// Formats that QEMU boots directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFormat {
    /// ELF for x86 with a note that names its 32-bit entry point: PVH boot.
    ElfPvh,
    /// ELF or flat file with a Multiboot header.
    Multiboot,
    /// ELF without either; QEMU starts it at its entry point, on Arm.
    Elf,
    /// Linux for x86, or what pretends to be one to be booted like it (memtest86+, iPXE).
    BzImage,
    /// Linux for Arm, or what has its header.
    Arm64Image,
    /// A compressed Linux inside an EFI program; QEMU unpacks it.
    EfiZboot,
}

/// Why a file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It cannot be read.
    #[error("cannot read the kernel {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Shorter than any kernel.
    #[error("{} is no kernel: it has only {size} bytes", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: usize,
    },
    /// Of no known format.
    #[error("{} is no kernel: {looks}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it looks like, and what to do about it.
        looks: &'static str,
    },
    /// For another instruction set than the VM's.
    #[error("the kernel {} is made for {found}, but the VM is {}", path.display(), arch_name(*wanted))]
    WrongArch {
        /// The file.
        path: PathBuf,
        /// What it is for.
        found: &'static str,
        /// The VM's.
        wanted: Arch,
    },
    /// ELF that QEMU's x86 machines cannot start.
    #[error(
        "{} cannot be booted directly: it is an ELF file without a PVH note or Multiboot header; boot its bzImage, or \
         link it with a PVH note (XEN_ELFNOTE_PHYS32_ENTRY)",
        .0.display()
    )]
    NoEntry(PathBuf),
}

/// What the content alone tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    /// A kernel for one instruction set, or for one of which only the name is known.
    Kernel(KernelFormat, Result<Arch, &'static str>),
    /// Too short to say.
    TooShort,
    /// No kernel.
    Looks(&'static str),
}

/// Finds the format of the kernel `path`, which is to run on `arch`.
pub fn inspect_kernel(path: &Path, arch: Arch) -> Result<KernelFormat, KernelError> {
    let unreadable = |source| KernelError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    file.take(LOOKED_AT).read_to_end(&mut bytes).map_err(unreadable)?;
    match judge(&bytes) {
        Judgement::TooShort => Err(KernelError::TooShort { path: path.to_owned(), size: bytes.len() }),
        Judgement::Looks(looks) => Err(KernelError::Unknown { path: path.to_owned(), looks }),
        Judgement::Kernel(_, Err(found)) => {
            Err(KernelError::WrongArch { path: path.to_owned(), found, wanted: arch })
        }
        Judgement::Kernel(_, Ok(made_for)) if made_for != arch => {
            let found = arch_name(made_for);
            Err(KernelError::WrongArch { path: path.to_owned(), found, wanted: arch })
        }
        Judgement::Kernel(KernelFormat::Elf, _) if arch == Arch::X86_64 => {
            Err(KernelError::NoEntry(path.to_owned()))
        }
        Judgement::Kernel(format, _) => Ok(format),
    }
}

/// What kernel a file is by its beginning, and for which instruction set, or for one of which only the name is known.
pub(super) fn told(bytes: &[u8]) -> Option<(KernelFormat, Result<Arch, &'static str>)> {
    match judge(bytes) {
        Judgement::Kernel(format, arch) => Some((format, arch)),
        Judgement::TooShort | Judgement::Looks(_) => None,
    }
}

/// As [`told`], of kernels that QEMU boots directly, packed by gzip or not.
pub(super) fn bootable(bytes: &[u8]) -> Option<(KernelFormat, Arch)> {
    match told(bytes).or_else(|| super::packed::told(bytes))? {
        (KernelFormat::Elf, Ok(Arch::X86_64)) | (_, Err(_)) => None,
        (format, Ok(arch)) => Some((format, arch)),
    }
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ElfPvh => "ELF with PVH entry",
            Self::Multiboot => "Multiboot",
            Self::Elf => "ELF",
            Self::BzImage => "bzImage",
            Self::Arm64Image => "arm64 Image",
            Self::EfiZboot => "EFI zboot",
        })
    }
}

fn arch_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "aarch64",
    }
}

fn judge(bytes: &[u8]) -> Judgement {
    if bytes.starts_with(b"\x7fELF") {
        return judge_elf(bytes);
    }
    // Linux, Documentation/arch/x86/boot.rst: "HdrS" at 0x202, protocol version at 0x206, 2.00 or later for a bzImage.
    if at(bytes, 0x202, 4) == Some(b"HdrS") && le16(bytes, 0x206).is_some_and(|version| version >= 0x200) {
        return Judgement::Kernel(KernelFormat::BzImage, Ok(Arch::X86_64));
    }
    // Linux, Documentation/arch/arm64/booting.rst: "ARM\x64" at 56.
    if at(bytes, 56, 4) == Some(b"ARM\x64") {
        return Judgement::Kernel(KernelFormat::Arm64Image, Ok(Arch::Aarch64));
    }
    // Linux, drivers/firmware/efi/libstub/zboot-header.S: "MZ", "zimg" at 4; e_lfanew leads to the PE header with the machine.
    if bytes.starts_with(b"MZ") && at(bytes, 4, 4) == Some(b"zimg") {
        return match pe_machine(bytes) {
            Some(0xaa64) => Judgement::Kernel(KernelFormat::EfiZboot, Ok(Arch::Aarch64)),
            Some(0x8664) => Judgement::Kernel(KernelFormat::EfiZboot, Ok(Arch::X86_64)),
            _ => Judgement::Kernel(KernelFormat::EfiZboot, Err("another instruction set")),
        };
    }
    if has_multiboot(bytes) {
        return Judgement::Kernel(KernelFormat::Multiboot, Ok(Arch::X86_64));
    }
    if bytes.len() < 512 && !bytes.starts_with(b"#!") {
        return Judgement::TooShort;
    }
    Judgement::Looks(looks_like(bytes))
}

/// What a file that is no kernel may be, and what its owner may have meant.
fn looks_like(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"QFI\xfb") {
        "it looks like a qcow2 disk; a disk is an image's, not a kernel"
    } else if starts(b"\x1f\x8b") {
        "it looks like gzip data; unpack it first if a kernel is in it, or give it as --initrd"
    } else if starts(b"\x28\xb5\x2f\xfd") || starts(b"\xfd7zXZ\0") || starts(b"\x02\x21\x4c\x18") {
        "it looks like compressed data; unpack it first if a kernel is in it, or give it as --initrd"
    } else if starts(b"070701") || starts(b"070702") {
        "it looks like a cpio archive; give it as --initrd"
    } else if starts(b"#!") {
        "it looks like a script"
    } else if starts(b"MZ") {
        "it looks like an EFI program; QEMU's -kernel cannot start those without EFI firmware"
    } else if at(bytes, 0x8001, 5) == Some(b"CD001") {
        "it looks like a CD image"
    } else if at(bytes, 257, 5) == Some(b"ustar") {
        "it looks like a tar archive"
    } else if at(bytes, 1080, 2) == Some(b"\x53\xef") {
        "it looks like an ext2, ext3 or ext4 file system"
    } else if at(bytes, 510, 2) == Some(b"\x55\xaa") {
        "it looks like a disk with a boot sector"
    } else if bytes.iter().take(512).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        "it looks like text"
    } else {
        "it is neither ELF, nor a Linux kernel, nor Multiboot"
    }
}

/// ELF (System V ABI, chapters 4 and 5): class, byte order, machine; then the program headers for PVH's note.
fn judge_elf(bytes: &[u8]) -> Judgement {
    let (Some(class), Some(order), Some(machine)) = (bytes.get(4), bytes.get(5), le16(bytes, 18)) else {
        return Judgement::TooShort;
    };
    if *order != 1 {
        return Judgement::Kernel(KernelFormat::Elf, Err("a big-endian machine"));
    }
    let arch = match machine {
        // EM_386 too: a 32-bit kernel starts on the same machines.
        3 | 62 => Ok(Arch::X86_64),
        183 => Ok(Arch::Aarch64),
        40 => Err("32-bit Arm"),
        243 => Err("RISC-V"),
        _ => Err("another instruction set"),
    };
    if arch == Ok(Arch::X86_64) {
        if has_pvh_note(bytes, *class == 2) {
            return Judgement::Kernel(KernelFormat::ElfPvh, arch);
        }
        if has_multiboot(bytes) {
            return Judgement::Kernel(KernelFormat::Multiboot, arch);
        }
    }
    Judgement::Kernel(KernelFormat::Elf, arch)
}

/// Whether a note segment has Xen's note 18, XEN_ELFNOTE_PHYS32_ENTRY (Xen, xen/include/public/elfnote.h).
fn has_pvh_note(bytes: &[u8], wide: bool) -> bool {
    const PT_NOTE: u32 = 4;
    let header = |narrow: usize, wide_offset: usize| {
        if wide { le64(bytes, wide_offset) } else { le32(bytes, narrow).map(u64::from) }
    };
    let (table, entry_size, count) = if wide {
        (header(28, 32), le16(bytes, 54), le16(bytes, 56))
    } else {
        (header(28, 32), le16(bytes, 42), le16(bytes, 44))
    };
    let (Some(table), Some(entry_size), Some(count)) = (table, entry_size, count) else { return false };
    (0..u64::from(count)).any(|index| {
        let entry = index
            .checked_mul(u64::from(entry_size))
            .and_then(|offset| offset.checked_add(table))
            .and_then(|offset| usize::try_from(offset).ok());
        let Some(entry) = entry.filter(|entry| le32(bytes, *entry) == Some(PT_NOTE)) else { return false };
        // p_offset and p_filesz of Elf64_Phdr and Elf32_Phdr.
        let field = |narrow: usize, wide_offset: usize| {
            if wide {
                le64(bytes, entry.checked_add(wide_offset)?)
            } else {
                le32(bytes, entry.checked_add(narrow)?).map(u64::from)
            }
        };
        let (Some(offset), Some(size)) = (field(4, 8), field(16, 32)) else { return false };
        let (Ok(offset), Ok(size)) = (usize::try_from(offset), usize::try_from(size)) else { return false };
        let end = offset.saturating_add(size).min(bytes.len());
        bytes.get(offset..end).is_some_and(notes_have_pvh)
    })
}

fn notes_have_pvh(mut notes: &[u8]) -> bool {
    while let (Some(name_size), Some(value_size), Some(kind)) =
        (le32(notes, 0), le32(notes, 4), le32(notes, 8))
    {
        let padded = |size: u32| usize::try_from(size).ok().and_then(|size| size.checked_next_multiple_of(4));
        if kind == 18 && at(notes, 12, 4) == Some(b"Xen\0") {
            return true;
        }
        let next =
            padded(name_size).zip(padded(value_size)).and_then(|(a, b)| a.checked_add(b)?.checked_add(12));
        match next.and_then(|next| notes.get(next..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

/// Multiboot Specification, 3.1.1: magic, flags and a checksum that makes their sum zero, on a multiple of 4 within the
/// first 8192 bytes.
fn has_multiboot(bytes: &[u8]) -> bool {
    const MAGIC: u32 = 0x1bad_b002;
    (0..8192 - 12).step_by(4).any(|offset| {
        le32(bytes, offset) == Some(MAGIC)
            && le32(bytes, offset + 4)
                .zip(le32(bytes, offset + 8))
                .is_some_and(|(flags, checksum)| MAGIC.wrapping_add(flags).wrapping_add(checksum) == 0)
    })
}

/// Machine of a PE file (PE Format, "COFF File Header").
fn pe_machine(bytes: &[u8]) -> Option<u16> {
    let header = usize::try_from(le32(bytes, 0x3c)?).ok()?;
    if at(bytes, header, 4)? != b"PE\0\0" {
        return None;
    }
    le16(bytes, header.checked_add(4)?)
}

fn at(bytes: &[u8], offset: usize, length: usize) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(length)?)
}

fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    at(bytes, offset, 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    at(bytes, offset, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    at(bytes, offset, 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// An ELF file of one note segment.
    fn elf(wide: bool, machine: u16, note_kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 0x200];
        bytes[..6].copy_from_slice(if wide { b"\x7fELF\x02\x01" } else { b"\x7fELF\x01\x01" });
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        let mut put32 =
            |offset: usize, value: u32| bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        put32(if wide { 32 } else { 28 }, 0x40);
        put32(0x40, 4);
        put32(if wide { 0x48 } else { 0x44 }, 0x100);
        put32(if wide { 0x60 } else { 0x50 }, 20 + 20);
        // A note of another's first, then Xen's.
        for (offset, name, kind) in [(0x100, *b"GNU\0", 1), (0x114, *b"Xen\0", note_kind)] {
            put32(offset, 4);
            put32(offset + 4, 4);
            put32(offset + 8, kind);
            put32(offset + 12, u32::from_le_bytes(name));
        }
        let counts = if wide { [54, 56] } else { [42, 44] };
        bytes[counts[0]..counts[0] + 2].copy_from_slice(&0x38_u16.to_le_bytes());
        bytes[counts[1]..counts[1] + 2].copy_from_slice(&1_u16.to_le_bytes());
        bytes
    }

    fn with(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xee; 0x9000];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn elf_is_told_by_its_notes_and_machine() {
        let x86 = Ok(Arch::X86_64);
        assert_eq!(judge(&elf(true, 62, 18)), Judgement::Kernel(KernelFormat::ElfPvh, x86));
        assert_eq!(judge(&elf(false, 3, 18)), Judgement::Kernel(KernelFormat::ElfPvh, x86));
        assert_eq!(judge(&elf(true, 62, 17)), Judgement::Kernel(KernelFormat::Elf, x86));
        assert_eq!(judge(&elf(true, 183, 18)), Judgement::Kernel(KernelFormat::Elf, Ok(Arch::Aarch64)));
        assert_eq!(judge(&elf(true, 243, 18)), Judgement::Kernel(KernelFormat::Elf, Err("RISC-V")));
        assert_eq!(judge(b"\x7fELF"), Judgement::TooShort);
    }

    #[test]
    fn other_kernels_are_told_by_their_headers() {
        let linux = with(0x202, b"HdrS\x0f\x02");
        assert_eq!(judge(&linux), Judgement::Kernel(KernelFormat::BzImage, Ok(Arch::X86_64)));
        assert_eq!(
            judge(&with(56, b"ARM\x64")),
            Judgement::Kernel(KernelFormat::Arm64Image, Ok(Arch::Aarch64))
        );
        let multiboot = with(0x40, b"\x02\xb0\xad\x1b\x03\0\0\0\xfb\x4f\x52\xe4");
        assert_eq!(judge(&multiboot), Judgement::Kernel(KernelFormat::Multiboot, Ok(Arch::X86_64)));
        let mut zboot = with(0, b"MZ\0\0zimg");
        zboot[0x3c..0x40].copy_from_slice(&0x80_u32.to_le_bytes());
        zboot[0x80..0x86].copy_from_slice(b"PE\0\0\x64\xaa");
        assert_eq!(judge(&zboot), Judgement::Kernel(KernelFormat::EfiZboot, Ok(Arch::Aarch64)));
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        for (bytes, word) in [
            (with(0, b"QFI\xfb"), "qcow2"),
            (with(0, b"\x1f\x8b"), "gzip"),
            (with(0, b"070701"), "--initrd"),
            (with(0x8001, b"CD001"), "CD image"),
            (with(1080, b"\x53\xef"), "ext4"),
            (with(510, b"\x55\xaa"), "boot sector"),
            (vec![b'a'; 600], "text"),
            (b"#!/bin/sh\n".to_vec(), "script"),
            (vec![0xee; 600], "neither"),
        ] {
            let Judgement::Looks(looks) = judge(&bytes) else { panic!("{word}: taken for a kernel") };
            assert!(looks.contains(word), "{looks}");
        }
        assert_eq!(judge(b""), Judgement::TooShort);
        assert_eq!(judge(b"hello"), Judgement::TooShort);
    }

    #[test]
    fn files_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        let inspect = |bytes: &[u8], arch| {
            fs::write(&path, bytes).unwrap();
            inspect_kernel(&path, arch)
        };
        assert_eq!(inspect(&elf(true, 62, 18), Arch::X86_64).unwrap(), KernelFormat::ElfPvh);
        assert!(matches!(inspect(&elf(true, 62, 18), Arch::Aarch64), Err(KernelError::WrongArch { .. })));
        assert!(matches!(inspect(&elf(true, 62, 1), Arch::X86_64), Err(KernelError::NoEntry(_))));
        assert_eq!(inspect(&elf(true, 183, 1), Arch::Aarch64).unwrap(), KernelFormat::Elf);
        assert!(matches!(inspect(b"", Arch::X86_64), Err(KernelError::TooShort { size: 0, .. })));
        for unreadable in [folder.path(), &folder.path().join("absent")] {
            assert!(matches!(inspect_kernel(unreadable, Arch::X86_64), Err(KernelError::Unreadable { .. })));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..2048),
            start in prop::sample::select(vec![&b""[..], b"\x7fELF\x02\x01", b"\x7fELF\x01\x01", b"MZ\0\0zimg"]),
        ) {
            bytes.splice(0..start.len().min(bytes.len()), start.iter().copied());
            let _ = judge(&bytes);
        }

        #[test]
        fn a_damaged_elf_is_judged_without_panic(
            wide in any::<bool>(), damage in proptest::collection::vec((0..0x140_usize, any::<u8>()), 0..12),
        ) {
            let mut bytes = elf(wide, 62, 18);
            for (offset, byte) in damage {
                bytes[offset] = byte;
            }
            let _ = judge(&bytes);
        }
    }
}
