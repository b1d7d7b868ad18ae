//! The command line: one set of definitions, from which parsing, help, completions and man pages come.

mod clone;
mod compare;
mod image;
mod net;
mod pool;
mod snapshot;
mod spec;
mod values;
mod verbs;

use std::ffi::OsString;

use clap::{Args, Parser, ValueEnum};

pub(super) use clone::*;
pub(super) use compare::CompareArgs;
pub(super) use image::*;
pub(super) use net::*;
pub(super) use pool::*;
pub(super) use snapshot::*;
pub(super) use spec::{SetFlags, SpecFlags};
pub(super) use values::{Place, WaitFor};
pub(super) use verbs::*;

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 other failure, 2 usage, 3 not found, 4 wrong state, 5 timeout, 6 host unfit,
7 snapshot incompatible, 8 no space, 9 identity not confirmed, 130 interrupted. `exec` and `run … -- CMD` end with the
guest command's own code; there 125 is midge's own failure and 127 a program that the guest lacks.
A foreground `run` ends with the number that the guest gave isa-debug-exit, where it has one.

Environment: MIDGE_HOME (state), MIDGE_RUN (run-time files), MIDGE_OUTPUT (default of --output), MIDGE_NET (default
of --net), NO_COLOR.";

/// Joins `--wait SIGN` to `--wait=SIGN`, as both are written, where the word is a sign. `--wait` alone may stand before a
/// VM's name, so to the parser its value has to be attached. What follows `--` is the guest's.
pub(super) fn join_waits(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut ours = true;
    for word in words {
        ours &= word != "--";
        let sign = word.to_str().filter(|w| ours && values::wait_for(w).is_ok());
        match (joined.last_mut(), sign) {
            (Some(before), Some(sign)) if before == "--wait" => before.push(format!("={sign}")),
            _ => joined.push(word),
        }
    }
    joined
}

/// Debian and unikernels as QEMU virtual machines, under the same flags.
#[derive(Debug, Parser)]
#[command(name = "midge", version, after_help = EXIT_CODES, propagate_version = false, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Global {
    /// Say nothing but results and errors (`ls -q`, `image ls -q`: names only).
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Say more.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(super) verbose: bool,
}

/// In what form results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// A table with more columns, where a verb has them.
    Wide,
    /// JSON with `"schema": 1`; one object a line for streams and lists. Errors stay text on stderr.
    Json,
    /// Names only, one a line.
    Name,
}

/// `-o`, for the verbs that print something.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Output {
    /// Form of the output.
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        value_name = "FORMAT",
        env = "MIDGE_OUTPUT",
        hide_env = true,
        default_value = "table"
    )]
    pub(super) format: Format,
}

impl Output {
    /// JSON is wanted.
    pub(super) fn json(self) -> bool {
        self.format == Format::Json
    }
}

#[cfg(test)]
mod tests;
