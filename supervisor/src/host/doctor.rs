//! The checks behind `midge doctor`: what this host offers, and what to do where it falls short.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

mod network;

use network::Networks;
use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::cgroup::{CgroupVersion, MemoryLimit};
use super::facts::{Device, HostFacts};
use super::kvm::{self, KvmState};
use super::memory::Memory;
use super::qemu::{self, QemuError};
use super::ram_dir::{self, NoRoom};
use super::root::HostRoot;
use super::space::{Space, nearest_existing};
use super::{QemuFacts, programs};
use crate::spec::Arch;

/// Memory of a VM where nothing else is asked for, in bytes; what the checks measure room by.
const USUAL_VM: u64 = 512 << 20;

/// Less memory than this boots no guest worth the name, in bytes.
const LEAST_MEMORY: u64 = 32 << 20;

/// Room for a Debian image and its first VM, in bytes.
const USUAL_DISK: u64 = 2 << 30;

/// Less room than this holds not even records and logs, in bytes.
const LEAST_DISK: u64 = 16 << 20;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something that midge can do is not to be had here, or slow.
    Warn,
    /// No VM can be started.
    Fail,
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The check's name, the same in every version.
    pub id: &'static str,
    /// How it came out.
    pub status: Status,
    /// The result in a line.
    pub summary: String,
    /// What is known beyond it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do, as one command or sentence. There is one wherever the status is not [`Status::Ok`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Context {
    /// The host's files.
    pub root: HostRoot,
    /// Answers of earlier probes.
    pub cache: Cache,
    /// midge's folder of records and images (`$MIDGE_HOME`).
    pub state_dir: PathBuf,
    /// midge's folder of sockets (`$MIDGE_RUN`).
    pub run_dir: PathBuf,
    /// Folders of programs (`$PATH`).
    pub path: OsString,
}

impl Context {
    /// This host, seen by this user.
    #[must_use]
    pub fn of_system(state_dir: PathBuf, run_dir: PathBuf) -> Self {
        Self {
            root: HostRoot::system(),
            cache: Cache::of_user(),
            state_dir,
            run_dir,
            path: std::env::var_os("PATH").unwrap_or_default(),
        }
    }
}

/// Makes every check, in the order in which they are best read. Changes nothing but the cache of probes.
#[must_use]
pub fn checks(context: &Context) -> Vec<Check> {
    let (mine, other) = match Arch::host() {
        Arch::X86_64 => (Arch::X86_64, Arch::Aarch64),
        Arch::Aarch64 => (Arch::Aarch64, Arch::X86_64),
    };
    let (mine, other) =
        ((mine, qemu::facts_with(mine, &context.cache)), (other, qemu::facts_with(other, &context.cache)));
    let any_qemu = mine.1.is_ok() || other.1.is_ok();
    let mut checks = vec![
        check_qemu(mine.0, &mine.1, any_qemu),
        check_qemu(other.0, &other.1, any_qemu),
        check_kvm(&kvm::state_with(&context.cache)),
    ];
    match HostFacts::of(&context.root) {
        Ok(facts) => checks.extend([
            check_kernel(&facts),
            check_memory(&facts.memory, facts.memory_limit.as_ref()),
            check_cgroup(facts.cgroup, facts.memory_limit.as_ref()),
            check_tun(facts.tun),
            Networks::of(facts.tun).check(),
            check_vsock(facts.vsock),
        ]),
        Err(error) => checks.push(Check::new(
            "kernel",
            Status::Fail,
            "the host's files in /proc cannot be read",
            Some(error.to_string()),
            Some("sudo mount -t proc proc /proc"),
        )),
    }
    checks.extend([
        check_ram_files(&ram_dir::preview(&context.run_dir, USUAL_VM)),
        check_disk(&context.state_dir, Space::of(&context.state_dir)),
        check_folder("state-folder", "MIDGE_HOME", &context.state_dir),
        check_folder("run-folder", "MIDGE_RUN", &context.run_dir),
        check_ssh(&context.path),
        check_image_tools(&context.path),
    ]);
    checks
}

impl Check {
    fn new(
        id: &'static str,
        status: Status,
        summary: impl Into<String>,
        detail: Option<String>,
        next: Option<impl Into<String>>,
    ) -> Self {
        Self { id, status, summary: summary.into(), detail, next: next.map(Into::into) }
    }

    fn ok(id: &'static str, summary: impl Into<String>) -> Self {
        Self::new(id, Status::Ok, summary, None, None::<String>)
    }

    fn warn(id: &'static str, summary: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(id, Status::Warn, summary, None, Some(next))
    }

