//! The one short run of QEMU: QMP over its standard input and output.
//!
//! `-machine none` starts no machine, so it takes no acceleration, firmware or memory, and answers all queries that are
//! asked here; libvirt probes the same way (qemu_capabilities.c, qemuProcessQMPNew). QEMU's help texts would take
//! four starts and have no format that anyone promises to keep.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde::Deserialize;
use serde_json::Value;

use super::{OLDEST, QemuError, name};
use crate::host::QemuFacts;
use crate::host::proc::{PidFd, timespec};
use crate::spec::Arch;

/// How long QEMU may take to answer. It takes about 50 ms; a busy Raspberry Pi reading it from a cold SD card has been
/// given time.
const LIMIT: Duration = Duration::from_secs(20);

/// How long QEMU may take to end after it was told to.
const LEAVE: Duration = Duration::from_secs(2);

/// No honest answer is larger; QEMU 10's are 80 KB.
const MOST_OUTPUT: usize = 16 << 20;

/// How much of the end of its standard error is kept.
const MOST_STDERR: usize = 4096;

/// The questions, in order; the ids are their places. All exist since QEMU 2.12 at the latest (QEMU QMP Reference).
const QUESTIONS: [&str; 6] = [
    r#"{"execute":"qmp_capabilities","id":0}"#,
    r#"{"execute":"query-version","id":1}"#,
    r#"{"execute":"query-target","id":2}"#,
    r#"{"execute":"query-machines","id":3}"#,
    r#"{"execute":"qom-list-types","id":4,"arguments":{"implements":"device","abstract":false}}"#,
    r#"{"execute":"query-cpu-definitions","id":5}"#,
];

/// Asked only when all answers are here: a QEMU that quits drops what its output pipe had no room for yet.
const FAREWELL: &[u8] = b"{\"execute\":\"quit\"}\n";

/// Runs the binary once.
pub(super) fn probe(path: &Path, arch: Arch) -> Result<QemuFacts, QemuError> {
    probe_within(path, arch, LIMIT)
}

/// As [`probe`] with another time limit.
pub(super) fn probe_within(path: &Path, arch: Arch, limit: Duration) -> Result<QemuFacts, QemuError> {
    let mut run = Run::start(path)?;
    let outcome = run.ask(Instant::now() + limit);
    let answers = match outcome {
        Ok(answers) => answers,
        Err(stop) => return Err(run.explain(stop, path, limit)),
    };
    run.leave();
    facts(path, arch, &answers)
}

/// QEMU running, killed and reaped when dropped.
struct Run {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: ChildStderr,
    said: Vec<u8>,
}

/// Why there are no answers.
enum Stop {
    Closed,
    Late,
    TooOld((u32, u32, u32)),
    Strange(String),
}

impl Run {
    fn start(path: &Path) -> Result<Self, QemuError> {
        let spawned = Command::new(path)
            .args([
                "-machine",
                "none",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-S",
                "-qmp",
                "stdio",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(mut child) => match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
                (stdin, Some(stdout), Some(stderr)) => {
                    Ok(Self { child, stdin, stdout, stderr, said: Vec::new() })
                }
                _ => unreachable!("all three were asked to be pipes"),
            },
            Err(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(QemuError::NotExecutable { path: path.to_owned() })
            }
            Err(source) => Err(QemuError::Spawn { path: path.to_owned(), source }),
        }
    }

