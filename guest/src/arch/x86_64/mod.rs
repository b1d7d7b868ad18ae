//! x86_64: QEMU's q35, pc and microvm, booted by the PVH protocol.

mod apic;
mod boot;
pub mod clock;
pub mod devices;
pub mod interrupts;
mod memfn;
pub mod paging;
mod pci;
mod ports;
pub mod power;
pub mod serial;
