//! Which kernel a system boots, and what its guest understands.

use super::NoDirectBoot;
use super::grub;
use super::partitions::Partition;
use super::tree::{Tree, TreeError};
use crate::image::kernel::{self, KernelFormat};
use crate::spec::Arch;

/// The largest kernel or initial RAM disk that is taken out of a disk, in bytes.
pub(super) const LARGEST: u64 = 512 << 20;

/// The first version of systemd that takes networks from credentials (systemd-network-generator(8)).
const NETWORKS_SINCE: u32 = 256;
/// Exists where systemd-networkd starts at boot (its unit's `[Install]`).
const NETWORKD_ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
/// What does it for older ones in the images that midge builds (build/prepare.sh).
const NETWORK_UNIT: &str = "/etc/systemd/system/systemd-networkd.service.wants/midge-network.service";

/// What boots a system directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: BootPath,
    /// Its format, packed or not.
    pub format: KernelFormat,
    /// What it runs on.
    pub arch: Arch,
    /// The initial RAM disk.
    pub initrd: Option<BootPath>,
    /// The command line, without the console.
    pub append: String,
}

/// A file that a system boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPath {
    /// Its path within its file system.
    pub path: String,
    /// It lies on a file system of its own for `/boot`.
    pub(super) separate: bool,
}

/// What is known of the system on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OsFacts {
    /// What it calls itself, such as `Debian GNU/Linux 12 (bookworm)`.
    pub name: Option<String>,
    /// systemd's version, where it has one.
    pub systemd: Option<u32>,
    /// It has cloud-init.
    pub cloud_init: bool,
    /// Its systemd-networkd takes networks from credentials.
    pub network_credentials: bool,
    /// It has the QEMU guest agent.
    pub agent: bool,
    /// It has an SSH server.
    pub ssh: bool,
}

/// Whether a file system is that of a whole system.
pub(super) fn is_root(tree: &Tree) -> Result<bool, TreeError> {
    // Some have only one of them; os-release(5) allows either place.
    Ok(tree.has("/etc/os-release")? || tree.has("/usr/lib/os-release")? || tree.has("/etc/fstab")?)
}

/// Whether a file system is one of those that are mounted at `/boot`.
pub(super) fn is_boot(tree: &Tree) -> Result<bool, TreeError> {
    Ok(tree.has("/grub/grub.cfg")? || tree.has("/grub2/grub.cfg")? || !kernels(&tree.names("/")?).is_empty())
}

/// What is known of a system from its files.
pub(super) fn facts(tree: &Tree) -> Result<OsFacts, TreeError> {
    let release = match tree.text("/etc/os-release")? {
        Some(text) => Some(text),
        None => tree.text("/usr/lib/os-release")?,
    };
    let any = |paths: &[&str]| paths.iter().try_fold(false, |found, path| Ok(found || tree.has(path)?));
    let mut systemd = None;
    for folder in [
        "/usr/lib/systemd",
        "/usr/lib/x86_64-linux-gnu/systemd",
        "/usr/lib/aarch64-linux-gnu/systemd",
        "/usr/lib64/systemd",
        "/lib/systemd",
    ] {
        systemd = systemd.or(tree.names(folder)?.iter().find_map(|name| systemd_version(name)));
    }
    Ok(OsFacts {
        name: release.as_deref().and_then(pretty_name),
        systemd,
        cloud_init: any(&["/usr/bin/cloud-init"])?,
        network_credentials: any(&[NETWORK_UNIT])?
            || (systemd >= Some(NETWORKS_SINCE) && any(&[NETWORKD_ENABLED])?),
        agent: any(&["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"])?,
        ssh: any(&["/usr/sbin/sshd", "/usr/bin/sshd"])?,
    })
}

