//! RAM files on real file systems, and the mapping of a real process: this one.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use uuid::Uuid;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::process::Mapping;
use super::*;
use crate::snapshot::SnapshotError;
use crate::snapshot::digest::{CHUNK, Digests};

/// A folder on tmpfs and one on the file system of temporary files, which know holes both.
fn folders() -> [tempfile::TempDir; 2] {
    [tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir().unwrap()]
}

/// A RAM file of this many pages; each of `full` holds its number, each of `zero` zeros that are no hole.
fn ram(folder: &Path, pages: u64, full: &[u64], zero: &[u64]) -> PathBuf {
    let path = folder.join("ram");
    let page = page_size() as u64;
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(pages * page).unwrap();
    for number in full {
        let bytes = vec![u8::try_from(number % 255 + 1).unwrap(); page_size()];
        file.write_all_at(&bytes, number * page).unwrap();
    }
    for number in zero {
        file.write_all_at(&vec![0; page_size()], number * page).unwrap();
    }
    path
}

fn bytes_of(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_scan_tells_full_pages_from_zeros_and_holes() {
    for folder in folders() {
        let page = page_size() as u64;
        let path = ram(folder.path(), 2000, &[0, 1, 700, 1999], &[5, 6, 1200]);
        let mut told = (0, 0);
        let scan = RamFile::open(&path).unwrap().scan(&mut |done, total| told = (done, total)).unwrap();
        assert_eq!((scan.length, scan.nonzero, scan.zero), (2000 * page, 4 * page, 3 * page));
        assert_eq!(scan.allocated, 7 * page, "looking at holes must not fill them");
        assert_eq!(told, (7 * page, 7 * page));
    }
}

#[test]
fn punching_gives_zeros_back_and_changes_nothing() {
    for folder in folders() {
        let page = page_size() as u64;
        let path = ram(folder.path(), 1500, &[3, 512, 1499], &[0, 4, 5, 511, 1000]);
        let before = bytes_of(&path);
        assert_eq!(punch_zeros(&path, &mut unwatched).unwrap(), 5 * page);
        assert_eq!(std::fs::metadata(&path).unwrap().blocks() * 512, 3 * page);
        assert!(bytes_of(&path) == before);
        assert_eq!(punch_zeros(&path, &mut unwatched).unwrap(), 0);
    }
}

#[test]
fn a_copy_is_equal_sparse_read_only_and_has_the_digests_of_its_bytes() {
    for (from, to) in [(0, 1), (1, 0), (0, 0)] {
        let folders = folders();
        let path = ram(folders[from].path(), 1100, &[0, 511, 512, 513, 1099], &[7, 8, 9]);
        let target = folders[to].path().join("copy");
        let copied = copy(&path, &target, &mut unwatched).unwrap();
        assert!(bytes_of(&path) == bytes_of(&target));
        let about = std::fs::metadata(&target).unwrap();
        let full = 5 * page_size() as u64;
        assert_eq!((about.blocks() * 512, copied.written, copied.reflink), (full, full, false));
        assert_eq!(about.permissions().mode() & 0o777, 0o400);
        assert_eq!(copied.digests, Digests::of_file(&target, &mut unwatched).unwrap());
        copied.digests.verify(&target, &mut unwatched).unwrap();
        assert!(matches!(
            copy(&path, &target, &mut unwatched),
            Err(SnapshotError::Io { what: "create", .. })
        ));
    }
}

#[test]
fn damage_is_found_and_its_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let page = page_size() as u64;
    let path = ram(folder.path(), 3 * CHUNK / page, &[0, CHUNK / page + 1], &[]);
    let digests = Digests::of_file(&path, &mut unwatched).unwrap();
    let found = |digests: &Digests| digests.verify(&path, &mut unwatched).unwrap_err().to_string();

    let file = File::options().read(true).write(true).open(&path).unwrap();
    let place = CHUNK + page + 17;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 4], place).unwrap();
    assert!(found(&digests).contains(&format!("the bytes {CHUNK} to {}", 2 * CHUNK)), "{}", found(&digests));
    file.write_all_at(&byte, place).unwrap();
    digests.verify(&path, &mut unwatched).unwrap();

    // A byte where there was a hole.
    file.write_all_at(&[1], 2 * CHUNK + 5).unwrap();
    assert!(found(&digests).contains(&format!("the bytes {} to", 2 * CHUNK)));
    file.set_len(2 * CHUNK).unwrap();
    assert!(found(&digests).contains("bytes instead of"), "{}", found(&digests));
}

