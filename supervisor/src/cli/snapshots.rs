//! The snapshots, as the commands use them.

use super::context::Context;
use super::exit::{ExitKind, Failed};
use crate::snapshot::check::{HostView, Mismatch, check};
use crate::snapshot::store::{Files, Snapshot, SnapshotStore};
use crate::snapshot::{Manifest, SnapshotError};
use crate::spec::Kind;
use crate::vm::control::FailureKind;

impl From<SnapshotError> for Failed {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Store(error) => error.into(),
            error => Self::wrap(FailureKind::from(&error).into(), error),
        }
    }
}

/// The snapshots of the user's home.
pub(super) fn store(context: &Context) -> Result<SnapshotStore, Failed> {
    Ok(SnapshotStore::new(context.home()?))
}

/// What keeps this host from loading a snapshot; nothing where it can, or where there is no memory to load.
pub(super) fn differences(manifest: &Manifest) -> Result<Vec<Mismatch>, Failed> {
    let Some(machine) = &manifest.machine else { return Ok(Vec::new()) };
    let host = HostView::of_this_host(machine.arch)
        .map_err(|e| Failed::new(ExitKind::HostUnfit, e.to_string()).hint(e.next_step()))?;
    Ok(check(manifest, &host))
}

/// Refuses a snapshot that this host cannot load.
///
/// # Errors
/// [`ExitKind::Incompatible`] with each field that differs.
pub(super) fn refuse_differences(snapshot: &Snapshot, differences: &[Mismatch]) -> Result<(), Failed> {
    if differences.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
    Err(Failed::new(ExitKind::Incompatible, texts.join("\n"))
        .context(format!("this host cannot load `{}`", snapshot.shown())))
}

/// Refuses to give an identity of its own to a guest that cannot take it.
pub(super) fn refuse_deaf(manifest: &Manifest) -> Result<(), Failed> {
    if manifest.kind == Kind::Linux {
        return Ok(());
    }
    let text = format!("a guest of kind `{}` cannot change its own identity", manifest.kind);
    Err(Failed::new(ExitKind::Usage, text).hint("use `--identity network`, or `none`"))
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
