//! What is kept of a VM across reboots.

use serde::{Deserialize, Serialize};

use crate::image::Manifest;
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
    /// The image as it was when the VM was created: its disk holds the differences to that one, and boots with that
    /// one's kernel, also when an image of the same name has been built anew since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Manifest>,
    /// The MAC address of each interface, in the order of the spec's.
    pub macs: Vec<String>,
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
