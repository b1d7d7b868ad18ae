//! The rules of a spec, told all at once.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;

use super::{Arch, Forward, Kind, Mac, Machine, Net, Provision, Size, VmSpec, check_user};

/// The least memory a machine starts with.
pub const MIN_MEMORY: Size = Size::from_mib(4);
/// The most memory: QEMU's named CPU models address 40 bits (1 TiB), and devices need some of it.
pub const MAX_MEMORY: Size = Size::from_mib(960 * 1024);
/// The most CPUs: what the boards can wake without an interrupt-remapping IOMMU.
pub const MAX_CPUS: u32 = 255;
/// The longest name: a DNS label's (RFC 1035, 2.3.4).
const MAX_NAME: usize = 63;
/// The most bytes of files for a guest, together: all credentials of a systemd service may have 1 MiB (systemd.exec(5)), and
/// base64 adds a third.
const MAX_FILES: usize = 512 << 10;
/// The most user-data, far above what any cloud takes.
const MAX_USER_DATA: usize = 4 << 20;
/// Slots of the PCI Express root bus that may go to interfaces.
const MAX_NETS: usize = 16;
/// Virtio devices of every machine beside its interfaces: entropy, the agent's port, the disk.
const OTHER_VIRTIO: usize = 3;

/// One thing wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where: `memory`, `nets[1].forwards[0].host`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would help.
    pub hint: Option<String>,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Everything wrong with a spec, at least one thing, each on a line of its own when shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors(pub Vec<FieldError>);

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self.0.iter();
        if let Some(first) = errors.next() {
            write!(f, "{first}")?;
        }
        errors.try_for_each(|error| write!(f, "\n{error}"))
    }
}

impl std::error::Error for SpecErrors {}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) Vec<FieldError>);

impl Errors {
    pub(super) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), problem: problem.into(), hint: None });
    }

    pub(super) fn hint(
        &mut self,
        field: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.0.push(FieldError { field: field.into(), problem: problem.into(), hint: Some(hint.into()) });
    }

    pub(super) fn finish(self) -> Result<(), SpecErrors> {
        if self.0.is_empty() { Ok(()) } else { Err(SpecErrors(self.0)) }
    }
}

/// Whether a text can name a VM: 1 to 63 characters of `a-z`, `0-9` and `-`, no `-` at either end.
pub fn check_name(name: &str) -> Result<(), FieldError> {
    let problem = if name.is_empty() {
        "a VM needs a name".to_owned()
    } else if name.len() > MAX_NAME {
        format!("a name has at most {MAX_NAME} characters, this one {}", name.chars().count())
    } else if name.starts_with('-') || name.ends_with('-') {
        format!("`{name}` starts or ends with `-`")
    } else if let Some(c) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        format!("`{name}` holds {c:?}: a name is made of a-z, 0-9 and `-`")
    } else {
        return Ok(());
    };
    let hint = sanitised(name).map(|name| format!("`{name}` would do"));
    Err(FieldError { field: "name".to_owned(), problem, hint })
}

/// The nearest valid name.
fn sanitised(name: &str) -> Option<String> {
    let mut out = String::new();
    for c in name.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => out.push(c),
            // Runs of other characters become one hyphen.
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out.truncate(MAX_NAME);
    let out = out.trim_end_matches('-');
    (!out.is_empty()).then(|| out.to_owned())
}

impl VmSpec {
    /// Checks everything that can be checked without looking at the host, and tells all that is wrong.
    pub fn validate(&self) -> Result<(), SpecErrors> {
        let mut errors = Errors::default();
        if let Err(error) = check_name(&self.name) {
            errors.0.push(error);
        }
        self.check_boot(&mut errors);
        self.check_board(&mut errors);
        self.check_size(&mut errors);
        self.check_nets(&mut errors);
        self.check_guest(&mut errors);
        self.check_words(&mut errors);
        errors.finish()
    }

    /// Checks the sizes against what this host has.
    pub fn validate_against(&self, host_memory_bytes: u64, host_cpus: u32) -> Result<(), SpecErrors> {
        let mut errors = Errors::default();
        if self.memory.bytes() > host_memory_bytes {
            let host = Size::from_mib(host_memory_bytes >> 20);
            errors.hint(
                "memory",
                format!("{} is more than this host's {host}", self.memory),
                format!("ask for at most {host}"),
            );
        }
        if self.cpus > host_cpus {
            errors.hint(
                "cpus",
                format!("{} are more than this host's {host_cpus}", self.cpus),
                format!("ask for 1 to {host_cpus}"),
            );
        }
        errors.finish()
    }

