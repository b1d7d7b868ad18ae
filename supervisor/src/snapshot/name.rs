//! Names of snapshots: `NAME@TAG`, the VM that was saved and which of its states.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::SnapshotError;

/// The tag that is meant where none is given.
pub const DEFAULT_TAG: &str = "latest";
/// How the tag of an implicit snapshot begins; a UUID in its simple form follows.
const IMPLICIT: &str = "clone-";
/// The longest tag, in bytes.
const LONGEST_TAG: usize = 63;

/// The name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SnapshotName {
    vm: String,
    tag: String,
}

impl SnapshotName {
    /// A name for a snapshot of this VM that is to last only until its clones are made.
    ///
    /// # Errors
    /// [`SnapshotError::Name`] where this is not the name of a VM.
    pub fn implicit(vm: &str) -> Result<Self, SnapshotError> {
        format!("{vm}@{IMPLICIT}{}", uuid::Uuid::new_v4().simple()).parse()
    }

    /// Whether it is such a name: no person would choose it.
    #[must_use]
    pub fn is_implicit(&self) -> bool {
        self.tag.strip_prefix(IMPLICIT).is_some_and(|id| id.len() == 32 && uuid::Uuid::try_parse(id).is_ok())
    }

    /// The name of the VM that was saved.
    #[must_use]
    pub fn vm(&self) -> &str {
        &self.vm
    }

    /// Which of its states.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.vm, self.tag)
    }
}

impl FromStr for SnapshotName {
    type Err = SnapshotError;

    /// Reads `NAME@TAG`, or `NAME` for its [`DEFAULT_TAG`]. The name of a file can be made of either part: neither holds a `/` nor begins
    /// with a dot.
    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let wrong = |why: String| SnapshotError::Name { name: text.to_owned(), why };
        let (vm, tag) = text.split_once('@').unwrap_or((text, DEFAULT_TAG));
        crate::spec::check_name(vm).map_err(|e| wrong(e.to_string()))?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let begins_well = tag.starts_with(|c: char| c.is_ascii_alphanumeric());
        if tag.is_empty() || tag.len() > LONGEST_TAG || !begins_well || !tag.chars().all(good) {
            return Err(wrong(format!(
                "a tag has 1 to {LONGEST_TAG} letters, digits, `-`, `_` and `.`, and begins with a letter or digit"
            )));
        }
        Ok(Self { vm: vm.to_owned(), tag: tag.to_owned() })
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|e: SnapshotError| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn implicit_names_are_told_from_chosen_ones() {
        assert!(SnapshotName::implicit("web").unwrap().is_implicit());
        for name in ["web@clone-1", "web@clone-", "web", "web@0d7a4a3c8f0e4ab2a9d0f0f5c1d2e3f4"] {
            assert!(!name.parse::<SnapshotName>().unwrap().is_implicit(), "{name}");
        }
    }

    #[test]
    fn a_name_has_a_vm_and_a_tag() {
        let name: SnapshotName = "web@v1.2".parse().unwrap();
        assert_eq!((name.vm(), name.tag(), name.to_string().as_str()), ("web", "v1.2", "web@v1.2"));
        assert_eq!("web".parse::<SnapshotName>().unwrap().to_string(), "web@latest");
        for wrong in [
            "", "@", "web@", "@x", "web@.", "web@..", "web@a/b", "web@a@b", "We b@x", "../x@y", "web@-x",
            "web@é",
        ] {
            assert!(wrong.parse::<SnapshotName>().is_err(), "{wrong:?}");
        }
        assert!(format!("web@{}", "x".repeat(64)).parse::<SnapshotName>().is_err());
    }

    proptest! {
        #[test]
        fn a_name_that_is_taken_is_one_file_name(text in "[ -~]{0,20}") {
            if let Ok(name) = text.parse::<SnapshotName>() {
                let shown = name.to_string();
                prop_assert!(!shown.contains('/') && !shown.starts_with('.'));
                prop_assert_eq!(shown.parse::<SnapshotName>().unwrap(), name);
            }
        }
    }
}
