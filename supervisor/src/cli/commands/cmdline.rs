//! `cmdline`.

use std::time::Duration;

use serde::Serialize;

use crate::cli::args::CmdlineArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::describe;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::table::Table;
use crate::cli::{Outcome, output};
use crate::machine::{self, Difference};
use crate::vm::control::Request;

/// How long a supervisor may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    running: bool,
    command: &'a [String],
}

#[derive(Serialize)]
struct Comparison<'a> {
    left: &'a str,
    right: &'a str,
    differences: &'a [Difference],
}

/// `midge cmdline`.
pub(super) fn cmdline(context: &Context, args: &CmdlineArgs) -> Outcome {
    let (running, left) = command_line(context, &args.name)?;
    match &args.diff {
        None if args.output.json() => output::json(&Line { name: &args.name, running, command: &left })?,
        None => output::print(|out| out.write_all(shell(&left).as_bytes()))?,
        Some(other) => {
            let (_, right) = command_line(context, other)?;
            let differences = machine::diff(arguments(&left), arguments(&right));
            if args.output.json() {
                output::json(&Comparison { left: &args.name, right: other, differences: &differences })?;
            } else {
                output::table(&table(&args.name, other, &differences))?;
            }
        }
    }
    Ok(0)
}

fn table(left: &str, right: &str, differences: &[Difference]) -> Table {
    let mut table = Table::new(["OPTION", "PART", "PROPERTY", left, right]);
    for Difference { option, part, property, left, right } in differences {
        let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "(none)".to_owned());
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        table.row([option.clone(), or_empty(part), or_empty(property), side(left), side(right)]);
    }
    table
}

/// The command line in use, or the one that a start would use; and whether it is in use.
fn command_line(context: &Context, name: &str) -> Result<(bool, Vec<String>), Failed> {
    let vm = context.vm(name)?;
    if describe::running(&vm.status()).is_none() {
        return Ok((false, crate::vm::plan_command_line(context.home()?, &vm, &vm.record()?)?));
    }
    let value =
        call(&mut context.connect(&vm)?, &Request::CommandLine, Deadline::after(Some(LIMIT)), |_| Ok(()))?;
    let command = serde_json::from_value(value)
        .map_err(|e| Failed::wrap(ExitKind::Other, e).context("the VM's supervisor named no command line"))?;
    Ok((true, command))
}

/// The words without the program, which a command line may begin with.
fn arguments(words: &[String]) -> &[String] {
    match words {
        [program, rest @ ..] if !program.starts_with('-') => rest,
        words => words,
    }
}

/// A command line that a shell reads as it is, an option with its value a line.
fn shell(words: &[String]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let option = word.starts_with('-') && word.len() > 1;
        if index > 0 {
            text.push_str(if option { " \\\n  " } else { " " });
        }
        text.push_str(&quoted(word));
    }
    text.push('\n');
    text
}

/// A word quoted for a POSIX shell, where it needs it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let words = ["/usr/bin/printf", "%s|", "-append", "a 'b' $c", "", "-m", "size=512M"];
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let text = shell(&words);
        assert!(text.contains(" \\\n  -append 'a"), "{text}");
        let output = std::process::Command::new("/bin/sh").args(["-c", &text]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words[2..].join("|") + "|");
    }
}
