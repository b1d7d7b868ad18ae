//! The user's user-data: which of cloud-init's formats it has, and whether cloud-init will be able to read it.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use super::yaml::{self, Wrong};

/// The most that compressed user-data may unpack to.
const MOST: u64 = 16 << 20;
/// Where cloud-init looks for the mark of a MIME message (cloud-init, `user_data.convert_string`).
const MIME_WITHIN: usize = 4096;

/// Formats that cloud-init tells by the first line (cloud-init's documentation, "User data formats"), or by a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `#cloud-config`: YAML.
    CloudConfig,
    /// `#cloud-config-archive`: a YAML list of parts.
    Archive,
    /// `#!`: a program for the end of the first boot.
    Script,
    /// `#cloud-boothook`: a program for every boot, early.
    Boothook,
    /// `#include`, `#include-once`: addresses of more.
    Include,
    /// `#part-handler`: Python that reads parts of a kind of its own.
    PartHandler,
    /// `## template: jinja`: one of the others, to be filled in by the guest.
    Jinja,
    /// A MIME message.
    Mime,
}

/// The first lines by which formats are told, in lower case; the longer of two that begin alike comes first.
const FIRST_LINES: [(&str, Format); 9] = [
    ("## template: jinja", Format::Jinja),
    ("#cloud-config-archive", Format::Archive),
    ("#cloud-config-jsonp", Format::Archive),
    ("#cloud-config", Format::CloudConfig),
    ("#cloud-boothook", Format::Boothook),
    ("#include-once", Format::Include),
    ("#include", Format::Include),
    ("#part-handler", Format::PartHandler),
    ("#!", Format::Script),
];

/// User-data that cloud-init can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserData {
    format: Format,
    text: Vec<u8>,
    /// The top-level keys, of a `#cloud-config`.
    keys: Vec<String>,
}

