//! `results.json`: everything that a comparison measured, raw, from which every report is made.
//!
//! A number that is there was measured, also where it is zero. What was not measured says why ([`Measured`]); a run that failed is kept
//! as one that failed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::{self, Difference};
use crate::spec::Kind;
use crate::vm::{Phase, PhaseName};

/// Version of this format.
pub const SCHEMA: u32 = 1;

/// A value, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured<T> {
    /// It was measured.
    Value(T),
    /// It makes no sense for this guest or on this network.
    NotApplicable(String),
    /// It was tried.
    Failed(String),
}

impl<T> Measured<T> {
    /// The value, where there is one.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::NotApplicable(_) | Self::Failed(_) => None,
        }
    }

    /// Why there is no value.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Value(_) => None,
            Self::NotApplicable(why) | Self::Failed(why) => Some(why),
        }
    }
}

/// A whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// midge's version.
    pub midge: String,
    /// The comparison was cut short: what is here was measured, and more was to come.
    pub partial: bool,
    /// When it began.
    pub started: jiff::Timestamp,
    /// When it ended.
    pub ended: jiff::Timestamp,
    /// The machine that it ran on.
    pub host: Host,
    /// What was asked for.
    pub settings: Settings,
    /// The guests, in the order of the command line; the first is what the others are compared with.
    pub guests: Vec<Guest>,
    /// What a reader should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The machine, by what bears on the numbers. No name of it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The CPU's model.
    pub cpu: Option<String>,
    /// CPUs that are switched on.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub distribution: Option<String>,
    /// Size of a page in bytes.
    pub page_size: u64,
    /// QEMU's version line, as the first guest's run recorded it.
    pub qemu: Option<String>,
    /// How the guests' instructions were run: `kvm` or `tcg`.
    pub accel: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Counted boots of each guest; one more comes first and is reported apart.
    pub runs: u32,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The sign of readiness for all guests; none leaves each its own.
    pub until: Option<String>,
    /// How long a boot may take, in seconds.
    pub timeout_seconds: f64,
    /// Files were dropped from the page cache before each boot.
    pub cold: bool,
    /// The network of the guests.
    pub net: String,
    /// The sections that were measured.
    pub only: Vec<Section>,
    /// How long the load lasted at each number of connections, in seconds.
    pub load_seconds: f64,
}

/// A part of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// Boot times.
    Boot,
    /// Memory in use, and the least that is enough.
    Memory,
    /// Size of the image.
    Size,
    /// Attack surface.
    Surface,
    /// HTTP, ping, CPU.
    Workload,
}

impl Section {
    /// All, in the order of a report.
    pub const ALL: [Self; 5] = [Self::Size, Self::Boot, Self::Memory, Self::Surface, Self::Workload];

    /// Its word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Memory => "memory",
            Self::Size => "size",
            Self::Surface => "surface",
            Self::Workload => "workload",
        }
    }
}

/// One guest and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// What it is called in the report.
    pub name: String,
    /// What it is: an image, a kernel file, a VM.
    pub what: String,
    /// Its family.
    pub kind: Kind,
    /// Its instruction set.
    pub arch: String,
    /// The image's digest, where it has one.
    pub digest: Option<String>,
    /// Its sign of readiness.
    pub ready: Option<String>,
    /// The QEMU command line of its first run, the program first.
    pub command_line: Vec<String>,
    /// Its boots, in the order in which they were made; the first is the one that is not counted.
    pub boots: Vec<Boot>,
    /// Image size.
    pub size: Option<Measured<Size>>,
    /// What systemd says of a boot.
    pub systemd: Option<Measured<Systemd>>,
    /// Memory when nothing goes on.
    pub idle: Option<Measured<Memory>>,
    /// Memory while it answers requests.
    pub loaded: Option<Measured<Memory>>,
    /// The least memory.
    pub least: Option<Measured<Least>>,
    /// What it offers to an attacker.
    pub surface: Option<Surface>,
    /// What it does.
    pub workload: Option<Workload>,
}

impl Guest {
    /// One of which nothing was measured yet.
    #[must_use]
    pub fn new(name: String, what: String, kind: Kind, arch: String) -> Self {
        Self {
            name,
            what,
            kind,
            arch,
            digest: None,
            ready: None,
            command_line: Vec::new(),
            boots: Vec::new(),
            size: None,
            systemd: None,
            idle: None,
            loaded: None,
            least: None,
            surface: None,
            workload: None,
        }
    }

