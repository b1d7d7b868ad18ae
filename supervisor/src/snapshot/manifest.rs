//! What is known of a snapshot: `manifest.json`.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::check::{HostView, needed_features};
use super::error::SnapshotError;
use super::name::SnapshotName;
use crate::image;
use crate::machine::{ResolvedAccel, Restore};
use crate::spec::{Arch, Kind, VmSpec};

/// Version of the manifest's format that this midge writes.
pub const MANIFEST_SCHEMA: u32 = 1;
/// The manifest's file.
pub const MANIFEST: &str = "manifest.json";
/// The file of the device state.
pub const STATE: &str = "state";
/// The file of a kernel that was the user's own, and no image's.
pub const KERNEL: &str = "kernel";
/// The file of such a kernel's initial RAM disk.
pub const INITRD: &str = "initrd";
/// The file of a flat RAM.
pub const RAM: &str = "ram";
/// The file of a RAM that stands on another.
pub const RAM_DELTA: &str = "ram.delta";
/// The file of the disk.
pub const DISK: &str = "disk.qcow2";

/// What a snapshot's `manifest.json` says of it. Paths are relative to the snapshot's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: [`MANIFEST_SCHEMA`].
    pub schema: u32,
    /// Never changes; the name of the snapshot's folder.
    pub id: Uuid,
    /// The name that it was saved under.
    pub name: SnapshotName,
    /// When the VM stood still.
    pub taken: jiff::Timestamp,
    /// How long it stood still, in microseconds; none where it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_us: Option<u64>,
    /// The user's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The snapshot that the VM was a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Uuid>,
    /// Who the VM was.
    pub source: Source,
    /// What was wanted of the VM.
    pub spec: VmSpec,
    /// The guest's family, decided.
    pub kind: Kind,
    /// The image that the VM stands on, as it was: its kernel boots clones anew, its disk is the lowest layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<image::Manifest>,
    /// The machine, for snapshots that have its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Why only this host may be able to run it; empty where nothing speaks against others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tied: Vec<String>,
    /// The device state; none in a snapshot of a disk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Part>,
    /// The kernel, where the VM was given one of its own: clones boot it when they reset, whatever has become of the user's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Part>,
    /// That kernel's initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Part>,
    /// RAM; none in a snapshot of a disk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<Ram>,
    /// The disk; none for a guest without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
}

/// Who the VM was that was saved: what its clones believe to be until they are told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The VM's id, which its guest sees as SMBIOS system UUID.
    pub id: Uuid,
    /// Its MAC addresses, in the order of the spec's interfaces. They are in the device state: a clone has them, whatever its
    /// command line says.
    pub macs: Vec<String>,
    /// Its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its addresses, as far as they were known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Those of them that were seen on its ports, by the number of the interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<(usize, IpAddr)>,
    /// Its machine-id(5), where an agent told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
}

/// Everything that decides whether a QEMU can load the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The guest's instruction set.
    pub arch: Arch,
    /// The QEMU that saved it: major, minor, micro.
    pub qemu: (u32, u32, u32),
    /// Its version line, for people.
    pub qemu_line: String,
    /// The versioned machine type.
    pub machine_type: String,
    /// The CPU model with its flags, as in QEMU's `-cpu`.
    pub cpu: String,
    /// How the guest's instructions were run: the states of KVM and TCG are not interchangeable.
    pub accel: ResolvedAccel,
    /// Virtual CPUs.
    pub cpus: u32,
    /// The guest's RAM in bytes.
    pub memory: u64,
    /// The size of the host's pages in bytes.
    pub page_size: u64,
    /// The host's CPU, for people, and for `-cpu host`, which is that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_cpu: Option<String>,
    /// The host's CPU features that the guest may rely on (the words of `/proc/cpuinfo`); see [`super::check::needed_features`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// QEMU's whole command line but for the program, so that the machine can be compared with the one that is to load it:
    /// devices with their ids and in their order, which gives each its address.
    pub arguments: Vec<String>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// File name within the snapshot's folder.
    pub file: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// RAM, in one of its forms (see [`super::ram`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ram {
    /// The file.
    pub part: Part,
    /// The snapshot whose flat file this one stands on, if it is a delta; a flat file stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Uuid>,
}

