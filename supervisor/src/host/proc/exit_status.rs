//! How a process ended that was not our child: from `/proc/PID/stat` until its parent has reaped it, from `PIDFD_GET_INFO`
//! afterwards (Linux 6.15 and later; linux/pidfd.h).
#![allow(unsafe_code, reason = "nix has no wrapper for this ioctl(2)")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::{PidFd, ProcessId, Stat};

/// `PIDFD_INFO_EXIT`: wanted, and in the answer there.
const EXIT: u64 = 1 << 3;

/// `struct pidfd_info`, its first version.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

mod ioctl {
    nix::ioctl_readwrite!(pidfd_get_info, 0xff, 11, super::Info);
}

impl ProcessId {
    /// How the process ended; `fd` is a descriptor of it, which has told that it has. None where nothing tells: it was reaped
    /// already and the kernel is older than 6.15.
    #[must_use]
    pub fn exit_status(&self, fd: &PidFd) -> Option<ExitStatus> {
        let zombie = Stat::of(self.pid).ok().filter(|stat| stat.start_time == self.start_time);
        let status = zombie.filter(Stat::ended).and_then(|stat| stat.exit_code);
        // Reaped between the two looks, it is found by the second.
        status.map(ExitStatus::from_raw).or_else(|| fd.reaped_status().ok().flatten())
    }
}

impl PidFd {
    /// How the process ended, once it was reaped by its parent; none before. An error on kernels that do not tell.
    fn reaped_status(&self) -> io::Result<Option<ExitStatus>> {
        let mut info = Info { mask: EXIT, ..Info::default() };
        // SAFETY: the descriptor is open, and `info` is a whole `pidfd_info` of the size that the ioctl's number names.
        unsafe { ioctl::pidfd_get_info(self.as_raw_fd(), &raw mut info) }?;
        Ok((info.mask & EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn a_process_tells_its_status_before_it_is_reaped_and_after() {
        assert_eq!(size_of::<Info>(), 64, "PIDFD_INFO_SIZE_VER0");
        let mut child =
            Command::new("sh").args(["-c", "read x; exit 33"]).stdin(Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let fd = id.open().unwrap().unwrap();
        assert_eq!(id.exit_status(&fd), None, "it still runs");
        drop(child.stdin.take());
        assert!(fd.wait_for(Duration::from_secs(60)).unwrap());
        assert_eq!(id.exit_status(&fd).and_then(|status| status.code()), Some(33), "a zombie");
        child.wait().unwrap();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
        let told = (numbers.next(), numbers.next()) >= (Some(6), Some(15));
        assert_eq!(id.exit_status(&fd).and_then(|status| status.code()), told.then_some(33), "reaped");
    }
}
