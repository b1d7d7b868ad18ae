//! Where devices are: PCI, and the virtio-mmio slots of a microvm.

use core::arch::x86_64::__cpuid;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use hello::acpi;
use hello::cmdline::MmioDevice;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::pci::bus::{DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, VirtioPciError, virtio_device_type};
use virtio_drivers::transport::{DeviceType, Transport};

use super::interrupts::WAKE_NET;
use super::pci::{self, MsiX, Ports};
use super::{apic, paging};
use crate::println;
use crate::virtio::{Hal, Wired, Wiring};

static RSDP: AtomicU64 = AtomicU64::new(0);

/// Keeps the address of the ACPI tables, 0 for none.
pub fn set_rsdp(address: u64) {
    RSDP.store(address, Ordering::Relaxed);
}

/// What the ACPI tables say about switching off. Read only when it is needed, at the end.
pub fn acpi() -> Option<acpi::Power> {
    let rsdp = RSDP.load(Ordering::Relaxed);
    if rsdp == 0 {
        return None;
    }
    acpi::power(rsdp, |address, length| {
        paging::map(address, length as u64);
        // SAFETY: mapped; firmware tables lie outside of what the kernel writes to. A wrong address reads as something that
        // is no table.
        unsafe { core::slice::from_raw_parts(address as *const u8, length) }
    })
}

/// Where a network device was found.
pub enum Place {
    /// On PCI.
    Pci(DeviceFunction),
    /// Registers at this address.
    Mmio(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(device) => write!(f, "pci {device}"),
            Self::Mmio(address) => write!(f, "mmio {address:#x}"),
        }
    }
}

/// Finds the first virtio network device: on PCI, then among the slots that the command line names, then, where it names
/// none, among all slots of a microvm.
pub fn find_net(named: &[MmioDevice]) -> Option<(Place, Wired)> {
    if let Some(found) = find_pci() {
        return Some(found);
    }
    if named.is_empty() {
        (0..MICROVM_SLOTS).rev().find_map(open_microvm_slot)
    } else {
        named.iter().find_map(|slot| open_mmio(slot.base, slot.size, &[slot.irq]))
    }
}

fn find_pci() -> Option<(Place, Wired)> {
    let mut root = PciRoot::new(Ports);
    for (device, info) in pci::devices(&root) {
        if virtio_device_type(&info) != Some(DeviceType::Network) {
            continue;
        }
        pci::enable(&mut root, device);
        match PciTransport::new::<Hal, _>(&mut root, device) {
            Ok(transport) => {
                let wiring = match MsiX::enable(&mut root, device) {
                    Some(msix) => {
                        msix.set(0, apic_id(), WAKE_NET);
                        common_config(&mut root, device).map_or(Wiring::None, Wiring::MsiX)
                    }
                    None => Wiring::None,
                };
                return Some((Place::Pci(device), Wired::new(transport.into(), wiring)));
            }
            Err(VirtioPciError::MissingCommonConfig) => println!(
                "hello: virtio-net pci {device} is a legacy device (disable-modern=on) and stays unused: it takes a transitional or a modern one"
            ),
            Err(error) => println!("hello: virtio-net pci {device} stays unused: {error}"),
        }
    }
    None
}

/// Address of the device's common configuration structure: virtio 1.2, 4.1.4.3.
fn common_config(root: &mut PciRoot<Ports>, device: DeviceFunction) -> Option<u64> {
    use virtio_drivers::transport::pci::VIRTIO_PCI_CAP_COMMON_CFG;
    use virtio_drivers::transport::pci::bus::{BarInfo, ConfigurationAccess, PCI_CAP_ID_VNDR};

    let capability = root.capabilities(device).find(|capability| {
        capability.id == PCI_CAP_ID_VNDR
            && capability.private_header.to_be_bytes()[0] == VIRTIO_PCI_CAP_COMMON_CFG
    })?;
    let bar = Ports.read_word(device, capability.offset + 4) as u8;
    let offset = Ports.read_word(device, capability.offset + 8);
    match root.bar_info(device, bar) {
        Ok(Some(BarInfo::Memory { address, .. })) => Some(address + u64::from(offset)),
        _ => None,
    }
}

fn apic_id() -> u8 {
    __cpuid(1).ebx.to_be_bytes()[0]
}

/// Most virtio-mmio slots of a microvm: with ACPI, and so with a second IOAPIC.
const MICROVM_SLOTS: u8 = 24;

/// A slot of a microvm that the command line does not name, as QEMU leaves that to the ACPI tables where there are some.
/// Without an AML interpreter the interrupt is one of two: with two IOAPICs each slot has an input of the second one, with
/// one they begin at its input 16 (QEMU `hw/i386/microvm.c`). The other one is an input that nothing uses.
fn open_microvm_slot(slot: u8) -> Option<(Place, Wired)> {
    const BASE: u64 = 0xfeb0_0000;
    const SIZE: u64 = 512;
    let second = 24 + slot;
    let first = 16 + slot;
    let irqs = [second, first];
    open_mmio(BASE + u64::from(slot) * SIZE, SIZE, if first < 24 { &irqs } else { &irqs[..1] })
}

fn open_mmio(base: u64, size: u64, irqs: &[u8]) -> Option<(Place, Wired)> {
    paging::map(base, size);
    let header = NonNull::new(base as *mut VirtIOHeader)?;
    // SAFETY: mapped, and device registers or nothing by the machine's description; only one driver is made for it. Reads
    // of an empty range give a wrong magic number and an error.
    let transport = unsafe { MmioTransport::new(header, size as usize) }.ok()?;
    if transport.device_type() != DeviceType::Network {
        return None;
    }
    for &irq in irqs {
        apic::route(irq, WAKE_NET);
    }
    Some((Place::Mmio(base), Wired::new(transport.into(), Wiring::Line)))
}
