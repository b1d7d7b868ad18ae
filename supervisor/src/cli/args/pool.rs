//! `pool`.

use clap::{Args, Subcommand};

use super::{Output, Who};
use crate::snapshot::SnapshotName;
use crate::spec::Size;

/// The most spares of one snapshot.
const MOST: i64 = 1000;

/// `pool`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PoolVerb {
    /// Keep so many clones of a snapshot ready, or change how many
    Set(PoolSetArgs),
    /// List the pools and how many clones each has ready
    #[command(alias = "list")]
    Ls(PoolLsArgs),
    /// End the clones that are ready and keep none any more; those that were claimed stay
    #[command(aliases = ["delete", "remove"])]
    Rm(PoolRmArgs),
    /// Make what a pool lacks
    #[command(hide = true)]
    Refill(PoolRefillArgs),
}

/// `pool set`.
#[derive(Debug, Args)]
#[command(after_help = "Example: midge pool set web@ready --size 4, and then midge clone web@ready ci-1")]
pub(in crate::cli) struct PoolSetArgs {
    /// The snapshot; the tag is `latest` when absent.
    #[arg(value_name = "NAME[@TAG]")]
    pub(in crate::cli) name: SnapshotName,
    /// How many clones are kept ready, at most 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST))]
    pub(in crate::cli) size: u32,
    /// Who a clone is to be; `clone` takes only those that are who it was asked for.
    #[arg(long, value_enum, default_value = "full", value_name = "WHO")]
    pub(in crate::cli) identity: Who,
    /// What all that are ready may take of the host's memory together, such as 512M or 2G.
    #[arg(long, value_name = "SIZE")]
    pub(in crate::cli) memory: Option<Size>,
    /// Stay until all are ready.
    #[arg(long)]
    pub(in crate::cli) wait: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `pool ls`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PoolLsArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `pool rm`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PoolRmArgs {
    /// The snapshots whose pools are meant.
    #[arg(required = true, value_name = "NAME[@TAG]")]
    pub(in crate::cli) names: Vec<SnapshotName>,
}

/// `pool refill`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PoolRefillArgs {
    /// The snapshot whose pool is meant.
    #[arg(value_name = "NAME[@TAG]")]
    pub(in crate::cli) name: SnapshotName,
}