/// The disk: qcow2 layers in the snapshot's folder, each on the next, the last on what lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The layers, the uppermost first.
    pub layers: Vec<Part>,
    /// What the lowest layer stands on.
    pub base: DiskBase,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
}

/// What a disk stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBase {
    /// The disk of the VM's image ([`Manifest::image`]).
    Image,
    /// The disk of another snapshot.
    Snapshot(Uuid),
}

impl Machine {
    /// The machine of a QEMU that runs with these arguments.
    ///
    /// Answers nothing where they lack what midge's own always have.
    #[must_use]
    pub fn of(arguments: &[String], spec: &VmSpec, accel: ResolvedAccel, host: &HostView) -> Option<Self> {
        let value =
            |option: &str| arguments.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1].as_str());
        let cpu = value("-cpu")?.to_owned();
        Some(Self {
            arch: spec.arch,
            qemu: host.qemu.version,
            qemu_line: host.qemu.version_line.clone(),
            machine_type: value("-machine")?.split(',').next()?.to_owned(),
            accel,
            cpus: spec.cpus,
            memory: spec.memory.bytes(),
            page_size: host.page_size,
            host_cpu: host.cpu.clone(),
            features: needed_features(&cpu, accel, &host.features),
            cpu,
            arguments: arguments.to_vec(),
        })
    }

    /// What a QEMU that is to load the state takes over.
    #[must_use]
    pub fn restore(&self) -> Restore {
        Restore { machine_type: self.machine_type.clone(), cpu: self.cpu.clone() }
    }

    /// The models of its devices, in order: the first words of `-device`.
    #[must_use]
    pub fn devices(&self) -> Vec<&str> {
        let values = self.arguments.windows(2).filter(|pair| pair[0] == "-device").map(|pair| &pair[1]);
        values.filter_map(|value| value.split(',').next()).collect()
    }
}

impl Manifest {
    /// Its files, in the order of an archive.
    #[must_use]
    pub fn parts(&self) -> Vec<&Part> {
        let layers = self.disk.iter().flat_map(|disk| &disk.layers);
        let boot = self.kernel.iter().chain(&self.initrd);
        self.state.iter().chain(boot).chain(self.ram.iter().map(|ram| &ram.part)).chain(layers).collect()
    }

    /// The other snapshots without whose files this one cannot be used.
    #[must_use]
    pub fn needs(&self) -> Vec<Uuid> {
        let disk = self.disk.as_ref().and_then(|disk| match disk.base {
            DiskBase::Snapshot(id) => Some(id),
            DiskBase::Image => None,
        });
        let ram = self.ram.as_ref().and_then(|ram| ram.base);
        let mut needs: Vec<Uuid> = disk.into_iter().chain(ram).collect();
        needs.dedup();
        needs
    }

    /// Reads a manifest's text; `path` is where it was found.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u64,
        }
        let damaged = |what: String| SnapshotError::Damaged { path: path.to_owned(), what };
        let no_json = |e: serde_json::Error| damaged(format!("it is no manifest of a snapshot ({e})"));
        // The version first: a newer format may have fields that this one would call unknown.
        let Version { schema } = serde_json::from_slice(text).map_err(no_json)?;
        if schema > u64::from(MANIFEST_SCHEMA) {
            return Err(SnapshotError::Newer {
                path: path.to_owned(),
                found: schema,
                known: MANIFEST_SCHEMA,
            });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(no_json)?;
        for part in manifest.parts() {
            let mut components = part.file.components();
            if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                let file = part.file.display();
                return Err(damaged(format!(
                    "it names the file `{file}`, which is not one of its own folder"
                )));
            }
        }
        if manifest.disk.as_ref().is_some_and(|disk| disk.layers.is_empty()) {
            return Err(damaged("it has a disk without a file".to_owned()));
        }
        Ok(manifest)
    }

    /// Its text.
    pub fn text(&self) -> Result<Vec<u8>, SnapshotError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, e);
            SnapshotError::Io { what: "write", path: PathBuf::from(MANIFEST), source }
        })?;
        text.push(b'\n');
        Ok(text)
    }
}