    /// The boots that count: all that became ready, but the first.
    pub fn counted(&self) -> impl Iterator<Item = &Boot> {
        self.boots.iter().skip(1).filter(|boot| boot.failed.is_none())
    }

    /// The times at which counted boots reached a phase, in milliseconds.
    #[must_use]
    pub fn times(&self, phase: PhaseName) -> Vec<f64> {
        self.counted().filter_map(|boot| boot.at(phase)).collect()
    }

    /// The boots that failed, with their numbers.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Boot)> {
        self.boots.iter().enumerate().filter(|(_, boot)| boot.failed.is_some())
    }
}

/// One boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// Which boot of the whole comparison it was, from 0: tells the order in which guests took turns.
    pub turn: usize,
    /// The phases that it reached.
    pub phases: Vec<Phase>,
    /// Memory the moment the guest was ready.
    pub memory: Option<Memory>,
    /// Why it does not count.
    pub failed: Option<String>,
    /// The last lines of its console, where it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

impl Boot {
    /// When it reached a phase, in milliseconds.
    #[must_use]
    pub fn at(&self, name: PhaseName) -> Option<f64> {
        self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.ms)
    }
}

/// What has to be there for a guest to boot, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Each file that QEMU reads: kernel, initrd, disk.
    pub files: Vec<FileSize>,
}

/// One file, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSize {
    /// `kernel`, `initrd` or `disk`.
    pub role: String,
    /// Of the file, as `ls -l` has it.
    pub length: u64,
    /// What it takes on its file system.
    pub allocated: u64,
    /// What the guest sees of a disk.
    pub virtual_size: Option<u64>,
    /// Packed by zstd.
    pub compressed: u64,
    /// midge makes it from the others, so it does not travel.
    pub made_here: bool,
}

impl Size {
    /// What travels to another machine: every file that is not made there, packed.
    #[must_use]
    pub fn travels(&self) -> u64 {
        self.files.iter().filter(|file| !file.made_here).map(|file| file.compressed).sum()
    }

    /// A sum over the files.
    pub fn sum(&self, of: impl Fn(&FileSize) -> u64) -> u64 {
        self.files.iter().map(of).sum()
    }
}

/// What `systemd-analyze` says, in milliseconds of the guest's own clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Systemd {
    /// The kernel, up to its first program.
    pub kernel: Option<f64>,
    /// The initial RAM disk, where it runs systemd.
    pub initrd: Option<f64>,
    /// User space.
    pub userspace: Option<f64>,
    /// The ten units that took longest, with their times.
    pub slowest: Vec<(String, f64)>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Pages of the guest's RAM that were touched at all.
    pub touched: Option<u64>,
    /// Of these, pages that hold something.
    pub nonzero: Option<u64>,
    /// Of these, pages that are equal to another one of the same guest.
    pub equal: Option<u64>,
    /// QEMU's proportional share of all that it maps, the guest's RAM among it.
    pub pss: Option<u64>,
    /// QEMU's private memory that is its own: without the guest's RAM.
    pub private: Option<u64>,
    /// The guest's `/proc/meminfo`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meminfo: BTreeMap<String, u64>,
}

/// The least memory that a guest becomes ready with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Least {
    /// In bytes; to 1 MiB.
    pub memory: u64,
    /// Every size that was tried, in bytes, and whether the guest became ready.
    pub tried: Vec<(u64, bool)>,
    /// There is no smaller VM to be tried.
    pub at_floor: bool,
}

/// What a guest offers to an attacker. The order is that of a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Surface {
    /// Counts and states, each under a name of [`super::surface::FACTS`].
    pub facts: BTreeMap<String, Measured<Fact>>,
    /// TCP ports as seen from the host.
    pub tcp: Option<Measured<Ports>>,
    /// UDP ports as seen from the host.
    pub udp: Option<Measured<Ports>>,
}

/// A count or a state, with what was counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The count; none for a state.
    pub count: Option<u64>,
    /// The state, or the first of what was counted.
    pub items: Vec<String>,
}

/// The answer of a guest's ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Ports that were tried.
    pub tried: u32,
    /// Those that answered.
    pub open: Vec<u16>,
    /// How many were refused: measured closed.
    pub closed: u32,
    /// How many gave no answer, so that nothing is known of them.
    pub silent: u32,
}

