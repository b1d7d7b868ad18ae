//! The command line: `midge VERB`.
//!
//! `args` defines it, `commands/` holds one file per verb or family of verbs, `output` prints, `exit` names the exit
//! codes. A command reads what it needs of the records and asks the VM's supervisor for the rest; it blocks, since it has
//! nothing else to do.

mod args;
mod commands;
mod context;
mod deadline;
mod describe;
mod draft;
mod evidence;
mod exit;
mod fetch;
mod follow;
mod images;
mod interrupt;
mod lend;
mod logfile;
mod names;
mod output;
mod progress;
mod snapshots;
mod ssh_key;
mod table;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

pub use exit::ExitKind;

use args::{Cli, Verb};
use context::Context;
use exit::Failed;

/// What a verb answers: the exit code, or a failure to tell of.
type Outcome = Result<u8, Failed>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Before anything else: then this is a program with a right that its caller does not have.
    if let Some(ended) = lend::main_if_lender() {
        return ended;
    }
    let cli = match Cli::try_parse_from(args::join_waits(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help, the version, or a wrong command line: clap knows where each goes. A reader that has left is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(ExitKind::Usage.code()));
        }
    };
    let context = Context::new(cli.global.quiet, cli.global.verbose);
    let outcome = match cli.verb {
        Verb::Supervise(args) => match context.home() {
            Ok(home) => return crate::vm::supervise(home, &args.name),
            Err(failed) => Err(failed),
        },
        verb => commands::run(&context, verb),
    };
    ExitCode::from(outcome.unwrap_or_else(|failed| {
        output::failure(&failed);
        failed.kind.code()
    }))
}