    fn check_boot(&self, errors: &mut Errors) {
        let boot = &self.boot;
        if boot.image.is_none() && boot.kernel.is_none() {
            errors.hint("boot", "there is nothing to boot", "name an image or a kernel");
            for (field, given) in
                [("boot.initrd", boot.initrd.is_some()), ("boot.append", boot.append.is_some())]
            {
                if given {
                    errors.hint(
                        field,
                        "is of no use without a kernel",
                        "name a kernel, or an image that has one",
                    );
                }
            }
        }
        if boot.image.as_deref() == Some("") {
            errors.add("boot.image", "an image's name is not empty");
        }
        for (field, path) in [("boot.kernel", &boot.kernel), ("boot.initrd", &boot.initrd)] {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                errors.add(field, "a path is not empty");
            }
        }
        if boot.append.as_deref().is_some_and(|words| words.contains(['\0', '\n'])) {
            errors.add("boot.append", "a kernel command line is a single line");
        }
    }

    fn check_board(&self, errors: &mut Errors) {
        let pair = match (self.machine, self.arch) {
            (Machine::Q35 | Machine::Microvm, Arch::Aarch64) => Some("use virt, or leave it to midge"),
            (Machine::Virt, Arch::X86_64) => Some("use q35 or microvm, or leave it to midge"),
            _ => None,
        };
        if let Some(hint) = pair {
            errors.hint("machine", format!("`{}` is no machine for {}", self.machine, self.arch), hint);
        }
        if self.kind == Kind::Solo5 {
            if self.arch == Arch::Aarch64 {
                errors.hint(
                    "kind",
                    "Solo5 has no virtio target for aarch64, so its unikernels cannot run under QEMU there",
                    "build it for x86_64",
                );
            } else if self.machine == Machine::Microvm {
                errors.hint(
                    "machine",
                    "Solo5 finds its devices on PCI only, and a microvm has none",
                    "use q35",
                );
            }
        }
        if self.machine == Machine::Microvm {
            // cloud-init's volume is one more.
            let seed = self.cloud_init.is_some() || self.provision == Provision::CloudInit;
            let most = crate::machine::MICROVM_SLOTS - OTHER_VIRTIO - usize::from(seed);
            if self.nets.len() > most {
                errors.hint(
                    "nets",
                    format!(
                        "a microvm has room for {most} network interfaces, and there are {}",
                        self.nets.len()
                    ),
                    "use q35",
                );
            }
        } else if self.nets.len() > MAX_NETS {
            errors.add(
                "nets",
                format!("at most {MAX_NETS} network interfaces fit, and there are {}", self.nets.len()),
            );
        }
        if let Some(model) = &self.cpu {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-=,".contains(c);
            if model.is_empty() || model.starts_with(['-', '+', ',']) || !model.chars().all(allowed) {
                errors.hint(
                    "cpu",
                    format!("`{model}` is not a CPU model"),
                    "see `qemu-system-x86_64 -cpu help`; features follow after commas, as in Haswell-v4,avx2=off",
                );
            }
        }
    }

    fn check_size(&self, errors: &mut Errors) {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            errors.add("cpus", format!("{} is not from 1 to {MAX_CPUS}", self.cpus));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            errors.hint(
                "memory",
                format!("{} is not from {MIN_MEMORY} to {MAX_MEMORY}", self.memory),
                "a bare number is MiB; a small Debian wants 512M",
            );
        } else if !self.memory.bytes().is_multiple_of(Size::from_mib(1).bytes()) {
            errors.add("memory", format!("{} is not a whole number of MiB", self.memory));
        }
        if let Some(disk) = self.disk
            && disk < Size::from_mib(1)
        {
            errors.hint("disk", format!("{disk} is less than 1M"), "leave it out to keep the image's size");
        }
        if self.ttl_seconds == Some(0) {
            errors.hint("ttl_seconds", "a VM lives for at least 1 second", "leave it out for no end");
        }
    }

    fn check_nets(&self, errors: &mut Errors) {
        let mut forwards: Vec<(String, Forward)> = Vec::new();
        let mut macs: BTreeMap<Mac, usize> = BTreeMap::new();
        for (index, net) in self.nets.iter().enumerate() {
            if let Some(mac) = net.mac()
                && let Some(first) = macs.insert(mac, index)
            {
                errors.add(format!("nets[{index}].mac"), format!("{mac} is nets[{first}]'s address already"));
            }
            if let Net::Bridge { bridge, ip, gateway, dns, .. } = net {
                if let Err(problem) = super::net::check_interface(bridge) {
                    errors.add(format!("nets[{index}].bridge"), problem.to_string());
                }
                if let Err((field, problem)) = super::net::check_address(*ip, *gateway, dns) {
                    errors.add(format!("nets[{index}].{field}"), problem.to_string());
                }
            }
            for (number, forward) in net.forwards().iter().enumerate() {
                let field = format!("nets[{index}].forwards[{number}]");
                for (part, port) in [("host", forward.host), ("guest", forward.guest)] {
                    if port == 0 {
                        errors.add(format!("{field}.{part}"), "a port is from 1 to 65535");
                    }
                }
                if let Some((taken, _)) = forwards.iter().find(|(_, other)| other.collides(forward)) {
                    errors.hint(
                        field.clone(),
                        format!("port {} of {} is taken by {taken} already", forward.host, forward.address),
                        "choose another host port",
                    );
                }
                forwards.push((field, *forward));
            }
        }
    }

    fn check_guest(&self, errors: &mut Errors) {
        if let Some(user) = &self.user
            && let Err(problem) = check_user(user)
        {
            errors.add("user", format!("`{user}`: {problem}"));
        }
        let mut total = 0;
        for (index, file) in self.files.iter().enumerate() {
            let parts = || file.path.split('/').skip(1);
            let whole = file.path.starts_with('/') && parts().all(|part| !matches!(part, "" | "." | ".."));
            if !whole || file.path.contains(char::is_control) {
                errors.add(
                    format!("files[{index}].path"),
                    format!("`{}` is no plain absolute path of a file", file.path.escape_debug()),
                );
            }
            total += file.content.0.len();
        }
        if total > MAX_FILES {
            errors.hint(
                "files",
                format!("{} KiB are more than the {} KiB that fit", total.div_ceil(1024), MAX_FILES >> 10),
                "copy them with `midge cp` when the guest is up",
            );
        }
        if let Some(data) = &self.cloud_init {
            if data.0.len() > MAX_USER_DATA {
                errors.add("cloud_init", format!("user-data has at most {} MiB", MAX_USER_DATA >> 20));
            }
            if matches!(self.provision, Provision::Credentials | Provision::None) {
                errors.hint(
                    "provision",
                    format!(
                        "user-data is read by cloud-init, and the way of provisioning is `{}`",
                        self.provision
                    ),
                    "use `cloud-init`, or leave it to midge",
                );
            }
        }
    }

    fn check_words(&self, errors: &mut Errors) {
        for (index, key) in self.ssh_keys.iter().enumerate() {
            if let Err(problem) = check_ssh_key(key) {
                errors.hint(
                    format!("ssh_keys[{index}]"),
                    problem,
                    "give the one line of a `.pub` file, such as ~/.ssh/id_ed25519.pub",
                );
            }
        }
        for (key, value) in &self.labels {
            let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '/' | '-');
            if key.is_empty() || !key.chars().all(allowed) {
                errors.add(
                    format!("labels.{key}"),
                    "a label's key is made of a-z, 0-9, `.`, `_`, `/` and `-`".to_owned(),
                );
            }
            if value.chars().any(char::is_control) {
                errors.add(
                    format!("labels.{key}"),
                    "a label's value is a single line without control characters",
                );
            }
        }
        for (index, word) in self.qemu_args.iter().enumerate() {
            let field = format!("qemu_args[{index}]");
            if word.contains('\0') {
                errors.add(field, "an argument holds no zero byte");
            } else if matches!(word.trim_start_matches('-'), "daemonize" | "pidfile") && word.starts_with('-')
            {
                errors.add(field, format!("`{word}` would take QEMU from its supervisor"));
            }
        }
    }
}

/// The form of an OpenSSH public key: type, base64 whose first field repeats the type (RFC 4253, 6.6),
/// comment.
fn check_ssh_key(line: &str) -> Result<(), &'static str> {
    if line.contains("PRIVATE KEY") {
        return Err("is a private key, which must not leave your computer");
    }
    if line.trim().contains(['\n', '\r', '\0']) {
        return Err("is more than one line");
    }
    let mut words = line.split_whitespace();
    let (Some(kind), Some(body)) = (words.next(), words.next()) else {
        return Err("is not a public key");
    };
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"];
    if !known.iter().any(|start| kind.starts_with(start)) {
        return Err("does not start with a key type such as ssh-ed25519");
    }
    let body =
        base64::engine::general_purpose::STANDARD.decode(body).map_err(|_| "is damaged: not base64")?;
    let named = body.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        rest.get(..length)
    });
    if named == Some(kind.as_bytes()) {
        Ok(())
    } else {
        Err("is damaged: the key is not of the type it says")
    }
}
