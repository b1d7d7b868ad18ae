//! What can go wrong with records.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of the store. Its text says what to do next where midge knows.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No VM of this name.
    #[error("there is no VM named `{name}`{}", suggestion(.near.as_deref()))]
    NotFound {
        /// The name asked for.
        name: String,
        /// The most similar name that exists.
        near: Option<String>,
    },
    /// The name is in use.
    #[error("a VM named `{0}` exists already; choose another name, or remove it with `midge rm {0}`")]
    Taken(String),
    /// A record's text is not what midge writes.
    #[error("the record {path} is damaged ({reason}); mend it by hand, or give the VM up with `midge rm --force {name}`", path = .path.display())]
    Damaged {
        /// The VM.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A record comes from a later midge.
    #[error("the record {path} has format {found}, and this midge knows formats up to {known}; use the newer midge that wrote it", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest known.
        known: u32,
    },
    /// No folder to keep state in.
    #[error("midge has no folder for its {what}: {why}; set {variable} to one")]
    NoFolder {
        /// `state` or `run-time files`.
        what: &'static str,
        /// Why.
        why: String,
        /// The variable that names one.
        variable: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

fn suggestion(near: Option<&str>) -> String {
    near.map_or_else(|| "; `midge ls -a` shows all".to_owned(), |near| format!("; did you mean `{near}`?"))
}

impl StoreError {
    /// Wraps an I/O error with what was tried on which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
