//! Digests of publishers: sums files, and checking a file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use sha2::{Sha256, Sha512};

/// A digest of a file, as its publisher gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    kind: Kind,
    /// Lower-case hexadecimal digits.
    hex: String,
}

/// How a digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// SHA-512 (FIPS 180-4).
    Sha512,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no digest: write sha512: or sha256: and its hexadecimal digits")]
pub struct SumError(String);

impl Kind {
    /// Hexadecimal digits of one.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// The usual name of a file of such sums.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA256SUMS",
            Self::Sha512 => "SHA512SUMS",
        }
    }
}

impl Sum {
    fn new(kind: Kind, hex: &str) -> Option<Self> {
        let is_hex = hex.len() == kind.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| Self { kind, hex: hex.to_ascii_lowercase() })
    }

    /// The digest of a file's content that is of the same kind as this one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_same_kind(&self, path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let hex = match self.kind {
            Kind::Sha256 => hash::<Sha256>(file)?,
            Kind::Sha512 => hash::<Sha512>(file)?,
        };
        Ok(Self { kind: self.kind, hex })
    }
}

fn hash<D: sha2::Digest>(mut file: File) -> io::Result<String> {
    use std::fmt::Write as _;
    let (mut hasher, mut buffer) = (D::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Sha256 => "sha256",
            Kind::Sha512 => "sha512",
        };
        write!(f, "{kind}:{}", self.hex)
    }
}

impl FromStr for Sum {
    type Err = SumError;

    fn from_str(text: &str) -> Result<Self, SumError> {
        let sum = match text.split_once(':') {
            Some(("sha256", hex)) => Self::new(Kind::Sha256, hex),
            Some(("sha512", hex)) => Self::new(Kind::Sha512, hex),
            _ => None,
        };
        sum.ok_or_else(|| SumError(text.chars().take(160).collect()))
    }
}

/// The digest of `file` in a sums file, as sha512sum(1) writes it: digits, a blank, a blank or `*`, the name.
///
/// Lines that are something else, such as those of a signature around them, are passed over.
#[must_use]
pub fn find(sums: &str, kind: Kind, file: &str) -> Option<Sum> {
    sums.lines().find_map(|line| {
        let (hex, name) = line.trim_end().split_once(' ')?;
        let name = name.strip_prefix(['*', ' ']).unwrap_or(name);
        if name.strip_prefix("./").unwrap_or(name) == file { Sum::new(kind, hex) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendices B.1 and C.1.
    const ABC_256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC_512: &str = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                           2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn a_files_sum_is_the_published_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        for text in [format!("sha256:{ABC_256}"), format!("sha512:{ABC_512}")] {
            let sum: Sum = text.parse().unwrap();
            assert_eq!(sum.of_same_kind(&path).unwrap(), sum);
            assert_eq!(sum.to_string(), text);
        }
        for bad in ["", "sha512:", "sha512:zz", "md5:00", ABC_512] {
            assert!(bad.parse::<Sum>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_found_among_others_by_its_whole_name() {
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\n\n{}  disk.qcow2.xz\n{}  disk.qcow2\n{} *other.raw\n",
            "0".repeat(128),
            ABC_512.to_uppercase(),
            "1".repeat(128)
        );
        assert_eq!(find(&text, Kind::Sha512, "disk.qcow2").unwrap().to_string(), format!("sha512:{ABC_512}"));
        assert!(find(&text, Kind::Sha512, "other.raw").is_some());
        for absent in ["disk", "qcow2", "", "BEGIN"] {
            assert_eq!(find(&text, Kind::Sha512, absent), None, "{absent}");
        }
        assert_eq!(find(&text, Kind::Sha256, "disk.qcow2"), None, "too many digits");
        assert_eq!(find("12  disk.qcow2", Kind::Sha512, "disk.qcow2"), None, "too few");
    }
}
