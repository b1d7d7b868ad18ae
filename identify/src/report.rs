//! What the program says: [`BEGIN`], a line for each item that was asked for, `ITEM STATE MICROSECONDS DETAIL`, lines
//! `fact NAME VALUE`, and [`END`].

use core::fmt::{self, Write};

use crate::text::{Line, Text};

/// The first line; its number changes with the meaning of the others.
pub const BEGIN: &str = "midge-identity 1";
/// The last line: without it the answer is not whole.
pub const END: &str = "end";

/// How an item went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has changed.
    Done,
    /// The guest has no such thing.
    NotApplicable,
    /// It has not changed, or it is not known whether it has.
    Failed,
    /// It was begun, and somebody else will see whether it comes true.
    Pending,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotApplicable => "not-applicable",
            Self::Failed => "failed",
            Self::Pending => "pending",
        }
    }
}

/// How an item went, and what there is to say of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How.
    pub state: State,
    /// What.
    pub detail: Line,
}

impl Outcome {
    /// It has changed.
    pub fn done(detail: fmt::Arguments<'_>) -> Self {
        Self { state: State::Done, detail: Line::of(detail) }
    }

    /// The guest has no such thing.
    pub fn not_applicable(detail: fmt::Arguments<'_>) -> Self {
        Self { state: State::NotApplicable, detail: Line::of(detail) }
    }

    /// It has not changed.
    pub fn failed(detail: fmt::Arguments<'_>) -> Self {
        Self { state: State::Failed, detail: Line::of(detail) }
    }

    /// It was begun.
    pub fn pending(detail: fmt::Arguments<'_>) -> Self {
        Self { state: State::Pending, detail: Line::of(detail) }
    }
}

/// The lines, written at once at the end.
#[derive(Debug, Default)]
pub struct Report(Text<8192>);

impl Report {
    /// Adds an item, with how long it took.
    pub fn item(&mut self, name: &str, outcome: &Outcome, microseconds: u64) {
        let (state, detail) = (outcome.state.word(), outcome.detail.str());
        self.line(format_args!("{name} {state} {microseconds} {detail}"));
    }

    /// Adds something that there is to know.
    pub fn fact(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.line(format_args!("fact {name} {value}"));
    }

    /// Everything, with its first and last line.
    pub fn text(&self) -> Text<8448> {
        Text::of(format_args!("{BEGIN}\n{}{END}\n", self.0.str()))
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        let line = Text::<512>::of(line);
        for (index, part) in line.str().trim_ascii_end().split('\n').enumerate() {
            let _ = write!(self.0, "{}{part}", if index > 0 { " " } else { "" });
        }
        let _ = writeln!(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_one_line() {
        let mut report = Report::default();
        report.item("mac", &Outcome::done(format_args!("eth0\nend ")), 7);
        report.fact("boot-id", format_args!("1"));
        assert_eq!(report.text().str(), "midge-identity 1\nmac done 7 eth0 end\nfact boot-id 1\nend\n");
    }
}