/// systemd's version by the name of its private library, such as `libsystemd-shared-252.so`, which has it in every distribution.
fn systemd_version(library: &str) -> Option<u32> {
    let rest = library.strip_prefix("libsystemd-shared-")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// `PRETTY_NAME` of os-release(5).
fn pretty_name(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let name: String =
        value.trim_matches(['"', '\'']).chars().filter(|c| !c.is_control()).take(100).collect();
    (!name.is_empty()).then_some(name)
}

/// Finds what boots the system of `root`, whose `/boot` may be `separate`.
pub(super) fn find(
    root: &Tree,
    separate: Option<&Tree>,
    partition: &Partition,
) -> Result<Result<BootFiles, NoDirectBoot>, TreeError> {
    let (tree, folder) = match separate {
        Some(tree) if root.names("/boot")?.is_empty() => (tree, ""),
        _ => (root, "/boot"),
    };
    let at = |path: String| BootPath { path, separate: !std::ptr::eq(tree, root) };
    let mut chosen = configured(tree, folder)?;
    if chosen.is_none() {
        chosen =
            newest(tree, folder)?.map(|(kernel, initrd)| grub::Entry { kernel, initrd, words: Vec::new() });
    }
    let Some(entry) = chosen else { return Ok(Err(NoDirectBoot::NoKernel)) };

    let mut start = Start { bytes: Vec::new() };
    // The end of what is looked at is told as a failed write.
    match tree.copy(&entry.kernel, &mut start, LARGEST) {
        Ok(_) | Err(TreeError::Write { .. }) => {}
        Err(e) => return Err(e),
    }
    let Some((format, arch)) = kernel::bootable(&start.bytes) else {
        return Ok(Err(NoDirectBoot::Kernel { path: entry.kernel }));
    };
    let mut words = entry.words;
    if words.is_empty() {
        words = fallback_words(root)?;
    }
    Ok(Ok(BootFiles {
        kernel: at(entry.kernel),
        format,
        arch,
        initrd: entry.initrd.map(at),
        append: command_line(words, partition),
    }))
}

/// What GRUB's configuration names, if its files are there.
fn configured(tree: &Tree, folder: &str) -> Result<Option<grub::Entry>, TreeError> {
    for config in [format!("{folder}/grub/grub.cfg"), format!("{folder}/grub2/grub.cfg")] {
        let Some(entry) = tree.text(&config)?.as_deref().and_then(grub::first_entry) else { continue };
        let initrd = entry.initrd.as_deref().map_or(Ok(true), |initrd| tree.has(initrd))?;
        if initrd && tree.has(&entry.kernel)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// The newest kernel in a folder, and the initial RAM disk that goes with it.
fn newest(tree: &Tree, folder: &str) -> Result<Option<(String, Option<String>)>, TreeError> {
    let names = tree.names(if folder.is_empty() { "/" } else { folder })?;
    let Some(version) = kernels(&names).into_iter().max_by(|a, b| by_version(a, b)) else { return Ok(None) };
    let suffix = if version.is_empty() { String::new() } else { format!("-{version}") };
    let candidates = [
        format!("initrd.img{suffix}"),
        format!("initrd{suffix}"),
        format!("initramfs{suffix}.img"),
        format!("initramfs{suffix}"),
    ];
    let initrd = candidates.into_iter().find(|candidate| names.contains(candidate));
    Ok(Some((format!("{folder}/vmlinuz{suffix}"), initrd.map(|initrd| format!("{folder}/{initrd}")))))
}

/// The versions of the kernels among some files: `6.1.0-18-cloud-amd64` for `vmlinuz-6.1.0-18-cloud-amd64`; empty for `vmlinuz`.
fn kernels(names: &[String]) -> Vec<&str> {
    let version = |name: &String| -> Option<usize> {
        let rest = name.strip_prefix("vmlinuz")?;
        (rest.is_empty() || rest.starts_with('-')).then_some(name.len() - rest.len())
    };
    let named: Vec<&str> = names
        .iter()
        .filter_map(|name| version(name).map(|at| name[at..].trim_start_matches('-')))
        .filter(|version| !version.contains("rescue"))
        .collect();
    // A name without a version is a link to one with, where there are such.
    if named.iter().any(|version| !version.is_empty()) {
        named.into_iter().filter(|version| !version.is_empty()).collect()
    } else {
        named
    }
}

/// Compares versions as people read them: numbers as numbers, the rest as text.
fn by_version(a: &str, b: &str) -> std::cmp::Ordering {
    let pieces = |text: &str| -> Vec<(u64, String)> {
        text.split(['.', '-', '+', '_', '~'])
            .map(|piece| (piece.parse().unwrap_or(0), piece.to_owned()))
            .collect()
    };
    pieces(a).cmp(&pieces(b))
}

/// The words for a system that has no configuration of GRUB's: kernel-install(8)'s, or those for every entry.
fn fallback_words(root: &Tree) -> Result<Vec<String>, TreeError> {
    if let Some(text) = root.text("/etc/kernel/cmdline")? {
        return Ok(text.split_whitespace().map(str::to_owned).collect());
    }
    Ok(root.text("/etc/default/grub")?.as_deref().map(grub::default_words).unwrap_or_default())
}

/// The command line of words: with a root, and without what the machine decides (the console) or what hides the boot's phases.
fn command_line(words: Vec<String>, partition: &Partition) -> String {
    let keep = |word: &String| {
        !["console=", "earlyprintk=", "earlycon=", "BOOT_IMAGE="].iter().any(|start| word.starts_with(start))
            && !["quiet", "splash", "rhgb", "earlycon"].contains(&word.as_str())
    };
    let mut words: Vec<String> = words.into_iter().filter(keep).collect();
    if !words.iter().any(|word| word.starts_with("root=")) {
        let root = match &partition.uuid {
            Some(uuid) => format!("root=PARTUUID={uuid}"),
            None => "root=/dev/vda".to_owned(),
        };
        words.insert(0, root);
    }
    if !words.iter().any(|word| word == "ro" || word == "rw") {
        words.push("ro".to_owned());
    }
    words.join(" ")
}

/// Takes as much of a file as is looked at to tell a kernel.
struct Start {
    bytes: Vec<u8>,
}

impl std::io::Write for Start {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = kernel::LOOKED_AT.saturating_sub(self.bytes.len() as u64);
        if room == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        let taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(uuid: Option<&str>) -> Partition {
        let uuid = uuid.map(str::to_owned);
        Partition { number: 1, start: 0, length: 0, uuid, role: super::super::Role::Other }
    }

    #[test]
    fn the_newest_kernel_is_that_of_the_highest_number() {
        let names = ["vmlinuz", "vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-18-amd64", "vmlinuz-5.10.0-30-amd64"];
        let names: Vec<String> = names.map(str::to_owned).into();
        assert_eq!(kernels(&names).into_iter().max_by(|a, b| by_version(a, b)), Some("6.1.0-18-amd64"));
        assert_eq!(kernels(&["vmlinuz".to_owned(), "vmlinuzx".to_owned()]), [""]);
        assert!(kernels(&["vmlinuz-0-rescue-1".to_owned(), "System.map-6".to_owned()]).is_empty());
    }

    #[test]
    fn a_command_line_has_a_root_and_no_console() {
        let line = |words: &str, uuid| {
            command_line(words.split_whitespace().map(str::to_owned).collect(), &partition(uuid))
        };
        assert_eq!(
            line("quiet console=ttyS0 net.ifnames=0", Some("0b-1")),
            "root=PARTUUID=0b-1 net.ifnames=0 ro"
        );
        assert_eq!(line("root=LABEL=x rw splash a=1", Some("0b-1")), "root=LABEL=x rw a=1");
        assert_eq!(line("", None), "root=/dev/vda ro");
    }

    #[test]
    fn versions_and_names_are_read_from_what_every_distribution_has() {
        assert_eq!(systemd_version("libsystemd-shared-252.so"), Some(252));
        assert_eq!(systemd_version("libsystemd-shared-255.4-1.fc40.so"), Some(255));
        assert_eq!(systemd_version("libsystemd-core-252.so"), None);
        assert_eq!(systemd_version("libsystemd-shared-.so"), None);
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(pretty_name("PRETTY_NAME=\n"), None);
    }
}
