//! What a user wants: [`VmSpec`], a plain value with no knowledge of this host.
//!
//! A spec is complete in itself: it is what a VM's record stores, what `midge set` edits and what
//! [`crate::machine`] turns into a QEMU command line. [`VmSpec::from_json`] reads one and
//! [`VmSpec::validate`] checks one that was put together otherwise; both tell everything that is wrong at
//! once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod address;
#[cfg(test)]
pub(crate) mod arbitrary;
mod duration;
mod forward;
mod guest;
mod net;
mod parse;
mod ready;
mod size;
#[cfg(test)]
mod tests;
mod validate;
mod word;

pub use address::{InterfaceAddress, InterfaceAddressError};
pub use duration::{Duration, DurationError};
pub use forward::{Forward, ForwardError};
pub use guest::{Blob, FileMode, FileModeError, GuestFile, check_user};
pub use net::NetError;
pub use netbr::{Mac, MacError};
pub use ready::{Ready, ReadyError};
pub use size::{Size, SizeError};
pub use validate::{FieldError, MAX_CPUS, MAX_MEMORY, MIN_MEMORY, SpecErrors, check_name};
pub use word::WordError;

/// A virtual machine as wanted by its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The VM's name: 1 to 63 characters of `a-z`, `0-9` and `-`, no `-` at either end (a DNS label, RFC
    /// 1123, as it becomes the guest's host name).
    pub name: String,
    /// What to boot.
    #[serde(default)]
    pub boot: Boot,
    /// The family of the guest.
    #[serde(default)]
    pub kind: Kind,
    /// The guest's instruction set.
    #[serde(default = "Arch::host")]
    pub arch: Arch,
    /// The machine model.
    #[serde(default)]
    pub machine: Machine,
    /// How the guest's instructions are run.
    #[serde(default)]
    pub accel: Accel,
    /// A CPU model of QEMU's (`-cpu help`), or none for midge's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Virtual CPUs, 1 to 255.
    #[serde(default = "one")]
    pub cpus: u32,
    /// Guest memory.
    #[serde(default = "default_memory")]
    pub memory: Size,
    /// The size that the VM's own disk shall have; none keeps the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Size>,
    /// Network interfaces, in order.
    #[serde(default = "one_user_net")]
    pub nets: Vec<Net>,
    /// How the guest gets its host name and SSH keys.
    #[serde(default)]
    pub provision: Provision,
    /// Public keys (OpenSSH one-line format) allowed to log in as root, besides midge's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// A user to make in the guest, who may do everything and has the same keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Files to put into the guest at its first boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<GuestFile>,
    /// User-data for cloud-init, in any of its formats; implies provisioning by cloud-init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<Blob>,
    /// What to do when the guest ends.
    #[serde(default)]
    pub restart: Restart,
    /// What a reset by the guest does.
    #[serde(default)]
    pub on_reset: OnReset,
    /// Seconds after its start at which the VM is stopped and, when `ephemeral`, removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Remove the VM when its guest ends (`--rm`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// What shows that the guest is ready, where the image's or kind's own sign is not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// Free key=value pairs of the user's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Arguments handed to QEMU as they are, last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub qemu_args: Vec<String>,
}

/// Where the guest's first code and its disk come from: an image, or a kernel file, or a kernel beside an
/// image's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// An image of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A kernel file; takes precedence over the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// An initial RAM disk; takes precedence over the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Words added to the kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
}

/// The family of a guest. It decides how to tell *ready*, how to stop, and what the NIC must look like;
/// nothing else may depend on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The image's kind, or `other` for a bare kernel.
    #[default]
    Auto,
    /// A Linux distribution.
    Linux,
    /// Unikraft.
    Unikraft,
    /// Solo5, as under MirageOS.
    Solo5,
    /// Hermit.
    Hermit,
    /// Nanos.
    Nanos,
    /// Any other guest, midge's own `hello` among them.
    Other,
}

/// A guest's instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64", alias = "amd64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "aarch64", alias = "arm64")]
    Aarch64,
}

