//! `exec`: a command in a guest, through its agent.

use std::io::{self, Read};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::ssh::{Way, missing};
use crate::cli::args::{ExecArgs, Via};
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::vm::control::{Client, Failure, FailureKind, Reply, Request, Stream};

/// The most stdin that `-i` takes: the agent wants it whole, in one message.
const MOST_INPUT: u64 = 8 << 20;
/// What a shell answers for a program that is not there (POSIX, "Exit Status for Commands").
pub(super) const NO_PROGRAM: u8 = 127;

/// What ssh(1) ends with when it fails itself.
const SSH_FAILED: i32 = 255;

/// `midge exec`.
pub(super) fn exec(context: &Context, args: ExecArgs) -> Outcome {
    let outcome = || -> Outcome {
        if args.via == Via::Ssh {
            return by_ssh(context, &args);
        }
        if args.tty {
            let failed = Failed::new(ExitKind::Usage, "the guest agent offers no terminal");
            return Err(failed.hint(format!("midge ssh {} -- {}", args.name, args.command.join(" "))));
        }
        let mut client = context.connect(&context.vm(&args.name)?)?;
        let input = if args.interactive { Some(read_input()?) } else { None };
        let request = Request::Exec {
            argv: args.command,
            env: args.env.into_iter().collect(),
            dir: args.workdir,
            input: input.map(|bytes| BASE64.encode(bytes)),
        };
        execute(&mut client, &request, Deadline::after(args.timeout))
    };
    let outcome = outcome();
    match outcome {
        // The command line was wrong, which is found before anything runs.
        Err(failed) if failed.kind == ExitKind::Usage => Err(failed),
        outcome => outcome.map_err(Failed::inside_exec),
    }
}

/// Runs a command in a guest by SSH at its address.
fn by_ssh(context: &Context, args: &ExecArgs) -> Outcome {
    if args.timeout.is_some() {
        let failed = Failed::new(ExitKind::Usage, "--timeout goes with the guest agent");
        return Err(failed.hint("use timeout(1): midge exec --via ssh NAME -- timeout 10 CMD"));
    }
    let way = Way::to(context, &args.name, None)?;
    let mut ssh = Command::new("ssh");
    ssh.args(way.options("-p")).arg(if args.tty { "-t" } else { "-T" });
    if !args.interactive && !args.tty {
        ssh.stdin(Stdio::null());
    }
    let status = ssh.arg(way.destination()).arg("--").arg(shell_line(args)).status();
    match status.map_err(|e| missing("ssh", e))?.code() {
        Some(SSH_FAILED) => Err(Failed::new(ExitKind::Other, "ssh failed, or the command ended with 255")),
        Some(code) => Ok(u8::try_from(code).unwrap_or(1)),
        None => Err(Failed::new(ExitKind::Other, "ssh was ended by a signal")),
    }
}

/// The command as one line for the guest's shell, which is all that SSH carries (RFC 4254, 6.5).
fn shell_line(args: &ExecArgs) -> String {
    let mut words = Vec::new();
    if let Some(dir) = &args.workdir {
        words.push(format!("cd {} &&", quoted(dir)));
    }
    words.push("exec".to_owned());
    if !args.env.is_empty() {
        words.push("env".to_owned());
        words.extend(args.env.iter().map(|(key, value)| quoted(&format!("{key}={value}"))));
    }
    words.extend(args.command.iter().map(|word| quoted(word)));
    words.join(" ")
}

/// A word that a POSIX shell takes as it is (Shell Command Language, 2.2.2).
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a program, passes on its output as it comes, and answers its exit code.
pub(super) fn execute(client: &mut Client, request: &Request, deadline: Deadline) -> Outcome {
    let mut code = None;
    let answer = call(client, request, deadline, |reply| {
        match reply {
            Reply::Output { stream, data } => {
                let bytes = decode(&data)?;
                match stream {
                    Stream::Stdout => output::bytes(&bytes)?,
                    Stream::Stderr => output::error_bytes(&bytes),
                }
            }
            Reply::Exited { code: exit } => code = Some(exit),
            _ => {}
        }
        Ok(())
    });
    match answer {
        Ok(_) => code.ok_or_else(|| {
            Failed::new(ExitKind::Other, "the guest agent did not tell how the command ended")
        }),
        Err(failed) if is_missing(&failed) => {
            output::failure(&failed);
            Ok(NO_PROGRAM)
        }
        Err(failed) => Err(failed),
    }
}

fn is_missing(failed: &Failed) -> bool {
    matches!(failed.error.downcast_ref(), Some(Failure { kind: FailureKind::NotFound, .. }))
}

/// Bytes from their base64.
pub(super) fn decode(data: &str) -> Result<Vec<u8>, Failed> {
    BASE64
        .decode(data)
        .map_err(|e| Failed::wrap(ExitKind::Other, e).context("the VM's supervisor sent broken base64"))
}

fn read_input() -> Result<Vec<u8>, Failed> {
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MOST_INPUT + 1).read_to_end(&mut input);
    read.map_err(|e| Failed::io("cannot read stdin", e))?;
    if input.len() as u64 > MOST_INPUT {
        let failed = Failed::new(ExitKind::Usage, format!("stdin holds more than {} MiB", MOST_INPUT >> 20));
        return Err(failed.hint("copy it into the guest with `midge cp`, or use `midge ssh`"));
    }
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reaches_the_guests_shell_as_it_was_typed() {
        let args = ExecArgs {
            interactive: false,
            tty: false,
            workdir: Some("/a b".to_owned()),
            env: vec![("K".to_owned(), "it's".to_owned())],
            timeout: None,
            via: Via::Ssh,
            name: "web".to_owned(),
            command: ["sh", "-c", "echo $HOME; ls *"].map(ToOwned::to_owned).to_vec(),
        };
        let line = shell_line(&args);
        assert_eq!(line, r"cd '/a b' && exec env 'K=it'\''s' 'sh' '-c' 'echo $HOME; ls *'");
    }
}
