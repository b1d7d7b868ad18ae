//! Whether a qcow2 disk of a stranger's may become an image: one file that stands alone and is what its header says.
//!
//! QEMU opens whatever other file a header names, with QEMU's rights; and it reads what lies beyond a file's end as zeros, so a download
//! that was cut short would boot and fail strangely. Both are found here, by QEMU's docs/interop/qcow2.txt.

use std::collections::BTreeSet;
use std::io;

use crate::image::contents::ReadAt;

/// The largest disk that is believed, in bytes; QEMU's own limit lies beyond the largest file of any file system.
const LARGEST: u64 = 1 << 50;
/// QEMU's limit for a first-level table, in bytes (block/qcow2.h, `QCOW_MAX_L1_SIZE`).
const LARGEST_TABLE: u64 = 32 << 20;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The size that the guest sees, in bytes.
    pub virtual_size: u64,
    cluster_bits: u32,
    first_level: u64,
    first_level_entries: u64,
    extended: bool,
}

/// Why a qcow2 disk cannot become an image.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// Shorter than its header.
    #[error("it is cut off within its header")]
    Short,
    /// Another version of the format.
    #[error("its format has the version {0}, and only 2 and 3 are known")]
    Version(u32),
    /// It stands on another file.
    #[error(
        "it stands on another file (`{0}`), and an image stands alone; join them: qemu-img convert -O qcow2 FILE joined.qcow2"
    )]
    Backing(String),
    /// It is encrypted.
    #[error("it is encrypted, and an image is shared by VMs; decrypt it first, with qemu-img convert")]
    Encrypted,
    /// Its content lies in another file.
    #[error(
        "its content lies in another file (an external data file); join them: qemu-img convert -O qcow2 FILE joined.qcow2"
    )]
    ExternalData,
    /// Marked as damaged by QEMU.
    #[error("QEMU has marked it as damaged; try `qemu-img check -r all`")]
    MarkedCorrupt,
    /// Not closed well.
    #[error("it is in use, or was not closed well; close it, or try `qemu-img check -r all`")]
    Dirty,
    /// It needs a feature that is not known.
    #[error("it needs features that are not known here (bits {0:#x})")]
    Features(u64),
    /// Its numbers contradict each other or the file.
    #[error("its header lies: {0}")]
    Lies(&'static str),
    /// Something of it lies beyond the file's end.
    #[error("it is cut off: {what} lies at {offset}, and the file has {length} bytes")]
    CutOff {
        /// What.
        what: &'static str,
        /// Where.
        offset: u64,
        /// The file's size.
        length: u64,
    },
}

/// Looks at a qcow2 disk from its header to the place of its last cluster.
///
/// Reads its tables once, so the time is that of reading at most the file.
///
/// # Errors
/// [`Qcow2Error`], when it must not become an image.
pub fn check(file: &dyn ReadAt) -> Result<Header, Qcow2Error> {
    let length = file.size();
    let mut bytes = [0; 112];
    let known = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    file.read_at(0, &mut bytes[..known]).map_err(Qcow2Error::Read)?;
    let header = parse(&bytes[..known], file)?;
    check_tables(&header, file)?;
    Ok(header)
}

