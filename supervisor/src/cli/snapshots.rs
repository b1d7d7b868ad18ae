//! The snapshots, as the commands use them.

use super::context::Context;
use super::exit::{ExitKind, Failed, io_kind};
use crate::snapshot::SnapshotError;
use crate::snapshot::store::{Files, SnapshotStore};

impl From<SnapshotError> for Failed {
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Name { .. } => ExitKind::Usage,
            SnapshotError::NotFound { .. } | SnapshotError::NoImage { .. } => ExitKind::NotFound,
            SnapshotError::Taken(_)
            | SnapshotError::InUse { .. }
            | SnapshotError::NotMigratable(_)
            | SnapshotError::OpenForWriting(_) => ExitKind::WrongState,
            SnapshotError::Io { source, .. } if io_kind(source) == ExitKind::NoSpace => ExitKind::NoSpace,
            _ => ExitKind::Other,
        };
        match error {
            SnapshotError::Store(error) => error.into(),
            error => Self::wrap(kind, error),
        }
    }
}

/// The snapshots of the user's home.
pub(super) fn store(context: &Context) -> Result<SnapshotStore, Failed> {
    Ok(SnapshotStore::new(context.home()?))
}

/// Removes what no VM and no snapshot needs of snapshots that were removed, and what killed commands have left of others, or only
/// tells of it.
pub(super) fn prune(context: &Context, dry: bool) -> Result<Files, Failed> {
    Ok(store(context)?.prune(dry)?)
}

/// What killed commands have left is cleared by the next one that adds something.
pub(super) fn sweep(context: &Context) -> Result<(), Failed> {
    context.home()?.sweep()?;
    prune(context, false)?;
    Ok(())
}
