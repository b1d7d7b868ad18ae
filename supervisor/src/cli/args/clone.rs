//! `clone`, `restore` and `suspend`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{self, WaitFor};
use super::{Names, Output};
use crate::snapshot::SnapshotName;
use crate::vm::Identity;

/// `clone`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge clone web@ready ci-1                 a running copy, with an identity of its own
  midge clone web@ready ci -n 8 --rm         ci-1 to ci-8, each gone when it ends
  midge clone web ci-1                       of a VM as it is now: running, or its disk when it is stopped
  midge clone --stopped web@ready copy       a new VM on the same disk, not started")]
pub(in crate::cli) struct CloneArgs {
    /// The snapshot, as NAME@TAG; or a VM: one that runs is saved first, of one that is stopped the disk is cloned.
    #[arg(value_name = "SOURCE[@TAG]")]
    pub(in crate::cli) source: String,
    /// The clone's name; with -n the beginning of their names.
    #[arg(value_name = "NEW")]
    pub(in crate::cli) name: String,
    /// How many: NEW-1, NEW-2 and so on.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(in crate::cli) count: Option<u32>,
    #[command(flatten)]
    pub(in crate::cli) how: CloneHow,
    /// Boot the clone where this host cannot load the snapshot's memory.
    #[arg(long, conflicts_with_all = ["cold", "stopped"])]
    pub(in crate::cli) or_boot: bool,
    /// Who a clone that runs on is to be.
    #[arg(long, value_enum, default_value = "full", value_name = "WHO")]
    pub(in crate::cli) identity: Who,
    /// Let a clone run on that does not confirm its new identity; it is never called ready.
    #[arg(long)]
    pub(in crate::cli) keep_unconfirmed: bool,
    /// Make the clone anew, also where a pool has one ready.
    #[arg(long)]
    pub(in crate::cli) no_pool: bool,
    /// Wait until the clone is ready or shows this sign (agent, ssh, ip, tcp:PORT or serial:REGEX).
    #[arg(long, value_name = "SIGN", num_args = 0..=1, require_equals = true, default_missing_value = "ready", value_parser = values::wait_for)]
    pub(in crate::cli) wait: Option<WaitFor>,
    /// How long to wait; default 300s.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    /// Remove the clone when it ends.
    #[arg(long)]
    pub(in crate::cli) rm: bool,
    /// End the clone after this time.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) ttl: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// What of the source a clone has.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
pub(in crate::cli) struct CloneHow {
    /// Go on from the snapshot's memory; the default where it has one.
    #[arg(long)]
    pub(in crate::cli) memory: bool,
    /// Boot from the snapshot's disk.
    #[arg(long)]
    pub(in crate::cli) cold: bool,
    /// Do not start it.
    #[arg(long)]
    pub(in crate::cli) stopped: bool,
}

/// Who a clone is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Who {
    /// Another machine, changed inside by its agent: needs a Linux guest with one
    Full,
    /// Another machine to the network, by rewriting on its port: for any guest
    Network,
    /// The same as its source
    None,
}

impl From<Who> for Identity {
    fn from(who: Who) -> Self {
        match who {
            Who::Full => Self::Full,
            Who::Network => Self::Network,
            Who::None => Self::None,
        }
    }
}

/// `snapshot save`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SaveArgs {
    /// The VM and the tag; the tag is `latest` when absent.
    #[arg(value_name = "NAME[@TAG]")]
    pub(in crate::cli) name: SnapshotName,
    /// End the VM with it: it becomes the snapshot, and its memory need not be copied.
    #[arg(long, conflicts_with = "disk_only")]
    pub(in crate::cli) stop: bool,
    /// Save the disk alone.
    #[arg(long)]
    pub(in crate::cli) disk_only: bool,
    /// A word on it, shown by `snapshot ls`.
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) note: Option<String>,
    /// Take the place of a snapshot of this name.
    #[arg(long)]
    pub(in crate::cli) replace: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `restore`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The snapshot; the tag is `latest` when absent.
    #[arg(value_name = "NAME[@TAG]")]
    pub(in crate::cli) name: SnapshotName,
    /// End the VM first if it runs. What it has done since the snapshot is lost in any case.
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    /// Leave it stopped: put its disk back alone.
    #[arg(long)]
    pub(in crate::cli) stopped: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `suspend`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SuspendArgs {
    #[command(flatten)]
    pub(in crate::cli) names: Names,
}
