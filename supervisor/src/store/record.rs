//! What is kept of a VM across reboots.

use serde::{Deserialize, Serialize};

use crate::spec::VmSpec;
use crate::vm::{End, Phase};

/// `vm.json`: the VM itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`super::SCHEMA`] at the time of writing.
    pub schema: u32,
    /// Never changes, also when the VM is renamed; the guest sees it as its SMBIOS system UUID.
    pub id: uuid::Uuid,
    /// When it was created.
    pub created: jiff::Timestamp,
    /// What is wanted.
    pub spec: VmSpec,
    /// The image that its disk stands on, by name and digest; the disk is useless with another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// The MAC address of each interface, in the order of the spec's.
    pub macs: Vec<String>,
}

/// An image as a record refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRef {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: String,
}

/// `last.json`: how the latest run went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastRun {
    /// [`super::SCHEMA`] at the time of writing.
    pub schema: u32,
    /// When QEMU was spawned.
    pub started: jiff::Timestamp,
    /// When the end was noticed.
    pub ended: jiff::Timestamp,
    /// How it ended.
    pub end: End,
    /// The phases that it reached.
    pub phases: Vec<Phase>,
}
