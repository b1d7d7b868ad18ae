//! Everything that depends on the instruction set or on what a board looks like. A port offers the same names:
//! `serial`, `clock`, `interrupts`, `paging`, `power`, `devices`, and a boot entry that calls [`crate::main`].

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