fn parse(bytes: &[u8], file: &dyn ReadAt) -> Result<Header, Qcow2Error> {
    let length = file.size();
    let word = |at: usize| -> Result<u32, Qcow2Error> {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_be_bytes).ok_or(Qcow2Error::Short)
    };
    let long =
        |at: usize| -> Result<u64, Qcow2Error> { Ok(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?)) };
    let version = word(4)?;
    if !(2..=3).contains(&version) {
        return Err(Qcow2Error::Version(version));
    }
    let features = if version == 3 { long(72)? } else { 0 };
    for (bit, error) in
        [(1, Qcow2Error::MarkedCorrupt), (2, Qcow2Error::ExternalData), (0, Qcow2Error::Dirty)]
    {
        if features & 1 << bit != 0 {
            return Err(error);
        }
    }
    // Bit 3: another compression; bit 4: extended entries of the second level.
    if features & !0b1_1000 != 0 {
        return Err(Qcow2Error::Features(features & !0b1_1000));
    }
    let (backing, backing_length) = (long(8)?, word(16)?);
    if backing != 0 || backing_length != 0 {
        let mut name = vec![0; usize::try_from(backing_length.min(1023)).unwrap_or(0)];
        let _ = file.read_at(backing, &mut name);
        let name = String::from_utf8_lossy(&name).chars().filter(|c| !c.is_control()).collect();
        return Err(Qcow2Error::Backing(name));
    }
    if word(32)? != 0 {
        return Err(Qcow2Error::Encrypted);
    }
    let cluster_bits = word(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Qcow2Error::Lies("its clusters have a size that the format does not know"));
    }
    let cluster = 1_u64 << cluster_bits;
    let extended = features & 1 << 4 != 0;
    let virtual_size = long(24)?;
    if virtual_size > LARGEST {
        return Err(Qcow2Error::Lies("its disk is larger than any"));
    }
    if !virtual_size.is_multiple_of(512) {
        return Err(Qcow2Error::Lies("its disk is not a whole number of sectors"));
    }
    let entry = if extended { 16 } else { 8 };
    let covered = cluster * (cluster / entry);
    let (first_level, first_level_entries) = (long(40)?, u64::from(word(36)?));
    if first_level_entries * 8 > LARGEST_TABLE {
        return Err(Qcow2Error::Lies("its first table is larger than QEMU allows"));
    }
    if first_level_entries < virtual_size.div_ceil(covered) {
        return Err(Qcow2Error::Lies("its first table is too small for its disk"));
    }
    let whole = |what, offset: u64, size: u64| {
        if !offset.is_multiple_of(cluster) {
            return Err(Qcow2Error::Lies("a table does not begin where a cluster does"));
        }
        match offset.checked_add(size) {
            Some(end) if end <= length => Ok(()),
            _ => Err(Qcow2Error::CutOff { what, offset, length }),
        }
    };
    whole("the first table", first_level, first_level_entries * 8)?;
    let (counts, count_clusters) = (long(48)?, u64::from(word(56)?));
    if counts == 0 || count_clusters == 0 {
        return Err(Qcow2Error::Lies("it does not count what is in use"));
    }
    whole("the table of what is in use", counts, count_clusters * cluster)?;
    if word(60)? != 0 {
        whole("the list of its snapshots", long(64)?, 1)?;
    }
    if version == 3 && word(96)? > 6 {
        return Err(Qcow2Error::Lies("its counts have a width that the format does not know"));
    }
    Ok(Header { virtual_size, cluster_bits, first_level, first_level_entries, extended })
}

