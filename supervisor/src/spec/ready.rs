//! The signs of readiness, in `--wait` syntax.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A sign that a guest is ready, written `agent`, `ssh`, `ip`, `tcp:PORT` or `serial:REGEX`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Ready {
    /// The QEMU guest agent answers.
    Agent,
    /// An SSH server greets on guest port 22.
    Ssh,
    /// The guest has an address.
    Ip,
    /// The guest accepts a connection on this TCP port.
    Tcp(u16),
    /// The serial console shows a line that matches this regular expression.
    Serial(String),
}

/// Why a text is no sign of readiness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadyError {
    /// None of the known words.
    #[error("`{0}` is not a sign of readiness: write agent, ssh, ip, tcp:PORT or serial:REGEX")]
    Unknown(String),
    /// The port is no number from 1 to 65535.
    #[error("`{0}` is not a TCP port: write tcp: and a number from 1 to 65535")]
    Port(String),
    /// The expression does not parse.
    #[error("`{pattern}` is not a regular expression: {reason}")]
    Regex {
        /// The text given.
        pattern: String,
        /// The parser's words.
        reason: String,
    },
}

impl FromStr for Ready {
    type Err = ReadyError;

    fn from_str(text: &str) -> Result<Self, ReadyError> {
        match text.split_once(':') {
            None if text == "agent" => Ok(Self::Agent),
            None if text == "ssh" => Ok(Self::Ssh),
            None if text == "ip" => Ok(Self::Ip),
            Some(("tcp", port)) => match port.parse() {
                Ok(port) if port != 0 => Ok(Self::Tcp(port)),
                _ => Err(ReadyError::Port(port.to_owned())),
            },
            Some(("serial", pattern)) => match regex::bytes::Regex::new(pattern) {
                Ok(_) => Ok(Self::Serial(pattern.to_owned())),
                Err(e) => Err(ReadyError::Regex { pattern: pattern.to_owned(), reason: reason(&e) }),
            },
            _ => Err(ReadyError::Unknown(text.to_owned())),
        }
    }
}

/// The parser draws the pattern with a mark below the place and puts the reason last; errors here are one
/// line.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent => f.write_str("agent"),
            Self::Ssh => f.write_str("ssh"),
            Self::Ip => f.write_str("ip"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Serial(pattern) => write!(f, "serial:{pattern}"),
        }
    }
}

impl From<Ready> for String {
    fn from(ready: Ready) -> Self {
        ready.to_string()
    }
}

impl TryFrom<String> for Ready {
    type Error = ReadyError;

    fn try_from(text: String) -> Result<Self, ReadyError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_sign_is_understood() {
        for (text, sign) in [
            ("agent", Ready::Agent),
            ("ssh", Ready::Ssh),
            ("ip", Ready::Ip),
            ("tcp:80", Ready::Tcp(80)),
            ("serial:^login: $", Ready::Serial("^login: $".into())),
        ] {
            assert_eq!(text.parse(), Ok(sign), "{text}");
        }
    }

    #[test]
    fn each_wrong_part_has_its_own_words() {
        for text in ["", "boot", "agent:1", "udp:80", "Agent"] {
            assert_eq!(text.parse::<Ready>(), Err(ReadyError::Unknown(text.into())));
        }
        for port in ["0", "", "65536", "http", "-1"] {
            assert_eq!(format!("tcp:{port}").parse::<Ready>(), Err(ReadyError::Port(port.into())));
        }
        let error = "serial:(".parse::<Ready>().unwrap_err().to_string();
        assert_eq!(error, "`(` is not a regular expression: unclosed group");
    }

    proptest! {
        #[test]
        fn text_round_trips(sign in arbitrary::ready()) {
            prop_assert_eq!(sign.to_string().parse(), Ok(sign));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,24}") {
            let _ = text.parse::<Ready>();
        }
    }
}
