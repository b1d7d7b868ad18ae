//! What a guest is given at its first boot, as a spec holds it: bytes and files.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are most often text: in JSON a string where they are UTF-8, else `{"base64": "…"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes { base64: String },
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match std::str::from_utf8(&self.0) {
            Ok(text) => Form::Text(text.to_owned()),
            Err(_) => Form::Bytes { base64: BASE64.encode(&self.0) },
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(deserializer)
            .map_err(|_| serde::de::Error::custom("is neither a text nor {\"base64\": …}"))?;
        match form {
            Form::Text(text) => Ok(Self(text.into_bytes())),
            Form::Bytes { base64 } => BASE64
                .decode(base64)
                .map(Self)
                .map_err(|e| serde::de::Error::custom(format!("is no base64: {e}"))),
        }
    }
}

/// A file that the guest finds at its first boot, owned by root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestFile {
    /// Where: an absolute path.
    pub path: String,
    /// Its permission bits.
    #[serde(default)]
    pub mode: FileMode,
    /// What is in it.
    pub content: Blob,
}

/// Permission bits (chmod(1)), written in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u16);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o644)
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A text that is no permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` are no permission bits: write octal digits, such as 0644")]
pub struct FileModeError(String);

impl FromStr for FileMode {
    type Err = FileModeError;

    fn from_str(text: &str) -> Result<Self, FileModeError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match u16::from_str_radix(text, 8) {
            Ok(bits) if digits && bits <= 0o7777 => Ok(Self(bits)),
            _ => Err(FileModeError(text.to_owned())),
        }
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a text can be the name of a user that is made in the guest: what Debian's adduser(8) and systemd-sysusers(8) both take.
///
/// # Errors
/// What is wrong with it.
pub fn check_user(name: &str) -> Result<(), &'static str> {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    if name == "root" {
        Err("root is there already, and always has the keys")
    } else if name.is_empty() || name.len() > 31 {
        Err("a user's name has 1 to 31 characters")
    } else if !name.starts_with(first) {
        Err("a user's name begins with a lower-case letter or `_`")
    } else if !name.chars().all(|c| first(c) || c.is_ascii_digit() || c == '-') {
        Err("a user's name is made of a-z, 0-9, `_` and `-`")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_json_and_text_stays_readable() {
        for (bytes, json) in [
            (&b"#!/bin/sh\n"[..], r##""#!/bin/sh\n""##),
            (b"\x1f\x8b\x08", r#"{"base64":"H4sI"}"#),
            (b"", r#""""#),
        ] {
            let blob = Blob(bytes.to_vec());
            assert_eq!(serde_json::to_string(&blob).unwrap(), json);
            assert_eq!(serde_json::from_str::<Blob>(json).unwrap(), blob);
        }
        assert!(serde_json::from_str::<Blob>(r#"{"base64":"?"}"#).is_err());
        assert!(serde_json::from_str::<Blob>("7").is_err());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!("0755".parse(), Ok(FileMode(0o755)));
        assert_eq!("600".parse::<FileMode>().unwrap().to_string(), "0600");
        for bad in ["", "8", "0o644", "77777", "+644", "rw"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_users() {
        for good in ["pi", "_x", "web-1"] {
            assert_eq!(check_user(good), Ok(()), "{good}");
        }
        for bad in ["", "root", "Pi", "1st", "a b", "a:b", "-a", &"a".repeat(32)] {
            assert!(check_user(bad).is_err(), "{bad}");
        }
    }
}
