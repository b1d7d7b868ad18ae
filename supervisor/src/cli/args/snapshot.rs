//! `snapshot` and its verbs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{Output, SaveArgs};
use crate::snapshot::SnapshotName;

/// `snapshot`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SnapshotVerb {
    /// Save a VM: its memory, its devices and its disk as one; it goes on
    Save(SaveArgs),
    /// List snapshots as the tree that they are
    #[command(alias = "list")]
    Ls(SnapshotLsArgs),
    /// Show everything about a snapshot, as JSON
    #[command(alias = "show")]
    Inspect(SnapshotArgs),
    /// Remove snapshots
    #[command(alias = "delete")]
    Rm(SnapshotRmArgs),
    /// Check whether this host can run a snapshot, without starting anything
    Check(SnapshotArgs),
    /// Compare every byte of snapshots with their digests
    Verify(SnapshotVerifyArgs),
    /// Write a snapshot as one compressed archive
    Export(SnapshotExportArgs),
    /// Read such an archive
    Import(SnapshotImportArgs),
}

/// `snapshot ls`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotLsArgs {
    /// Only the snapshots of this VM.
    #[arg(value_name = "NAME")]
    pub(in crate::cli) vm: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// One snapshot.
#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotArgs {
    /// The snapshot; the tag is `latest` when absent.
    #[arg(value_name = "NAME[@TAG]")]
    pub(in crate::cli) name: SnapshotName,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `snapshot rm`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotRmArgs {
    /// The snapshots; the tag is `latest` when absent.
    #[arg(required = true, value_name = "NAME[@TAG]")]
    pub(in crate::cli) names: Vec<SnapshotName>,
    /// Also take away the name of one that VMs or other snapshots stand on; its files go when nobody needs them any more.
    #[arg(long)]
    pub(in crate::cli) detach: bool,
    /// Only say what would be removed.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `snapshot verify`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotVerifyArgs {
    /// The snapshots; the tag is `latest` when absent.
    #[arg(required_unless_present = "all", value_name = "NAME[@TAG]")]
    pub(in crate::cli) names: Vec<SnapshotName>,
    /// All there are.
    #[arg(long, conflicts_with = "names")]
    pub(in crate::cli) all: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `snapshot export`.
#[derive(Debug, Args)]
#[command(after_help = "\
The image that the snapshot's disk stands on is not in the archive.

Examples:
  midge snapshot export web@ready web.tar.zst
  midge snapshot export web@ready | ssh other midge snapshot import -")]
pub(in crate::cli) struct SnapshotExportArgs {
    /// The snapshot; the tag is `latest` when absent.
    #[arg(value_name = "NAME[@TAG]")]
    pub(in crate::cli) name: SnapshotName,
    /// Where to write it; standard output when absent or `-`. A file that exists is replaced when the archive is whole.
    #[arg(value_name = "FILE", default_value = "-", hide_default_value = true, value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// How hard to compress.
    #[arg(long, value_name = "1..19", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(in crate::cli) level: i32,
}

/// `snapshot import`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotImportArgs {
    /// The archive; `-` for standard input.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// The name that it gets; the one that it was saved under when absent.
    #[arg(long, value_name = "NAME[@TAG]")]
    pub(in crate::cli) name: Option<SnapshotName>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}
