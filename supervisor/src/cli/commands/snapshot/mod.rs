//! `snapshot`: VMs as they were at one moment, kept for good.

mod check;
mod export;
mod import;
mod inspect;
mod ls;
mod rm;
pub(super) mod save;
mod stream;
mod verify;

use serde::Serialize;

use crate::cli::Outcome;
use crate::cli::args::SnapshotVerb;
use crate::cli::context::Context;
use crate::snapshot::Manifest;

/// `midge snapshot`.
pub(super) fn snapshot(context: &Context, verb: &SnapshotVerb) -> Outcome {
    match verb {
        SnapshotVerb::Save(args) => save::save(context, args),
        SnapshotVerb::Ls(args) => ls::ls(context, args),
        SnapshotVerb::Inspect(args) => inspect::inspect(context, args),
        SnapshotVerb::Rm(args) => rm::rm(context, args),
        SnapshotVerb::Check(args) => check::check(context, args),
        SnapshotVerb::Verify(args) => verify::verify(context, args),
        SnapshotVerb::Export(args) => export::export(context, args),
        SnapshotVerb::Import(args) => import::import(context, args),
    }
}

/// How much of a VM a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Extent {
    /// Its memory, its devices' state and its disk: clones of it run on.
    Memory,
    /// Its disk: clones of it boot.
    Disk,
}

impl Extent {
    fn of(manifest: &Manifest) -> Self {
        if manifest.ram.is_some() { Self::Memory } else { Self::Disk }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}