/// What a guest does when it is asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// What answers.
    pub server: Option<String>,
    /// Whether the client reached the guest's own address, through its tap, or a port of the host.
    pub path: Option<String>,
    /// HTTP, for each number of connections.
    pub http: Vec<Measured<Http>>,
    /// Round trips of ping, in milliseconds.
    pub ping: Option<Measured<Vec<f64>>>,
    /// Seconds for the same loop of instructions.
    pub cpu: Option<Measured<Vec<f64>>>,
}

/// Requests at one number of connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// At the same time.
    pub connections: u32,
    /// How long, in seconds.
    pub seconds: f64,
    /// Answers that came whole, in each tenth of that time.
    pub answers: Vec<u64>,
    /// Requests without a whole answer.
    pub errors: u64,
    /// Bytes of the body of an answer.
    pub body: u64,
    /// Bytes that were received.
    pub bytes: u64,
    /// Latency in milliseconds, of the median request.
    pub p50: Option<f64>,
    /// Of the 99th of a hundred.
    pub p99: Option<f64>,
    /// Of the slowest.
    pub max: Option<f64>,
}

impl Http {
    /// Answers that came whole.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// Answers per second, in each tenth of the time.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "numbers of requests")]
    pub fn rates(&self) -> Vec<f64> {
        let part = self.seconds / (self.answers.len().max(1) as f64);
        self.answers.iter().map(|count| *count as f64 / part).collect()
    }
}

/// Why a file is no `results.json`.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is nothing that this midge knows.
    #[error("{path} is no results.json of `midge compare`")]
    Strange {
        /// Which.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A newer midge wrote it.
    #[error("{path} has version {found}, and this midge knows versions up to {SCHEMA}; use a newer midge")]
    Newer {
        /// Which.
        path: String,
        /// Its version.
        found: u32,
    },
}

