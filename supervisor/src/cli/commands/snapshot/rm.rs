//! `snapshot rm`.

use serde::Serialize;

use crate::cli::args::SnapshotRmArgs;
use crate::cli::context::{Context, each};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output, snapshots, units};
use crate::snapshot::store::{Removal, Removed, User};
use crate::snapshot::{SnapshotError, SnapshotName};

/// What `snapshot rm -o json` prints.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a SnapshotName,
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_bytes: Option<u64>,
    /// Who keeps files of it.
    users: Vec<User>,
}

/// `midge snapshot rm`.
pub(super) fn rm(context: &Context, args: &SnapshotRmArgs) -> Outcome {
    let store = snapshots::store(context)?;
    let how = if args.detach { Removal::Detach } else { Removal::Refuse };
    each(&args.names, |name| {
        has_no_pool(context, name)?;
        let (freed, users) = if args.dry_run {
            (None, store.check_removal(name, how).map_err(|e| in_use(e, name))?)
        } else {
            let Removed { freed, users } = store.remove(name, how).map_err(|e| in_use(e, name))?;
            (Some(freed), users)
        };
        if args.output.json() {
            return output::json(&Line { name, removed: !args.dry_run, freed_bytes: freed, users });
        }
        match freed {
            None => context.voice.note(format_args!("`{name}` would be removed")),
            Some(freed) => {
                context.voice.detail(format_args!("`{name}` is removed: {} are free", units::bytes(freed)));
            }
        }
        if !users.is_empty() {
            let users: Vec<_> = users.iter().map(ToString::to_string).collect();
            context.voice.note(format_args!("files of `{name}` stay for {}", users.join(", ")));
        }
        Ok(())
    })
}

/// Refuses to remove what spares are made from.
fn has_no_pool(context: &Context, name: &SnapshotName) -> Result<(), Failed> {
    if context.home()?.pool(name).record()?.is_none() {
        return Ok(());
    }
    let text = format!("a pool keeps clones of `{name}` ready");
    Err(Failed::new(ExitKind::WrongState, text).hint(format!("`midge pool rm {name}` first")))
}

fn in_use(error: SnapshotError, name: &SnapshotName) -> Failed {
    let is_needed = matches!(error, SnapshotError::InUse { .. });
    let failed = Failed::from(error);
    if is_needed { failed.hint(format!("`midge snapshot rm --detach {name}`")) } else { failed }
}