#[test]
fn a_writer_is_noticed() {
    for folder in folders() {
        let path = ram(folder.path(), 4, &[1], &[]);
        assert_eq!(is_open_for_writing(&path).unwrap(), Some(false));
        let writer = File::options().append(true).open(&path).unwrap();
        assert_eq!(is_open_for_writing(&path).unwrap(), Some(true));
        drop(writer);
        assert_eq!(is_open_for_writing(&path).unwrap(), Some(false));
    }
}

#[test]
fn a_share_of_blocks_is_made_or_leaves_nothing() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = ram(folder.path(), 4, &[1], &[]);
    let target = folder.path().join("share");
    // tmpfs shares no blocks.
    assert!(!reflink(&path, &target).unwrap());
    assert!(!target.exists());
}

/// A private mapping of a file in this process, as QEMU makes one.
fn map_private(path: &Path) -> MmapRegion {
    let file = File::open(path).unwrap();
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    MmapRegionBuilder::new(length)
        .with_file_offset(FileOffset::new(file, 0))
        .with_mmap_prot(nix::libc::PROT_READ | nix::libc::PROT_WRITE)
        .with_mmap_flags(nix::libc::MAP_PRIVATE | nix::libc::MAP_NORESERVE)
        .build()
        .unwrap()
}

fn poke(map: &MmapRegion, offset: u64, bytes: &[u8]) {
    map.get_slice(usize::try_from(offset).unwrap(), bytes.len()).unwrap().copy_from(bytes);
}

#[test]
fn the_pages_that_a_process_wrote_are_found_saved_and_given_to_another() {
    for folder in folders() {
        let page = page_size() as u64;
        let path = ram(folder.path(), 900, &[1, 2, 3, 600], &[]);
        let first = map_private(&path);
        let pid = std::process::id();
        let mapping = Mapping::private_of(pid, &path).unwrap();
        assert_eq!(mapping.length(), 900 * page);
        // Reading makes nothing one's own.
        let mut byte = [0];
        first.get_slice(0, 1).unwrap().copy_to(&mut byte);
        assert_eq!(mapping.own_pages().unwrap(), []);

        poke(&first, 2 * page + 5, b"hello");
        poke(&first, 3 * page, &vec![0; page_size()]);
        poke(&first, 800 * page, b"new");
        let own = mapping.own_pages().unwrap();
        // Both ways of looking see the same.
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        assert_eq!(mapping.read_words(&pagemap).unwrap(), own);
        match mapping.scan(&pagemap) {
            Ok(found) => assert_eq!(found, own),
            Err(e) => assert_eq!(e, nix::errno::Errno::ENOTTY, "a kernel before 6.7 has no such call"),
        }
        let extent = |page_number, count| Extent { offset: page_number * page, length: count * page };
        assert_eq!(own, [extent(2, 2), extent(800, 1)]);

        let (delta, base) = (folder.path().join("delta"), Uuid::new_v4());
        let memory = mapping.memory().unwrap();
        let written = delta::write(&delta, base, 900 * page, &own, |at, into| memory.read(at, into)).unwrap();
        assert_eq!(written, 2 * page, "the page of zeros takes nothing");
        let opened = delta::Delta::open(&delta).unwrap();
        assert_eq!((opened.base, opened.ram, opened.bytes()), (base, 900 * page, 3 * page));

        // Into a copy of the base.
        let whole = folder.path().join("whole");
        std::fs::copy(&path, &whole).unwrap();
        opened.apply_to_file(&whole, &mut unwatched).unwrap();
        let mut wanted = bytes_of(&path);
        let at = |offset: u64| usize::try_from(offset).unwrap();
        wanted[at(2 * page + 5)..at(2 * page + 10)].copy_from_slice(b"hello");
        wanted[at(3 * page)..at(4 * page)].fill(0);
        wanted[at(800 * page)..at(800 * page) + 3].copy_from_slice(b"new");
        assert!(bytes_of(&whole) == wanted);

        // Into another private mapping: the file stays.
        let before = bytes_of(&path);
        drop(first);
        let second = map_private(&path);
        let mapping = Mapping::private_of(pid, &path).unwrap();
        opened.apply_to_process(&mapping, &mut unwatched).unwrap();
        let mut seen = vec![0; wanted.len()];
        second.as_volatile_slice().copy_to(&mut seen);
        assert!(seen == wanted && bytes_of(&path) == before);
        assert_eq!(mapping.own_pages().unwrap(), own, "what a delta brought is a part of the next one");
    }
}

