//! What this host is and has, gathered in one value for `midge doctor` and for records of measurements.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cgroup::{Cgroup, CgroupVersion, MemoryLimit};
use super::cpu::Cpu;
use super::memory::Memory;
use super::root::HostRoot;

/// What this host is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The kernel's release, such as `6.12.47+rpt-rpi-2712`.
    pub kernel: String,
    /// The distribution.
    pub distribution: Distribution,
    /// What the machine calls itself, where it has a device tree: `Raspberry Pi 5 Model B Rev 1.0`.
    pub model: Option<String>,
    /// The first CPU's model.
    pub cpu: Option<String>,
    /// CPUs that are switched on.
    pub cpus: u32,
    /// Size of a page in bytes: 4096, or 16384 on a Raspberry Pi 5's own kernel.
    pub page_size: u64,
    /// This boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Memory.
    pub memory: Memory,
    /// Control groups.
    pub cgroup: CgroupVersion,
    /// The memory limit with the least room, where one applies to us.
    pub memory_limit: Option<MemoryLimit>,
    /// `/dev/net/tun`, for bridged networks.
    pub tun: Device,
    /// `/dev/vhost-vsock`, for sockets between host and guest.
    pub vsock: Device,
}

/// A distribution, from `/etc/os-release` (os-release(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// `debian`, `raspbian`, `ubuntu`; `linux` where the file says nothing.
    pub id: String,
    /// `12`, where it has a version.
    pub version: Option<String>,
    /// For people: `Debian GNU/Linux 12 (bookworm)`.
    pub name: Option<String>,
}

/// Whether a device can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// It opens.
    Ready,
    /// There is no node, or no driver behind it.
    Missing,
    /// It may not be opened by this user.
    NoPermission,
}

impl HostFacts {
    /// Looks at the host.
    pub fn of(root: &HostRoot) -> io::Result<Self> {
        let cgroup = Cgroup::of(root);
        let cpuinfo = root.read("proc/cpuinfo").unwrap_or_default();
        Ok(Self {
            kernel: root.read("proc/sys/kernel/osrelease")?.trim().to_owned(),
            distribution: Distribution::of(root),
            model: root.read_line("proc/device-tree/model"),
            cpu: Cpu::parse(&cpuinfo).model,
            cpus: cpus(root, &cpuinfo),
            page_size: page_size(),
            boot_id: root.boot_id()?,
            memory: Memory::of(root)?,
            cgroup: cgroup.version,
            memory_limit: cgroup.memory_limit(),
            tun: Device::of(root, "dev/net/tun"),
            vsock: Device::of(root, "dev/vhost-vsock"),
        })
    }
}

impl Distribution {
    /// From `/etc/os-release`, else `/usr/lib/os-release`.
    #[must_use]
    pub fn of(root: &HostRoot) -> Self {
        let text = root.read("etc/os-release").or_else(|_| root.read("usr/lib/os-release"));
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let raw =
                text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix('='))?;
            let raw = raw.trim();
            let quoted = ['"', '\''].iter().find_map(|quote| raw.strip_prefix(*quote)?.strip_suffix(*quote));
            Some(quoted.unwrap_or(raw).to_owned()).filter(|value| !value.is_empty())
        };
        Self {
            id: value("ID").unwrap_or_else(|| "linux".to_owned()),
            version: value("VERSION_ID"),
            name: value("PRETTY_NAME"),
        }
    }
}

impl Device {
    /// Tries to open it; that is harmless for the devices asked for here, and loads their modules where the kernel can.
    #[must_use]
    pub fn of(root: &HostRoot, path: impl AsRef<Path>) -> Self {
        match std::fs::File::options().read(true).write(true).open(root.path(path)) {
            Ok(_) => Self::Ready,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::NoPermission,
            Err(_) => Self::Missing,
        }
    }
}

/// CPUs that are switched on: those of a list such as `0-3,8`, else those that cpuinfo describes.
fn cpus(root: &HostRoot, cpuinfo: &str) -> u32 {
    let described = || cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let listed = root.read_line("sys/devices/system/cpu/online").and_then(|list| count(&list));
    listed.unwrap_or_else(|| u32::try_from(described()).unwrap_or(u32::MAX)).max(1)
}

/// How many a CPU list names (cpuset(7), "List format").
fn count(list: &str) -> Option<u32> {
    let ranges = list.trim().split(',').map(|range| {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        high.parse::<u32>().ok()?.checked_sub(low.parse().ok()?)?.checked_add(1)
    });
    ranges.sum()
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Raspberry Pi 5's files, cut down.
    fn pi() -> (tempfile::TempDir, HostRoot) {
        let tree = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("proc/sys/kernel/osrelease", "6.12.47+rpt-rpi-2712\n"),
            ("proc/sys/kernel/random/boot_id", "c7f1c2de-0000-4000-8000-000000000001\n"),
            ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
            (
                "proc/meminfo",
                "MemTotal:  8254144 kB\nMemAvailable:  7500000 kB\nSwapTotal:  524272 kB\nSwapFree:  524272 kB\n",
            ),
            ("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 524272 0 100\n"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\
                 CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\nprocessor\t: 1\n",
            ),
            ("sys/devices/system/cpu/online", "0-3\n"),
            (
                "etc/os-release",
                "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME='Debian'\nVERSION_ID=\"13\"\nID=debian\n",
            ),
            ("dev/net/tun", ""),
        ] {
            let path = tree.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = HostRoot::at(tree.path());
        (tree, root)
    }

    #[test]
    fn facts_of_a_raspberry_pi() {
        let (_tree, root) = pi();
        let facts = HostFacts::of(&root).unwrap();
        assert_eq!(facts.model.as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
        assert_eq!(facts.cpu.as_deref(), Some("Cortex-A76"));
        assert_eq!(facts.cpus, 4);
        assert_eq!(facts.kernel, "6.12.47+rpt-rpi-2712");
        assert_eq!(
            (facts.distribution.id.as_str(), facts.distribution.version.as_deref()),
            ("debian", Some("13"))
        );
        assert_eq!(facts.memory.zram, 524_272 * 1024);
        assert_eq!((facts.cgroup, facts.memory_limit), (CgroupVersion::None, None));
        assert_eq!((facts.tun, facts.vsock), (Device::Ready, Device::Missing));
    }

    #[test]
    fn facts_of_this_host_agree_with_the_system() {
        let facts = HostFacts::of(&HostRoot::system()).unwrap();
        let uname = nix::sys::utsname::uname().unwrap();
        assert_eq!(Some(facts.kernel.as_str()), uname.release().to_str());
        assert!(facts.cpus as usize >= std::thread::available_parallelism().unwrap().get());
        assert!(facts.page_size.is_power_of_two() && facts.page_size >= 4096);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<HostFacts>(&text).unwrap(), facts);
    }

    #[test]
    fn count_of_cpu_lists() {
        assert_eq!((count("0"), count("0-3"), count("0-1,4,6-7")), (Some(1), Some(4), Some(5)));
        assert_eq!((count(""), count("3-0"), count("a-b"), count("0-4294967295")), (None, None, None, None));
    }

    #[test]
    fn distribution_without_a_file_is_linux() {
        let none = Distribution::parse("");
        assert_eq!((none.id.as_str(), none.version, none.name), ("linux", None, None));
        let unversioned = Distribution::parse("ID=arch\nVERSION_ID=\nPRETTY_NAME=Arch\n");
        assert_eq!((unversioned.id.as_str(), unversioned.version), ("arch", None));
    }
}
