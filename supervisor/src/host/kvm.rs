//! Whether KVM can be used: proven by running a few instructions in a real VM.
//!
//! Opening `/dev/kvm` proves little. Some hosts offer it without hardware behind it and interpret guest kernels: guests
//! then run a hundred times slower than under TCG and stop at the first instruction that KVM's small emulator
//! lacks. So the probe runs one such instruction, and times a short loop.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::root::HostRoot;

#[cfg_attr(target_arch = "x86_64", path = "kvm/guest_x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "kvm/guest_aarch64.rs")]
mod guest;
mod trial;
mod why;

/// Where the device is.
const DEVICE: &str = "dev/kvm";

/// Whether hardware virtualisation can be used, from one real run in `/dev/kvm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum KvmState {
    /// Guest code ran on the hardware.
    Works,
    /// KVM is there, but interprets guest kernels: far slower than TCG, and incomplete.
    Emulates {
        /// What gave it away.
        detail: String,
    },
    /// KVM cannot be used.
    Absent {
        /// Why.
        reason: KvmAbsence,
        /// The same for people, with what the system said.
        detail: String,
    },
}

/// Why KVM cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum KvmAbsence {
    /// The CPU has virtualisation, but the kernel module for it is not loaded.
    NotLoaded {
        /// The module.
        module: String,
    },
    /// The kernel has KVM, but there is no `/dev/kvm` here, as in most containers.
    NoDevice,
    /// The CPU has no virtualisation, or the firmware (BIOS) has switched it off: Linux shows both alike.
    NoCpuSupport,
    /// This machine is a virtual one and its own host does not pass virtualisation on.
    NestedOff,
    /// `/dev/kvm` may not be opened by this user.
    NoPermission {
        /// The group that may, if there is one.
        group: Option<String>,
    },
    /// Another hypervisor holds the hardware.
    Busy,
    /// The probe's guest did not come back in time.
    Stalled,
    /// Anything else.
    Other,
}

impl KvmState {
    /// What to do to have KVM, as one command or sentence. None where it works.
    #[must_use]
    pub fn next_step(&self) -> Option<String> {
        let step = match self {
            Self::Works => return None,
            Self::Emulates { .. } => {
                "nothing to repair: emulation (TCG) is used; for speed, use a host with hardware virtualisation"
            }
            Self::Absent { reason, .. } => match reason {
                KvmAbsence::NotLoaded { module } => return Some(format!("sudo modprobe {module}")),
                KvmAbsence::NoPermission { group: Some(group) } => {
                    return Some(format!("sudo usermod -aG {group} $USER  # counts from the next log-in"));
                }
                KvmAbsence::NoPermission { group: None } => {
                    "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm, then join the group kvm"
                }
                KvmAbsence::NoDevice => {
                    "in a container, pass the device in (docker, podman: `--device /dev/kvm`)"
                }
                KvmAbsence::NoCpuSupport => {
                    "switch on virtualisation (VT-x, AMD-V, SVM) in the firmware's set-up, if the CPU has it"
                }
                KvmAbsence::NestedOff => {
                    "switch on nested virtualisation for this machine at its host or provider"
                }
                KvmAbsence::Busy => "stop the other hypervisor (VirtualBox, VMware) or unload its modules",
                KvmAbsence::Stalled | KvmAbsence::Other => "sudo dmesg | grep -i kvm  # shows what KVM says",
            },
        };
        Some(step.to_owned())
    }
}

/// Whether KVM lets guests have all of these CPU features: bits of CPUID leaf 1, ECX, in `KVM_GET_SUPPORTED_CPUID`
/// (Linux, Documentation/virt/kvm/api.rst). False where KVM cannot be used, and where there is no CPUID.
#[must_use]
pub fn offers(leaf_1_ecx: u32) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        kvm_ioctls::Kvm::new()
            .and_then(|kvm| kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES))
            .is_ok_and(|cpuid| {
                cpuid.as_slice().iter().any(|leaf| leaf.function == 1 && leaf.ecx & leaf_1_ecx == leaf_1_ecx)
            })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = leaf_1_ecx;
        false
    }
}

/// Whether KVM can be used here.
///
/// The first answer of a boot takes a real run (under 30 ms; at most 3 s where KVM hangs); works and emulates are
/// the same until the next boot and are cached. What keeps KVM from being opened may change at any moment and is looked at
/// every time.
#[must_use]
pub fn state() -> KvmState {
    state_with(&Cache::of_user())
}

