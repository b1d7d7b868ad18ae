//! UEFI firmware for QEMU, as distributions install it.

use std::path::{Path, PathBuf};

use crate::spec::Arch;

/// Where the firmware for an instruction set may lie: Debian, Fedora, Arch, QEMU's own builds.
fn places(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &[
            "usr/share/ovmf/OVMF.fd",
            "usr/share/qemu/OVMF.fd",
            "usr/share/edk2/ovmf/OVMF.fd",
            "usr/share/edk2/x64/OVMF.4m.fd",
        ],
        Arch::Aarch64 => &[
            "usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            "usr/share/edk2/aarch64/QEMU_EFI.fd",
            "usr/share/qemu/edk2-aarch64-code.fd",
        ],
    }
}

/// The Debian package that has it.
#[must_use]
pub fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "ovmf",
        Arch::Aarch64 => "qemu-efi-aarch64",
    }
}

/// The UEFI firmware for an instruction set (QEMU's `-bios`), if it is installed below `root`.
#[must_use]
pub fn uefi(root: &Path, arch: Arch) -> Option<PathBuf> {
    places(arch).iter().map(|place| root.join(place)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_is_found_where_a_distribution_puts_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(uefi(root.path(), Arch::X86_64), None);
        let place = root.path().join("usr/share/ovmf/OVMF.fd");
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, "").unwrap();
        assert_eq!(uefi(root.path(), Arch::X86_64), Some(place));
        assert_eq!(uefi(root.path(), Arch::Aarch64), None);
    }
}
