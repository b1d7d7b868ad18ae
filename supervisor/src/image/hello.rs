//! The image `hello`: the reference unikernel of `guest/`, embedded in the binary so that there is always something to boot.
//!
//! It brings up virtio-net, gets an address by DHCP, says so on the serial port, answers pings, and serves a web page on
//! port 80. `guest/README.md` lists what it understands.

use crate::spec::{Arch, Kind};

/// Name of the image.
pub const NAME: &str = "hello";

/// Family of the guest: one of its own, with the common needs (a transitional NIC, readiness by what it prints).
pub const KIND: Kind = Kind::Other;

/// The sign of readiness, in `--wait` syntax: the line that is printed once the network is up or was given up on.
pub const READY: &str = r"serial:\[init done\]";

/// The kernel for x86_64: a static ELF with a PVH note, for QEMU's `-kernel` on q35, pc and microvm. Only there where the
/// compiler that built this program runs on x86_64; use [`kernel`] to be told.
#[cfg(hello_x86_64)]
pub const HELLO_X86_64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello-x86_64"));

/// The kernel for an architecture, if this program has one.
pub fn kernel(arch: Arch) -> Option<&'static [u8]> {
    match arch {
        #[cfg(hello_x86_64)]
        Arch::X86_64 => Some(HELLO_X86_64),
        _ => None,
    }
}

#[cfg(all(test, hello_x86_64))]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::spec::Ready;

    #[test]
    fn the_kernel_is_an_elf_with_a_pvh_note() {
        let kernel = kernel(Arch::X86_64).expect("embedded");
        assert_eq!(kernel[..5], *b"\x7fELF\x02", "64-bit ELF");
        // Length of the name, length of the value, XEN_ELFNOTE_PHYS32_ENTRY, name.
        let note = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0";
        assert!(kernel.windows(note.len()).any(|bytes| bytes == note), "QEMU finds the entry by this note");
    }

    #[test]
    fn the_kernel_is_small() {
        assert!(HELLO_X86_64.len() < 150 << 10, "{} bytes", HELLO_X86_64.len());
    }

    #[test]
    fn no_segment_is_writable_and_executable() {
        let segments = objdump("-p");
        let flags: Vec<&str> =
            segments.lines().filter_map(|line| line.split_once(" flags ")).map(|(_, flags)| flags).collect();
        assert!(flags.contains(&"r-x") && flags.contains(&"rw-"), "{segments}");
        assert!(!flags.contains(&"rwx"), "{segments}");
    }

    /// The instruction emulator of KVM, which some hosts run guest kernels on, has no SSE.
    #[test]
    fn the_kernel_uses_no_sse_and_no_iret() {
        let code = objdump("-d");
        let instructions = code.lines().filter(|line| line.contains('\t')).count();
        assert!(instructions > 10_000, "only {instructions} instructions were listed");
        let foreign =
            |line: &&str| ["%xmm", "%ymm", "%mm", "%st", "\tiret"].iter().any(|word| line.contains(word));
        let found: Vec<&str> = code.lines().filter(foreign).collect();
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn the_sign_of_readiness_is_understood() {
        READY.parse::<Ready>().expect("valid");
    }

    /// What objdump says of the kernel. It is part of binutils, without which no Rust program is linked.
    fn objdump(option: &str) -> String {
        let output = Command::new("objdump")
            .args([option, concat!(env!("OUT_DIR"), "/hello-x86_64")])
            .output()
            .expect("objdump starts");
        assert!(output.status.success(), "objdump {option}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}
