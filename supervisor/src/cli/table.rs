//! Aligned tables, the same in a terminal and in a pipe.

use std::io::{self, Write};

/// Rows of text under a header. The last column is never padded, so no line ends in blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this header.
    pub(super) fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![header.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row. An empty cell shows as `-`, so that a script which splits at blanks counts right.
    pub(super) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells = cells.into_iter().map(Into::into).map(|cell: String| {
            if cell.is_empty() { "-".to_owned() } else { cell.replace(['\n', '\r', '\t'], " ") }
        });
        self.rows.push(cells.collect());
    }

    /// Writes it.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if index + 1 == row.len() {
                    writeln!(out, "{cell}")?;
                } else {
                    write!(out, "{cell:<width$}  ")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["a", "running"]);
        table.row(["lönger-name", ""]);
        table.row(["x", "two\nlines"]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let expected = "NAME         STATE\na            running\nlönger-name  -\nx            two lines\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
