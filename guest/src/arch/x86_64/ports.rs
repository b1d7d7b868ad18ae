//! Port I/O and model-specific registers.
//!
//! These functions are safe although a wrong port can do harm: each caller names a port of a device that this kernel owns,
//! and none of those devices reaches memory by port I/O.

use core::arch::asm;

macro_rules! port_in {
    ($name:ident, $type:ty, $register:tt) => {
        pub fn $name(port: u16) -> $type {
            let value;
            // SAFETY: see the module's text.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nomem, nostack, preserves_flags));
            }
            value
        }
    };
}

macro_rules! port_out {
    ($name:ident, $type:ty, $register:tt) => {
        pub fn $name(port: u16, value: $type) {
            // SAFETY: see the module's text.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nomem, nostack, preserves_flags));
            }
        }
    };
}

port_in!(inb, u8, "al");
port_in!(inl, u32, "eax");
port_out!(outb, u8, "al");
port_out!(outw, u16, "ax");
port_out!(outl, u32, "eax");

/// Writes a model-specific register.
///
/// # Safety
/// The register must exist, and its new value must leave Rust's view of memory intact.
pub unsafe fn wrmsr(register: u32, value: u64) {
    let (high, low) = ((value >> 32) as u32, value as u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("edx") high, in("eax") low, options(nostack, preserves_flags));
    }
}

/// Reads a model-specific register.
///
/// # Safety
/// The register must exist.
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (high, low): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("edx") high, out("eax") low, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}
