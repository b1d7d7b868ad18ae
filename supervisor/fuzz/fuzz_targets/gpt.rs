//! Partition tables on arbitrary bytes, with checksums that fit, as a stranger would make them fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::image::contents::partitions;

/// CRC-32 as GPT has it (UEFI Specification, 5.3.2).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

fuzz_target!(|data: &[u8]| {
    let [options, data @ ..] = data else { return };
    let mut disk = vec![0; 64 << 10];
    let length = data.len().min(disk.len() - 446);
    // From where the MBR's partitions begin.
    disk[446..446 + length].copy_from_slice(&data[..length]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    if options & 1 == 1 {
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[524..528].copy_from_slice(&92_u32.to_le_bytes());
        if options & 2 == 2 {
            disk[584..592].copy_from_slice(&2_u64.to_le_bytes());
            disk[592..600].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
        }
        let sum = crc(&disk[1024..1024 + 128 * 128]);
        disk[600..604].copy_from_slice(&sum.to_le_bytes());
        disk[528..532].fill(0);
        let sum = crc(&disk[512..604]);
        disk[528..532].copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(table) = partitions::read(&disk) else { return };
    let mut partitions = table.partitions;
    partitions.sort_by_key(|partition| partition.start);
    let mut end = 0;
    for partition in partitions {
        assert!(partition.start >= end && partition.length > 0);
        end = partition.start + partition.length;
        assert!(end <= disk.len() as u64);
    }
});
