//! What is kept of a running VM: gone with a reboot, as the VM is.

use serde::{Deserialize, Serialize};

use super::SCHEMA;
use crate::host::proc::ProcessId;
use crate::machine::ResolvedAccel;
use crate::snapshot::SnapshotName;
use crate::vm::{Identity, Mask, Phase, State, Unconfirmed};

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
    /// What the guest's RAM is a private mapping of, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<RamBase>,
    /// Who the guest believes to be, where that is not what the VM's record says: a clone whose identity was left as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub believes: Option<crate::snapshot::manifest::Source>,
    /// What the guest has told of its new identity, where one was asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<serde_json::Value>,
    /// The VM is being saved: for this it stands still for a moment, and nobody has asked it to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub saving: bool,
    /// Another QEMU, which is to take the guest over from `qemu` while the VM is saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<ProcessId>,
    /// The QEMU that the guest has gone over from, until it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<ProcessId>,
    /// Ports of the host that lead into the guest once the successor is asked for them: the network's id and QEMU's word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards_due: Vec<(String, String)>,
    /// The snapshot that the VM ends with: when it is whole, the guest must not go on, as it would write to the snapshot's RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becoming: Option<uuid::Uuid>,
    /// A new identity was asked of the guest, and it has not confirmed it: what becomes of it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
    /// It is a spare, and no VM yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<Spare>,
    /// The phases reached so far.
    pub phases: Vec<Phase>,
    /// The guest's addresses as far as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<std::net::IpAddr>,
    /// How each of them was heard of, where it was on a port that midge watches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<Heard>,
    /// The host's ends of the interfaces that have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortState>,
    /// Restarts by the restart policy since `midge start`.
    #[serde(default)]
    pub restarts: u32,
}

/// What makes a spare one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// Its pool.
    pub pool: SnapshotName,
    /// The snapshot that it goes on from.
    pub snapshot: uuid::Uuid,
    /// Who it was told that it is.
    pub identity: Identity,
    /// It stands still, and can be claimed.
    pub ready: bool,
}

impl RunState {
    /// A run that has begun and not come to anything yet.
    #[must_use]
    pub const fn begun(supervisor: ProcessId, state: State) -> Self {
        Self {
            schema: SCHEMA,
            state,
            supervisor,
            qemu: None,
            started: None,
            expires: None,
            accel: None,
            qemu_version: None,
            ram_file: None,
            base: None,
            believes: None,
            identity: None,
            saving: false,
            successor: None,
            predecessor: None,
            forwards_due: Vec::new(),
            becoming: None,
            unconfirmed: None,
            spare: None,
            phases: Vec::new(),
            addresses: Vec::new(),
            heard: Vec::new(),
            ports: Vec::new(),
            restarts: 0,
        }
    }
}

/// What the RAM of a running guest is a private mapping of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamBase {
    /// The snapshot whose state was loaded. Where the VM goes on as the first clone of its own, that one may still be in the making.
    pub snapshot: uuid::Uuid,
    /// The file that is mapped: the snapshot's, or the one in which the VM ran before it was saved.
    pub file: std::path::PathBuf,
}

/// An address of the guest, as heard on its port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The interface, by its index in the spec.
    pub net: usize,
    /// The address.
    pub address: std::net::IpAddr,
    /// What gave it away.
    pub source: Source,
    /// Whether the guest has answered for it.
    pub confirmed: bool,
    /// When it was first heard of.
    pub since: jiff::Timestamp,
    /// When it was last heard of.
    pub seen: jiff::Timestamp,
    /// When its lease ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ends: Option<jiff::Timestamp>,
}

/// How an address became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A DHCP server gave it to the guest (RFC 2131).
    Dhcp,
    /// A DHCPv6 server gave it to the guest (RFC 8415).
    Dhcpv6,
    /// The guest claimed it or answered for it by ARP (RFC 826, RFC 5227).
    Arp,
    /// The guest claimed it or answered for it by neighbour discovery (RFC 4861).
    Ndp,
    /// The guest agent told it.
    Agent,
    /// The guest wrote it on its console.
    Console,
}

/// The host's end of one network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// The interface, by its index in the spec.
    pub net: usize,
    /// The tap's name.
    pub tap: String,
    /// The bridge that it is a port of.
    pub bridge: String,
    /// Who the guest is to others, where that is not what it believes to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
}
