//! `snapshot export`.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::cli::args::SnapshotExportArgs;
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::progress::Transfer;
use crate::cli::{Outcome, snapshots};
use crate::snapshot::archive::Level;
use crate::snapshot::store::{Snapshot, SnapshotStore};

use super::stream::Interruptible;

/// `midge snapshot export`.
pub(super) fn export(context: &Context, args: &SnapshotExportArgs) -> Outcome {
    let store = snapshots::store(context)?;
    let snapshot = store.get(&args.name)?;
    let level = Level(args.level);
    if args.file != Path::new("-") {
        to_file(context, &store, &snapshot, level, &args.file)?;
    } else if io::stdout().is_terminal() {
        let failed = Failed::new(ExitKind::Usage, "an archive is nothing that a terminal can show");
        let hint = format!("name a file: `midge snapshot export {0} {0}.tar.zst`", args.name);
        return Err(failed.hint(hint));
    } else {
        drop(write(context, &store, &snapshot, level, io::stdout().lock())?);
    }
    Ok(0)
}

/// Writes the archive to a file, which has it whole or not at all.
fn to_file(
    context: &Context,
    store: &SnapshotStore,
    snapshot: &Snapshot,
    level: Level,
    file: &Path,
) -> Result<(), Failed> {
    let cannot = |e: io::Error| Failed::io(format!("cannot write {}", file.display()), e);
    // Through a link, so that it leads to the new file; what is no file, such as a pipe or a disk, is written to.
    let target = match fs::canonicalize(file) {
        Ok(target) if target.is_file() => target,
        Ok(target) => {
            let out = fs::File::options().write(true).open(&target).map_err(cannot)?;
            return write(context, store, snapshot, level, out).map(drop);
        }
        Err(_) => file.to_owned(),
    };
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    // Its mode is 0600, as it holds a guest's memory.
    let unfinished = tempfile::Builder::new().prefix(".midge-").tempfile_in(folder).map_err(cannot)?;
    let unfinished = write(context, store, snapshot, level, unfinished)?;
    unfinished.as_file().sync_all().map_err(cannot)?;
    unfinished.persist(&target).map_err(|e| cannot(e.error))?;
    Ok(())
}

fn write<W: Write + AsFd>(
    context: &Context,
    store: &SnapshotStore,
    snapshot: &Snapshot,
    level: Level,
    out: W,
) -> Result<W, Failed> {
    let mut transfer = Transfer::new(context.voice);
    let out = Interruptible::new(out)?;
    let interrupted = out.interrupted();
    let written = store.export(snapshot, out, level, &mut |done, total| transfer.show(done, Some(total)));
    drop(transfer);
    match written {
        Ok(out) => Ok(out.into_inner()),
        Err(error) => Err(interrupted.explain(error.into())),
    }
}
