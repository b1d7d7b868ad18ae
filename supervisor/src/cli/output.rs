//! The one place that prints. Data goes to stdout, buffered; notes, progress and errors go to stderr.
//!
//! Every JSON document has `"schema": 1` as its first field. Streams are one object a line. Nothing here is coloured:
//! a table looks the same in a terminal and in a pipe. Errors are text on stderr in every format, so that stdout holds
//! either a whole document or nothing.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};

use serde::Serialize;

use super::exit::Failed;
use super::table::Table;

/// Version of every JSON document that midge prints.
pub(super) const SCHEMA: u32 = 1;

/// How talkative a command is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Voice {
    /// `-q`: no notes.
    pub(super) quiet: bool,
    /// `-v`: more notes.
    pub(super) verbose: bool,
}

/// A document with its version.
#[derive(Serialize)]
struct Versioned<'a, T> {
    schema: u32,
    #[serde(flatten)]
    value: &'a T,
}

impl Voice {
    /// Says something that is not the result, unless `-q`.
    pub(super) fn note(self, text: impl fmt::Display) {
        if !self.quiet {
            say(format_args!("midge: {text}"));
        }
    }

    /// Says something that only the curious want.
    pub(super) fn detail(self, text: impl fmt::Display) {
        if self.verbose && !self.quiet {
            say(format_args!("midge: {text}"));
        }
    }

    /// Whether a line of progress may be rewritten in place.
    pub(super) fn animated(self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

/// Writes a line to stderr. A stderr that nobody reads is no reason to fail.
pub(super) fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Rewrites the last line of stderr, which is a terminal.
pub(super) fn rewrite(text: impl fmt::Display) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
}

/// Lets `write` fill stdout.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failed> {
    let mut stdout = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    write(&mut stdout).and_then(|()| stdout.flush()).map_err(Failed::stdout)
}

/// Writes a line to stdout.
pub(super) fn line(text: impl fmt::Display) -> Result<(), Failed> {
    print(|out| writeln!(out, "{text}"))
}

/// Writes bytes to stdout as they are, at once.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failed> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failed::stdout)
}

/// Writes bytes to stderr as they are, at once.
pub(super) fn error_bytes(bytes: &[u8]) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
}

/// Writes a table to stdout.
pub(super) fn table(table: &Table) -> Result<(), Failed> {
    print(|out| table.write(out))
}

/// Writes documents to stdout, one a line.
pub(super) fn json_lines<T: Serialize>(values: impl IntoIterator<Item = T>) -> Result<(), Failed> {
    print(|out| {
        for value in values {
            serde_json::to_writer(&mut *out, &Versioned { schema: SCHEMA, value: &value })?;
            writeln!(out)?;
        }
        Ok(())
    })
}

/// Writes one document to stdout, on one line.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failed> {
    json_lines([value])
}

/// Writes one document to stdout, for people to read.
pub(super) fn json_pretty(value: &impl Serialize) -> Result<(), Failed> {
    print(|out| {
        serde_json::to_writer_pretty(&mut *out, &Versioned { schema: SCHEMA, value })?;
        writeln!(out)
    })
}

/// Tells of a failure on stderr.
pub(super) fn failure(failed: &Failed) {
    if !failed.unheard {
        let _ = io::stderr().lock().write_all(failure_text(failed).as_bytes());
    }
}

fn failure_text(failed: &Failed) -> String {
    let mut lines = vec![format!("midge: error: {:#}", failed.error)];
    for section in failed.sections.iter().filter(|section| !section.lines.is_empty()) {
        lines.push(format!("\n{}:", section.title));
        lines.extend(section.lines.iter().map(|line| format!("  | {line}")));
    }
    lines.extend(failed.hint.iter().map(|hint| format!("\nhint: {hint}")));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::exit::{ExitKind, Section};
    use super::*;

    #[test]
    fn a_failure_reads_what_why_evidence_hint() {
        let failed = Failed::new(ExitKind::Timeout, "no sign of readiness within 3 s")
            .context("`web` did not come up")
            .sections(vec![
                Section { title: "its last serial lines".to_owned(), lines: vec!["panic".to_owned()] },
                Section { title: "QEMU's stderr".to_owned(), lines: Vec::new() },
            ])
            .hint("try `midge console web`");
        let expected = "midge: error: `web` did not come up: no sign of readiness within 3 s\n\n\
                        its last serial lines:\n  | panic\n\nhint: try `midge console web`\n";
        assert_eq!(failure_text(&failed), expected);
    }

    #[test]
    fn a_document_begins_with_its_schema() {
        let value = serde_json::json!({"name": "web"});
        let text = serde_json::to_string(&Versioned { schema: SCHEMA, value: &value }).unwrap();
        assert_eq!(text, r#"{"schema":1,"name":"web"}"#);
    }
}
