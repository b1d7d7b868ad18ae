//! What is kept of a running VM: gone with a reboot, as the VM is.

use serde::{Deserialize, Serialize};

use crate::host::proc::ProcessId;
use crate::machine::ResolvedAccel;
use crate::vm::{Phase, State};

/// `state.json`: one run of a VM, rewritten by its supervisor at each change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// [`super::SCHEMA`] at the time of writing.
    pub schema: u32,
    /// What the VM is doing.
    pub state: State,
    /// The supervisor that wrote this.
    pub supervisor: ProcessId,
    /// QEMU, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<ProcessId>,
    /// When QEMU was spawned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<jiff::Timestamp>,
    /// When the VM's time to live is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<jiff::Timestamp>,
    /// Acceleration in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<ResolvedAccel>,
    /// QEMU's version line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_version: Option<String>,
    /// The file that holds the guest's RAM, to be removed with the run; none with anonymous RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_file: Option<std::path::PathBuf>,
    /// The phases reached so far.
    pub phases: Vec<Phase>,
    /// The guest's addresses as far as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<std::net::IpAddr>,
    /// Restarts by the restart policy since `midge start`.
    #[serde(default)]
    pub restarts: u32,
}
