//! Whether the kernel killed a process because memory ran out.
//!
//! To its parent such a death is a SIGKILL like any other. The kernel's log names the process; where the log may not be
//! read, or counts processes otherwise than we do (a PID namespace), the kernel's counters at least tell that it killed
//! someone.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use super::cgroup::Cgroup;
use super::root::HostRoot;

/// What was known before the process died. Take it before starting the process, or when adopting it.
#[derive(Debug)]
pub struct Snapshot {
    /// The kernel's log, positioned at its end as it was then.
    log: Option<File>,
    counts: Counts,
}

/// The counters that tell of kills.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    /// In our control group.
    group: Option<u64>,
    /// On the whole host.
    host: Option<u64>,
}

impl Snapshot {
    /// Remembers this moment. Costs a few small reads, and keeps one descriptor open where the log may be read.
    #[must_use]
    pub fn take() -> Self {
        Self { log: open_log(), counts: Counts::of(&HostRoot::system()) }
    }

    /// Why it seems that the kernel killed `pid` for want of memory since the snapshot, in a sentence; none when
    /// nothing says so. To be asked only of a process that died by SIGKILL which nobody is known to have sent.
    ///
    /// Best asked soon: the log is a ring, and the counters do not say who was killed.
    #[must_use]
    pub fn was_oom_killed(&self, pid: u32) -> Option<String> {
        if let Some(log) = &self.log {
            let (text, complete) = read_log(log);
            if let Some(line) = kill_line(&text, pid) {
                return Some(format!("the kernel killed it to free memory: {line}"));
            }
            // Silence counts only where the log has our numbers and nothing was overwritten.
            if complete && sees_all_processes() {
                return None;
            }
        }
        Counts::of(&HostRoot::system()).since(self.counts)
    }
}

impl Counts {
    fn of(root: &HostRoot) -> Self {
        // `oom_kill` in /proc/vmstat: Linux 4.13.
        let host = root.read("proc/vmstat").ok().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        });
        Self { group: Cgroup::of(root).oom_kills(), host }
    }

    fn since(self, before: Self) -> Option<String> {
        let more = |now: Option<u64>, then: Option<u64>| match now?.saturating_sub(then?) {
            0 => None,
            count => Some(count),
        };
        if let Some(count) = more(self.group, before.group) {
            return Some(format!(
                "the kernel killed {count} process(es) of its control group for want of memory meanwhile"
            ));
        }
        let count = more(self.host, before.host)?;
        Some(format!("the kernel killed {count} process(es) on this host for want of memory meanwhile"))
    }
}

/// The log, at its end. `/dev/kmsg` is readable for root, and for all where `kernel.dmesg_restrict` is 0 and the
/// node's mode lets them (Documentation/ABI/testing/dev-kmsg).
fn open_log() -> Option<File> {
    let mut log = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open("/dev/kmsg")
        .ok()?;
    log.seek(SeekFrom::End(0)).ok()?;
    Some(log)
}

/// What was logged since, and whether all of it: one record per read, EAGAIN at the end, EPIPE when the ring has
/// overwritten records that were not read yet.
fn read_log(mut log: &File) -> (String, bool) {
    let mut text = String::new();
    let mut complete = true;
    // A record has at most 8 KiB (CONSOLE_EXT_LOG_MAX); a shorter buffer would be refused.
    let mut buffer = [0; 8192];
    loop {
        match log.read(&mut buffer) {
            Ok(0) => return (text, complete),
            Ok(count) => {
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                text.push('\n');
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => complete = false,
            Err(error) => return (text, complete && error.kind() == ErrorKind::WouldBlock),
        }
    }
}

/// The message that reports the kill of `pid`, such as `Out of memory: Killed process 812 (qemu-system-x86) total-vm:…`
/// (`__oom_kill_process` in mm/oom_kill.c).
///
/// A record is `priority,sequence,time,flags;message`; lines that follow begin with a space. A priority below 8 is
/// the kernel's own: what programs write into the log is given a facility of theirs (dev-kmsg).
fn kill_line(log: &str, pid: u32) -> Option<&str> {
    let mark = format!("Killed process {pid} (");
    let mut own = log.lines().filter_map(|line| {
        let (head, message) = line.split_once(';')?;
        let priority: u32 = head.split(',').next()?.parse().ok()?;
        (priority < 8).then_some(message)
    });
    own.find(|message| message.contains(&mark))
}

/// Whether this process is in the first PID namespace, whose numbers the log has: its inode number is fixed
/// (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
fn sees_all_processes() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "6,1201,5140900123,-;cpu-helper invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0\n\
         6,1202,5140900200,-;[    812]     0   812   162304    80512   745472        0             0 qemu-system-x86\n\
         3,1203,5140900300,-;Memory cgroup out of memory: Killed process 812 (qemu-system-x86) total-vm:649216kB, anon-rss:1kB\n \
         SUBSYSTEM=memory\n\
         6,1204,5140900400,-;oom_reaper: reaped process 812 (qemu-system-x86), now anon-rss:0kB\n";

    #[test]
    fn kill_line_is_found_for_that_process_only() {
        let line = kill_line(LOG, 812).unwrap();
        assert!(line.starts_with("Memory cgroup out of memory: Killed process 812"), "{line}");
        for other in [81, 8, 12, 8120] {
            assert_eq!(kill_line(LOG, other), None);
        }
    }

    #[test]
    fn counts_tell_the_group_before_the_host() {
        let before = Counts { group: Some(1), host: Some(5) };
        assert_eq!(before.since(before), None);
        let group = Counts { group: Some(3), host: Some(7) }.since(before).unwrap();
        assert!(group.contains("2 process(es) of its control group"), "{group}");
        let host = Counts { group: Some(1), host: Some(6) }.since(before).unwrap();
        assert!(host.contains("1 process(es) on this host"), "{host}");
        assert_eq!(Counts::default().since(before), None, "no longer counted");
        assert_eq!(Counts { group: Some(0), host: None }.since(before), None, "moved to another group");
    }

    #[test]
    fn death_by_an_ordinary_kill_is_none_of_the_kernels() {
        let before = Snapshot::take();
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        if before.log.is_some() && sees_all_processes() {
            assert_eq!(before.was_oom_killed(child.id()), None);
        }
    }

    #[test]
    fn kill_line_of_a_program_is_not_believed() {
        assert_eq!(kill_line("12,7,5140900300,-;Out of memory: Killed process 812 (x)\n", 812), None);
    }

    #[test]
    fn log_is_read_record_by_record() {
        let Some(mut log) = open_log() else { return };
        log.rewind().unwrap();
        let (text, _) = read_log(&log);
        let records = text.lines().filter(|line| line.contains(';')).count();
        assert!(records > 1, "{records}");
    }
}
