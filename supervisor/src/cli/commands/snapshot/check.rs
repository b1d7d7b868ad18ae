//! `snapshot check`.

use serde::Serialize;

use crate::cli::args::SnapshotArgs;
use crate::cli::context::Context;
use crate::cli::exit::ExitKind;
use crate::cli::{Outcome, output, snapshots};
use crate::snapshot::SnapshotName;
use crate::snapshot::check::Mismatch;

#[derive(Serialize)]
struct Report<'a> {
    name: &'a SnapshotName,
    fit: bool,
    differences: &'a [Mismatch],
    /// Why only this host may be able to run it.
    tied: &'a [String],
}

/// `midge snapshot check`: ends with [`ExitKind::Incompatible`] when this host cannot run the snapshot.
pub(super) fn check(context: &Context, args: &SnapshotArgs) -> Outcome {
    let store = snapshots::store(context)?;
    let snapshot = store.get(&args.name)?;
    store.check_links(&snapshot)?;
    store.refuse_writers(&snapshot)?;
    let manifest = &snapshot.manifest;
    let found = snapshots::differences(manifest)?;
    let (name, fit) = (&args.name, found.is_empty());
    if args.output.json() {
        output::json_pretty(&Report { name, fit, differences: &found, tied: &manifest.tied })?;
    } else {
        output::print(|out| {
            found.iter().try_for_each(|difference| writeln!(out, "FAIL  {difference}"))?;
            if fit {
                writeln!(out, "ok    this host can run `{name}`")?;
            }
            manifest.tied.iter().try_for_each(|why| writeln!(out, "note  another host may not: {why}"))
        })?;
    }
    Ok(if fit { 0 } else { ExitKind::Incompatible.code() })
}
