//! QEMU's option syntax: `word,key=value,key=value`.

use std::path::Path;

use super::MachineError;

/// One argument of QEMU's in `word,key=value` form.
///
/// A comma inside a value is written twice, as QEMU's parsers of `-device`, `-chardev`, `-object` and
/// `-blockdev` all read it (qemu(1), "Device options"; `util/keyval.c`).
#[derive(Debug, Clone)]
pub(super) struct Opt(String);

impl Opt {
    /// An argument that starts with this bare word.
    pub(super) fn word(word: &str) -> Self {
        Self(escape(word))
    }

    /// Adds a property.
    #[must_use]
    pub(super) fn set(mut self, key: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&escape(value));
        self
    }

    /// Adds a property that is shown as its number or word.
    #[must_use]
    pub(super) fn show(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.set(key, &value.to_string())
    }

    /// Adds a property that is `on` or `off`.
    #[must_use]
    pub(super) fn switch(self, key: &str, on: bool) -> Self {
        self.set(key, if on { "on" } else { "off" })
    }

    /// Adds a property that holds a path.
    pub(super) fn path(self, key: &str, path: &Path) -> Result<Self, MachineError> {
        Ok(self.set(key, text(path)?))
    }

    /// The argument.
    pub(super) fn done(self) -> String {
        self.0
    }
}

/// A path as QEMU takes it on its command line, alone in an argument.
///
/// `arguments` returns text that is also shown and stored, so a path must be UTF-8.
pub(super) fn text(path: &Path) -> Result<&str, MachineError> {
    path.to_str().ok_or_else(|| MachineError::NotText { path: path.to_owned() })
}

fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// One part of an option: `key=value`, or a bare word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Property {
    /// Its key; none for a bare word.
    pub(super) key: Option<String>,
    /// Its value, or the word.
    pub(super) value: String,
}

/// The parts of an option, in their order.
pub(super) fn split(option: &str) -> Vec<Property> {
    super::diff::split(option)
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Property { key: Some(key.to_owned()), value: value.to_owned() },
            None => Property { key: None, value: word },
        })
        .collect()
}

/// The option that these parts make.
pub(super) fn join(properties: &[Property]) -> String {
    let part = |property: &Property| match &property.key {
        Some(key) => format!("{key}={}", escape(&property.value)),
        None => escape(&property.value),
    };
    properties.iter().map(part).collect::<Vec<_>>().join(",")
}
