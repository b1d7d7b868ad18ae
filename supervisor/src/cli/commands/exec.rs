//! `exec`: a command in a guest, through its agent.

use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::cli::args::ExecArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::vm::control::{Client, Failure, FailureKind, Reply, Request, Stream};

/// The most stdin that `-i` takes: the agent wants it whole, in one message.
const MOST_INPUT: u64 = 8 << 20;
/// What a shell answers for a program that is not there (POSIX, "Exit Status for Commands").
pub(super) const NO_PROGRAM: u8 = 127;

/// `midge exec`.
pub(super) fn exec(context: &Context, args: ExecArgs) -> Outcome {
    let outcome = || -> Outcome {
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
