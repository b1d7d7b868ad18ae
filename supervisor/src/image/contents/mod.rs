//! What is in a disk: which file systems, which kernel it boots and how, and what its guest understands.
//!
//! Everything is read in place, through the disk's format, its partition table and its ext4 file system: nothing is mounted, nothing
//! is run, and no privilege is needed. All of it is written by strangers, so each layer is checked and every size bounded.

mod boot;
mod disk;
pub mod grub;
pub mod partitions;
mod tree;

use std::rc::Rc;

pub use boot::{BootFiles, OsFacts};
pub use disk::{GuestDisk, ReadAt};
pub use partitions::{PartitionError, Role};
pub use tree::{Tree, TreeError};

use crate::spec::Arch;
use partitions::Partition;

/// Why a disk's content cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// Its partition table.
    #[error(transparent)]
    Partitions(#[from] PartitionError),
    /// One of its file systems.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// What was found in a disk.
#[derive(Debug)]
pub struct Contents {
    /// The system on it, where it was found.
    pub os: Option<OsFacts>,
    /// What boots it directly; else why not.
    pub boot: Result<BootFiles, NoDirectBoot>,
    /// What a BIOS or UEFI firmware would find to boot.
    pub firmware: Option<Firmware>,
    root: Option<Tree>,
    boot_tree: Option<Tree>,
}

/// Firmware that can boot a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A PC's BIOS: SeaBIOS.
    Bios,
    /// UEFI only: OVMF, or AAVMF on Arm.
    Uefi,
}

/// Why a disk's own kernel cannot be handed to QEMU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDirectBoot {
    /// There is no file system at all.
    #[error("no file system was found on it")]
    Empty,
    /// Another file system than ext4.
    #[error("midge looks into ext4 only, and its file systems are {}", .0.join(", "))]
    FileSystem(Vec<&'static str>),
    /// ext4, but no system.
    #[error("no system was found on its ext4 file systems")]
    NoSystem,
    /// A system without a kernel.
    #[error("its system has no kernel in /boot")]
    NoKernel,
    /// A kernel for QEMU's other machines, or none.
    #[error("its kernel {path} is not one that QEMU boots directly")]
    Kernel {
        /// The file.
        path: String,
    },
}

impl Contents {
    /// Finds out what is in a disk.
    ///
    /// # Errors
    /// When its partition table or an ext4 file system is damaged.
    pub fn of(disk: GuestDisk) -> Result<Self, ContentsError> {
        Self::read(&(Rc::new(disk) as Rc<dyn ReadAt>))
    }

    /// As [`Contents::of`], of bytes from anywhere.
    ///
    /// # Errors
    /// As [`Contents::of`].
    pub fn read(disk: &Rc<dyn ReadAt>) -> Result<Self, ContentsError> {
        let table = partitions::read(&**disk)?;
        let efi = table.partitions.iter().any(|partition| partition.role == Role::Efi);
        let bios = table.boot_code;
        let whole = Partition { number: 0, start: 0, length: disk.size(), uuid: None, role: Role::Other };
        let places = if table.partitions.is_empty() { vec![whole] } else { table.partitions };
        let (mut trees, mut others) = (Vec::new(), Vec::new());
        for partition in places {
            match file_system(&**disk, &partition) {
                Some("ext4") => match Tree::open(disk, &partition) {
                    Ok(tree) => trees.push((tree, partition)),
                    // Not damaged; a kernel may well know them.
                    Err(e) if e.is_unknown_feature() => others.push("an ext4 with features unknown here"),
                    Err(e) => return Err(e.into()),
                },
                Some(other) if partition.role == Role::Other => others.push(other),
                _ => {}
            }
        }
        let (mut root, mut boot_tree) = (None, None);
        let no_ext4 = trees.is_empty();
        for (tree, partition) in trees {
            if root.is_none() && boot::is_root(&tree)? {
                root = Some((tree, partition));
            } else if boot_tree.is_none() && boot::is_boot(&tree)? {
                boot_tree = Some(tree);
            }
        }
        let os = root.as_ref().map(|(tree, _)| boot::facts(tree)).transpose()?;
        let boot = match &root {
            Some((tree, partition)) => boot::find(tree, boot_tree.as_ref(), partition)?,
            None if no_ext4 && others.is_empty() => Err(NoDirectBoot::Empty),
            None if no_ext4 => Err(NoDirectBoot::FileSystem(others)),
            None => Err(NoDirectBoot::NoSystem),
        };
        let firmware = match (bios, efi) {
            // A disk that both can boot: what starts quicker and needs nothing installed.
            (true, _) => Some(Firmware::Bios),
            (false, true) => Some(Firmware::Uefi),
            (false, false) => None,
        };
        Ok(Self { os, boot, firmware, root: root.map(|(tree, _)| tree), boot_tree })
    }

    /// The file system of the system on the disk, where it could be looked into.
    #[must_use]
    pub fn root(&self) -> Option<&Tree> {
        self.root.as_ref()
    }

    /// Copies a file that [`BootFiles`] names to `target`.
    ///
    /// # Errors
    /// When it cannot be read, is larger than any kernel, or cannot be written.
    pub fn extract(&self, path: &boot::BootPath, target: &mut dyn std::io::Write) -> Result<(), TreeError> {
        let tree = if path.separate { &self.boot_tree } else { &self.root };
        if let Some(tree) = tree {
            tree.copy(&path.path, target, boot::LARGEST)?;
        }
        Ok(())
    }
}

impl Firmware {
    /// What a machine needs to boot a disk of which nothing is known: a PC has its BIOS, Arm has only UEFI.
    #[must_use]
    pub fn usual(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Self::Bios,
            Arch::Aarch64 => Self::Uefi,
        }
    }
}

/// The file system in a partition, by the marks that blkid(8) goes by.
fn file_system(disk: &dyn ReadAt, partition: &Partition) -> Option<&'static str> {
    const MARKS: [(u64, &[u8], &str); 9] = [
        (0x438, b"\x53\xef", "ext4"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
        (0, b"XFSB", "xfs"),
        (0x218, b"LVM2 001", "LVM"),
        (0x18, b"LVM2 001", "LVM"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (0, b"hsqs", "squashfs"),
        (0x400, b"\x10\x20\xf5\xf2", "f2fs"),
        (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
    ];
    MARKS.iter().find_map(|(offset, mark, name)| {
        let mut found = vec![0; mark.len()];
        let inside = offset + found.len() as u64 <= partition.length;
        let start = partition.start.checked_add(*offset)?;
        (inside && disk.read_at(start, &mut found).is_ok() && found == *mark).then_some(*name)
    })
}

#[cfg(test)]
mod tests;
