//! Images: immutable disks and kernels, each with a digest and a manifest.

pub mod hello;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::machine::DiskFormat;
use crate::spec::{Arch, Kind};

/// What an image's `manifest.json` says of it. Paths are relative to the image's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 1.
    pub schema: u32,
    /// The image's name, such as `debian:12`.
    pub name: String,
    /// `sha256:` and the digest of the manifest's parts in order.
    pub digest: String,
    /// Family of the guest.
    pub kind: Kind,
    /// Instruction set.
    pub arch: Arch,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ImageDisk>,
    /// The kernel for direct boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Part>,
    /// The initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Part>,
    /// The kernel's command line, without the console, which the machine decides.
    #[serde(default)]
    pub append: String,
    /// The guest runs the QEMU guest agent.
    #[serde(default)]
    pub agent: bool,
    /// The guest runs an SSH server.
    #[serde(default)]
    pub ssh: bool,
    /// systemd's version, where it has one: 252 and later take credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<u32>,
    /// The sign of readiness that fits this image, in `--wait` syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// What it was made from and how, for people.
    #[serde(default)]
    pub source: String,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// File name within the image's folder.
    pub file: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// The disk of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDisk {
    /// The file.
    #[serde(flatten)]
    pub part: Part,
    /// Its format.
    pub format: DiskFormat,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
}