/// Why user-data cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserDataError {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// None of the formats.
    #[error("line 1, column 1: {0}")]
    Unknown(Cow<'static, str>),
    /// Wrong at a place of the text.
    #[error("{0}")]
    At(Place),
    /// Compressed data that cannot be unpacked.
    #[error("it begins like gzip, and cannot be unpacked: {0}")]
    Gzip(String),
    /// Compressed data that is too large.
    #[error("unpacked it has more than {} MiB", MOST >> 20)]
    Huge,
    /// A MIME message that is none.
    #[error("line {line}, column 1: {what}")]
    Mime {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

/// A place in a text and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Characters from the line's beginning, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl UserData {
    /// Reads user-data, gzip or not, and checks as much of it as can be checked outside of the guest.
    pub fn read(bytes: &[u8]) -> Result<Self, UserDataError> {
        let text = unpacked(bytes)?;
        // A mark of the byte order is no part of the text, and would hide the first line from cloud-init.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text).to_vec();
        if text.trim_ascii().is_empty() {
            return Err(UserDataError::Empty);
        }
        let format = format(&text)?;
        let mut keys = Vec::new();
        let at = |wrong: Wrong| {
            let Wrong { line, column, what } = wrong;
            UserDataError::At(Place { line, column, what })
        };
        match format {
            Format::CloudConfig => keys = yaml::check_config(&text).map_err(at)?,
            Format::Archive => yaml::check_archive(&text).map_err(at)?,
            Format::Mime => check_mime(&text)?,
            Format::Script | Format::Boothook | Format::Include | Format::PartHandler | Format::Jinja => {}
        }
        Ok(Self { format, text, keys })
    }

    /// Its format.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Its text, unpacked.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether it is known to set this key of cloud-init's configuration.
    #[must_use]
    pub fn sets(&self, key: &str) -> bool {
        self.keys.iter().any(|other| other == key)
    }
}

fn unpacked(bytes: &[u8]) -> Result<Cow<'_, [u8]>, UserDataError> {
    if !bytes.starts_with(b"\x1f\x8b") {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .take(MOST + 1)
        .read_to_end(&mut text)
        .map_err(|e| UserDataError::Gzip(e.to_string()))?;
    if text.len() as u64 > MOST { Err(UserDataError::Huge) } else { Ok(Cow::Owned(text)) }
}

fn format(text: &[u8]) -> Result<Format, UserDataError> {
    let start = text[..text.len().min(MIME_WITHIN)].to_ascii_lowercase();
    let first = start.trim_ascii_start();
    let told =
        FIRST_LINES.iter().find(|(line, _)| first.starts_with(line.as_bytes())).map(|(_, format)| *format);
    if let Some(format) = told {
        return Ok(format);
    }
    let has = |mark: &[u8]| start.windows(mark.len()).any(|window| window == mark);
    if has(b"mime-version:") {
        return Ok(Format::Mime);
    }
    Err(UserDataError::Unknown(if first.starts_with(b"content-type:") {
        "a MIME message has a header `MIME-Version: 1.0`, by which cloud-init knows it".into()
    } else if yaml::is_mapping(text) {
        "this is YAML without the line `#cloud-config`; write it above the rest".into()
    } else {
        "user-data begins with `#cloud-config`, `#!`, `## template: jinja`, `#include` or another of cloud-init's first lines, or is a MIME message"
            .into()
    }))
}

/// As much of RFC 2046 as makes sure that there are parts.
fn check_mime(text: &[u8]) -> Result<(), UserDataError> {
    let text = String::from_utf8_lossy(text);
    let mut header = String::new();
    let mut lines = text.lines().enumerate();
    let mut end = None;
    for (index, line) in lines.by_ref() {
        if line.trim().is_empty() {
            end = Some(index);
            break;
        }
        let folded = line.starts_with([' ', '\t']);
        if !folded && !line.contains(':') && !line.starts_with("From ") {
            let what = "neither a header of a MIME message nor the empty line that ends them";
            return Err(UserDataError::Mime { line: index + 1, what });
        }
        header.push_str(if folded { " " } else { "\n" });
        header.push_str(line.trim());
    }
    let Some(end) = end else {
        return Err(UserDataError::Mime { line: 1, what: "the message has headers and no body" });
    };
    let lower = header.to_ascii_lowercase();
    if !lower.contains("\ncontent-type: multipart/") && !lower.contains("\ncontent-type:multipart/") {
        return Ok(());
    }
    let Some(boundary) = lower.find("boundary=").map(|at| parameter(&header[at + "boundary=".len()..]))
    else {
        return Err(UserDataError::Mime {
            line: 1,
            what: "a multipart message names its boundary in `Content-Type`",
        });
    };
    let mark = format!("--{boundary}");
    if boundary.is_empty() || !lines.any(|(_, line)| line.trim_end() == mark) {
        return Err(UserDataError::Mime {
            line: end + 2,
            what: "no line of the body begins a part: `--` and the boundary",
        });
    }
    Ok(())
}

/// The value of a header's parameter, quoted or not.
fn parameter(text: &str) -> &str {
    match text.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => text.split([';', ' ', '\n']).next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    fn told(text: &str) -> Result<Format, String> {
        UserData::read(text.as_bytes()).map(|data| data.format()).map_err(|e| e.to_string())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn formats_are_told_as_cloud_init_tells_them() {
        for (text, format) in [
            ("#cloud-config\npackages: [nginx]\n", Format::CloudConfig),
            ("\n  #Cloud-Config\n{}", Format::CloudConfig),
            ("\u{feff}#cloud-config\n", Format::CloudConfig),
            ("#cloud-config-archive\n- type: text/cloud-config\n  content: \"a: 1\"\n", Format::Archive),
            ("#!/bin/sh\necho ]\n", Format::Script),
            ("#cloud-boothook\n#!/bin/sh\n", Format::Boothook),
            ("#include\nhttps://example.org/\n", Format::Include),
            ("#part-handler\ndef list_types(): pass\n", Format::PartHandler),
            ("## template: jinja\n#cloud-config\nhostname: {{ v1.instance_id }}\n", Format::Jinja),
            ("Content-Type: text/x-shellscript\nMIME-Version: 1.0\n\n#!/bin/sh\n", Format::Mime),
            (
                "MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=B\n\n--B\n\n#!/bin/sh\n--B--\n",
                Format::Mime,
            ),
        ] {
            assert_eq!(told(text), Ok(format), "{text}");
            let packed = UserData::read(&gzip(text.as_bytes())).unwrap();
            assert_eq!(packed, UserData::read(text.as_bytes()).unwrap());
        }
    }

    #[test]
    fn what_cloud_init_would_pass_over_in_silence_is_refused() {
        for (text, words) in [
            ("", "empty"),
            (" \n", "empty"),
            ("packages: [nginx]\n", "line 1, column 1: this is YAML without the line `#cloud-config`"),
            ("# cloud-config\npackages: []\n", "without the line `#cloud-config`"),
            ("hello\n", "line 1, column 1: user-data begins with"),
            ("Content-Type: text/plain\n\nx", "MIME-Version"),
            ("MIME-Version: 1.0\nnonsense\n\nx", "line 2, column 1: neither a header"),
            ("MIME-Version: 1.0\n", "no body"),
            ("MIME-Version: 1.0\nContent-Type: multipart/mixed\n\nx", "boundary"),
            (
                "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"B\"\n\nx\n",
                "line 4, column 1: no line",
            ),
        ] {
            let error = told(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn damaged_and_huge_gzip_is_refused() {
        let whole = gzip(b"#!/bin/sh\n");
        let cut = UserData::read(&whole[..whole.len() - 9]).unwrap_err();
        assert!(matches!(cut, UserDataError::Gzip(_)), "{cut:?}");
        let zeros = vec![b' '; usize::try_from(MOST).unwrap() + 1];
        assert_eq!(UserData::read(&gzip(&zeros)), Err(UserDataError::Huge));
    }

    #[test]
    fn a_configuration_tells_its_keys() {
        let data = UserData::read(b"#cloud-config\nssh_keys:\n  rsa_private: x\n").unwrap();
        assert!(data.sets("ssh_keys") && !data.sets("users"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = UserData::read(&bytes);
        }

        #[test]
        fn any_lines_are_read_or_refused(
            first in prop::sample::select(vec!["#cloud-config\n", "#cloud-config-archive\n", "MIME-Version: 1.0\n", ""]),
            rest in "([a-z:#&*|>{}\\[\\]\"' \t\n-]|é){0,60}",
        ) {
            let text = format!("{first}{rest}");
            if let Err(UserDataError::At(place)) = UserData::read(text.as_bytes()) {
                prop_assert!(place.line >= 1 && place.column >= 1);
                prop_assert!(place.line <= text.split('\n').count() + 1, "{place}");
            }
        }
    }
}
