//! What this host can do: the QEMU installed, KVM, memory, disk, devices.

use std::path::PathBuf;

use crate::spec::Arch;

mod cache;
mod cgroup;
mod cpu;
pub mod doctor;
mod facts;
pub mod kvm;
mod memory;
pub mod oom;
pub mod priority;
pub mod privilege;
pub mod proc;
mod programs;
pub mod qemu;
mod ram_dir;
mod root;
mod space;

pub use cache::Cache;
pub use cgroup::{Cgroup, CgroupVersion, MemoryLimit};
pub use cpu::Cpu;
pub use facts::{Device, Distribution, HostFacts};
pub use kvm::{KvmAbsence, KvmState};
pub use memory::Memory;
pub use ram_dir::{NoRoom, ram_dir};
pub use root::HostRoot;
pub use space::Space;

/// What `machine` needs to know of the host to write a command line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QemuFacts {
    /// The QEMU binary.
    pub path: PathBuf,
    /// The guests it runs.
    pub arch: Arch,
    /// Version, as (major, minor, micro).
    pub version: (u32, u32, u32),
    /// The full version line, for people.
    pub version_line: String,
    /// Machine types it offers, such as `pc-q35-10.0`.
    pub machines: Vec<String>,
    /// Device models it offers, such as `virtio-net-pci`.
    pub devices: Vec<String>,
    /// CPU models it offers.
    pub cpus: Vec<String>,
}
