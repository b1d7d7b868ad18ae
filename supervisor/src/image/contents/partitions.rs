//! The partitions of a disk: GPT (UEFI Specification 2.10, chapter 5) or the four of an MBR.

use std::fmt;
use std::io;

use gpt_disk_io::gpt_disk_types::{BlockSize, GptHeader, GptPartitionType, Lba, MasterBootRecord};
use gpt_disk_io::{BlockIo, Disk, DiskError};

use super::disk::ReadAt;

/// Bytes of a sector. Disks with larger ones exist, but QEMU shows guests this size.
const SECTOR: usize = 512;
/// The most partitions that are looked at; the usual table has room for 128.
const MOST: u32 = 1024;
/// The largest entry of a table that is believed, in bytes; the usual one has 128.
const LARGEST_ENTRY: u32 = 512;

/// One partition, or a whole disk without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1, as the kernel counts (`/dev/vda1`); 0 for a whole disk.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its size in bytes.
    pub length: u64,
    /// What `root=PARTUUID=` calls it; none for a whole disk.
    pub uuid: Option<String>,
    /// What it is for.
    pub role: Role,
}

/// What a partition's type says it is for, as far as it matters for booting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The EFI system partition: UEFI firmware boots from it.
    Efi,
    /// Where GRUB keeps its core for a BIOS.
    BiosBoot,
    /// Anything else.
    Other,
}

/// What is at the beginning of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The partitions in the order of their numbers; empty for a disk without a table.
    pub partitions: Vec<Partition>,
    /// The first sector holds a program that a BIOS would start.
    pub boot_code: bool,
}

/// What is wrong with a partition table.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The disk cannot be read.
    #[error("cannot read the disk")]
    Read(#[from] io::Error),
    /// A checksum that does not fit.
    #[error("the {0} of the partition table (GPT) is damaged: its checksum does not fit")]
    Checksum(&'static str),
    /// Numbers no table has.
    #[error("the partition table (GPT) is damaged: {0}")]
    Senseless(&'static str),
    /// A partition that is not within the disk.
    #[error("partition {number} ends beyond the disk's end, or before it begins")]
    Outside {
        /// Its number.
        number: u32,
    },
    /// Two partitions share sectors.
    #[error("partitions {first} and {second} overlap")]
    Overlap {
        /// The number of one.
        first: u32,
        /// And of the other.
        second: u32,
    },
}

/// Reads a disk's partition table.
///
/// # Errors
/// When there is one and it cannot be trusted. A disk without one is no error.
pub fn read(disk: &dyn ReadAt) -> Result<Table, PartitionError> {
    if disk.size() < 2 * SECTOR as u64 {
        return Ok(Table { partitions: Vec::new(), boot_code: false });
    }
    let mut first = [0; SECTOR];
    disk.read_at(0, &mut first)?;
    let boot_code = first[..440].iter().any(|byte| *byte != 0) && first[510..] == [0x55, 0xaa];
    let mut second = [0; SECTOR];
    disk.read_at(SECTOR as u64, &mut second)?;
    let mut partitions = if second.starts_with(b"EFI PART") {
        read_gpt(disk)?
    } else if first[510..] == [0x55, 0xaa] {
        read_mbr(&first, disk.size())?
    } else {
        Vec::new()
    };
    check_overlaps(&mut partitions)?;
    Ok(Table { partitions, boot_code })
}

fn check_overlaps(partitions: &mut [Partition]) -> Result<(), PartitionError> {
    partitions.sort_by_key(|partition| partition.start);
    for pair in partitions.windows(2) {
        if pair[0].start + pair[0].length > pair[1].start {
            return Err(PartitionError::Overlap { first: pair[0].number, second: pair[1].number });
        }
    }
    partitions.sort_by_key(|partition| partition.number);
    Ok(())
}

/// A disk for the library that knows the tables' layout.
struct Blocks<'a>(&'a dyn ReadAt);

/// An error of the disk's, with a text as the library demands it.
#[derive(Debug)]
struct Unreadable(io::Error);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl BlockIo for Blocks<'_> {
    type Error = Unreadable;

    fn block_size(&self) -> BlockSize {
        BlockSize::BS_512
    }

    fn num_blocks(&mut self) -> Result<u64, Unreadable> {
        Ok(self.0.size() / SECTOR as u64)
    }

    fn read_blocks(&mut self, start_lba: Lba, dst: &mut [u8]) -> Result<(), Unreadable> {
        let offset = start_lba.to_u64().checked_mul(SECTOR as u64);
        let offset = offset.ok_or_else(|| Unreadable(io::ErrorKind::UnexpectedEof.into()))?;
        self.0.read_at(offset, dst).map_err(Unreadable)
    }

    fn write_blocks(&mut self, _: Lba, _: &[u8]) -> Result<(), Unreadable> {
        Err(Unreadable(io::ErrorKind::ReadOnlyFilesystem.into()))
    }

    fn flush(&mut self) -> Result<(), Unreadable> {
        Ok(())
    }
}

