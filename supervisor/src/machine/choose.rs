//! Choices that depend on the installed QEMU: machine type, CPU model, what the NIC looks like.

use crate::host::QemuFacts;
use crate::spec::{Arch, Kind, Machine, VmSpec};

use super::{MachineError, ResolvedAccel, Resources};

/// The oldest QEMU whose options these lists keep to: Debian 12's.
pub const OLDEST_QEMU: (u32, u32) = (7, 2);

/// A machine model, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// A PC with PCI Express.
    Q35,
    /// A minimal PC with virtio over memory-mapped registers.
    Microvm,
    /// QEMU's Arm machine.
    Virt,
}

impl Board {
    /// The board that `spec` asks for.
    pub fn of(spec: &VmSpec) -> Result<Self, MachineError> {
        match (spec.machine, spec.arch) {
            (Machine::Auto | Machine::Q35, Arch::X86_64) => Ok(Self::Q35),
            (Machine::Microvm, Arch::X86_64) => Ok(Self::Microvm),
            (Machine::Auto | Machine::Virt, Arch::Aarch64) => Ok(Self::Virt),
            (machine, arch) => Err(MachineError::Pair { machine, arch }),
        }
    }

    /// The word for the Linux command line that puts the console on the serial port.
    #[must_use]
    pub const fn console_word(self) -> &'static str {
        match self {
            Self::Q35 | Self::Microvm => "console=ttyS0",
            Self::Virt => "console=ttyAMA0",
        }
    }

    /// Whether a VM on this board can be the source of a snapshot: its machine type must be versioned, so
    /// that a later QEMU lays out the device state in the same way.
    #[must_use]
    pub const fn snapshots(self) -> bool {
        !matches!(self, Self::Microvm)
    }

    /// Whether the board has PCI.
    pub(super) const fn pci(self) -> bool {
        !matches!(self, Self::Microvm)
    }

    /// The QEMU machine type: the newest versioned one that is not newer than QEMU itself.
    pub(super) fn machine_type(self, qemu: &QemuFacts) -> Result<String, MachineError> {
        let prefix = match self {
            Self::Microvm => return Ok("microvm".to_owned()),
            Self::Q35 => "pc-q35-",
            Self::Virt => "virt-",
        };
        qemu.machines
            .iter()
            .filter_map(|name| Some((version(name.strip_prefix(prefix)?)?, name)))
            .filter(|(version, _)| *version <= qemu.version)
            .max()
            .map(|(_, name)| name.clone())
            .ok_or_else(|| MachineError::NoMachineType { prefix, version: version_text(qemu) })
    }
}

/// `10.0` or `4.0.1`, as in a machine type's name.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?);
    parts.next().is_none().then_some(version)
}

/// QEMU's version for people.
pub(super) fn version_text(qemu: &QemuFacts) -> String {
    let (major, minor, micro) = qemu.version;
    format!("{major}.{minor}.{micro}")
}

/// The CPU model of x86_64 guests when the spec names none.
///
/// The highest Intel model that TCG implements in full (SandyBridge and later ask for `tsc-deadline`, and
/// QEMU then warns on stderr). It holds x86-64-v2 and AES, can be migrated, and every KVM host of the last
/// decade runs it, so a snapshot travels between hosts; `host` would tie it to one. Intel rather than AMD
/// because Linux trusts the TSCs of several Intel CPUs to agree (`unsynchronized_tsc()`). `rdrand` seeds the
/// guest's random numbers from the first instruction on, before virtio-rng has a driver.
const X86_CPU: &str = "Westmere-v1,rdrand=on";

/// What KVM must offer in CPUID leaf 1, ECX, for midge's own CPU model to run without a warning: SSE3,
/// PCLMULQDQ, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT, AES and RDRAND (Intel SDM volume 2A, CPUID). All its other
/// features every 64-bit CPU has.
pub const KVM_CPU_ECX: u32 = 1 | 1 << 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 25 | 1 << 30;

/// The CPU model: a snapshot's, the spec's, or midge's choice.
///
/// - x86_64: [`X86_CPU`], or `host` on a KVM that lacks a part of it.
/// - aarch64 under TCG: `cortex-a72`, the Raspberry Pi 4's. `max` is slower by far: it emulates pointer
///   authentication.
/// - aarch64 under KVM: `host`, as KVM offers no other model there.
pub(super) fn cpu(spec: &VmSpec, resources: &Resources) -> String {
    let chosen = match (spec.arch, resources.accel) {
        (Arch::X86_64, ResolvedAccel::Kvm) if !resources.kvm_cpu => "host",
        (Arch::X86_64, _) => X86_CPU,
        (Arch::Aarch64, ResolvedAccel::Tcg) => "cortex-a72",
        (Arch::Aarch64, ResolvedAccel::Kvm) => "host",
    };
    let saved = resources.restore.as_ref().map(|restore| restore.cpu.as_str());
    saved.or(spec.cpu.as_deref()).unwrap_or(chosen).to_owned()
}

/// The virtio generations that a NIC on PCI speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NicMode {
    /// `disable-legacy`: no virtio 0.9 interface.
    pub(super) disable_legacy: bool,
    /// `disable-modern`: no virtio 1.0 interface.
    pub(super) disable_modern: bool,
}

impl NicMode {
    /// The one thing of a machine that a guest's kind decides.
    ///
    /// A transitional NIC serves Linux, Unikraft, Solo5 (both drive the legacy interface only) and Nanos.
    /// Hermit has a driver for the modern one only and looks for its PCI id, which a transitional device does
    /// not carry (virtio 1.2, 4.1.2.1).
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Hermit => Self { disable_legacy: true, disable_modern: false },
            Kind::Auto | Kind::Linux | Kind::Unikraft | Kind::Solo5 | Kind::Nanos | Kind::Other => {
                Self { disable_legacy: false, disable_modern: false }
            }
        }
    }
}
