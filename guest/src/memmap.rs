//! The machine's memory map, as the PVH boot protocol hands it over.

/// Type of an entry that is usable RAM (`XEN_HVM_MEMMAP_TYPE_RAM`, as in the E820 map).
pub const RAM: u32 = 1;

/// One entry: `hvm_memmap_table_entry` of Xen's `include/public/arch-x86/hvm/start_info.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// [`RAM`] or something to keep away from.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// Usable RAM in MiB, rounded up: the firmware keeps a few hundred KiB of what the machine was given.
pub fn total_mib(map: &[Entry]) -> u64 {
    let bytes: u64 = map.iter().filter(|e| e.kind == RAM).map(|e| e.size).fold(0, u64::saturating_add);
    bytes.div_ceil(1 << 20)
}

/// The range for the heap: directly behind the kernel, which ends at `kernel_end`, up to `max` bytes or the end of that
/// piece of RAM. `None` when the kernel does not lie in RAM by this map, or nothing is left behind it.
pub fn heap(map: &[Entry], kernel_end: u64, max: u64) -> Option<(u64, u64)> {
    let entry = map
        .iter()
        .find(|e| e.kind == RAM && e.addr < kernel_end && kernel_end < e.addr.saturating_add(e.size))?;
    let room = entry.addr.saturating_add(entry.size) - kernel_end;
    Some((kernel_end, room.min(max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(addr: u64, size: u64, kind: u32) -> Entry {
        Entry { addr, size, kind, reserved: 0 }
    }

    /// What QEMU 10.0 gives a q35 with 8 MiB.
    const SMALL: [Entry; 3] =
        [entry(0, 0x9_fc00, RAM), entry(0xf_0000, 0x1_0000, 2), entry(0x10_0000, 0x6e_0000, RAM)];

    #[test]
    fn total_counts_ram_only() {
        assert_eq!(total_mib(&SMALL), 8);
        assert_eq!(total_mib(&[]), 0);
        assert_eq!(total_mib(&[entry(0, u64::MAX, RAM), entry(0, 1, RAM)]), 1 << 44, "no overflow");
    }

    #[test]
    fn heap_ends_with_its_piece_of_ram() {
        assert_eq!(heap(&SMALL, 0x18_0000, 64 << 20), Some((0x18_0000, 0x66_0000)));
    }

    #[test]
    fn heap_is_limited() {
        assert_eq!(heap(&SMALL, 0x18_0000, 0x1000), Some((0x18_0000, 0x1000)));
    }

    #[test]
    fn no_heap_outside_ram() {
        assert_eq!(heap(&SMALL, 0x80_0000, 0x1000), None);
        assert_eq!(heap(&[], 0x18_0000, 0x1000), None);
        assert_eq!(heap(&[entry(0x10_0000, 0x70_0000, 2)], 0x18_0000, 0x1000), None);
    }
}
