//! How far a build has come, read from the words of mmdebstrap, apt and dpkg.

/// How far a build has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// How much of the whole build is done, from 0 to 1; it never goes back. None where it cannot be known.
    pub fraction: Option<f64>,
    /// The package or file at hand, where there is one.
    pub detail: String,
}

/// The phases of a build, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Another process builds the same image; its result will be taken.
    Waiting,
    /// The same image was built before; its digests are compared.
    Checking,
    /// The lists of packages are fetched.
    Lists,
    /// Packages are fetched.
    Download,
    /// Packages are unpacked and set up.
    Install,
    /// The system is made into an image.
    Configure,
    /// The disk is written.
    Disk,
    /// Digests are computed.
    Digest,
}

impl Phase {
    /// What is being done, in words for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for another build of the same image",
            Self::Checking => "checking the image built before",
            Self::Lists => "fetching package lists",
            Self::Download => "fetching packages",
            Self::Install => "installing packages",
            Self::Configure => "configuring the system",
            Self::Disk => "writing the disk",
            Self::Digest => "computing digests",
        }
    }
}

/// Follows a build line by line.
#[derive(Debug)]
pub(super) struct Tracker {
    stage: usize,
    total: usize,
    count: usize,
}

/// The stages of a build as its output tells them, with the part of the whole time at which each starts, as measured.
/// Packages come in two rounds: the essential ones, then all others.
const STAGES: [(&str, Phase, f64); 8] = [
    ("", Phase::Lists, 0.0),
    ("I: running apt-get update", Phase::Lists, 0.0),
    ("I: downloading packages with apt", Phase::Download, 0.10),
    ("I: extracting archives", Phase::Install, 0.16),
    ("I: installing remaining packages", Phase::Download, 0.40),
    ("Fetched ", Phase::Install, 0.52),
    ("midge: phase configure", Phase::Configure, 0.90),
    ("midge: phase disk", Phase::Disk, 0.92),
];
const END: f64 = 0.97;

impl Tracker {
    pub(super) fn new() -> Self {
        Self { stage: 0, total: 0, count: 0 }
    }

    /// Takes one line of output; says where the build is if the line tells something new.
    pub(super) fn line(&mut self, line: &str) -> Option<Progress> {
        let next = STAGES.iter().enumerate().skip(self.stage + 1).find(|(index, (start, ..))| {
            // "Fetched" ends every download; only the one of the second round starts a stage of its own.
            line.starts_with(start) && (*start != "Fetched " || self.stage + 1 == *index)
        });
        if let Some((stage, _)) = next {
            self.stage = stage;
            self.count = 0;
            return Some(self.progress(String::new()));
        }
        if let Some((_, rest)) = line.split_once(" upgraded, ") {
            if let Some(number) = rest.split(' ').next().and_then(|n| n.parse().ok()) {
                self.total = number;
            }
            return None;
        }
        let word_after = |start: &str| line.strip_prefix(start)?.split([' ', ':']).next();
        let (package, steps) = match STAGES[self.stage].1 {
            // `Get:12 http://… bookworm/main amd64 perl amd64 5.36.0-7 [239 kB]`
            Phase::Download => (line.strip_prefix("Get:")?.split(' ').nth(4)?, 1),
            Phase::Install => (word_after("Unpacking ").or_else(|| word_after("Setting up "))?, 2),
            _ => return None,
        };
        self.count = (self.count + 1).min(self.total * steps);
        Some(self.progress(package.to_owned()))
    }

    fn progress(&self, detail: String) -> Progress {
        let (_, phase, start) = STAGES[self.stage];
        let end = STAGES.get(self.stage + 1).map_or(END, |(_, _, start)| *start);
        let steps = if phase == Phase::Install { self.total * 2 } else { self.total };
        // Numbers of packages are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let part = if steps == 0 { 0.0 } else { self.count as f64 / steps as f64 };
        Progress { phase, fraction: Some(start + (end - start) * part), detail }
    }
}

#[cfg(test)]
mod tests {
    use super::Phase::{Configure, Disk, Download, Install, Lists};
    use super::*;

    /// The tell-tale lines of a real build, in order, of two packages a round.
    const LINES: &str = "\
I: chroot architecture amd64 is equal to the host's architecture
I: running apt-get update...
Get:1 http://deb.debian.org/debian bookworm InRelease [151 kB]
Fetched 9415 kB in 1s (12.2 MB/s)
I: downloading packages with apt...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://deb.debian.org/debian bookworm/main amd64 gcc-12-base amd64 12.2.0-14 [37.5 kB]
Get:2 http://deb.debian.org/debian bookworm/main amd64 libc6 amd64 2.36-9 [2757 kB]
Fetched 2.8 MB in 0s (12.2 MB/s)
I: extracting archives...
I: installing essential packages...
Unpacking gcc-12-base:amd64 (12.2.0-14) ...
Setting up gcc-12-base:amd64 (12.2.0-14) ...
Unpacking libc6:amd64 (2.36-9) ...
Setting up libc6:amd64 (2.36-9) ...
I: installing remaining packages inside the chroot...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://deb.debian.org/debian bookworm/main amd64 udev amd64 252.39 [1678 kB]
Get:2 http://deb.debian.org/debian bookworm/main amd64 dbus amd64 1.14.10 [97.7 kB]
Fetched 1.7 MB in 0s (12.2 MB/s)
Unpacking udev (252.39) ...
Unpacking dbus (1.14.10) ...
Setting up udev (252.39) ...
Setting up dbus (1.14.10) ...
I: success in 30.6425 seconds
midge: phase configure
midge: phase disk";

    #[test]
    fn a_build_goes_through_its_phases_and_never_back() {
        let mut tracker = Tracker::new();
        let seen: Vec<Progress> = LINES.lines().filter_map(|line| tracker.line(line)).collect();

        let fractions: Vec<f64> = seen.iter().filter_map(|p| p.fraction).collect();
        assert!(fractions.is_sorted(), "{fractions:?}");
        let mut phases: Vec<Phase> = seen.iter().map(|p| p.phase).collect();
        phases.dedup();
        assert_eq!(phases, [Lists, Download, Install, Download, Install, Configure, Disk]);
        let details: Vec<&str> = seen.iter().map(|p| p.detail.as_str()).filter(|d| !d.is_empty()).collect();
        assert_eq!(details[..4], ["gcc-12-base", "libc6", "gcc-12-base", "gcc-12-base"]);
        assert!((fractions.iter().rev().nth(2).unwrap() - 0.90).abs() < 0.001, "{fractions:?}");
    }

    #[test]
    fn noise_tells_nothing() {
        let mut tracker = Tracker::new();
        for line in ["", "Get:", "Setting up", "x upgraded, y newly", "\u{1b}[0m"] {
            assert_eq!(tracker.line(line), None, "{line:?}");
        }
    }
}
