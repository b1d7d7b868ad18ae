//! Sizes as people write them: `512M`, `2G`; a bare number is MiB.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A size in bytes. Written with a binary suffix (`K`, `M`, `G`, `T`); a bare number means MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Size(u64);

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a size: write a whole number and K, M, G or T, such as 512M or 2G (a bare number is MiB)"
)]
pub struct SizeError(String);

impl Size {
    /// A size of this many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of this many mebibytes.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib * 1024 * 1024)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let bad = || SizeError(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, suffix) = trimmed.split_at(digits);
        let shift = match suffix.to_ascii_lowercase().as_str() {
            "" | "m" | "mb" | "mib" => 20,
            "k" | "kb" | "kib" => 10,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, 'T'), (30, 'G'), (20, 'M')] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}K", self.0.div_ceil(1024))
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for Size {
    type Error = SizeError;

    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes_are_binary_and_a_bare_number_is_mib() {
        for (text, bytes) in [
            ("512", 512 << 20),
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("2GiB", 2 << 30),
            ("2gb", 2 << 30),
            ("1t", 1 << 40),
            ("64k", 64 << 10),
            (" 1G ", 1 << 30),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size::from_bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "M", "1.5G", "-1", "+1", "1 G", "1P", "lots", "99999999999999999999", "16777216T"] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{text}` is not a size")) && error.contains("512M"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_largest_whole_unit_is_shown() {
        for (bytes, text) in
            [(0, "0K"), (1, "1K"), (1 << 20, "1M"), (1536 << 20, "1536M"), (3 << 30, "3G"), (1 << 40, "1T")]
        {
            assert_eq!(Size::from_bytes(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn text_round_trips_for_whole_kib(kib in 0..u64::MAX >> 10) {
            let size = Size::from_bytes(kib << 10);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,24}") {
            let _ = text.parse::<Size>();
        }
    }
}
