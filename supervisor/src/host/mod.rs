//! What this host can do: the QEMU installed, KVM, memory, disk, devices.

use std::path::PathBuf;

use crate::spec::Arch;

mod cache;
pub mod proc;
pub mod qemu;
mod root;

pub use cache::Cache;
pub use root::HostRoot;

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

/// Whether hardware virtualisation can be used, from one real run in `/dev/kvm`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum KvmState {
    /// Guest code ran on the hardware.
    Works,
    /// KVM is there, but interprets guest kernels: far slower than TCG, and incomplete.
    Emulates {
        /// What gave it away.
        detail: String,
    },
    /// KVM cannot be used.
    Absent {
        /// Why: no device, no permission, module missing.
        detail: String,
    },
}
