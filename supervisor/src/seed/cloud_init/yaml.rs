//! Checking YAML that cloud-init is to read, with the place of what is wrong.

use serde_yaml::Value;

/// Something wrong in a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Counted from 1.
    pub(super) line: usize,
    /// In characters, counted from 1.
    pub(super) column: usize,
    pub(super) what: String,
}

/// Keys of cloud-init's configuration that hold a list (cloud-init's documentation, "Module reference"): anything else there is an error
/// that cloud-init tells nobody but its log.
const LISTS: [&str; 6] =
    ["bootcmd", "runcmd", "write_files", "ssh_authorized_keys", "ssh_import_id", "packages"];

/// Checks a `#cloud-config`; answers its top-level keys.
pub(super) fn check_config(text: &[u8]) -> Result<Vec<String>, Wrong> {
    let fields = match parse(text)? {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(fields) => fields,
        other => {
            let what = format!("a configuration is a mapping (`key: value`), not {}", form(&other));
            return Err(first_content(text, what));
        }
    };
    let mut keys = Vec::new();
    for (key, value) in &fields {
        let Value::String(key) = key else {
            return Err(first_content(text, format!("{} is no name of a setting", form(key))));
        };
        if LISTS.contains(&key.as_str()) && !matches!(value, Value::Sequence(_)) {
            return Err(at_key(
                text,
                key,
                format!("`{key}` is a list (`- item` lines), not {}", form(value)),
            ));
        }
        keys.push(key.clone());
    }
    Ok(keys)
}

/// Checks a `#cloud-config-archive`.
pub(super) fn check_archive(text: &[u8]) -> Result<(), Wrong> {
    match parse(text)? {
        Value::Sequence(_) => Ok(()),
        other => Err(first_content(text, format!("an archive is a list of parts, not {}", form(&other)))),
    }
}

/// Whether the text is a mapping, whatever is above it.
pub(super) fn is_mapping(text: &[u8]) -> bool {
    matches!(parse(text), Ok(Value::Mapping(_)))
}

fn parse(text: &[u8]) -> Result<Value, Wrong> {
    let text = std::str::from_utf8(text).map_err(|e| {
        let before = String::from_utf8_lossy(&text[..e.valid_up_to()]).into_owned();
        let wrong = text.get(e.valid_up_to()).copied().unwrap_or_default();
        place(&before, format!("the byte 0x{wrong:02x} is not UTF-8"))
    })?;
    if let Some(at) = text.find(is_refused) {
        let c = text[at..].chars().next().unwrap_or_default();
        return Err(place(
            &text[..at],
            format!("the character U+{:04X} is not allowed in YAML", u32::from(c)),
        ));
    }
    serde_yaml::from_str(text).map_err(|error| match error.location() {
        Some(found) => {
            let (mut line, mut column) = (found.line().max(1), found.column().max(1));
            let here = text.lines().nth(line - 1).and_then(|text| text.chars().nth(column - 1));
            // The place is told once, in front.
            let mut what = error
                .to_string()
                .replace(&format!(" at line {} column {}", found.line(), found.column()), "");
            if here == Some('\t') {
                "a tab, where YAML is indented with blanks".clone_into(&mut what);
            } else if what.contains("end of stream")
                && let Some((rest, (began_line, began_column))) = trailing_place(&what)
            {
                // What is not closed is looked for where it begins.
                (line, column, what) = (began_line, began_column, rest.to_owned());
            }
            Wrong { line, column, what }
        }
        None => {
            let what = error.to_string();
            match second_document(text) {
                Some(line) if what.contains("more than one document") => Wrong {
                    line,
                    column: 1,
                    what: "a second document begins, and only one is read".to_owned(),
                },
                _ => first_content(text.as_bytes(), what),
            }
        }
    })
}

/// A text that ends with ` at line N column N`, taken apart.
fn trailing_place(text: &str) -> Option<(&str, (usize, usize))> {
    let (rest, place) = text.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some((rest, (line.parse().ok()?, column.parse().ok()?)))
}

/// What PyYAML refuses to read at all (YAML 1.1, 4.1.1).
fn is_refused(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..)
}

