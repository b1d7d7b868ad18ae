//! `snapshot inspect`.

use std::path::Path;

use serde::Serialize;

use super::Extent;
use crate::cli::args::SnapshotArgs;
use crate::cli::context::Context;
use crate::cli::{Outcome, output, snapshots};
use crate::snapshot::store::{Sizes, User};
use crate::snapshot::{Manifest, SnapshotName};

#[derive(Serialize)]
struct Inspected<'a> {
    folder: &'a Path,
    names: &'a [SnapshotName],
    kind: Extent,
    sizes: Sizes,
    users: Vec<User>,
    manifest: &'a Manifest,
}

/// `midge snapshot inspect`.
pub(super) fn inspect(context: &Context, args: &SnapshotArgs) -> Outcome {
    let store = snapshots::store(context)?;
    let snapshot = store.get(&args.name)?;
    output::json_pretty(&Inspected {
        folder: &snapshot.folder,
        names: &snapshot.names,
        kind: Extent::of(&snapshot.manifest),
        sizes: store.sizes(&snapshot)?,
        users: store.users(snapshot.id())?,
        manifest: &snapshot.manifest,
    })?;
    Ok(0)
}
