//! The phases of a boot, and reading them off the serial console.

use std::fmt;

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use crate::spec::Kind;

/// A phase that a boot has reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub name: PhaseName,
    /// Milliseconds since the supervisor began to spawn QEMU.
    pub ms: f64,
}

/// The phases, in their usual order. Not every guest shows every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseName {
    /// QEMU's process exists.
    Spawned,
    /// QEMU's monitor answers: the machine is built.
    Monitor,
    /// The snapshot is loaded: the guest stands where it was saved.
    Loaded,
    /// The first guest instruction (QMP `RESUME`); of a restored guest, the first after those that were saved.
    Resumed,
    /// The first byte on the serial console.
    Serial,
    /// The kernel speaks.
    Kernel,
    /// The first program of user space speaks (Linux), or the application (unikernels).
    Userspace,
    /// The guest has confirmed its new identity.
    Identified,
    /// The guest has an address.
    Network,
    /// The sign of readiness was seen.
    Ready,
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Spawned => "spawned",
            Self::Monitor => "monitor",
            Self::Loaded => "loaded",
            Self::Resumed => "resumed",
            Self::Serial => "serial",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
            Self::Identified => "identified",
            Self::Network => "network",
            Self::Ready => "ready",
        })
    }
}

/// What the console of a kind of guest shows at each phase.
///
/// The patterns are lines that the guests really print: Linux's banner and `Run /init`, the boot banners of Unikraft
/// and Solo5, the log lines of Hermit and Nanos, the lines of midge's own `hello`.
fn signs(kind: Kind) -> &'static [(PhaseName, &'static str)] {
    match kind {
        Kind::Linux => &[
            (PhaseName::Kernel, r"Linux version \d"),
            (PhaseName::Userspace, r"midge: user space|systemd\[1\]: |Welcome to |Run \S+ as init process"),
        ],
        Kind::Unikraft => &[
            (PhaseName::Kernel, r"Powered by|Unikraft"),
            (PhaseName::Network, r"Set IPv4 address (\d+\.\d+\.\d+\.\d+)|en1: (\d+\.\d+\.\d+\.\d+)"),
        ],
        Kind::Solo5 => &[
            (PhaseName::Kernel, r"Solo5: "),
            (
                PhaseName::Network,
                r"IPv4 address:? .*?(\d+\.\d+\.\d+\.\d+)|Configured .*?(\d+\.\d+\.\d+\.\d+)",
            ),
        ],
        Kind::Hermit => &[
            (PhaseName::Kernel, r"\[INFO\]|Welcome to Hermit"),
            (PhaseName::Userspace, r"Jumping into application"),
            (PhaseName::Network, r"IP address: +(\d+\.\d+\.\d+\.\d+)"),
        ],
        Kind::Nanos => &[(PhaseName::Network, r"assigned (\d+\.\d+\.\d+\.\d+)")],
        Kind::Other | Kind::Auto => {
            &[(PhaseName::Kernel, r"^hello \d"), (PhaseName::Network, r"hello: address (\d+\.\d+\.\d+\.\d+)")]
        }
    }
}

/// The sign of readiness of a kind when neither the image nor the user names one.
#[must_use]
pub fn default_ready(kind: Kind, has_agent: bool) -> Option<crate::spec::Ready> {
    use crate::spec::Ready;
    match kind {
        Kind::Linux if has_agent => Some(Ready::Agent),
        Kind::Linux => Some(Ready::Serial(r"login: ?$".to_owned())),
        Kind::Unikraft | Kind::Solo5 | Kind::Hermit | Kind::Nanos => Some(Ready::Ip),
        Kind::Other | Kind::Auto => None,
    }
}

/// Something that the console showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// A phase was reached.
    Phase(PhaseName),
    /// The guest named its address.
    Address(std::net::Ipv4Addr),
    /// The pattern of a waiter was seen.
    Ready,
    /// The small initial RAM disk did not bring up the root file system.
    RootFailed(String),
}

/// The longest line that patterns are tried on; what a guest writes without a newline is matched in pieces of this size.
const LONGEST_LINE: usize = 4096;

/// Reads the console as it comes, in pieces of any size, and tells what it shows. Pure.
#[derive(Debug)]
pub struct ConsoleReader {
    line: Vec<u8>,
    signs: Vec<(PhaseName, Regex)>,
    ready: Option<Regex>,
    seen_byte: bool,
    /// What is looked for while the root file system is not up, when it matters.
    root: Option<RootWatch>,
}

/// What the console shows of the small initial RAM disk's work.
#[derive(Debug)]
struct RootWatch {
    up: Regex,
    failed: Regex,
}

impl ConsoleReader {
    /// A reader for a guest of this kind; `ready` is the pattern of a `serial:` sign of readiness.
    #[must_use]
    pub fn new(kind: Kind, ready: Option<Regex>) -> Self {
        let signs = signs(kind)
            .iter()
            // The patterns are constants, and a test parses each of them.
            .filter_map(|(name, pattern)| Some((*name, Regex::new(pattern).ok()?)))
            .collect();
        Self { line: Vec::new(), signs, ready, seen_byte: false, root: None }
    }

