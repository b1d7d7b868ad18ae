//! A report as Markdown (GitHub Flavored Markdown).

use std::fmt::Write as _;

use super::document::{Block, Chart, show};

/// The whole document.
#[must_use]
pub fn write(blocks: &[Block]) -> String {
    let mut text = String::new();
    for block in blocks {
        match block {
            Block::Heading(level, words) => {
                let _ = writeln!(text, "{} {}\n", "#".repeat(usize::from(*level)), escaped(words));
            }
            Block::Text(words) => {
                let _ = writeln!(text, "{}\n", escaped(words));
            }
            Block::Warning(words) => {
                let _ = writeln!(text, "> **Note:** {}\n", escaped(words));
            }
            Block::List(items) => {
                for item in items {
                    let _ = writeln!(text, "- {}", escaped(item));
                }
                text.push('\n');
            }
            Block::Facts(facts) => {
                for (name, value) in facts {
                    let _ = writeln!(text, "- **{}:** {}", escaped(name), escaped(value));
                }
                text.push('\n');
            }
            Block::Table(head, rows) => table(&mut text, head, rows),
            Block::Code(code) => {
                // A fence longer than any in the text (CommonMark 4.5).
                let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
                let fence = "`".repeat(longest.max(2) + 1);
                let _ = writeln!(text, "{fence}text\n{}\n{fence}\n", code.trim_end());
            }
            // Its numbers are in the tables, but for those of parts.
            Block::Chart(Chart::Dots { .. }) => {}
            Block::Chart(Chart::Shares { title, unit, bars }) => {
                let _ = writeln!(text, "{}:\n", escaped(title));
                for (guest, parts) in bars {
                    let parts: Vec<String> =
                        parts.iter().map(|(part, value)| format!("{part} {}", show(*value, *unit))).collect();
                    let _ = writeln!(text, "- {}: {}", escaped(guest), escaped(&parts.join(", ")));
                }
                text.push('\n');
            }
        }
    }
    let end = text.trim_end().len();
    text.truncate(end);
    text.push('\n');
    text
}

fn table(text: &mut String, head: &[String], rows: &[Vec<String>]) {
    let line = |cells: &[String]| {
        cells.iter().fold("|".to_owned(), |line, cell| format!("{line} {} |", escaped(cell)))
    };
    let rule: String = head.iter().enumerate().map(|(i, _)| if i == 0 { "---|" } else { "---:|" }).collect();
    let _ = writeln!(text, "{}\n|{rule}", line(head));
    for row in rows {
        let _ = writeln!(text, "{}", line(row));
    }
    text.push('\n');
}

/// Text that stands for itself (CommonMark 2.4, and the bars of tables).
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' | '!' => {
                escaped.extend(['\\', c]);
            }
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stands_for_itself() {
        assert_eq!(escaped("a|b <i> *c*\n`d`"), "a\\|b \\<i\\> \\*c\\* \\`d\\`");
        let text = write(&[
            Block::Table(vec!["A".into(), "B".into()], vec![vec!["x|y".into(), "1".into()]]),
            Block::Code("a ``` b".into()),
        ]);
        assert_eq!(text, "| A | B |\n|---|---:|\n| x\\|y | 1 |\n\n````text\na ``` b\n````\n");
    }
}
