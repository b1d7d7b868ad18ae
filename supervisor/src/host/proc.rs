//! Processes named so that a reused number is never mistaken for them.
//!
//! A PID alone names whoever has that number now. PID, start time and boot together name one process for ever, and a
//! pidfd (pidfd_open(2)) opened for it cannot come to mean another one.

mod exit_status;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::root::HostRoot;

pub use rustix::process::Signal;

/// One process, past or present. Stored in records, so it holds across reboots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// Process number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    pub start_time: u64,
    /// The boot it ran in (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

impl ProcessId {
    /// The process that has this number now.
    ///
    /// Fails with [`io::ErrorKind::NotFound`] when there is none, or it has ended and only waits to be reaped.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = Stat::of(pid)?;
        if stat.ended() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended")));
        }
        Ok(Self { pid, start_time: stat.start_time, boot_id: HostRoot::system().boot_id()? })
    }

    /// This very process.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still runs. An ended process that nobody has reaped is not alive.
    ///
    /// The answer may be old by the time it is read; to act on the process, [`open`](Self::open) it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.is_this_boot() && Stat::of(self.pid).is_ok_and(|stat| self.is(&stat))
    }

    /// A descriptor of the process, or none when it is gone.
    ///
    /// The start time is read after the descriptor is open: if it is still the one recorded, the descriptor is of that
    /// process, whatever happens to the number from then on.
    pub fn open(&self) -> io::Result<Option<PidFd>> {
        if !self.is_this_boot() {
            return Ok(None);
        }
        let Some(fd) = PidFd::open(self.pid)? else { return Ok(None) };
        match Stat::of(self.pid) {
            Ok(stat) => Ok(self.is(&stat).then_some(fd)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is(&self, stat: &Stat) -> bool {
        stat.start_time == self.start_time && !stat.ended()
    }

    fn is_this_boot(&self) -> bool {
        HostRoot::system().boot_id().is_ok_and(|boot| boot == self.boot_id)
    }
}

/// A descriptor of one process. Readable (in poll, epoll, tokio's `AsyncFd`) once the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Of whatever process has this number now; none when there is none. Safe from reuse of the number only for a
    /// child that has not been waited for; for any other process use [`ProcessId::open`].
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self(fd))),
            // INVAL (NOENT since Linux 6.9): the number is now that of a thread inside some process.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal. False when the process has ended (and was reaped) already.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.wait_for(Duration::ZERO)
    }

    /// Blocks until the process ends, at most this long. True when it has ended.
    pub fn wait_for(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A copy of one of the process's own descriptors (pidfd_getfd(2), since Linux 5.6). Takes the right to trace the process.
    pub fn descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_getfd(&self.0, number, rustix::process::PidfdGetfdFlags::empty())?)
    }

    /// Resolves when the process ends. Needs a tokio runtime with its I/O driver; cancel-safe.
    pub async fn ended(&self) -> io::Result<()> {
        // A descriptor of its own for each who waits: epoll(7) takes each number once.
        let own = self.0.try_clone()?;
        let watch = watch(own.as_fd())?;
        let _ready = watch.readable().await?;
        Ok(())
    }
}

/// Registers a descriptor with the runtime until the returned value is dropped.
#[allow(unsafe_code, reason = "tokio takes descriptors that outlive their registration only by promise")]
fn watch(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the descriptor is open and stays so for the lifetime of the borrow, which the AsyncFd holds and cannot
    // outlive; a BorrowedFd always gives the same number.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A span as poll(2) takes it.
pub(super) fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    start_time: u64,
    /// Field 52, as waitpid(2) gives it; shown to those who may trace the process, and of meaning once it has ended.
    exit_code: Option<i32>,
}

