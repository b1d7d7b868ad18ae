//! What the unikernel decides without touching the machine: the parts that unit tests on the host can reach.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod cmdline;
pub mod command;
pub mod http;
pub mod memmap;
pub mod page;