/// The line, counted from 1, where a second document begins.
fn second_document(text: &str) -> Option<usize> {
    let mut seen = false;
    for (index, line) in text.lines().enumerate() {
        let mark = line == "---" || line.starts_with("--- ");
        if mark && seen {
            return Some(index + 1);
        }
        let content = line.trim_start();
        seen |= mark || !(content.is_empty() || content.starts_with('#') || content.starts_with('%'));
    }
    None
}

/// What is wrong is at the end of `before`.
fn place(before: &str, what: String) -> Wrong {
    let line = before.rsplit('\n').next().unwrap_or_default();
    Wrong { line: before.matches('\n').count() + 1, column: line.chars().count() + 1, what }
}

/// What is wrong is the whole: its place is the first line that is no comment.
fn first_content(text: &[u8], what: String) -> Wrong {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().enumerate();
    let found = lines.find(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let (index, line) = found.unwrap_or((0, ""));
    let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
    Wrong { line: index + 1, column, what }
}

/// What is wrong is the value of a top-level key.
fn at_key(text: &[u8], key: &str, what: String) -> Wrong {
    let text = String::from_utf8_lossy(text);
    let begins = |line: &str| {
        let line = line.trim_start_matches(['"', '\'']);
        line.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(':'))
    };
    match text.lines().position(begins) {
        Some(index) => Wrong { line: index + 1, column: 1, what },
        None => first_content(text.as_bytes(), what),
    }
}

/// What a value is, in words.
fn form(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a value with a tag",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_told_with_its_place() {
        for (text, line, column, words) in [
            ("#cloud-config\npackages:\n\t- nginx\n", 3, 1, "tab"),
            ("#cloud-config\nfoo: \"unclosed\nbar: 1\n", 2, 6, "quoted"),
            ("#cloud-config\nfoo: [1, 2\nbar: 3\n", 3, 4, "',' or ']'"),
            ("#cloud-config\nfoo: 1\nfoo: 2\n", 2, 1, "duplicate"),
            ("#cloud-config\na: 1\n  b: 2\n", 3, 4, "mapping values"),
            ("#cloud-config\na: *nowhere\n", 2, 4, "anchor"),
            ("#cloud-config\njust words\n", 2, 1, "not a text"),
            ("#cloud-config\n- a\n- b\n", 2, 1, "not a list"),
            ("#cloud-config\nusers:\n- a\n b: 1\n", 4, 3, "mapping values"),
            ("#cloud-config\na: \u{1}\n", 2, 4, "U+0001"),
            ("#cloud-config\na: 1\nruncmd: echo\n", 3, 1, "`runcmd` is a list"),
            ("#cloud-config\na: 1\n---\nb: 2\n", 3, 1, "second document"),
            ("#cloud-config\na: `x`\n", 2, 4, "cannot start any token"),
            ("#cloud-config\n7: x\n", 2, 1, "a number is no name"),
        ] {
            let wrong = check_config(text.as_bytes()).unwrap_err();
            assert_eq!((wrong.line, wrong.column), (line, column), "{text:?}: {wrong:?}");
            assert!(wrong.what.contains(words), "{text:?}: {wrong:?}");
        }
        let wrong = check_config(b"#cloud-config\n\xc3\xa9: \xff\n").unwrap_err();
        assert_eq!((wrong.line, wrong.column, wrong.what.as_str()), (2, 4, "the byte 0xff is not UTF-8"));
    }

    #[test]
    fn what_is_right_is_left_alone() {
        for text in
            ["#cloud-config\n", "#cloud-config\n---\na: 1\n", "#cloud-config\n{\"runcmd\": [[\"ls\"]]}\n"]
        {
            assert!(check_config(text.as_bytes()).is_ok(), "{text}");
        }
        let anchors = "#cloud-config\nx: &k [a]\nssh_authorized_keys: *k\npackages:\n- é\n- !!str 7\n";
        assert_eq!(check_config(anchors.as_bytes()).unwrap(), ["x", "ssh_authorized_keys", "packages"]);
    }
}
