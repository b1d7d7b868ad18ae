//! Addresses of network interfaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A unicast Ethernet address, written `52:54:00:ab:cd:ef`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac([u8; 6]);

/// Why a text is no interface's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hexadecimal digits.
    #[error("`{0}` is not a MAC address: write six pairs of hexadecimal digits, such as 52:54:00:12:34:56")]
    Form(String),
    /// A group's address or the empty one.
    #[error(
        "`{0}` cannot be an interface's own address: its first pair must be even, and not all pairs zero; 52:54:00:… is QEMU's range"
    )]
    NotUnicast(String),
}

impl Mac {
    /// An address in QEMU's locally administered range `52:54:00`, its lower half from random bytes: the last
    /// three of a random UUID's sixteen do, as version 4 fixes none of them (RFC 9562, 5.4).
    #[must_use]
    pub const fn local(random: [u8; 3]) -> Self {
        let [a, b, c] = random;
        Self([0x52, 0x54, 0x00, a, b, c])
    }

    /// A fresh random address.
    #[must_use]
    pub fn random() -> Self {
        let [.., a, b, c] = uuid::Uuid::new_v4().into_bytes();
        Self::local([a, b, c])
    }

    /// The six bytes, as sent.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let form = || MacError::Form(text.to_owned());
        let mut bytes = [0; 6];
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut pairs = text.split(separator);
        for byte in &mut bytes {
            let pair = pairs.next().ok_or_else(form)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(form());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| form())?;
        }
        if pairs.next().is_some() {
            return Err(form());
        }
        Self::try_from(bytes).map_err(|_| MacError::NotUnicast(text.to_owned()))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.map(|byte| format!("{byte:02x}"));
        f.pad(&pairs.join(":"))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<[u8; 6]> for Mac {
    type Error = MacError;

    fn try_from(bytes: [u8; 6]) -> Result<Self, MacError> {
        // The lowest bit of the first byte marks a group's address (IEEE 802, 8.2).
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(MacError::NotUnicast(Self(bytes).to_string()));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn random_addresses_are_local_unicast_and_differ() {
        let (one, other) = (Mac::random(), Mac::random());
        assert_ne!(one, other);
        assert_eq!(one.bytes()[..3], [0x52, 0x54, 0x00]);
        assert_eq!(one.bytes()[0] & 0b11, 0b10);
    }

    #[test]
    fn other_spellings_are_read() {
        assert_eq!("52-54-00-AB-CD-EF".parse(), Ok(Mac::local([0xab, 0xcd, 0xef])));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:5",
            "52:54:00:12:34:+5",
            "525400123456",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError::Form(text.to_owned())));
        }
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert_eq!(text.parse::<Mac>(), Err(MacError::NotUnicast(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(random: [u8; 3]) {
            let mac = Mac::local(random);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,24}") {
            let _ = text.parse::<Mac>();
        }
    }
}