    fn fail(id: &'static str, summary: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(id, Status::Fail, summary, None, Some(next))
    }

    fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }
}

fn check_qemu(arch: Arch, facts: &Result<QemuFacts, QemuError>, any_qemu: bool) -> Check {
    let id = match arch {
        Arch::X86_64 => "qemu-x86_64",
        Arch::Aarch64 => "qemu-aarch64",
    };
    match facts {
        Ok(facts) => Check::ok(id, facts.version_line.clone()).with_detail(facts.path.display().to_string()),
        Err(error) => {
            let status = if any_qemu { Status::Warn } else { Status::Fail };
            let summary = match error {
                QemuError::NotFound { .. } => {
                    format!("{} is not installed: no {} guests", qemu::program(arch), qemu::name(arch))
                }
                _ => format!("QEMU cannot be used: no {} guests", qemu::name(arch)),
            };
            Check::new(id, status, summary, Some(crate::error::chain(error)), Some(error.next_step()))
        }
    }
}

fn check_kvm(state: &KvmState) -> Check {
    let (summary, detail) = match state {
        KvmState::Works => return Check::ok("kvm", "hardware virtualisation works"),
        KvmState::Emulates { detail } => {
            ("KVM only emulates guests here; midge uses TCG, QEMU's own emulation", detail)
        }
        KvmState::Absent { detail, .. } => {
            ("no hardware virtualisation: guests are emulated and slow", detail)
        }
    };
    Check::new("kvm", Status::Warn, summary, Some(detail.clone()), state.next_step())
}

fn check_kernel(facts: &HostFacts) -> Check {
    let distribution = facts.distribution.name.as_deref().unwrap_or(&facts.distribution.id);
    let summary = format!("Linux {} on {distribution}", facts.kernel);
    let mut detail = format!("{} CPUs", facts.cpus);
    for part in [&facts.cpu, &facts.model].into_iter().flatten() {
        detail.push_str(", ");
        detail.push_str(part);
    }
    let _ = write!(detail, ", pages of {} KiB", facts.page_size >> 10);
    // pidfd_open(2) came with Linux 5.3; without it no process can be watched safely.
    let new_enough = version(&facts.kernel).is_none_or(|version| version >= (5, 3));
    let check = if new_enough {
        Check::ok("kernel", summary)
    } else {
        Check::fail("kernel", format!("{summary}: too old"), "use a kernel of version 5.3 or newer")
    };
    check.with_detail(detail)
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn check_memory(memory: &Memory, limit: Option<&MemoryLimit>) -> Check {
    let room = limit.map_or(memory.available, |limit| limit.room().min(memory.available));
    let summary = format!("{} of {} available", size(memory.available), size(memory.total));
    let swap = match (memory.swap_total, memory.zram) {
        (0, _) => "no swap".to_owned(),
        (total, 0) => format!("swap {} of {} free", size(memory.swap_free), size(total)),
        (total, zram) => {
            format!(
                "swap {} of {} free, {} of it compressed memory (zram)",
                size(memory.swap_free),
                size(total),
                size(zram)
            )
        }
    };
    let check = if room < LEAST_MEMORY {
        Check::fail(
            "memory",
            summary,
            "stop programs to free memory: `ps aux --sort=-rss | head` shows the largest",
        )
    } else if room < USUAL_VM {
        Check::warn(
            "memory",
            summary,
            format!("give VMs less memory than the usual {}: --memory 128M", size(USUAL_VM)),
        )
    } else {
        Check::ok("memory", summary)
    };
    check.with_detail(swap)
}

fn check_cgroup(version: CgroupVersion, limit: Option<&MemoryLimit>) -> Check {
    let kind = match version {
        CgroupVersion::None => "not mounted",
        CgroupVersion::V1 => "version 1",
        CgroupVersion::V2 => "version 2",
        CgroupVersion::Hybrid => "versions 1 and 2 side by side",
    };
    let Some(limit) = limit else { return Check::ok("cgroup", format!("{kind}, memory not limited")) };
    let summary =
        format!("{kind}, memory limited to {}, {} of it free", size(limit.bytes), size(limit.room()));
    let check = if limit.room() < USUAL_VM {
        Check::warn("cgroup", summary, "raise the memory limit of the container or service that this runs in")
    } else {
        Check::ok("cgroup", summary)
    };
    check.with_detail(limit.group.display().to_string())
}

fn check_tun(tun: Device) -> Check {
    match tun {
        Device::Ready => Check::ok("tun", "/dev/net/tun opens"),
        Device::Missing => Check::warn("tun", "no /dev/net/tun: no bridged networks", "sudo modprobe tun"),
        Device::NoPermission => Check::warn(
            "tun",
            "/dev/net/tun may not be opened: no bridged networks",
            "sudo chmod 666 /dev/net/tun  # as udev does; it gives no privilege away",
        ),
    }
}

/// Nothing of midge's needs it, so its absence is no shortcoming.
fn check_vsock(vsock: Device) -> Check {
    let summary = match vsock {
        Device::Ready => "/dev/vhost-vsock opens",
        Device::Missing => "no /dev/vhost-vsock (midge does not need it)",
        Device::NoPermission => "/dev/vhost-vsock may not be opened (midge does not need it)",
    };
    Check::ok("vsock", summary)
}

fn check_ram_files(folder: &Result<PathBuf, NoRoom>) -> Check {
    match folder {
        Ok(folder) => Check::ok("ram-files", format!("guest memory goes to {}", folder.display())),
        Err(error) => Check::warn(
            "ram-files",
            "guest memory cannot be a file on tmpfs: VMs run, but without snapshots",
            error.next_step(),
        )
        .with_detail(error.to_string()),
    }
}

fn check_disk(folder: &Path, space: std::io::Result<Space>) -> Check {
    let shown = folder.display();
    match space {
        Err(error) => {
            Check::fail("disk", format!("{shown} cannot be looked at"), "name another folder in MIDGE_HOME")
                .with_detail(error.to_string())
        }
        Ok(space) => {
            let summary = format!("{} of {} free for {shown}", size(space.available), size(space.total));
            if space.available < LEAST_DISK {
                Check::fail(
                    "disk",
                    summary,
                    "free disk space, or name a folder on another disk in MIDGE_HOME",
                )
            } else if space.available < USUAL_DISK {
                Check::warn("disk", summary, "midge gc  # removes what nothing uses any more")
            } else {
                Check::ok("disk", summary)
            }
        }
    }
}

/// Whether a folder of midge's can be written to, or made.
fn check_folder(id: &'static str, variable: &str, folder: &Path) -> Check {
    let there = nearest_existing(folder);
    let exists = there == folder;
    let shown = folder.display();
    if !there.is_dir() {
        let summary = format!("{shown} cannot be made: {} is not a folder", there.display());
        return Check::fail(id, summary, format!("name another folder in {variable}"));
    }
    match rustix::fs::access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if exists => Check::ok(id, format!("{shown} can be written to")),
        Ok(()) => Check::ok(id, format!("{shown} will be made")),
        Err(error) => {
            let summary = if exists {
                format!("{shown} cannot be written to")
            } else {
                format!("{shown} cannot be made")
            };
            Check::fail(id, summary, format!("name a folder of your own in {variable}")).with_detail(format!(
                "{}: {}",
                there.display(),
                std::io::Error::from(error)
            ))
        }
    }
}

