//! Runs the scripts in namespaces of their own, reads what they say, and ends them when they are no longer wanted.

use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, User};

use super::BuildError;
use super::progress::{Progress, Tracker};

/// How many of the last lines of output an error shows.
const TAIL: usize = 12;
/// Where the programs are, also for users whose own path lacks the folders for system programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the scripts call, with the packages that have it.
const PROGRAMS: [(&str, &str); 4] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
    ("unshare", "util-linux"),
];

/// Whether this machine can build images at all; says what is missing.
pub(super) fn check_host() -> Result<(), BuildError> {
    for (program, package) in PROGRAMS {
        require(program, package)?;
    }
    let uid = Uid::effective();
    if !uid.is_root() {
        require("newuidmap", "uidmap")?;
        // subuid(5): a line starts with the user's name or number.
        let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let has_range = |file: &str| {
            fs::read_to_string(file).is_ok_and(|text| {
                text.lines()
                    .any(|l| l.split(':').next().is_some_and(|who| who == user || who == uid.to_string()))
            })
        };
        if !has_range("/etc/subuid") || !has_range("/etc/subgid") {
            return Err(BuildError::NoSubordinateIds { user });
        }
    }
    let tried = in_namespaces()
        .arg("true")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BuildError::Io { what: "run unshare".to_owned(), source })?;
    if tried.status.success() {
        Ok(())
    } else {
        let said =
            String::from_utf8_lossy(&tried.stderr).lines().last().unwrap_or("it did not say why").to_owned();
        Err(BuildError::NoNamespaces { said })
    }
}

fn require(program: &'static str, package: &'static str) -> Result<(), BuildError> {
    let found = PATH.split(':').any(|folder| Path::new(folder).join(program).exists());
    if found { Ok(()) } else { Err(BuildError::MissingProgram { program, package }) }
}

/// `unshare` with the namespaces that the work needs: mounts and processes end with the first process in them, and for those who are
/// not root, one of users in which they are (unshare(1), `--map-auto`).
fn in_namespaces() -> Command {
    let mut command = Command::new("unshare");
    command.env("PATH", PATH);
    if !Uid::effective().is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

/// Scripts, and what they are told.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// Each by its name; the first is the one that is run.
    pub(super) scripts: &'a [(&'static str, &'static str)],
    /// Their environment, besides the folders.
    pub(super) environment: Vec<(&'static str, &'a str)>,
}

/// Runs a job that leaves what it makes in `out`, working in `work`.
pub(super) fn run(
    job: &Job<'_>,
    work: &Path,
    out: &Path,
    cancel: Option<BorrowedFd<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BuildError> {
    let io = |what: String| move |source| BuildError::Io { what, source };
    fs::create_dir(out).map_err(io(format!("make {}", out.display())))?;
    for (name, text) in job.scripts {
        let path = work.join(name);
        fs::write(&path, text).map_err(io(format!("write {}", path.display())))?;
    }
    let (output, writer) = io::pipe().map_err(io("make a pipe".to_owned()))?;
    let mut command = in_namespaces();
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root").env("TMPDIR", work);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    for proxy in ["http_proxy", "https_proxy", "no_proxy"] {
        if let Some(value) = std::env::var_os(proxy) {
            command.env(proxy, value);
        }
    }
    command
        .env("WORK", work)
        .env("OUT", out)
        .envs(job.environment.iter().copied())
        .arg("sh")
        .args(job.scripts.first().map(|(name, _)| work.join(name)))
        .stdin(Stdio::piped())
        .stdout(writer.try_clone().map_err(io("make a pipe".to_owned()))?)
        .stderr(writer)
        // A key on the terminal interrupts midge, which then ends the work in good order.
        .process_group(0);
    let child = command.spawn().map_err(io("run unshare".to_owned()))?;
    // The command holds writing ends of the pipe, which would keep it from ending.
    drop(command);
    let mut work = Work::new(child);
    let tail = follow(&output, cancel, progress)?;
    if work.finish().map_err(io("wait for the build".to_owned()))? {
        Ok(())
    } else {
        Err(BuildError::Failed { tail })
    }
}

/// The running scripts. They end when this is dropped: their standard input closes, and build.sh kills everything.
#[derive(Debug)]
struct Work {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Work {
    fn new(mut child: Child) -> Self {
        let stdin = child.stdin.take();
        Self { child, stdin }
    }

    /// Waits for the end; says whether it was a good one.
    fn finish(&mut self) -> io::Result<bool> {
        let status = self.child.wait()?;
        Ok(status.success())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Reads the output to its end and reports progress; returns the last lines. Ends early when `cancel` becomes readable.
fn follow(
    mut output: &PipeReader,
    cancel: Option<BorrowedFd<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<String>, BuildError> {
    let mut tracker = Tracker::new();
    let mut tail: Vec<String> = Vec::new();
    let mut pending = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        if wait_readable(output.as_fd(), cancel)? == Readable::Cancel {
            return Err(BuildError::Interrupted);
        }
        let read = match output.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                return Err(BuildError::Io { what: "read the output of the build".to_owned(), source });
            }
        };
        if read == 0 {
            return Ok(tail);
        }
        pending.extend_from_slice(&buffer[..read]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&pending[..end]).trim_end().to_owned();
            pending.drain(..=end);
            if let Some(news) = tracker.line(&line) {
                tracing::debug!(phase = ?news.phase, detail = news.detail, "build");
                progress(news);
            }
            if !line.is_empty() {
                if tail.len() == TAIL {
                    tail.remove(0);
                }
                tail.push(line);
            }
        }
    }
}

/// What became readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readable {
    /// What was waited for, or its end.
    Data,
    /// The caller's wish to stop.
    Cancel,
}

/// Waits until `data` or `cancel` can be read.
pub(super) fn wait_readable(
    data: BorrowedFd<'_>,
    cancel: Option<BorrowedFd<'_>>,
) -> Result<Readable, BuildError> {
    let mut fds = vec![PollFd::new(data, PollFlags::POLLIN)];
    fds.extend(cancel.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(BuildError::Io { what: "wait for the build".to_owned(), source: e.into() }),
        }
    }
    let cancelled = fds.get(1).and_then(PollFd::any).unwrap_or(false);
    Ok(if cancelled { Readable::Cancel } else { Readable::Data })
}
