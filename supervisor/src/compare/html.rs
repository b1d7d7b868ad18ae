//! A report as one HTML file: its style and pictures are in it, and nothing in it leads elsewhere or runs.

use std::fmt::Write as _;

use super::chart;
use super::document::Block;

/// Nothing may be loaded, run or sent, whatever a guest has written into the report (Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
const STYLE: &str = include_str!("report.css");

/// The whole document.
#[must_use]
pub fn write(title: &str, blocks: &[Block]) -> String {
    let mut body = String::new();
    for block in blocks {
        match block {
            Block::Heading(level, words) => {
                let _ = writeln!(body, "<h{level}>{}</h{level}>", escaped(words));
            }
            Block::Text(words) => {
                let _ = writeln!(body, "<p>{}</p>", escaped(words));
            }
            Block::Warning(words) => {
                let _ = writeln!(body, "<p class=\"warning\">{}</p>", escaped(words));
            }
            Block::List(items) => {
                body.push_str("<ul>\n");
                for item in items {
                    let _ = writeln!(body, "<li>{}</li>", escaped(item));
                }
                body.push_str("</ul>\n");
            }
            Block::Facts(facts) => {
                body.push_str("<dl>\n");
                for (name, value) in facts {
                    let _ = writeln!(body, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
                }
                body.push_str("</dl>\n");
            }
            Block::Table(head, rows) => table(&mut body, head, rows),
            Block::Code(code) => {
                let _ = writeln!(body, "<pre tabindex=\"0\">{}</pre>", escaped(code.trim_end()));
            }
            Block::Chart(picture) => chart::write(&mut body, picture),
        }
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escaped(title)
    )
}

/// It scrolls within itself where the screen is narrower; the keyboard reaches it for that (WCAG 2.1.1).
fn table(body: &mut String, head: &[String], rows: &[Vec<String>]) {
    body.push_str("<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>");
    for cell in head {
        let _ = write!(body, "<th scope=\"col\">{}</th>", escaped(cell));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        body.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let long = if cell.chars().count() > 28 { " class=\"long\"" } else { "" };
            let _ = match index {
                0 => write!(body, "<th scope=\"row\">{}</th>", escaped(cell)),
                _ => write!(body, "<td{long}>{}</td>", escaped(cell)),
            };
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody></table></div>\n");
}

/// Text that stands for itself, in content and in attributes.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push('\n'),
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
        let evil = "<script>alert('x')</script> & \"q\"\u{1b}[2J";
        let page = write(
            evil,
            &[
                Block::Heading(1, evil.to_owned()),
                Block::Text(evil.to_owned()),
                Block::List(vec![evil.to_owned()]),
                Block::Table(vec![evil.to_owned()], vec![vec![evil.to_owned(), evil.to_owned()]]),
                Block::Code(evil.to_owned()),
            ],
        );
        assert!(!page.contains("<script") && !page.contains('\u{1b}') && !page.contains("('x')"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 8);
    }
}
