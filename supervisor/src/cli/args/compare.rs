//! `compare`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum, ValueHint};

use super::{Output, values};
use crate::compare::Section;
use crate::spec::{Accel, Machine, Net, Ready, Size};

impl ValueEnum for Section {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()))
    }
}

/// `compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
A guest is an entry of compare.yaml, the name of a VM that is stopped, a kernel file (a path with a `/`, or a file that
exists), or an image. Without any, `hello` is compared with `debian:12`.

Examples:
  midge compare
  midge compare hello busybox debian:12 --runs 20 --report report
  midge compare ./kernel.elf debian:12 --until tcp:80 --only boot,memory
  midge compare --from report/results.json --against old/results.json --report again")]
pub(in crate::cli) struct CompareArgs {
    /// The guests; the first is what the others are compared with.
    #[arg(value_name = "GUEST", conflicts_with = "from")]
    pub(in crate::cli) guests: Vec<String>,
    /// How many boots of each guest count; one more comes first and is reported apart.
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(in crate::cli) runs: u32,
    /// Memory of every guest.
    #[arg(short, long, visible_alias = "ram", value_name = "SIZE", default_value = "512M")]
    pub(in crate::cli) memory: Size,
    /// What shows that a guest is ready, for all of them: agent, ssh, ip, tcp:PORT or serial:REGEX; else each guest's own sign.
    #[arg(long, value_name = "SIGN")]
    pub(in crate::cli) until: Option<Ready>,
    /// How long a boot may take before it counts as failed.
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "300s")]
    pub(in crate::cli) timeout: Duration,
    /// Measure only these; separated by commas.
    #[arg(long, value_enum, value_name = "SECTION", value_delimiter = ',')]
    pub(in crate::cli) only: Vec<Section>,
    /// Drop the guest's kernel, initrd and disk from the page cache before each boot.
    #[arg(long)]
    pub(in crate::cli) cold: bool,
    /// How long the load lasts at each number of connections.
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "5s")]
    pub(in crate::cli) load: Duration,
    /// The network of every guest: nat, user or bridge=NAME.
    #[arg(long, value_name = "NETWORK")]
    pub(in crate::cli) net: Option<Net>,
    /// How the guests' instructions are run.
    #[arg(long, value_enum, value_name = "HOW")]
    pub(in crate::cli) accel: Option<Accel>,
    /// The machine model of every guest.
    #[arg(long, value_enum, value_name = "MODEL")]
    pub(in crate::cli) machine: Option<Machine>,
    /// Where guests of your own are described.
    #[arg(long, value_name = "FILE", default_value = "compare.yaml", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// The folder for results.json, comparison_results.md and report.html.
    #[arg(long, value_name = "DIR", default_value = "comparison", value_hint = ValueHint::DirPath)]
    pub(in crate::cli) report: PathBuf,
    /// Measure nothing: make the report again from the results of an earlier comparison.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) from: Option<PathBuf>,
    /// Show what changed since an earlier comparison, and whether it is more than noise.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) against: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}