impl Stat {
    fn of(pid: u32) -> io::Result<Self> {
        let text = HostRoot::system().read(format!("proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat has another form than expected"),
            )
        })
    }

    /// The second field is the program's name in parentheses and may itself hold spaces and parentheses, so fields
    /// are counted from the last closing one.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?; // field 3
        let start_time = fields.nth(22 - 4)?.parse().ok()?;
        let exit_code = fields.nth(52 - 23).and_then(|field| field.parse().ok());
        Some(Self { state, start_time, exit_code })
    }

    /// Zombie or dead: it runs no more.
    fn ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// A process that ends while its files are read gives ENOENT at opening and ESRCH at reading.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A child that lives until it is dropped.
    struct Cat(Child);

    impl Cat {
        fn start() -> Self {
            Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        }
    }

    impl Drop for Cat {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn stat_parse_counts_from_the_last_parenthesis() {
        let text =
            "4242 (a) b (c) 9) S 1 4242 4242 0 -1 4194304 95 0 0 0 0 0 0 0 20 0 1 0 987654 2985984 1 2 3";
        assert_eq!(Stat::parse(text), Some(Stat { state: 'S', start_time: 987_654, exit_code: None }));
    }

    #[test]
    fn stat_parse_of_other_text_is_none() {
        for text in
            ["", "1 (x", "1 (x)", "1 (x) S 1 2 3", "1 (x) S 1 1 1 0 -1 4 9 0 0 0 0 0 0 0 20 0 1 0 many 2"]
        {
            assert_eq!(Stat::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn child_is_alive_until_killed_even_unreaped() {
        let mut cat = Cat::start();
        let id = ProcessId::of(cat.0.id()).unwrap();
        assert!(id.is_alive());
        let fd = id.open().unwrap().expect("the child runs");
        assert!(!fd.has_ended().unwrap());

        assert!(fd.signal(Signal::KILL).unwrap());
        assert!(fd.wait_for(Duration::from_secs(10)).unwrap());
        assert!(!id.is_alive(), "a zombie is not alive");
        assert!(id.open().unwrap().is_none());
        assert_eq!(ProcessId::of(id.pid).unwrap_err().kind(), io::ErrorKind::NotFound);

        cat.0.wait().unwrap();
        assert!(!fd.signal(Signal::TERM).unwrap(), "the descriptor still means the process that is gone");
        assert!(id.open().unwrap().is_none());
    }

    #[test]
    fn same_number_of_another_time_or_boot_is_another_process() {
        let mine = ProcessId::current().unwrap();
        assert!(mine.is_alive());
        let earlier = ProcessId { start_time: mine.start_time - 1, ..mine.clone() };
        assert!(!earlier.is_alive());
        assert!(earlier.open().unwrap().is_none());
        let other_boot = ProcessId { boot_id: "00000000-0000-0000-0000-000000000000".to_owned(), ..mine };
        assert!(!other_boot.is_alive());
        assert!(other_boot.open().unwrap().is_none());
    }

    #[test]
    fn impossible_numbers_are_no_process() {
        let boot_id = HostRoot::system().boot_id().unwrap();
        for pid in [0, 0x7fff_ffff, 0xffff_ffff] {
            let id = ProcessId { pid, start_time: 1, boot_id: boot_id.clone() };
            assert!(!id.is_alive());
            assert!(id.open().unwrap().is_none());
        }
    }

    #[test]
    fn identity_survives_its_record() {
        let mine = ProcessId::current().unwrap();
        let text = serde_json::to_string(&mine).unwrap();
        assert_eq!(serde_json::from_str::<ProcessId>(&text).unwrap(), mine);
    }

    #[test]
    fn ended_resolves_when_the_process_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cat = Cat::start();
        let fd = ProcessId::of(cat.0.id()).unwrap().open().unwrap().unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = fd.ended() => panic!("it still runs"),
                () = std::future::ready(()) => {}
            }
            fd.signal(Signal::KILL).unwrap();
            tokio::time::timeout(Duration::from_secs(10), fd.ended()).await.unwrap().unwrap();
        });
    }
}
