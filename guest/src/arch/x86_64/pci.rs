//! PCI by the configuration ports, which q35 and pc have; a microvm answers with nothing there.

use alloc::vec::Vec;

use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType, MemoryBarType,
    PciRoot,
};

use super::paging;
use super::ports::{inl, outl};

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

/// Where BARs go that the firmware left without an address: below the IOAPIC and above what QEMU ever uses for RAM, a
/// range that SeaBIOS hands out from the other end.
const FREE_WINDOW: u64 = 0xfe00_0000;

/// Access by the two configuration ports.
#[derive(Clone, Copy)]
pub struct Ports;

impl Ports {
    fn select(device: DeviceFunction, register: u8) {
        let address = 1 << 31
            | u32::from(device.bus) << 16
            | u32::from(device.device) << 11
            | u32::from(device.function) << 8
            | u32::from(register & 0xfc);
        outl(CONFIG_ADDRESS, address);
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, device: DeviceFunction, register: u8) -> u32 {
        Self::select(device, register);
        inl(CONFIG_DATA)
    }

    fn write_word(&mut self, device: DeviceFunction, register: u8, data: u32) {
        Self::select(device, register);
        outl(CONFIG_DATA, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// All devices, those behind bridges that the firmware has set up included.
pub fn devices(root: &PciRoot<Ports>) -> Vec<(DeviceFunction, DeviceFunctionInfo)> {
    let mut found = Vec::new();
    let mut buses = Vec::from([0]);
    while let Some(bus) = buses.pop() {
        for (device, info) in root.enumerate_bus(bus) {
            if info.header_type == HeaderType::PciPciBridge {
                // Bus numbers of a bridge are in the register at 0x18: primary, secondary, subordinate.
                let secondary = Ports.read_word(device, 0x18).to_le_bytes()[1];
                if secondary > bus {
                    buses.push(secondary);
                }
            }
            found.push((device, info));
        }
    }
    found
}

/// Switches a device on: gives addresses to memory BARs that have none, maps them all, enables memory access and bus
/// mastering.
pub fn enable(root: &mut PciRoot<Ports>, device: DeviceFunction) {
    let mut free = FREE_WINDOW;
    let Ok(bars) = root.bars(device) else { return };
    for (index, bar) in (0..).zip(bars) {
        let Some(BarInfo::Memory { address_type, address, size, .. }) = bar else { continue };
        let mut address = address;
        if address == 0 {
            address = free.next_multiple_of(size);
            free = address + size;
            match address_type {
                MemoryBarType::Width64 => root.set_bar_64(device, index, address),
                _ => root.set_bar_32(device, index, address as u32),
            }
        }
        paging::map(address, size);
    }
    root.set_command(device, Command::MEMORY_SPACE | Command::BUS_MASTER);
}

/// A device's way to send interrupts as memory writes: PCI 3.0, 6.8.2.
pub struct MsiX {
    table: u64,
}

impl MsiX {
    /// Switches the capability on, if the device has it; its entries are masked until [`MsiX::set`]. The BARs must be
    /// [`enable`]d.
    pub fn enable(root: &mut PciRoot<Ports>, device: DeviceFunction) -> Option<Self> {
        const CAPABILITY: u8 = 0x11;
        const ENABLE: u32 = 1 << 31;
        let capability = root.capabilities(device).find(|capability| capability.id == CAPABILITY)?.offset;
        let location = Ports.read_word(device, capability + 4);
        let Ok(Some(BarInfo::Memory { address, .. })) = root.bar_info(device, (location & 7) as u8) else {
            return None;
        };
        let control = Ports.read_word(device, capability);
        Ports.write_word(device, capability, control | ENABLE);
        Some(Self { table: address + u64::from(location & !7) })
    }

    /// Makes entry `index` raise `vector` on the CPU with this APIC id.
    pub fn set(&self, index: u16, apic_id: u8, vector: u8) {
        let entry = (self.table + 16 * u64::from(index)) as *mut u32;
        // SAFETY: an entry of the device's table, whose BAR `enable` has mapped; no reference to it exists. The message is
        // a write to the local APIC's window (Intel SDM volume 3, 12.11).
        unsafe {
            entry.write_volatile(0xfee0_0000 | u32::from(apic_id) << 12);
            entry.add(1).write_volatile(0);
            entry.add(2).write_volatile(u32::from(vector));
            entry.add(3).write_volatile(0); // unmasked
        }
    }
}