fn check_ssh(path: &OsStr) -> Check {
    let missing = missing(&["ssh", "ssh-keygen"], path);
    if missing.is_empty() {
        Check::ok("ssh", "ssh and ssh-keygen are there")
    } else {
        Check::warn(
            "ssh",
            format!("{}: no `midge ssh`", not_found(&missing)),
            "sudo apt-get install openssh-client",
        )
    }
}

fn check_image_tools(path: &OsStr) -> Check {
    let missing = missing(&["mmdebstrap", "mke2fs"], path);
    if missing.is_empty() {
        Check::ok("image-tools", "mmdebstrap and mke2fs are there")
    } else {
        let summary = format!("{}: no `midge image build`", not_found(&missing));
        Check::warn("image-tools", summary, "sudo apt-get install mmdebstrap e2fsprogs")
    }
}

/// Which of these programs are not there. The system's own folders are looked at as well: Debian's users do not have
/// them in `$PATH`, but programs such as mke2fs work for them too.
fn missing<'a>(names: &[&'a str], path: &OsStr) -> Vec<&'a str> {
    let own = std::env::split_paths(path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    // A folder whose name has a colon cannot come out of $PATH, so joining does not fail.
    let path = std::env::join_paths(own).unwrap_or_else(|_| path.to_owned());
    names.iter().copied().filter(|name| programs::find(name, &path).is_err()).collect()
}

fn not_found(names: &[&str]) -> String {
    format!("{} not found", names.join(" and "))
}

/// Bytes for people, rounded down to whole MiB, or to a tenth of a GiB.
fn size(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib < 10 << 10 {
        format!("{mib} MiB")
    } else {
        format!("{}.{} GiB", mib >> 10, ((mib & 1023) * 10) >> 10)
    }
}

#[cfg(test)]
mod tests;