/// A machine model of QEMU's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// `q35` on x86_64, `virt` on aarch64.
    #[default]
    Auto,
    /// A PC with PCI Express, in a versioned form.
    Q35,
    /// A minimal PC without PCI; not versioned, so never a source of snapshots.
    Microvm,
    /// QEMU's Arm machine, in a versioned form.
    Virt,
}

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where it works, else TCG (and midge says so).
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// Emulation.
    Tcg,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Net {
    /// QEMU's user-mode network: works without privilege, the guest is reached through forwarded ports.
    User {
        /// Ports of the host that lead to ports of the guest.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        forwards: Vec<Forward>,
        /// The interface's address; none lets midge choose one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<Mac>,
    },
    /// A port of a bridge of this host, such as one over the home network: the guest is a machine like any other there.
    Bridge {
        /// The bridge's name.
        bridge: String,
        /// The interface's address; none lets midge choose one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<Mac>,
        /// The IPv4 address that the guest is told to take; none has it ask the network's own DHCP server.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<InterfaceAddress>,
        /// The router by which a guest with such an address reaches other networks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Ipv4Addr>,
        /// The name servers of a guest with such an address, the preferred one first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dns: Vec<Ipv4Addr>,
    },
    /// A port of midge's own network behind this host's address, made when first needed: midge gives the addresses, the
    /// guest is reached from this host, and by forwarded ports from elsewhere.
    Nat {
        /// Ports of the host that lead to ports of the guest.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        forwards: Vec<Forward>,
        /// The interface's address; none lets midge choose one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<Mac>,
        /// The IPv4 address that the guest gets; none lets midge choose one, and keep to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<Ipv4Addr>,
    },
    /// An interface whose cable is not plugged in.
    None {
        /// The interface's address; none lets midge choose one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<Mac>,
    },
}

impl Net {
    /// The address that the spec gives the interface.
    #[must_use]
    pub const fn mac(&self) -> Option<Mac> {
        match self {
            Self::User { mac, .. }
            | Self::Bridge { mac, .. }
            | Self::Nat { mac, .. }
            | Self::None { mac } => *mac,
        }
    }

    /// The IPv4 address that the guest is to give the interface by itself.
    #[must_use]
    pub const fn fixed_address(&self) -> Option<InterfaceAddress> {
        match self {
            Self::Bridge { ip, .. } => *ip,
            Self::User { .. } | Self::Nat { .. } | Self::None { .. } => None,
        }
    }

    /// Gives the interface an address, or leaves that to midge.
    pub const fn set_mac(&mut self, address: Option<Mac>) {
        match self {
            Self::User { mac, .. }
            | Self::Bridge { mac, .. }
            | Self::Nat { mac, .. }
            | Self::None { mac } => *mac = address,
        }
    }

    /// The ports of the host that lead to it.
    #[must_use]
    pub fn forwards(&self) -> &[Forward] {
        match self {
            Self::User { forwards, .. } | Self::Nat { forwards, .. } => forwards,
            Self::Bridge { .. } | Self::None { .. } => &[],
        }
    }

    /// The place of the ports of the host that lead to it, where it can have any.
    pub const fn forwards_mut(&mut self) -> Option<&mut Vec<Forward>> {
        match self {
            Self::User { forwards, .. } | Self::Nat { forwards, .. } => Some(forwards),
            Self::Bridge { .. } | Self::None { .. } => None,
        }
    }

    /// Whether the host's end of it is a tap, which midge makes and watches.
    #[must_use]
    pub const fn has_tap(&self) -> bool {
        matches!(self, Self::Bridge { .. } | Self::Nat { .. })
    }
}

/// How the guest learns its host name and keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provision {
    /// `cloud-init` where user-data is given; else `credentials` for Linux images that take them, `cloud-init` for those that
    /// have it, and `none` for all others.
    #[default]
    Auto,
    /// systemd credentials (systemd.system-credentials(7)).
    Credentials,
    /// cloud-init's NoCloud source: a volume with the label `cidata`.
    CloudInit,
    /// Nothing is told to the guest.
    None,
}

/// What follows the end of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// The VM stays stopped.
    #[default]
    No,
    /// Started again unless it ended in good order or by the user's will.
    OnFailure,
    /// Started again unless it ended by the user's will.
    Always,
}

/// What a reset by the guest does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReset {
    /// The guest boots again in the same QEMU.
    #[default]
    Reboot,
    /// The guest ends (QEMU's `-no-reboot`).
    Stop,
}

impl VmSpec {
    /// A VM of this name with everything at its default. It boots nothing yet, so it is not valid until
    /// `boot` says what.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            boot: Boot::default(),
            kind: Kind::default(),
            arch: Arch::host(),
            machine: Machine::default(),
            accel: Accel::default(),
            cpu: None,
            cpus: one(),
            memory: default_memory(),
            disk: None,
            nets: one_user_net(),
            provision: Provision::default(),
            ssh_keys: Vec::new(),
            user: None,
            files: Vec::new(),
            cloud_init: None,
            restart: Restart::default(),
            on_reset: OnReset::default(),
            ttl_seconds: None,
            ephemeral: false,
            ready: None,
            labels: BTreeMap::new(),
            qemu_args: Vec::new(),
        }
    }
}

fn one() -> u32 {
    1
}

fn default_memory() -> Size {
    Size::from_mib(512)
}

fn one_user_net() -> Vec<Net> {
    vec![Net::User { forwards: Vec::new(), mac: None }]
}

impl Arch {
    /// The instruction set of the machine that midge was built for.
    #[must_use]
    pub const fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }
}