    /// Asks everything at once and collects the answers in the order of [`QUESTIONS`].
    fn ask(&mut self, deadline: Instant) -> Result<Answers, Stop> {
        let mut questions = QUESTIONS.join("\n");
        questions.push('\n');
        if let Some(stdin) = &mut self.stdin {
            // A QEMU that is gone already is told by its closed output, which says more.
            let _ = stdin.write_all(questions.as_bytes());
        }
        let mut answers = Answers::default();
        let mut pending = Vec::new();
        let mut total = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let from = pending.len();
            let count = self.read(&mut buffer, deadline)?;
            total += count;
            pending.extend_from_slice(&buffer[..count]);
            if count == 0 {
                // Output without a newline at its end is shown: it is not QMP, but may be the reason.
                return Err(if pending.is_empty() { Stop::Closed } else { Stop::Strange(excerpt(&pending)) });
            }
            if total > MOST_OUTPUT {
                return Err(Stop::Strange(format!("more than {} MiB of output", MOST_OUTPUT >> 20)));
            }
            let Some(end) = pending[from..].iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = pending.split_off(from + end + 1);
            for line in pending.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
                if answers.take(line)? {
                    return Ok(answers);
                }
            }
            pending = rest;
        }
    }

    /// Reads its output, keeping up with its standard error. 0 bytes: it closed its output.
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Stop> {
        let mut stderr_open = true;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::from_borrowed_fd(self.stdout.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.stderr.as_fd(), PollFlags::IN),
            ];
            let watched = if stderr_open { 2 } else { 1 };
            match poll(&mut fds[..watched], Some(&timespec(left))) {
                Ok(0) => return Err(Stop::Late),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Stop::Strange(std::io::Error::from(error).to_string())),
                Ok(_) => {}
            }
            let (out, err) = (fds[0].revents(), fds[1].revents());
            if stderr_open && !err.is_empty() {
                stderr_open = self.read_stderr();
            }
            if !out.is_empty() {
                match self.stdout.read(buffer) {
                    Ok(count) => return Ok(count),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Stop::Strange(error.to_string())),
                }
            }
        }
    }

    /// Takes what its standard error holds. False at its end.
    fn read_stderr(&mut self) -> bool {
        let mut buffer = [0; MOST_STDERR];
        match self.stderr.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.said.extend_from_slice(&buffer[..count]);
                let excess = self.said.len().saturating_sub(MOST_STDERR);
                self.said.drain(..excess);
                true
            }
        }
    }

    /// Lets it end by itself, for the sake of a wrapper script whose QEMU would outlive a kill.
    fn leave(&mut self) -> bool {
        if let Some(mut stdin) = self.stdin.take() {
            // It may be gone already, which is what is wanted.
            let _ = stdin.write_all(FAREWELL);
        }
        PidFd::open(self.child.id()).ok().flatten().is_some_and(|fd| fd.wait_for(LEAVE).unwrap_or(false))
    }

    fn explain(mut self, stop: Stop, path: &Path, limit: Duration) -> QemuError {
        let path = path.to_owned();
        match stop {
            Stop::TooOld(found) => QemuError::TooOld { path, found },
            Stop::Strange(reason) => QemuError::Output { path, reason },
            Stop::Late => QemuError::Timeout { path, seconds: limit.as_secs(), stderr: self.stderr_text() },
            Stop::Closed => {
                // It closed its output, so it is ending; its status is wanted, not the one that a kill would give it.
                let status = match self.leave().then(|| self.child.wait()) {
                    Some(Ok(status)) => status.to_string(),
                    _ => "it closed its output but did not end".to_owned(),
                };
                QemuError::Died { path, status, stderr: self.stderr_text() }
            }
        }
    }

    /// What it wrote to its standard error until now.
    fn stderr_text(&mut self) -> String {
        loop {
            let mut fds = [PollFd::from_borrowed_fd(self.stderr.as_fd(), PollFlags::IN)];
            let ready = poll(&mut fds, Some(&timespec(Duration::ZERO))).unwrap_or(0) > 0;
            if !ready || !self.read_stderr() {
                return String::from_utf8_lossy(&self.said).trim().to_owned();
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answers so far.
#[derive(Default)]
struct Answers {
    version: Option<Version>,
    got: [Option<Value>; QUESTIONS.len()],
}

/// One line of QMP (QEMU Machine Protocol Specification, section 2).
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    id: Option<usize>,
}

#[derive(Deserialize)]
struct Greeting {
    version: Version,
}

/// QMP's `VersionInfo`.
#[derive(Deserialize)]
struct Version {
    qemu: Triple,
    package: String,
}

#[derive(Deserialize)]
struct Triple {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Target {
    arch: String,
}

impl Answers {
    /// Takes one line. True when it was the last one needed.
    fn take(&mut self, bytes: &[u8]) -> Result<bool, Stop> {
        let line: Line = match serde_json::from_slice(bytes) {
            Ok(line) => line,
            Err(_) => return Err(Stop::Strange(excerpt(bytes))),
        };
        if let Some(greeting) = line.greeting {
            let version = greeting.version;
            let found = (version.qemu.major, version.qemu.minor, version.qemu.micro);
            if found < OLDEST {
                return Err(Stop::TooOld(found));
            }
            self.version = Some(version);
        }
        let Some(id) = line.id.filter(|id| *id < QUESTIONS.len()) else { return Ok(false) };
        if let Some(refusal) = line.error {
            return Err(Stop::Strange(format!("it refused {}: {}", QUESTIONS[id], refusal.desc)));
        }
        self.got[id] = line.answer;
        Ok(id == QUESTIONS.len() - 1)
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, id: usize) -> Result<T, String> {
        let answer = self.got[id].as_ref().ok_or_else(|| format!("no answer to {}", QUESTIONS[id]))?;
        T::deserialize(answer).map_err(|error| format!("the answer to {}: {error}", QUESTIONS[id]))
    }

    fn names(&self, id: usize) -> Result<Vec<String>, String> {
        let mut names: Vec<String> =
            self.parse::<Vec<Named>>(id)?.into_iter().map(|named| named.name).collect();
        names.sort_unstable();
        Ok(names)
    }
}

fn facts(path: &Path, arch: Arch, answers: &Answers) -> Result<QemuFacts, QemuError> {
    let strange = |reason| QemuError::Output { path: path.to_owned(), reason };
    let version = answers.version.as_ref().ok_or_else(|| strange("no greeting".to_owned()))?;
    let target: Target = answers.parse(2).map_err(strange)?;
    if target.arch != name(arch) {
        return Err(QemuError::WrongTarget { path: path.to_owned(), found: target.arch, wanted: arch });
    }
    let mut devices = answers.names(4).map_err(strange)?;
    // QOM has CPU models as devices too, under names such as `max-x86_64-cpu`; they are listed apart.
    devices.retain(|device| !device.ends_with("-cpu"));
    Ok(QemuFacts {
        path: path.to_owned(),
        arch,
        version: (version.qemu.major, version.qemu.minor, version.qemu.micro),
        version_line: version.line(),
        machines: answers.names(3).map_err(strange)?,
        devices,
        cpus: answers.names(5).map_err(strange)?,
    })
}

impl Version {
    /// As `qemu-system-… --version` prints it.
    fn line(&self) -> String {
        let Triple { major, minor, micro } = self.qemu;
        let package = self.package.trim().trim_start_matches('(').trim_end_matches(')');
        if package.is_empty() {
            format!("QEMU emulator version {major}.{minor}.{micro}")
        } else {
            format!("QEMU emulator version {major}.{minor}.{micro} ({package})")
        }
    }
}

/// The beginning of an output that is no QMP, for people.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    format!("it said `{}`", text.trim().escape_debug())
}