    /// Looks for what the small initial RAM disk says (`init/src/lib.rs`), and for a kernel that gives up before.
    #[must_use]
    pub fn watching_root(mut self) -> Self {
        // Constants, both of which a test uses.
        let up = Regex::new("midge: root file system up").ok();
        let failed = Regex::new("midge: root file system failed: (.*)|(Kernel panic - not syncing.*)").ok();
        self.root = up.zip(failed).map(|(up, failed)| RootWatch { up, failed });
        self
    }

    /// Takes the next bytes and answers what they completed.
    ///
    /// A pattern is also tried on the unfinished last line, because prompts (`login: `) end without a newline.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Sign> {
        let mut shown = Vec::new();
        if !self.seen_byte && !bytes.is_empty() {
            self.seen_byte = true;
            shown.push(Sign::Phase(PhaseName::Serial));
        }
        for chunk in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(chunk);
            let finished = chunk.ends_with(b"\n");
            let mut text = self.line.as_slice();
            while let Some((b'\r' | b'\n', rest)) = text.split_last() {
                text = rest;
            }
            let (line, signs, ready) = (text, &mut self.signs, &mut self.ready);
            signs.retain(|(name, pattern)| {
                let Some(found) = pattern.captures(line) else { return true };
                let address = found
                    .iter()
                    .skip(1)
                    .flatten()
                    .find_map(|m| std::str::from_utf8(m.as_bytes()).ok()?.parse().ok());
                // An address may still grow (`10.0.2.1` before `10.0.2.15`): only a finished line tells it whole.
                if *name == PhaseName::Network && !finished {
                    return true;
                }
                shown.push(Sign::Phase(*name));
                if let Some(address) = address {
                    shown.push(Sign::Address(address));
                }
                false
            });
            // Only a finished line tells the reason whole.
            if finished && let Some(watch) = &self.root {
                if let Some(found) = watch.failed.captures(line) {
                    let reason =
                        found.iter().skip(1).flatten().next().map(|m| m.as_bytes()).unwrap_or_default();
                    shown.push(Sign::RootFailed(String::from_utf8_lossy(reason).into_owned()));
                    self.root = None;
                } else if watch.up.is_match(line) {
                    self.root = None;
                }
            }
            if ready.as_ref().is_some_and(|pattern| pattern.is_match(line)) {
                *ready = None;
                shown.push(Sign::Ready);
            }
            if finished || self.line.len() >= LONGEST_LINE {
                self.line.clear();
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [Kind; 6] =
        [Kind::Linux, Kind::Unikraft, Kind::Solo5, Kind::Hermit, Kind::Nanos, Kind::Other];

    #[test]
    fn every_pattern_parses() {
        for kind in KINDS {
            assert_eq!(ConsoleReader::new(kind, None).signs.len(), signs(kind).len(), "{kind:?}");
        }
    }

    #[test]
    fn hello_shows_its_phases_in_any_pieces() {
        let text = b"hello 0.1.0 (midge)\r\nhello: address 10.0.2.15/24 gateway 10.0.2.2\r\n[init done]\r\n";
        let expected = vec![
            Sign::Phase(PhaseName::Serial),
            Sign::Phase(PhaseName::Kernel),
            Sign::Phase(PhaseName::Network),
            Sign::Address("10.0.2.15".parse().unwrap()),
            Sign::Ready,
        ];
        let ready = Regex::new(r"\[init done\]").unwrap();
        for size in 1..=text.len() {
            let mut reader = ConsoleReader::new(Kind::Other, Some(ready.clone()));
            let shown: Vec<Sign> = text.chunks(size).flat_map(|c| reader.push(c)).collect();
            assert_eq!(shown, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_prompt_without_a_newline_is_seen() {
        let mut reader = ConsoleReader::new(Kind::Linux, Some(Regex::new("login: ?$").unwrap()));
        assert_eq!(reader.push(b"debian login: "), [Sign::Phase(PhaseName::Serial), Sign::Ready]);
    }

    #[test]
    fn a_root_that_does_not_come_up_is_told_until_it_has() {
        let reader = || ConsoleReader::new(Kind::Linux, None).watching_root();
        let failed = |text: &[u8]| {
            let shown = text.chunks(7).fold((reader(), Vec::new()), |(mut reader, mut shown), piece| {
                shown.extend(reader.push(piece));
                (reader, shown)
            });
            shown.1.into_iter().find(|sign| matches!(sign, Sign::RootFailed(_)))
        };
        let why = |text: &str| Some(Sign::RootFailed(text.to_owned()));
        let line = b"midge: root file system failed: no disk or partition is /dev/vda\r\n";
        assert_eq!(failed(line), why("no disk or partition is /dev/vda"));
        let panic = b"[    2.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
        assert_eq!(failed(panic), why("Kernel panic - not syncing: VFS: Unable to mount root fs"));
        assert_eq!(failed(&[&b"midge: root file system up\r\n"[..], panic].concat()), None);
        assert_eq!(ConsoleReader::new(Kind::Linux, None).push(line).len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_with_bounded_memory(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..40)) {
            let mut reader = ConsoleReader::new(Kind::Linux, Some(Regex::new("never-shown-\u{1}").unwrap()));
            for piece in pieces {
                reader.push(&piece);
                prop_assert!(reader.line.len() < LONGEST_LINE + 600);
            }
        }
    }
}
