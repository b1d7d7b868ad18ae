//! `logs` and `events`.

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::cli::args::{EventsArgs, LogSource, LogsArgs};
use crate::cli::context::Context;
use crate::cli::exit::Failed;
use crate::cli::logfile::{self, Follower};
use crate::cli::output::SCHEMA;
use crate::cli::{Outcome, output};

/// `midge logs`: the bytes as they were written, so that colours and all survive in a terminal.
pub(super) fn logs(context: &Context, args: &LogsArgs) -> Outcome {
    let vm = context.vm(&args.name)?;
    let path = match args.source {
        LogSource::Serial => vm.console_log(),
        LogSource::Qemu => vm.qemu_log(),
        LogSource::Midge => vm.midge_log(),
        LogSource::CloudInit => return super::cloud_init::logs(context, args, &vm),
    };
    if !path.exists() && !args.follow {
        context.voice.note(format_args!("`{}` has written nothing yet", args.name));
    }
    stream(&path, args.tail, args.follow, output::bytes)?;
    Ok(0)
}

/// `midge events`.
pub(super) fn events(context: &Context, args: &EventsArgs) -> Outcome {
    let vm = context.vm(&args.name)?;
    let json = args.output.json();
    let mut line = Vec::new();
    stream(&vm.events_log(), args.tail, args.follow, |bytes| {
        let mut text = String::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                text.push_str(&event(&line, json));
                line.clear();
            }
        }
        output::bytes(text.as_bytes())
    })?;
    Ok(0)
}

/// Hands the end of a file to `sink`, then what is added to it.
fn stream(
    path: &Path,
    tail: Option<usize>,
    follow: bool,
    mut sink: impl FnMut(&[u8]) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let failed = |e: io::Error| Failed::io(format!("cannot read {}", path.display()), e);
    let offset = match (tail, File::open(path)) {
        (None, Ok(_)) => 0,
        (Some(count), Ok(mut file)) => logfile::start_of_last(&mut file, count).map_err(failed)?,
        (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => 0,
        (_, Err(e)) => return Err(failed(e)),
    };
    let mut follower = Follower::new(path, offset).map_err(failed)?;
    loop {
        follower.read(|bytes| sink(bytes).map_err(Stop::Sink)).map_err(|stop| match stop {
            Stop::Sink(failed) => failed,
            Stop::Io(e) => failed(e),
        })?;
        if !follow || !follower.wait().map_err(failed)? {
            return Ok(());
        }
    }
}

/// Why reading stopped.
enum Stop {
    Sink(Failed),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One line of the history in the form wanted. What is no JSON object is passed over: it was cut short by a crash.
fn event(line: &[u8], json: bool) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_slice(line) else { return String::new() };
    if json {
        // Laid before the line as it was written: a map would sort its fields.
        let line = String::from_utf8_lossy(line);
        let rest = line.trim().trim_start_matches('{');
        let comma = if fields.is_empty() { "" } else { "," };
        return format!("{{\"schema\":{SCHEMA}{comma}{rest}\n");
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("-");
    let time: Option<jiff::Timestamp> = text("time").parse().ok();
    let time = time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"));
    let rest = fields.iter().filter(|(key, _)| !matches!(key.as_str(), "time" | "event" | "schema" | "name"));
    let rest = rest.map(|(key, value)| format!("{key}={}", plain(value)));
    // What it is about comes first and needs no label.
    let rest: Vec<String> = fields.get("name").map(plain).into_iter().chain(rest).collect();
    let line = format!("{time}  {:<12} {}", text("event"), rest.join(" "));
    format!("{}\n", line.trim_end())
}

/// A value as a word.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => logfile::clean(text.as_bytes()),
        // A state is an object whose name says nearly all.
        Value::Object(fields) => match fields.get("name").and_then(Value::as_str) {
            Some(name) => fields
                .iter()
                .filter(|(key, _)| *key != "name")
                .fold(name.to_owned(), |text, (_, value)| format!("{text}:{}", plain(value))),
            None => value.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_lines() {
        let line = br#"{"time":"2026-01-02T03:04:05.678901Z","event":"state","state":{"name":"paused","why":"user"}}"#;
        assert_eq!(event(line, false), "2026-01-02T03:04:05.678Z  state        state=paused:user\n");
        let line = br#"{"time":"2026-01-02T03:04:05Z","event":"phase","ms":1.5,"name":"ready"}"#;
        assert_eq!(event(line, false), "2026-01-02T03:04:05.000Z  phase        ready ms=1.5\n");
        let line = br#"{"time":"2026-01-02T03:04:05Z","event":"guest-reset"}"#;
        assert_eq!(event(line, false), "2026-01-02T03:04:05.000Z  guest-reset\n");
        assert_eq!(event(b"{\"time\":", false), "");
    }

    #[test]
    fn events_as_json_begin_with_their_schema() {
        let text = event(br#"{"event":"started","pid":7}"#, true);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["schema"].as_u64(), value["pid"].as_u64()), (Some(1), Some(7)));
        assert_eq!(text, "{\"schema\":1,\"event\":\"started\",\"pid\":7}\n");
        assert_eq!(event(b"{}\n", true), "{\"schema\":1}\n");
    }
}
