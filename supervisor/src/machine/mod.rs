//! From a spec to a QEMU argument list: a pure function.

use std::path::PathBuf;

use crate::host::QemuFacts;
use crate::spec::VmSpec;

/// What the supervisor has prepared for one run of QEMU.
///
/// Listening sockets are passed by number: the supervisor binds them, QEMU inherits them, and a connection made before
/// QEMU is up waits in the backlog.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Acceleration, decided: `kvm` or `tcg`.
    pub accel: ResolvedAccel,
    /// Kernel to boot directly.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The whole kernel command line.
    pub append: String,
    /// The VM's own disk.
    pub disk: Option<Disk>,
    /// Guest RAM.
    pub ram: Ram,
    /// Listening socket for the monitor.
    pub monitor_fd: i32,
    /// Listening socket for the serial console.
    pub serial_fd: i32,
    /// File to which QEMU appends everything that the guest writes to its serial console.
    pub serial_log: PathBuf,
    /// Listening socket for the guest agent's port.
    pub agent_fd: i32,
    /// MAC address of each interface of the spec, in order.
    pub macs: Vec<String>,
    /// The VM's UUID (SMBIOS system UUID).
    pub uuid: uuid::Uuid,
}

/// Acceleration as decided on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolvedAccel {
    /// Hardware.
    Kvm,
    /// Emulation.
    Tcg,
}

/// The disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

/// Format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Plain bytes.
    Raw,
}

/// Guest RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ram {
    /// A shared mapping of a file on tmpfs, as snapshots need it.
    File(PathBuf),
    /// Anonymous memory: no snapshots.
    Anonymous,
}

/// A command line that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {}

/// The arguments of QEMU (without the program) for one run of `spec`.
pub fn arguments(
    _spec: &VmSpec,
    _qemu: &QemuFacts,
    _resources: &Resources,
) -> Result<Vec<String>, MachineError> {
    Ok(Vec::new())
}
