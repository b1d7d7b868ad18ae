//! Names of images: `NAME` or `NAME:TAG`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most characters that a name may have; leaves room in a file name (255 bytes, `NAME_MAX` of limits.h).
const LONGEST: usize = 128;

/// The name of an image: `[a-z0-9][a-z0-9._-]*`, then optionally `:` and a tag of `[a-z0-9._-]+`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImageName(String);

/// Why a text is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// A character, or a place of one, that is not allowed.
    #[error(
        "`{0}` is not the name of an image: write lower-case letters, digits, `.`, `_` and `-`, starting with a letter \
         or digit, and perhaps `:` and a tag, such as debian:12"
    )]
    Malformed(String),
    /// Longer than any name may be.
    #[error("a name of {0} characters is too long for an image: the limit is {LONGEST}")]
    TooLong(usize),
}

impl ImageName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the name of a folder: `+`, which no name contains, in place of `:`, which programs that take lists
    /// of paths, and QEMU where it expects `PROTOCOL:`, would trip over.
    #[must_use]
    pub fn folder(&self) -> String {
        self.0.replace(':', "+")
    }

    /// The name that [`ImageName::folder`] turned into `folder`, or none if no name gives it.
    #[must_use]
    pub fn from_folder(folder: &str) -> Option<Self> {
        if folder.contains(':') { None } else { folder.replacen('+', ":", 1).parse().ok() }
    }
}

/// The name for an image of a file: the file's, without the usual endings, in such characters as a name may have.
pub(super) fn of_file(file: &str) -> Result<ImageName, ImageNameError> {
    let known = ["qcow2", "img", "raw", "vmdk", "vhdx", "bin", "elf", "efi", "gz", "zst"];
    let file = file.to_lowercase();
    let stem = match file.rsplit_once('.') {
        Some((stem, suffix)) if known.contains(&suffix) => stem,
        _ => &file,
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let name: String = stem.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    name.trim_start_matches(['.', '_', '-']).parse()
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let (name, tag) = match text.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (text, None),
        };
        let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !starts_well
            || !name.chars().all(allowed)
            || tag.is_some_and(|t| t.is_empty() || !t.chars().all(allowed))
        {
            return Err(ImageNameError::Malformed(text.chars().take(LONGEST).collect()));
        }
        if text.len() > LONGEST {
            return Err(ImageNameError::TooLong(text.len()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageNameError;

    fn try_from(text: String) -> Result<Self, ImageNameError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_names_with_and_without_tag() {
        for good in ["hello", "debian:12", "debian:12-slim", "a", "0", "my_app.x:v1.2_3", "a:-"] {
            assert_eq!(good.parse::<ImageName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn a_files_name_gives_one() {
        for (file, name) in [
            ("debian.qcow2", "debian"),
            ("debian-12-genericcloud-amd64.qcow2", "debian-12-genericcloud-amd64"),
            ("Ubuntu 24.04 (x).IMG", "ubuntu-24.04--x-"),
            ("vmlinuz-6.1.0-18", "vmlinuz-6.1.0-18"),
            (".hidden.raw", "hidden"),
        ] {
            assert_eq!(of_file(file).unwrap().as_str(), name);
        }
        assert!(of_file("").is_err() && of_file("---.raw").is_err());
    }

    #[test]
    fn refuses_what_could_leave_the_store_or_confuse() {
        for bad in
            ["", ":", "a:", ":a", "../x", "a/b", "A", ".a", "-a", "a:b:c", "a b", "a+b", "é", "a:\n", "\0"]
        {
            assert_eq!(bad.parse::<ImageName>(), Err(ImageNameError::Malformed(bad.to_owned())), "{bad:?}");
        }
        assert_eq!("a".repeat(129).parse::<ImageName>(), Err(ImageNameError::TooLong(129)));
    }

    proptest! {
        #[test]
        fn folder_is_one_safe_component_and_leads_back(text in "\\PC{0,140}|[a-z0-9._:-]{1,20}") {
            if let Ok(name) = text.parse::<ImageName>() {
                let folder = name.folder();
                prop_assert!(!folder.contains(['/', ':', '\0']) && folder != "." && folder != "..");
                prop_assert_eq!(ImageName::from_folder(&folder), Some(name));
            }
        }
    }
}
