//! What can go wrong with snapshots.

use std::io;
use std::path::{Path, PathBuf};

/// A failure with snapshots. Its text says what to do next where midge knows.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A name that none can have.
    #[error("`{name}` is not the name of a snapshot: {why}; write NAME@TAG, such as `web@ready`")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// No snapshot of this name.
    #[error("there is no snapshot `{name}`{}", suggestion(.near.as_deref()))]
    NotFound {
        /// The name asked for.
        name: String,
        /// The most similar name that exists.
        near: Option<String>,
    },
    /// The name is in use.
    #[error("a snapshot `{0}` exists already; choose another tag, or remove it with `midge snapshot rm {0}`")]
    Taken(String),
    /// VMs or other snapshots need it.
    #[error("the snapshot `{name}` is needed by {}; remove them first, or detach it, which keeps its files until then", .users.join(", "))]
    InUse {
        /// The snapshot.
        name: String,
        /// Who needs it, for people.
        users: Vec<String>,
    },
    /// A part is not what was saved.
    #[error("{path} is damaged: {what}; remove the snapshot and save it anew", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found, and where in it.
        what: String,
    },
    /// A manifest of a later version.
    #[error("{path} was written by a newer midge (format {found}; this one knows {known}): upgrade midge", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest known.
        known: u32,
    },
    /// What the guest has cannot be taken along.
    #[error("this VM cannot be saved: {}", .0.join("; "))]
    NotMigratable(Vec<String>),
    /// QEMU refused or failed.
    #[error("QEMU cannot {what}")]
    Qemu {
        /// What was asked of it, as a verb.
        what: &'static str,
        /// Its own words.
        #[source]
        source: ::qmp::Error,
    },
    /// The state that QEMU saved has a form that midge does not know.
    #[error("the device state that QEMU wrote cannot be read: {0}; this QEMU may be newer than midge knows")]
    State(String),
    /// QEMU's memory is not as it should be.
    #[error("the memory of QEMU (process {pid}) cannot be used: {why}")]
    Process {
        /// The process.
        pid: u32,
        /// What was found.
        why: String,
    },
    /// An archive is not one, or is not whole.
    #[error("the archive cannot be read: {0}; copy or export it again")]
    Archive(String),
    /// The image that a disk stands on is not here.
    #[error(
        "the snapshot stands on the image `{name}` ({digest}), which is not here; `midge image pull` or `build` it first"
    )]
    NoImage {
        /// The image.
        name: String,
        /// Its digest.
        digest: String,
    },
    /// The store of records refused.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Another program may change the memory of a snapshot under its clones.
    #[error("{path} is open for writing in another program, and must not change; `fuser -v {path}` names it", path = .0.display())]
    OpenForWriting(PathBuf),
    /// The operating system refused.
    #[error("cannot {what} {path}", path = .path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

fn suggestion(near: Option<&str>) -> String {
    near.map_or_else(
        || "; `midge snapshot ls` shows all".to_owned(),
        |near| format!("; did you mean `{near}`?"),
    )
}

/// Makes an error of an I/O error.
pub(super) fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { what, path: path.to_owned(), source }
}

/// Makes an error of QEMU's answer.
pub(super) fn qemu_error(what: &'static str) -> impl Fn(::qmp::Error) -> SnapshotError {
    move |source| SnapshotError::Qemu { what, source }
}
