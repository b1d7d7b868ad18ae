//! `snapshot verify`.

use serde::Serialize;

use crate::cli::args::SnapshotVerifyArgs;
use crate::cli::context::{Context, each};
use crate::cli::exit::{ExitKind, Failed, Section};
use crate::cli::progress::Transfer;
use crate::cli::{Outcome, output, snapshots};
use crate::error;
use crate::snapshot::SnapshotName;

#[derive(Serialize)]
struct Verified<'a> {
    name: &'a SnapshotName,
    intact: bool,
    /// What is wrong, each with the file that it is wrong with.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    damage: &'a [String],
}

/// `midge snapshot verify`.
pub(super) fn verify(context: &Context, args: &SnapshotVerifyArgs) -> Outcome {
    let store = snapshots::store(context)?;
    let names = if args.all {
        let listing = store.list()?;
        let whole = listing.snapshots.into_iter().flat_map(|snapshot| snapshot.names);
        // One whose manifest cannot be read fails below, as it would by its name.
        whole.chain(listing.damaged.into_iter().flat_map(|broken| broken.names)).collect()
    } else {
        args.names.clone()
    };
    each(&names, |name| {
        let snapshot = store.get(name)?;
        let mut transfer = Transfer::new(context.voice);
        let wrong = store.verify(&snapshot, &mut |done, total| transfer.show(done, Some(total)));
        drop(transfer);
        let damage: Vec<String> = wrong.iter().map(|e| error::chain(e)).collect();
        if args.output.json() {
            output::json(&Verified { name, intact: damage.is_empty(), damage: &damage })?;
        }
        match damage.split_first() {
            None if args.output.json() => Ok(()),
            None => output::line(format_args!("{name}: every byte is as it was saved")),
            Some((first, more)) => {
                let failed =
                    Failed::new(ExitKind::Other, first).context(format!("`{name}` is not what was saved"));
                Err(failed.sections(vec![Section { title: "and".to_owned(), lines: more.to_vec() }]))
            }
        }
    })
}