/// As [`state`], with a cache of the caller's choice.
#[must_use]
pub fn state_with(cache: &Cache) -> KvmState {
    let root = HostRoot::system();
    // Permission first: it is no part of the cached answer.
    if let Err(error) =
        rustix::fs::access(root.path(DEVICE), rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK)
    {
        return why::absent(&root, &error.into());
    }
    let key = Key::of(&root).ok();
    if let Some(state) = key.as_ref().and_then(|key| cache.get::<Key, KvmState>("kvm.json", key)) {
        return state;
    }
    let state = trial::run(&root);
    if let (Some(key), KvmState::Works | KvmState::Emulates { .. }) = (&key, &state) {
        cache.put("kvm.json", key, &state);
    }
    state
}

/// What a cached answer depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    /// Form and making of the answer; raised when the probe changes.
    schema: u32,
    boot_id: String,
    kernel: String,
    /// `/dev/kvm`: made anew when the module is loaded again, changed by chmod and chown.
    device: u64,
    ctime: i64,
    ctime_nsec: i64,
    /// CPU model, microcode and features: a virtual machine may be moved to another CPU without a reboot.
    cpu: String,
}

impl Key {
    fn of(root: &HostRoot) -> io::Result<Self> {
        let about = root.path(DEVICE).metadata()?;
        Ok(Self {
            schema: 1,
            boot_id: root.boot_id()?,
            kernel: root.read("proc/sys/kernel/osrelease")?.trim().to_owned(),
            device: about.rdev(),
            ctime: about.ctime(),
            ctime_nsec: about.ctime_nsec(),
            cpu: cpu_identity(&first_cpu(root)?),
        })
    }
}

/// The beginning of `/proc/cpuinfo`, which holds the first CPU: the whole file has megabytes on large machines.
fn first_cpu(root: &HostRoot) -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(root.path("proc/cpuinfo"))?.take(8192).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(text.split("\n\n").next().unwrap_or_default().to_owned())
}

/// The lines that say which CPU it is, without those that change by the moment (`cpu MHz`).
fn cpu_identity(first_cpu: &str) -> String {
    const LINES: [&str; 13] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "microcode",
        "flags",
        "Features",
        "CPU implementer",
        "CPU architecture",
        "CPU variant",
        "CPU part",
        "CPU revision",
    ];
    let mut identity = String::new();
    for line in first_cpu.lines() {
        if let Some((name, value)) = line.split_once(':')
            && LINES.contains(&name.trim())
        {
            identity.push_str(value.trim());
            identity.push('\n');
        }
    }
    identity
}

/// Loaded modules of KVM's, such as `kvm` and `kvm_intel`, sorted.
fn modules(root: &HostRoot) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.path("sys/module")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name == "kvm" || name.starts_with("kvm_"))
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// What holds on any host: an answer, in time, and the same one from the cache.
    #[test]
    fn state_of_this_host_comes_in_time_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let begun = Instant::now();
        let first = state_with(&cache);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(first.next_step().is_none(), first == KvmState::Works);
        let stored = folder.path().join("kvm.json").exists();
        assert_eq!(stored, !matches!(first, KvmState::Absent { .. }), "only lasting answers are stored");
        assert_eq!(state_with(&cache), first);
    }

    #[test]
    fn stored_answer_is_used_and_damage_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let first = state_with(&cache);
        if matches!(first, KvmState::Absent { .. }) {
            return; // nothing is stored here, as the test above has it
        }
        let marked = KvmState::Emulates { detail: "from the cache".to_owned() };
        cache.put("kvm.json", &Key::of(&HostRoot::system()).unwrap(), &marked);
        assert_eq!(state_with(&cache), marked);
        std::fs::write(folder.path().join("kvm.json"), "not JSON").unwrap();
        assert!(!matches!(state_with(&cache), KvmState::Absent { .. }));
    }

    #[test]
    fn cpu_identity_leaves_out_what_changes() {
        let at = |mhz| {
            format!(
                "processor\t: 0\nmodel name\t: A CPU\ncpu MHz\t\t: {mhz}\nmicrocode\t: 0x1\nflags\t\t: vmx\n"
            )
        };
        assert_eq!(cpu_identity(&at("800.1")), "A CPU\n0x1\nvmx\n");
        assert_eq!(cpu_identity(&at("800.1")), cpu_identity(&at("2600.0")));
    }

    #[test]
    fn state_is_stored_as_tagged_json() {
        let state = KvmState::Absent {
            reason: KvmAbsence::NotLoaded { module: "kvm_amd".to_owned() },
            detail: "no".to_owned(),
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(
            text,
            r#"{"state":"absent","reason":{"cause":"not-loaded","module":"kvm_amd"},"detail":"no"}"#
        );
        assert_eq!(serde_json::from_str::<KvmState>(&text).unwrap(), state);
    }
}