#[test]
fn a_shared_or_partial_mapping_is_no_clones() {
    let folder = tempfile::tempdir().unwrap();
    let path = ram(folder.path(), 4, &[1], &[]);
    let pid = std::process::id();
    let why = |result: Result<Mapping, SnapshotError>| result.unwrap_err().to_string();
    assert!(why(Mapping::private_of(pid, &path)).contains("does not map the whole"));
    let ram = RamFile::open(&path).unwrap();
    assert!(why(Mapping::private_of(pid, &path)).contains("is no clone"));
    drop(ram);
    let _map = map_private(&path);
    File::options().write(true).open(&path).unwrap().set_len(5 * page_size() as u64).unwrap();
    assert!(why(Mapping::private_of(pid, &path)).contains("does not map the whole"));
}

#[test]
fn a_damaged_delta_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("delta");
    let page = page_size() as u64;
    let own = [Extent { offset: page, length: page }, Extent { offset: 9 * page, length: 2 * page }];
    let fill = |_: u64, into: &mut [u8]| {
        into.fill(7);
        Ok(())
    };
    delta::write(&path, Uuid::nil(), 16 * page, &own, fill).unwrap();
    let whole = bytes_of(&path);
    let mut refused = 0;
    for cut in [0, 10, 55, 56, 4096, whole.len() - 1] {
        let path = folder.path().join(format!("cut-{cut}"));
        std::fs::write(&path, &whole[..cut]).unwrap();
        delta::Delta::open(&path).unwrap_err();
        refused += 1;
    }
    assert_eq!(refused, 6);
    // Every bit of the header and of the index that leads somewhere: none may lead outside, whatever it is.
    let index = whole.len() - 32;
    for at in (0..56).chain(index..whole.len()) {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let path = folder.path().join("flipped");
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(delta) = delta::Delta::open(&path) {
                let target = folder.path().join("target");
                File::create(&target).unwrap().set_len(delta.ram.min(1 << 30)).unwrap();
                let _ = delta.apply_to_file(&target, &mut unwatched);
                assert!(std::fs::metadata(&target).unwrap().len() <= 1 << 30);
            }
        }
    }
}

#[test]
fn few_pages_make_a_delta_and_many_a_file() {
    assert_eq!(Form::choose(LARGEST_DELTA, false), Form::Delta);
    assert_eq!(Form::choose(LARGEST_DELTA + 1, false), Form::Flat);
    assert_eq!(Form::choose(0, true), Form::Flat);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the pages, a copy is equal, no larger than what is not zero, and its digests hold.
    #[test]
    fn any_ram_is_copied_whole(
        pages in 1_u64..1300,
        full in prop::collection::btree_set(0_u64..1300, 0..40),
        zero in prop::collection::btree_set(0_u64..1300, 0..40),
    ) {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let full: Vec<u64> = full.into_iter().filter(|number| *number < pages).collect();
        let zero: Vec<u64> = zero.into_iter().filter(|n| *n < pages && !full.contains(n)).collect();
        let path = ram(folder.path(), pages, &full, &zero);
        let scan = RamFile::open(&path).unwrap().scan(&mut unwatched).unwrap();
        let page = page_size() as u64;
        prop_assert_eq!((scan.nonzero, scan.zero), (full.len() as u64 * page, zero.len() as u64 * page));
        let target = folder.path().join("copy");
        let copied = copy(&path, &target, &mut unwatched).unwrap();
        prop_assert_eq!(std::fs::metadata(&target).unwrap().blocks() * 512, full.len() as u64 * page);
        prop_assert!(bytes_of(&path) == bytes_of(&target));
        copied.digests.verify(&path, &mut unwatched).unwrap();
    }

    /// A delta gives back what it was made of.
    #[test]
    fn any_delta_gives_its_pages_back(numbers in prop::collection::btree_set(0_u64..800, 0..60), seed: u8) {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let page = page_size() as u64;
        let mut own = Vec::new();
        for number in &numbers {
            process::push(&mut own, Extent { offset: number * page, length: page });
        }
        // Some pages are zero.
        let value = |number: u64| u8::try_from(number % 5).unwrap().wrapping_mul(seed);
        let path = folder.path().join("delta");
        let fill = |at: u64, into: &mut [u8]| {
            for (number, part) in (at / page..).zip(into.chunks_mut(page_size())) {
                part.fill(value(number));
            }
            Ok(())
        };
        delta::write(&path, Uuid::nil(), 800 * page, &own, fill).unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, vec![0xee; 800 * page_size()]).unwrap();
        delta::Delta::open(&path).unwrap().apply_to_file(&target, &mut unwatched).unwrap();
        for (number, part) in (0..).zip(bytes_of(&target).chunks(page_size())) {
            let wanted = if numbers.contains(&number) { value(number) } else { 0xee };
            prop_assert!(part.iter().all(|byte| *byte == wanted), "page {}", number);
        }
    }
}
