//! Memory of the host: how much there is, and how much of it is still to be had.

use std::io;

use serde::{Deserialize, Serialize};

use super::root::HostRoot;

/// Memory of the host, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All of it (`MemTotal`).
    pub total: u64,
    /// What new programs can have without swapping (`MemAvailable`, proc_meminfo(5)).
    pub available: u64,
    /// All swap space.
    pub swap_total: u64,
    /// Free swap space.
    pub swap_free: u64,
    /// Of the swap space, what lies in compressed memory (zram) and so takes from `available` as it fills.
    pub zram: u64,
}

impl Memory {
    /// As the host says at this moment.
    pub fn of(root: &HostRoot) -> io::Result<Self> {
        let mut memory = Self::parse(&root.read("proc/meminfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))?;
        memory.zram = zram(&root.read("proc/swaps").unwrap_or_default());
        Ok(memory)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            kibibytes(line.split_ascii_whitespace().next()?)
        };
        Some(Self {
            total: field("MemTotal")?,
            // Absent before Linux 3.14 only; free memory is then a safe guess.
            available: field("MemAvailable").or_else(|| field("MemFree"))?,
            swap_total: field("SwapTotal").unwrap_or(0),
            swap_free: field("SwapFree").unwrap_or(0),
            zram: 0,
        })
    }
}

/// The sum of the zram devices in `/proc/swaps` (columns: name, type, size, used, priority; sizes in KiB).
fn zram(swaps: &str) -> u64 {
    let sizes = swaps.lines().filter_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let device = columns.next()?.rsplit('/').next()?;
        if device.starts_with("zram") { kibibytes(columns.nth(1)?) } else { None }
    });
    sizes.sum()
}

fn kibibytes(number: &str) -> Option<u64> {
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:        8064412 kB\nMemFree:          123456 kB\nMemAvailable:    7340032 kB\n\
                    Buffers:           50000 kB\nSwapTotal:       2097136 kB\nSwapFree:        2097000 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.total, 8_064_412 * 1024);
        assert_eq!(memory.available, 7168 * MIB);
        assert_eq!((memory.swap_total, memory.swap_free), (2_097_136 * 1024, 2_097_000 * 1024));
    }

    #[test]
    fn memory_parse_of_other_text_is_none() {
        for text in
            ["", "MemTotal: kB\nMemAvailable: 1 kB", "MemTotalX: 1 kB", "MemTotal: 99999999999999999999 kB"]
        {
            assert_eq!(Memory::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn zram_is_told_from_other_swap() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/zram0                              partition\t2097136\t\t0\t\t100\n\
                    /var/swap                               file\t\t102396\t\t0\t\t-2\n";
        assert_eq!(zram(text), 2_097_136 * 1024);
        assert_eq!(zram(""), 0);
    }

    #[test]
    fn memory_of_this_host_adds_up() {
        let memory = Memory::of(&HostRoot::system()).unwrap();
        assert!(memory.total > 16 * MIB && memory.available <= memory.total, "{memory:?}");
        assert!(memory.swap_free <= memory.swap_total, "{memory:?}");
    }
}
