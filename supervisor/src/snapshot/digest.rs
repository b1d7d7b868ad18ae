//! Digests of a snapshot's files, chunk by chunk, so that damage can be named by its place.
//!
//! XXH3 with 128 bits: it finds every truncation, flipped bit and exchanged chunk that chance brings about, reads at the speed of
//! memory on every CPU, also on those without SHA instructions, and so never dominates a copy. It is no proof against someone who
//! *wants* a collision; whoever can write a snapshot's files can write its digests as well.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::error::{SnapshotError, io_error};
use super::ram::{self, Progress, RamFile};

/// The unit of a digest in bytes: 2 MiB.
pub const CHUNK: u64 = 2 << 20;

/// A chunk's digest, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sum(u128);

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Sum> for String {
    fn from(sum: Sum) -> Self {
        format!("{:032x}", sum.0)
    }
}

impl TryFrom<String> for Sum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() != 32 {
            return Err(format!("a digest has 32 digits, not {}", text.len()));
        }
        u128::from_str_radix(&text, 16).map(Self).map_err(|e| format!("`{text}` is no digest: {e}"))
    }
}

impl Sum {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }
}

/// The digests of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// The file's size in bytes.
    pub length: u64,
    /// The unit in bytes, the last chunk being as long as what is left.
    pub chunk: u64,
    /// Each chunk's digest; none for a chunk of zeros, which may be a hole.
    pub sums: Vec<Option<Sum>>,
}

/// Takes the digests of a file that is read chunk by chunk.
#[derive(Debug)]
pub struct Digester {
    digests: Digests,
}

impl Digester {
    /// For a file of this size, which is all zeros until chunks are told.
    #[must_use]
    pub fn new(length: u64) -> Self {
        let count = usize::try_from(length.div_ceil(CHUNK)).unwrap_or(usize::MAX);
        Self { digests: Digests { length, chunk: CHUNK, sums: vec![None; count] } }
    }

    /// Tells the chunk that begins at `offset`, a multiple of [`CHUNK`].
    pub fn chunk(&mut self, offset: u64, bytes: &[u8]) {
        let index = usize::try_from(offset / CHUNK).unwrap_or(usize::MAX);
        if let Some(sum) = self.digests.sums.get_mut(index) {
            *sum = (!ram::is_zero(bytes)).then(|| Sum::of(bytes));
        }
    }

    /// The digests.
    #[must_use]
    pub fn finish(self) -> Digests {
        self.digests
    }
}

impl Digests {
    /// Takes the digests of a file.
    pub fn of_file(path: &Path, progress: Progress<'_>) -> Result<Self, SnapshotError> {
        let file = RamFile::open(path)?;
        let mut digester = Digester::new(file.len());
        file.chunks(progress, |at, chunk| {
            digester.chunk(at, chunk);
            Ok(())
        })?;
        Ok(digester.finish())
    }

    /// Compares a file with its digests, and names the first place that differs.
    pub fn verify(&self, path: &Path, progress: Progress<'_>) -> Result<(), SnapshotError> {
        let damaged = |what: String| SnapshotError::Damaged { path: path.to_owned(), what };
        let length = std::fs::metadata(path).map_err(io_error("look at", path))?.len();
        if length != self.length {
            return Err(damaged(format!("it has {length} bytes instead of {}", self.length)));
        }
        let found = Self::of_file(path, progress)?;
        if self.chunk != CHUNK || self.sums.len() != found.sums.len() {
            return Err(damaged("its list of digests is not one of a file of its size".to_owned()));
        }
        let places: Vec<u64> = (0..)
            .zip(self.sums.iter().zip(&found.sums))
            .filter(|(_, (wanted, found))| wanted != found)
            .map(|(index, _)| index)
            .collect();
        match places.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => {
                let (start, end) = (first * CHUNK, ((first + 1) * CHUNK).min(self.length));
                let more = if rest.is_empty() {
                    String::new()
                } else {
                    format!(", and {} more places of {} bytes", rest.len(), CHUNK)
                };
                Err(damaged(format!("the bytes {start} to {end} are not those that were saved{more}")))
            }
        }
    }
}

/// The SHA-256 of a text that seals others, in hexadecimal.
#[must_use]
pub(super) fn seal_of(text: &[u8]) -> String {
    use std::fmt::Write as _;

    use sha2::{Digest as _, Sha256};
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
