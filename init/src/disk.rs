//! Which disk or partition `root=` means.

/// The longest name of a device in `/dev` that is looked for.
const LONGEST: usize = 64;

/// What `root=` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root<'a> {
    /// A node in `/dev`: the part of the path after it.
    Node(&'a str),
    /// `UUID=`: the file system's.
    Uuid([u8; 16]),
    /// `LABEL=`: the file system's.
    Label(&'a str),
    /// `PARTUUID=`: the GUID of a partition in a GPT, as its bytes lie on the disk.
    PartUuid([u8; 16]),
}

impl<'a> Root<'a> {
    /// Reads the word; none where it names something else, as an MBR's partition or an NFS server.
    pub fn of(word: &'a str) -> Option<Self> {
        if let Some(node) = word.strip_prefix("/dev/") {
            let plain = !node.is_empty() && node.len() < LONGEST && !node.contains("..");
            return plain.then_some(Self::Node(node));
        }
        let (key, value) = word.split_once('=')?;
        let value = value.trim_matches('"');
        match key {
            "UUID" => uuid(value).map(Self::Uuid),
            "LABEL" if !value.is_empty() && value.len() <= 16 => Some(Self::Label(value)),
            "PARTUUID" => uuid(value).map(|bytes| Self::PartUuid(on_disk(bytes))),
            _ => None,
        }
    }

    /// Whether a file system's start is that of the one meant. `start` is the device's first 2 KiB.
    pub fn matches(&self, start: &[u8]) -> bool {
        match (self, ext_identity(start)) {
            (Self::Uuid(wanted), Some((uuid, _))) => wanted == uuid,
            (Self::Label(wanted), Some((_, label))) => {
                let end = label.iter().position(|byte| *byte == 0).unwrap_or(label.len());
                wanted.as_bytes() == &label[..end]
            }
            _ => false,
        }
    }
}

/// The UUID and label in the superblock of ext2, ext3 or ext4 (Linux, Documentation/filesystems/ext4/super.rst): it begins at 1024,
/// and has its magic number at 0x38, the UUID at 0x68 and the label at 0x78.
fn ext_identity(start: &[u8]) -> Option<(&[u8; 16], &[u8; 16])> {
    let superblock = start.get(1024..)?;
    if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
        return None;
    }
    Some((superblock.get(0x68..)?.first_chunk()?, superblock.get(0x78..)?.first_chunk()?))
}

/// The 16 bytes that a UUID's text stands for, in the order of the text.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut digits = 0;
    for (index, byte) in text.bytes().enumerate() {
        if matches!(index, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return None;
            }
            continue;
        }
        let digit = char::from(byte).to_digit(16)? as u8;
        let place = bytes.get_mut(digits / 2)?;
        *place = *place << 4 | digit;
        digits += 1;
    }
    (digits == 32 && text.len() == 36).then_some(bytes)
}

/// A GPT keeps the first three fields of a GUID with the low byte first (UEFI Specification, appendix A).
fn on_disk(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// Where in a disk the entry of a partition in its GPT lies, in bytes. `header` is the disk's second sector of 512 bytes, and partitions
/// are counted from 1 (UEFI Specification, 5.3.2).
pub fn gpt_entry(header: &[u8], partition: u32) -> Option<u64> {
    if header.get(..8)? != b"EFI PART" {
        return None;
    }
    let first = u64::from_le_bytes(*header.get(72..)?.first_chunk()?);
    let count = u32::from_le_bytes(*header.get(80..)?.first_chunk()?);
    let size = u32::from_le_bytes(*header.get(84..)?.first_chunk()?);
    let index = partition.checked_sub(1).filter(|index| *index < count)?;
    first.checked_mul(512)?.checked_add(u64::from(index) * u64::from(size))
}

/// The unique GUID of an entry in a GPT (UEFI Specification, 5.3.3).
pub fn gpt_guid(entry: &[u8]) -> Option<&[u8; 16]> {
    entry.get(16..)?.first_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00112233-4455-6677-8899-aabbccddeeff";

    #[test]
    fn roots_are_told_apart() {
        assert_eq!(Root::of("/dev/vda1"), Some(Root::Node("vda1")));
        let Some(Root::Uuid(bytes)) = Root::of("UUID=00112233-4455-6677-8899-AABBCCDDEEFF") else { panic!() };
        assert_eq!(bytes[..6], [0, 0x11, 0x22, 0x33, 0x44, 0x55]);
        let word = format!("PARTUUID={TEXT}");
        let Some(Root::PartUuid(bytes)) = Root::of(&word) else { panic!() };
        assert_eq!(
            bytes,
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
        );
        assert_eq!(Root::of("LABEL=root"), Some(Root::Label("root")));
        for other in [
            "",
            "/dev/",
            "/dev/../x",
            "PARTUUID=1234abcd-01",
            "UUID=abc",
            "LABEL=",
            "/dev/nfs=x=y",
            "vda",
            "8:1",
        ] {
            let root = Root::of(other);
            assert!(root.is_none() || other == "/dev/nfs=x=y", "{other}: {root:?}");
        }
    }

    #[test]
    fn a_file_system_is_known_by_its_superblock() {
        let mut start = [0; 2048];
        let Some(Root::Uuid(bytes)) = Root::of(&format!("UUID={TEXT}")).map(|root| match root {
            Root::Uuid(bytes) => Root::Uuid(bytes),
            other => panic!("{other:?}"),
        }) else {
            panic!()
        };
        start[1024 + 0x68..][..16].copy_from_slice(&bytes);
        start[1024 + 0x78..][..4].copy_from_slice(b"root");
        assert!(!Root::Uuid(bytes).matches(&start), "no magic number");
        start[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xef]);
        assert!(Root::Uuid(bytes).matches(&start) && Root::Label("root").matches(&start));
        assert!(!Root::Label("roo").matches(&start) && !Root::Uuid([0; 16]).matches(&start));
        assert!(!Root::Label("root").matches(&start[..1100]));
    }

    #[test]
    fn an_entry_of_a_gpt_is_found() {
        let mut header = [0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[72] = 2;
        header[80] = 128;
        header[84] = 128;
        assert_eq!(gpt_entry(&header, 1), Some(1024));
        assert_eq!(gpt_entry(&header, 15), Some(1024 + 14 * 128));
        assert_eq!(gpt_entry(&header, 0), None);
        assert_eq!(gpt_entry(&header, 129), None);
        header[72..80].fill(0xff);
        assert_eq!(gpt_entry(&header, 2), None);
        assert_eq!(gpt_entry(&header[..60], 1), None);
    }
}