impl From<DiskError<Unreadable>> for PartitionError {
    fn from(error: DiskError<Unreadable>) -> Self {
        match error {
            DiskError::Io(Unreadable(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Senseless("its entries lie beyond the disk's end")
            }
            DiskError::Io(Unreadable(e)) => Self::Read(e),
            _ => Self::Senseless("its numbers are too large"),
        }
    }
}

/// Reads a GPT. Only the first copy: a disk whose first copy is damaged is one that a person should look at.
fn read_gpt(disk: &dyn ReadAt) -> Result<Vec<Partition>, PartitionError> {
    let sectors = disk.size() / SECTOR as u64;
    let mut table = Disk::new(Blocks(disk))?;
    let mut block = [0; SECTOR];
    let header = table.read_primary_gpt_header(&mut block)?;
    if header.header_size.to_u32() as usize != size_of::<GptHeader>() {
        return Err(PartitionError::Senseless("its header has a size that no standard knows"));
    }
    if header.calculate_header_crc32() != header.header_crc32 {
        return Err(PartitionError::Checksum("header"));
    }
    let layout = header
        .get_partition_entry_array_layout()
        .map_err(|_| PartitionError::Senseless("its entries have a size that no standard knows"))?;
    if layout.num_entries > MOST || header.size_of_partition_entry.to_u32() > LARGEST_ENTRY {
        return Err(PartitionError::Senseless("it has more room than any disk needs"));
    }
    let room = layout.num_bytes_rounded_to_block_as_usize(BlockSize::BS_512);
    let mut room = vec![0; room.ok_or(PartitionError::Senseless("its entries take too much room"))?];
    let entries = table.read_gpt_partition_entry_array(layout, &mut room)?;
    if entries.calculate_crc32() != header.partition_entry_array_crc32 {
        return Err(PartitionError::Checksum("list of partitions"));
    }
    let mut partitions = Vec::new();
    for index in 0..header.number_of_partition_entries.to_u32() {
        let Some(entry) = entries.get_partition_entry(index).filter(|entry| entry.is_used()) else {
            continue;
        };
        let number = index + 1;
        let range = entry.lba_range().ok_or(PartitionError::Outside { number })?;
        if range.end().to_u64() >= sectors {
            return Err(PartitionError::Outside { number });
        }
        // A copy, as the field may lie unaligned.
        let kind = { entry.partition_type_guid };
        let role = match kind {
            GptPartitionType::EFI_SYSTEM => Role::Efi,
            // "Hah!IdontNeedEFI" (GRUB manual, "BIOS installation").
            kind if { kind.0 }.to_string() == "21686148-6449-6e6f-744e-656564454649" => Role::BiosBoot,
            _ => Role::Other,
        };
        partitions.push(Partition {
            number,
            start: range.start().to_u64() * SECTOR as u64,
            length: range.num_blocks() * SECTOR as u64,
            uuid: Some({ entry.unique_partition_guid }.to_string()),
            role,
        });
    }
    Ok(partitions)
}

/// Reads the four partitions of an MBR; those within an extended partition are left out.
fn read_mbr(sector: &[u8; SECTOR], size: u64) -> Result<Vec<Partition>, PartitionError> {
    // Where a file system begins with a boot sector of its own, what would be partitions is that sector's code.
    if sector[3..11] == *b"MSDOS5.0" || sector[3..11] == *b"mkfs.fat" || sector[3..11] == *b"NTFS    " {
        return Ok(Vec::new());
    }
    let record = |index: usize| &sector[446 + 16 * index..462 + 16 * index];
    if (0..4).any(|index| record(index)[0] & 0x7f != 0) {
        return Ok(Vec::new());
    }
    let le32 = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let signature = le32(&sector[std::mem::offset_of!(MasterBootRecord, unique_mbr_disk_signature)..][..4]);
    let mut partitions = Vec::new();
    for (index, number) in (0..4).zip(1..) {
        let record = record(index);
        let (kind, start, length) =
            (record[4], u64::from(le32(&record[8..12])), u64::from(le32(&record[12..16])));
        // Empty, an extended one, or the one that protects a GPT.
        if kind == 0 || length == 0 || matches!(kind, 0x05 | 0x0f | 0x85 | 0xee) {
            continue;
        }
        let (start, length) = (start * SECTOR as u64, length * SECTOR as u64);
        if start + length > size {
            return Err(PartitionError::Outside { number });
        }
        partitions.push(Partition {
            number,
            start,
            length,
            uuid: Some(format!("{signature:08x}-{number:02x}")),
            role: if kind == 0xef { Role::Efi } else { Role::Other },
        });
    }
    Ok(partitions)
}
