//! The files of an ext4 file system (ext2 and ext3 too), read without mounting it.

use std::io::{self, Write};
use std::rc::Rc;

use ext4_view::{Ext4, Ext4Error, FileType};

use super::disk::{ReadAt, Window};
use super::partitions::Partition;

/// The largest text that is read whole: configuration files are far smaller.
const LARGEST_TEXT: u64 = 1 << 20;
/// The most groups of blocks of a file system that is looked into: it has 128 TiB then, in the usual ones of 128 MiB.
const MOST_GROUPS: u64 = 1 << 20;
/// The most names that are read of one folder.
const MOST_NAMES: usize = 4096;

/// Why a file system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The file system is damaged, or has what the library does not know.
    #[error("cannot read {what} in the ext4 file system of {place}")]
    Ext4 {
        /// What was read.
        what: String,
        /// Of which partition.
        place: String,
        /// Why not.
        source: Ext4Error,
    },
    /// The file system's size contradicts the partition's.
    #[error(
        "the ext4 file system of {place} is damaged: it says that it is larger than the place it is in, or than any"
    )]
    Size {
        /// Which partition.
        place: String,
    },
    /// A file that is larger than any of its kind.
    #[error("{path} of the disk has {size} bytes, more than such a file may have ({limit})")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// What was read cannot be written.
    #[error("cannot write out {path} of the disk")]
    Write {
        /// The file within the disk.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

impl TreeError {
    /// Whether the file system is of a kind that the library does not know, as against a damaged one.
    pub(super) fn is_unknown_feature(&self) -> bool {
        matches!(self, Self::Ext4 { source: Ext4Error::Incompatible(_), .. })
    }
}

/// One ext4 file system.
pub struct Tree {
    fs: Ext4,
    /// For errors: which one it is.
    place: String,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Tree {
    /// Opens the file system in a partition.
    pub(super) fn open(disk: &Rc<dyn ReadAt>, partition: &Partition) -> Result<Self, TreeError> {
        let place = match partition.number {
            0 => "the disk".to_owned(),
            number => format!("partition {number}"),
        };
        let window = Window { disk: Rc::clone(disk), start: partition.start, length: partition.length };
        if !fits(&window) {
            return Err(TreeError::Size { place });
        }
        match Ext4::load(Box::new(window)) {
            Ok(fs) => Ok(Self { fs, place }),
            Err(source) => Err(TreeError::Ext4 { what: "the superblock".to_owned(), place, source }),
        }
    }

    /// Whether there is something of this name.
    ///
    /// # Errors
    /// [`TreeError`]
    pub fn has(&self, path: &str) -> Result<bool, TreeError> {
        absent_as(false, self.fs.exists(path)).map_err(self.failed(path))
    }

    /// A text; none where there is no such file. What is not UTF-8 in it is replaced.
    ///
    /// # Errors
    /// [`TreeError`]
    pub fn text(&self, path: &str) -> Result<Option<String>, TreeError> {
        let mut bytes = Vec::new();
        let found = self.copy(path, &mut bytes, LARGEST_TEXT)?;
        Ok(found.then(|| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Writes a file's content to `target`; answers whether there is such a file.
    ///
    /// # Errors
    /// [`TreeError`], also where it has more than `limit` bytes.
    pub fn copy(&self, path: &str, target: &mut dyn Write, limit: u64) -> Result<bool, TreeError> {
        let opened = absent_as(None, self.fs.open(path).map(Some)).map_err(self.failed(path))?;
        let Some(mut file) = opened else { return Ok(false) };
        let size = file.metadata().len();
        let too_large = |size| TreeError::TooLarge { path: path.to_owned(), size, limit };
        if size > limit {
            return Err(too_large(size));
        }
        let (mut buffer, mut copied) = (vec![0; 64 << 10], 0);
        loop {
            let read = file.read_bytes(&mut buffer).map_err(self.failed(path))?;
            copied += read as u64;
            if copied > limit {
                return Err(too_large(copied));
            }
            if read == 0 {
                return Ok(true);
            }
            target
                .write_all(&buffer[..read])
                .map_err(|source| TreeError::Write { path: path.to_owned(), source })?;
        }
    }

    /// The names of the files and links in a folder; none where there is no such folder.
    ///
    /// # Errors
    /// [`TreeError`]
    pub fn names(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let listed = absent_as(None, self.fs.read_dir(path).map(Some)).map_err(self.failed(path))?;
        let mut names = Vec::new();
        for entry in listed.into_iter().flatten().take(MOST_NAMES) {
            let entry = entry.map_err(self.failed(path))?;
            let file = matches!(entry.file_type(), Ok(FileType::Regular | FileType::Symlink));
            // A name that is no text is none that is looked for.
            if let (true, Ok(name)) = (file, entry.file_name().as_str()) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn failed(&self, what: &str) -> impl Fn(Ext4Error) -> TreeError + use<> {
        let (what, place) = (what.to_owned(), self.place.clone());
        move |source| TreeError::Ext4 { what: what.clone(), place: place.clone(), source }
    }
}

/// Whether the size that a superblock tells is one that its place has room for. The library reserves memory by that size, before it
/// reads. (ext4 documentation, "The Super Block": s_blocks_count_lo at 4, s_log_block_size at 0x18, s_blocks_per_group at 0x20,
/// s_blocks_count_hi at 0x150.)
fn fits(window: &Window) -> bool {
    let mut block = [0; 0x154];
    if window.read_at(1024, &mut block).is_err() {
        return false;
    }
    let word =
        |at: usize| block[at..at + 4].iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    // The library takes the upper half for granted, also where the file system has no such feature.
    let blocks = u64::from(word(4)) | u64::from(word(0x150)) << 32;
    let Some(size) = 1024_u64.checked_shl(word(0x18)).and_then(|block| block.checked_mul(blocks)) else {
        return false;
    };
    let per_group = u64::from(word(0x20));
    per_group > 0 && word(0x18) <= 6 && size <= window.length && blocks.div_ceil(per_group) <= MOST_GROUPS
}

/// A path that leads nowhere is an answer, not a failure.
fn absent_as<T>(absent: T, result: Result<T, Ext4Error>) -> Result<T, Ext4Error> {
    match result {
        Err(
            Ext4Error::NotFound
            | Ext4Error::NotADirectory
            | Ext4Error::IsADirectory
            | Ext4Error::IsASpecialFile
            | Ext4Error::TooManySymlinks
            | Ext4Error::PathTooLong,
        ) => Ok(absent),
        other => other,
    }
}