impl Results {
    /// Reads a `results.json`.
    pub fn read(path: &Path) -> Result<Self, ResultsError> {
        let text = std::fs::read(path)
            .map_err(|source| ResultsError::Io { path: path.display().to_string(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &[u8], path: &str) -> Result<Self, ResultsError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let strange = |source| ResultsError::Strange { path: path.to_owned(), source };
        // The version first: a newer format may have other fields.
        let Version { schema } = serde_json::from_slice(text).map_err(strange)?;
        if schema > SCHEMA {
            return Err(ResultsError::Newer { path: path.to_owned(), found: schema });
        }
        serde_json::from_slice(text).map_err(strange)
    }

    /// Where the command line of a guest differs from that of the first one.
    #[must_use]
    pub fn differences(&self, guest: &Guest) -> Vec<Difference> {
        let arguments = |guest: &Guest| guest.command_line.iter().skip(1).cloned().collect::<Vec<_>>();
        let first = self.guests.first().map(arguments).unwrap_or_default();
        if first.is_empty() || guest.command_line.is_empty() {
            return Vec::new();
        }
        machine::diff(&first, &arguments(guest))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A comparison of two guests with something of everything, and text that means something to HTML and Markdown.
    pub(crate) fn sample() -> Results {
        let phase = |name, ms| Phase { name, ms };
        let boot = |turn, base: f64, failed: Option<&str>| Boot {
            turn,
            phases: vec![
                phase(PhaseName::Spawned, 1.0),
                phase(PhaseName::Monitor, 30.0),
                phase(PhaseName::Resumed, 32.0),
                phase(PhaseName::Serial, base / 2.0),
                phase(PhaseName::Ready, base),
            ],
            memory: Some(Memory { touched: Some(9 << 20), nonzero: Some(8 << 20), ..Memory::default() }),
            failed: failed.map(str::to_owned),
            console: failed
                .map(|_| vec!["<script>alert(1)</script> | `x` *y*".to_owned()])
                .unwrap_or_default(),
        };
        let mut hello =
            Guest::new("hello".to_owned(), "image `hello`".to_owned(), Kind::Other, "x86_64".to_owned());
        hello.command_line = ["qemu", "-M", "q35", "-kernel", "/a"].map(str::to_owned).to_vec();
        hello.boots = (0..5).map(|i| boot(2 * i, 100.0 + [9.0, 1.0, 3.0, 2.0, 4.0][i], None)).collect();
        hello.boots.push(boot(10, 5.0, Some("the guest panicked <b>")));
        let mut debian = hello.clone();
        debian.name = "deb|ian <i>".to_owned();
        debian.kind = Kind::Linux;
        debian.command_line[4] = "/b".to_owned();
        debian.boots =
            (0..5).map(|i| boot(2 * i + 1, 9000.0 + [900.0, 10.0, 30.0, 20.0, 40.0][i], None)).collect();
        debian.systemd = Some(Measured::Value(Systemd {
            kernel: Some(900.0),
            initrd: None,
            userspace: Some(2500.0),
            slowest: vec![("evil<img src=x>.service".to_owned(), 800.0)],
        }));
        for (guest, kernel) in [(&mut hello, 124_000), (&mut debian, 7_000_000)] {
            let file = FileSize {
                role: "kernel".to_owned(),
                length: kernel,
                allocated: kernel,
                compressed: kernel / 2,
                ..FileSize::default()
            };
            guest.size = Some(Measured::Value(Size { files: vec![file] }));
            guest.idle = Some(Measured::Value(Memory {
                touched: Some(kernel * 4),
                nonzero: Some(kernel * 3),
                equal: Some(4096),
                pss: Some(80 << 20),
                private: Some(40 << 20),
                ..Memory::default()
            }));
            guest.loaded = Some(Measured::NotApplicable("nobody | asked".to_owned()));
            guest.least = Some(Measured::Value(Least {
                memory: 3 << 20,
                tried: vec![(2 << 20, false), (3 << 20, true)],
                at_floor: false,
            }));
            let http = |connections| {
                Measured::Value(Http {
                    connections,
                    seconds: 3.0,
                    answers: vec![30; 10],
                    body: 400,
                    bytes: 180_000,
                    p50: Some(2.0),
                    p99: Some(7.0),
                    max: Some(9.0),
                    errors: 0,
                })
            };
            guest.workload = Some(Workload {
                server: Some("its own".to_owned()),
                path: Some("forwarded port".to_owned()),
                http: vec![http(1), http(8), Measured::Failed("it died".to_owned())],
                ping: Some(Measured::Value(vec![0.4, 0.5, 0.6])),
                cpu: Some(Measured::NotApplicable("no loop".to_owned())),
            });
            guest.surface = Some(Surface {
                facts: [("processes".to_owned(), Measured::Value(Fact { count: Some(0), items: vec![] }))]
                    .into(),
                tcp: Some(Measured::Value(Ports {
                    tried: 65535,
                    open: vec![22, 80],
                    closed: 65533,
                    silent: 0,
                })),
                udp: Some(Measured::NotApplicable("no tap".to_owned())),
            });
        }
        Results {
            schema: SCHEMA,
            midge: "0.1.0".to_owned(),
            partial: false,
            started: jiff::Timestamp::UNIX_EPOCH,
            ended: jiff::Timestamp::UNIX_EPOCH + std::time::Duration::from_secs(90),
            host: Host {
                cpu: Some("CPU <model>".to_owned()),
                cpus: 2,
                memory: 8 << 30,
                kernel: "6.1".to_owned(),
                distribution: None,
                page_size: 4096,
                qemu: Some("QEMU 10".to_owned()),
                accel: Some("tcg".to_owned()),
            },
            settings: Settings {
                runs: 5,
                memory: 512 << 20,
                until: None,
                timeout_seconds: 300.0,
                cold: false,
                net: "user".to_owned(),
                only: Section::ALL.to_vec(),
                load_seconds: 3.0,
            },
            guests: vec![hello, debian],
            notes: vec!["a <note>".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let results = sample();
        let text = serde_json::to_vec_pretty(&results).unwrap();
        assert_eq!(Results::parse(&text, "x").unwrap(), results);
    }

    #[test]
    fn a_newer_format_and_other_files_are_told_apart() {
        assert!(matches!(
            Results::parse(br#"{"schema":99}"#, "x"),
            Err(ResultsError::Newer { found: 99, .. })
        ));
        assert!(matches!(Results::parse(b"[]", "x"), Err(ResultsError::Strange { .. })));
        assert!(matches!(Results::parse(br#"{"schema":1}"#, "x"), Err(ResultsError::Strange { .. })));
    }

    #[test]
    fn the_first_boot_and_failed_ones_do_not_count_and_stay() {
        let guest = &sample().guests[0];
        assert_eq!(guest.times(PhaseName::Ready), [101.0, 103.0, 102.0, 104.0]);
        assert_eq!(guest.failures().map(|(number, _)| number).collect::<Vec<_>>(), [5]);
        assert_eq!(guest.boots.len(), 6);
    }

    #[test]
    fn command_lines_differ_in_what_is_booted() {
        let results = sample();
        assert_eq!(results.differences(&results.guests[0]), []);
        let differences = results.differences(&results.guests[1]);
        assert_eq!(differences.len(), 1);
        assert_eq!(differences[0].option, "-kernel");
    }
}