/// Follows the disk's two levels of tables to each of its clusters.
fn check_tables(header: &Header, file: &dyn ReadAt) -> Result<(), Qcow2Error> {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    const COMPRESSED: u64 = 1 << 62;
    let length = file.size();
    let cluster = 1_u64 << header.cluster_bits;
    let read = |offset, size: u64| -> Result<Vec<u8>, Qcow2Error> {
        let mut table = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_at(offset, &mut table).map_err(Qcow2Error::Read)?;
        Ok(table)
    };
    let longs = |table: &[u8]| -> Vec<u64> {
        let long = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        table.chunks_exact(8).map(long).collect()
    };
    // Of a compressed cluster: the place has 62 bits less those of the length, which has one for each doubling over a sector.
    let compressed_offset = (1_u64 << (62 - (header.cluster_bits - 8))) - 1;
    let step = if header.extended { 2 } else { 1 };
    let mut seen = BTreeSet::new();
    for table in longs(&read(header.first_level, header.first_level_entries * 8)?) {
        let offset = table & OFFSET;
        if offset == 0 {
            continue;
        }
        if !offset.is_multiple_of(cluster) {
            return Err(Qcow2Error::Lies("a table does not begin where a cluster does"));
        }
        if offset.checked_add(cluster).is_none_or(|end| end > length) {
            return Err(Qcow2Error::CutOff { what: "a table", offset, length });
        }
        // Which also bounds the work: no more is read than the file holds.
        if !seen.insert(offset) {
            return Err(Qcow2Error::Lies("one table is used at two places"));
        }
        for entry in longs(&read(offset, cluster)?).into_iter().step_by(step) {
            let offset = if entry & COMPRESSED != 0 { entry & compressed_offset } else { entry & OFFSET };
            if offset >= length {
                return Err(Qcow2Error::CutOff { what: "a part of its content", offset, length });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn qemu_img(arguments: &[&str], folder: &Path) {
        let output = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A disk of 64 MiB with some content, as qemu-img makes it with these options.
    fn disk(options: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let raw = std::fs::File::create(folder.path().join("raw")).unwrap();
        raw.set_len(64 << 20).unwrap();
        for at in [0, 20 << 20, (64 << 20) - 4096] {
            std::os::unix::fs::FileExt::write_all_at(&raw, &[0xaa; 4096], at).unwrap();
        }
        let compressed = options.contains("compress").then_some("-c");
        let options = options.trim_start_matches("compress").trim_start_matches(',');
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
        arguments.extend(compressed);
        arguments.extend((!options.is_empty()).then_some(["-o", options]).into_iter().flatten());
        qemu_img(&[&arguments[..], &["raw", "disk"]].concat(), folder.path());
        std::fs::read(folder.path().join("disk")).unwrap()
    }

    fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn what_qemu_makes_is_accepted() {
        for options in [
            "",
            "compat=0.10",
            "compress",
            "compress,compression_type=zstd",
            "cluster_size=512",
            "cluster_size=2M",
            "extended_l2=on",
            "preallocation=metadata",
            "preallocation=falloc",
        ] {
            assert_eq!(check(&disk(options)).unwrap().virtual_size, 64 << 20, "{options}");
        }
    }

    #[test]
    fn a_disk_that_was_cut_short_is_found() {
        for options in ["", "compress", "extended_l2=on"] {
            let mut disk = disk(options);
            // The last cluster's beginning, and everything after.
            let keep = (disk.len() - 1) & !0xffff;
            disk.truncate(if options == "compress" { keep.min(disk.len() - 512) } else { keep - 1 });
            assert!(matches!(check(&disk), Err(Qcow2Error::CutOff { .. })), "{options}: {:?}", check(&disk));
        }
        for length in 0..112 {
            assert!(check(&disk("")[..length].to_vec()).is_err(), "{length}");
        }
    }

    #[test]
    fn a_header_that_lies_or_leads_elsewhere_is_refused() {
        let refused = |at: usize, bytes: &[u8]| {
            let mut disk = disk("");
            put(&mut disk, at, bytes);
            check(&disk).unwrap_err().to_string()
        };
        assert!(refused(4, &[0, 0, 0, 4]).contains("version 4"));
        assert!(refused(8, &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 6]).contains("stands on another file"));
        assert!(refused(20, &[0, 0, 0, 64]).contains("clusters"));
        assert!(refused(24, &[0xff; 8]).contains("larger than any"));
        assert!(refused(24, &[0, 0, 0, 1, 0, 0, 0, 0]).contains("too small for its disk"));
        assert!(refused(32, &[0, 0, 0, 2]).contains("encrypted"));
        assert!(refused(36, &[0xff; 4]).contains("larger than QEMU allows"));
        assert!(refused(40, &[0, 0, 0xff, 0, 0, 0, 0, 0]).contains("cut off: the first table"));
        assert!(refused(40, &[0, 0, 0, 0, 0, 0, 0, 1]).contains("where a cluster does"));
        assert!(refused(48, &[0; 8]).contains("count"));
        assert!(refused(60, &[0, 0, 0, 1, 0xff]).contains("snapshots"));
        assert!(refused(72, &[0, 0, 0, 0, 0, 0, 0, 1]).contains("in use"));
        assert!(refused(72, &[0, 0, 0, 0, 0, 0, 0, 2]).contains("damaged"));
        assert!(refused(72, &[0, 0, 0, 0, 0, 0, 0, 4]).contains("external data"));
        assert!(refused(72, &[0, 0, 0, 0, 0, 0, 1, 0]).contains("0x100"));
    }

    #[test]
    fn two_entries_that_share_a_table_are_refused() {
        let mut disk = disk("cluster_size=4k");
        let table = usize::try_from(u64::from_be_bytes(disk[40..48].try_into().unwrap())).unwrap();
        let first: [u8; 8] = disk[table..table + 8].try_into().unwrap();
        put(&mut disk, table + 8, &first);
        assert!(check(&disk).unwrap_err().to_string().contains("two places"));
    }
}
