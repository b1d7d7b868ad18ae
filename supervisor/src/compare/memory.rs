//! A guest's memory from outside, the same way for every guest: the pages of its RAM file, and what the host's kernel says of QEMU.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::results::Memory;
use crate::snapshot::SnapshotError;
use crate::snapshot::ram::{Extent, RamFile, page_size, unwatched};

/// Looks at a guest that runs. What cannot be found out stays unknown.
///
/// QEMU is looked at first: to read the RAM file maps it a second time, and the kernel would then share its pages out.
#[must_use]
pub fn look(qemu: u32, ram: Option<&Path>) -> Memory {
    let maps = std::fs::read_to_string(format!("/proc/{qemu}/smaps")).ok();
    let share = maps.as_deref().map(|maps| Share::of(maps, ram));
    let mut memory = match ram.map(pages) {
        Some(Ok(memory)) => memory,
        Some(Err(e)) => {
            tracing::debug!("the RAM file cannot be looked at: {e}");
            Memory::default()
        }
        None => Memory::default(),
    };
    memory.pss = share.map(|share| share.pss);
    memory.private = share.map(|share| share.private);
    memory
}

/// Counts the pages of a RAM file. Pages of zeros count as touched, and as equal to none.
///
/// Equal pages are told by a hash of 128 bits: two different ones with the same are not to be expected.
pub fn pages(path: &Path) -> Result<Memory, SnapshotError> {
    let ram = RamFile::open(path)?;
    let page = page_size();
    let touched = Extent::total(&ram.data()?);
    let mut seen: HashMap<u128, u64> = HashMap::new();
    ram.chunks(&mut unwatched, |_, chunk| {
        for content in chunk.chunks(page).filter(|content| content.iter().any(|byte| *byte != 0)) {
            *seen.entry(xxh3_128(content)).or_default() += 1;
        }
        Ok(())
    })?;
    let page = page as u64;
    let nonzero = seen.values().sum::<u64>() * page;
    let equal = seen.values().filter(|count| **count > 1).sum::<u64>() * page;
    Ok(Memory { touched: Some(touched), nonzero: Some(nonzero), equal: Some(equal), ..Memory::default() })
}

/// What a process's `/proc/PID/smaps` says (proc_pid_smaps(5)), in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    pss: u64,
    /// Without the mapping of the guest's RAM, which counts as private as long as nobody else maps it.
    private: u64,
}

impl Share {
    fn of(maps: &str, ram: Option<&Path>) -> Self {
        let ram = ram.and_then(Path::to_str);
        let mut share = Self::default();
        let mut is_ram = false;
        for line in maps.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            // A mapping begins with its addresses, `7f0000-7f1000 rw-s 0 00:19 7  /dev/shm/x`; a field is one word.
            if key.contains(' ') {
                // The path is the sixth field, and may have been removed since.
                let path = line.splitn(6, char::is_whitespace).nth(5).unwrap_or_default();
                let path = path.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
                is_ram = ram.is_some_and(|ram| path.trim_end_matches(" (deleted)") == ram);
                continue;
            }
            let Some(kib) = value.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok()) else {
                continue;
            };
            match key {
                "Pss" => share.pss += kib * 1024,
                "Private_Clean" | "Private_Dirty" if !is_ram => share.private += kib * 1024,
                _ => {}
            }
        }
        share
    }
}

/// The fields of a `/proc/meminfo` (proc_meminfo(5)), in bytes.
#[must_use]
pub fn meminfo(text: &str) -> BTreeMap<String, u64> {
    let field = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let kib: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some((key.to_owned(), kib * 1024))
    };
    text.lines().filter_map(field).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn pages_are_counted_as_they_are() {
        let page = page_size();
        let mut file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(64 * page as u64).unwrap();
        let mut put = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start((at * page) as u64)).unwrap();
            file.write_all(&vec![byte; page]).unwrap();
        };
        // Three alike, one alone, two of zeros; the rest are holes.
        for (at, byte) in [(3, 7), (4, 7), (40, 7), (41, 9), (50, 0), (51, 0)] {
            put(at, byte);
        }
        let memory = pages(file.path()).unwrap();
        let pages = |count: usize| Some((count * page) as u64);
        assert_eq!((memory.touched, memory.nonzero, memory.equal), (pages(6), pages(4), pages(3)));
    }

    #[test]
    fn the_guests_ram_is_no_private_memory_of_qemus() {
        let maps = "5500-5600 rw-p 00000000 00:00 0 \nPss:  8 kB\nPss_Dirty: 8 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 8 kB\nVmFlags: rd wr\n\
                    7f00-7f80 rw-s 00000000 00:19 77                         /dev/shm/a b.ram\nPss: 1000 kB\nPrivate_Dirty: 1000 kB\n\
                    7f90-7fa0 r-xp 00000000 08:01 12345      /usr/bin/qemu\nPss: 10 kB\nPrivate_Clean: 2 kB\n";
        let share = Share::of(maps, Some(Path::new("/dev/shm/a b.ram")));
        assert_eq!(share, Share { pss: 1018 * 1024, private: 14 * 1024 });
        assert_eq!(
            Share::of(&maps.replace(".ram", ".ram (deleted)"), Some(Path::new("/dev/shm/a b.ram"))),
            share
        );
        assert_eq!(Share::of(maps, None).private, 1014 * 1024);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let memory = look(std::process::id(), None);
        assert!(memory.private.unwrap() > 0 && memory.pss.unwrap() > 0);
        assert_eq!(memory.touched, None);
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let fields = meminfo("MemTotal:  1024 kB\nHugePages_Total: 0\nnonsense\nSlab: x kB\n");
        assert_eq!(fields, [("MemTotal".to_owned(), 1 << 20)].into());
    }
}
