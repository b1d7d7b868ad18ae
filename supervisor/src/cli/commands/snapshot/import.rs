//! `snapshot import`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use crate::cli::args::SnapshotImportArgs;
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::progress::Transfer;
use crate::cli::{Outcome, output, snapshots};
use crate::snapshot::SnapshotName;
use crate::snapshot::ram::unwatched;
use crate::snapshot::store::Snapshot;

use super::stream::Interruptible;

/// What `snapshot import -o json` prints.
#[derive(Serialize)]
struct Imported<'a> {
    name: &'a SnapshotName,
    id: Uuid,
    folder: &'a Path,
}

/// `midge snapshot import`.
pub(super) fn import(context: &Context, args: &SnapshotImportArgs) -> Outcome {
    snapshots::sweep(context)?;
    let snapshot = if args.file == Path::new("-") {
        if io::stdin().is_terminal() {
            let failed =
                Failed::new(ExitKind::Usage, "there is no archive on standard input, which is a terminal");
            return Err(failed.hint("name a file, or send the archive through a pipe"));
        }
        read(context, args, io::stdin().lock(), None)?
    } else {
        let cannot = |e: io::Error| Failed::io(format!("cannot read {}", args.file.display()), e);
        let file = File::open(&args.file).map_err(cannot)?;
        let about = file.metadata().map_err(cannot)?;
        read(context, args, file, about.is_file().then_some(about.len()))?
    };
    let name = &snapshot.manifest.name;
    if args.output.json() {
        output::json(&Imported { name, id: snapshot.id(), folder: &snapshot.folder })?;
    } else {
        output::line(name)?;
    }
    Ok(0)
}

fn read(
    context: &Context,
    args: &SnapshotImportArgs,
    from: impl Read + AsFd,
    total: Option<u64>,
) -> Result<Snapshot, Failed> {
    let from = Interruptible::new(from)?;
    let interrupted = from.interrupted();
    let counted = Counted { inner: from, total, done: 0, transfer: Transfer::new(context.voice) };
    let imported = snapshots::store(context)?.import(counted, args.name.as_ref(), &mut unwatched);
    imported.map_err(|error| interrupted.explain(error.into()))
}

/// Shows how much was read.
struct Counted<R> {
    inner: R,
    total: Option<u64>,
    done: u64,
    transfer: Transfer,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.done += count as u64;
        self.transfer.show(self.done, self.total);
        Ok(count)
    }
}
