//! From a record to everything that one run of QEMU needs: the image's parts, the acceleration, the RAM's place.
//!
//! Planning reads the host and decides; it starts nothing and changes nothing, except that it puts an embedded image's
//! kernel into the store, and makes an image's small initial RAM disk.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::begin::{Identity, Restore};
use super::control::{Failure, FailureKind};
use super::phase::default_ready;
use crate::host::{self, KvmState, QemuFacts};
use crate::identity::{Nic, RandomSeed, Renew, Wanted};
use crate::image::{self, Image, Manifest};
use crate::initrd;
use crate::machine::{self, Disk, Ram, ResolvedAccel, Resources};
use crate::seed::{self, Method, Seed};
use crate::snapshot::check::machine_differences;
use crate::snapshot::store::{Snapshot, SnapshotStore};
use crate::snapshot::{self, SnapshotName};
use crate::spec::{Accel, Arch, Kind, Mac, Net, Ready, Size, VmSpec};
use crate::store::{Home, RamBase, Record, RunState, VmDir};

/// How long a clone's new addresses are waited for in the guest.
const RENEWAL: Duration = Duration::from_secs(30);

/// What one run of a VM consists of.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) spec: VmSpec,
    pub(super) kind: Kind,
    pub(super) qemu: QemuFacts,
    pub(super) accel: ResolvedAccel,
    pub(super) ready: Option<Ready>,
    /// The disk's size, where the guest's file system is to be made to fill it by its agent.
    pub(super) grow: Option<Size>,
    /// What the user should know, a line each.
    pub(super) notes: Vec<String>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    /// The initial RAM disk is midge's own, and the image has one to fall back on.
    pub(super) small_initrd: Option<PathBuf>,
    append: String,
    bios: Option<PathBuf>,
    disk: Option<Disk>,
    ram: Ram,
    macs: Vec<Mac>,
    uuid: uuid::Uuid,
    seed: Seed,
    /// What is to be loaded instead of booting.
    pub(super) restore: Option<Restored>,
}

/// A snapshot that is to be loaded.
#[derive(Debug, Clone)]
pub(super) struct Restored {
    pub(super) snapshot: Snapshot,
    /// The file that its RAM is mapped from.
    pub(super) flat: PathBuf,
    /// What of its machine decides whether its state can be loaded.
    machine: snapshot::manifest::Machine,
    /// Who the guest is then to be.
    pub(super) wanted: Restore,
}

impl Restored {
    /// The names of the snapshot.
    pub(super) fn names(&self) -> Vec<SnapshotName> {
        self.snapshot.names.clone()
    }

    /// What a guest that goes on from it has its RAM from.
    pub(super) fn base(&self) -> RamBase {
        RamBase { snapshot: self.snapshot.id(), file: self.flat.clone() }
    }

    /// The snapshot of this id, where it can be loaded on this host.
    pub(super) fn find(home: &Home, wanted: &Restore) -> Result<Self, Failure> {
        let store = SnapshotStore::new(home);
        let id = wanted.snapshot;
        let snapshot = store.by_id(id)?.ok_or_else(|| {
            Failure::new(FailureKind::NotFound, format!("the snapshot {id} has been removed"))
        })?;
        match (store.flat_ram(&snapshot), snapshot.manifest.machine.clone()) {
            (Some(flat), Some(machine)) => Ok(Self { snapshot, flat, machine, wanted: wanted.clone() }),
            _ => Err(Failure::new(
                FailureKind::Usage,
                format!("`{}` is a snapshot of a disk only: there is no memory to load", snapshot.shown()),
            )),
        }
    }
}

/// Makes the plan of a VM from its record; `restore` is the snapshot that it is to go on from.
pub(super) fn plan(
    home: &Home,
    dir: &VmDir,
    record: &Record,
    restore: Option<Restored>,
) -> Result<Plan, Failure> {
    let mut spec = record.spec.clone();
    let image = record.image.as_ref().map(|image| Parts::of(home, &spec, image)).transpose()?;
    let kind = kind(&spec, image.as_ref().map(|i| &i.manifest));
    spec.kind = kind;

    let mut notes = Vec::new();
    let qemu = host::qemu::facts(spec.arch).map_err(|e| {
        Failure::new(FailureKind::HostUnfit, crate::error::chain(&e))
            .hint("`midge doctor` looks at the whole host")
    })?;
    let accel = acceleration(&spec, &mut notes)?;
    check_ports(&spec.nets)?;

    let kernel = match &spec.boot.kernel {
        Some(path) => Some(check_kernel(path, spec.arch)?),
        None => image.as_ref().and_then(|i| unpacked_kernel(home, accel, i).or_else(|| i.kernel.clone())),
    };
    let initrd = match &spec.boot.initrd {
        Some(path) => Some(check_readable("initrd", path)?),
        // An image's initial RAM disk belongs to the image's kernel.
        None if spec.boot.kernel.is_some() => None,
        None => image.as_ref().and_then(|i| i.initrd.clone()),
    };
    let bios = match &image {
        Some(image) if kernel.is_none() => firmware(&image.manifest)?,
        _ => None,
    };
    let small_initrd = image.as_ref().filter(|_| initrd.is_some()).and_then(|i| small_initrd(home, &spec, i));
    let initrd = small_initrd.clone().or(initrd);
    // The root file system of a restored guest came up long ago.
    let small_initrd = small_initrd.filter(|_| restore.is_none());
    let disk = image
        .as_ref()
        .and_then(|i| i.manifest.disk.as_ref())
        .map(|_| Disk { path: dir.disk(), format: dir.disk_format() });
    if let Some(disk) = &disk
        && !disk.path.exists()
    {
        let why = format!("the disk {} is missing", disk.path.display());
        return Err(Failure::new(FailureKind::NotFound, why)
            .hint("bring it back, or remove the VM and create it anew"));
    }
    let ready = ready(&spec, image.as_ref().map(|i| &i.manifest))?;
    let macs = record
        .macs
        .iter()
        .map(|mac| mac.parse::<Mac>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Failure::new(FailureKind::Other, format!("the record of the VM is damaged: {e}")))?;
    let manifest = image.as_ref().map(|i| &i.manifest);
    let guest = seed::Guest::of(kind, manifest, kernel.is_some());
    let method = seed::method(&spec, guest)
        .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()).hint(e.hint()))?;
    // cloud-init does it by itself.
    let by_agent = kind == Kind::Linux && method == Method::Credentials;
    let image_disk = image.as_ref().and_then(|i| i.manifest.disk.as_ref()).filter(|_| by_agent);
    let grow =
        image_disk.filter(|_| restore.is_none()).and_then(|disk| super::grow::wanted(dir, disk.virtual_size));
    let seed = Seed { method, id: record.id, macs: macs.clone(), has_cloud_init: guest.cloud_init };
    let append = append(&spec, accel, image.as_ref(), disk.is_some(), &seed)?;
    let ram = match (&restore, host::ram_dir(home.run(), spec.memory.bytes())) {
        (Some(restore), _) => Ram::Private(restore.flat.clone()),
        (None, Ok(folder)) => Ram::File(folder.join(format!("{}.ram", record.id))),
        (None, Err(why)) => {
            notes.push(format!("{why}; the guest's memory is anonymous, so this run cannot be snapshotted"));
            Ram::Anonymous
        }
    };
    Ok(Plan {
        spec,
        kind,
        qemu,
        accel,
        ready,
        grow,
        notes,
        kernel,
        initrd,
        small_initrd,
        append,
        bios,
        disk,
        ram,
        macs,
        uuid: record.id,
        seed,
        restore,
    })
}

impl Plan {
    /// What is needed to watch a guest that runs already. Nothing is looked at but what was recorded: its ports are in use, by
    /// itself, and its image or QEMU may be gone.
    pub(super) fn for_adoption(record: &Record, run: &RunState) -> Self {
        let mut spec = record.spec.clone();
        let manifest = record.image.as_ref();
        spec.kind = kind(&spec, manifest);
        let qemu = QemuFacts {
            path: PathBuf::new(),
            arch: spec.arch,
            version: (0, 0, 0),
            version_line: run.qemu_version.clone().unwrap_or_default(),
            machines: Vec::new(),
            devices: Vec::new(),
            cpus: Vec::new(),
        };
        Self {
            kind: spec.kind,
            qemu,
            accel: run.accel.unwrap_or(ResolvedAccel::Tcg),
            // A sign that does not parse any more is one that nobody sees.
            ready: ready(&spec, manifest).ok().flatten(),
            grow: None,
            notes: Vec::new(),
            kernel: None,
            initrd: None,
            small_initrd: None,
            append: String::new(),
            bios: None,
            disk: None,
            ram: run.ram_file.clone().map_or(Ram::Anonymous, Ram::File),
            macs: record.macs.iter().filter_map(|mac| mac.parse().ok()).collect(),
            uuid: record.id,
            seed: Seed::nothing(),
            restore: None,
            spec,
        }
    }

    /// Whether the guest has a network card that leads somewhere, and an agent that can be asked for its addresses.
    pub(super) fn expects_address(&self) -> bool {
        self.kind == Kind::Linux && self.spec.nets.iter().any(|net| !matches!(net, Net::None { .. }))
    }

    /// The MAC of each interface.
    pub(super) fn macs(&self) -> &[Mac] {
        &self.macs
    }

    /// What tells the VM from all others, also those of other users.
    pub(super) const fn uuid(&self) -> &uuid::Uuid {
        &self.uuid
    }

    /// The file that will hold the guest's RAM.
    pub(super) fn ram_file(&self) -> Option<&Path> {
        match &self.ram {
            Ram::File(path) => Some(path),
            // A snapshot's file is not this run's to remove.
            Ram::Private(_) | Ram::Anonymous => None,
        }
    }

    /// Makes the RAM file: ours alone, of full size, and without a byte allocated.
    pub(super) fn prepare_ram(&self) -> Result<(), Failure> {
        let Ram::File(path) = &self.ram else { return Ok(()) };
        let make = || -> std::io::Result<()> {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
            file.set_len(self.spec.memory.bytes())
        };
        make().map_err(|e| {
            Failure::new(FailureKind::NoSpace, format!("cannot make the RAM file {}: {e}", path.display()))
        })
    }

    /// Writes what the guest is told to where QEMU reads it.
    pub(super) fn prepare_seed(&self, home: &Home, dir: &VmDir) -> Result<(), Failure> {
        let own_key = seed::own_key(home);
        let notes = self.seed.write(&self.spec, dir, own_key.as_deref()).map_err(|e| {
            let kind = match &e {
                seed::SeedError::UserData(_) => FailureKind::Usage,
                seed::SeedError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                    FailureKind::NoSpace
                }
                seed::SeedError::Io { .. } => FailureKind::Other,
            };
            Failure::new(kind, crate::error::chain(&e))
        })?;
        for note in notes {
            tracing::warn!("{note}");
        }
        Ok(())
    }

    /// The resources of a run whose sockets have these numbers.
    pub(super) fn resources(
        &self,
        dir: &VmDir,
        [monitor_fd, serial_fd, agent_fd]: [i32; 3],
        taps: Vec<Option<i32>>,
    ) -> Resources {
        Resources {
            kind: self.kind,
            accel: self.accel,
            kvm_cpu: self.accel == ResolvedAccel::Kvm && host::kvm::offers(machine::KVM_CPU_ECX),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            append: self.append.clone(),
            bios: self.bios.clone(),
            disk: self.disk.clone(),
            ram: self.ram.clone(),
            monitor_fd,
            serial_fd,
            serial_log: dir.console_log(),
            agent_fd,
            macs: self.macs.clone(),
            taps,
            uuid: self.uuid,
            credentials: self.seed.credential_files(&self.spec, dir),
            seed: self.seed.volume(dir),
            restore: self.restore.as_ref().map(|restore| restore.machine.restore()),
        }
    }

    /// Who the guest believes to be on this interface, where it is to be another to the network alone.
    ///
    /// # Errors
    /// When the snapshot does not say who its guest is.
    pub(super) fn believes(&self, net: usize) -> Result<Option<netbr::veil::Identity>, Failure> {
        let network = |restore: &&Restored| restore.wanted.identity == Identity::Network;
        let Some(restore) = self.restore.as_ref().filter(network) else { return Ok(None) };
        let source = &restore.snapshot.manifest.source;
        let mac = source.macs.get(net).and_then(|mac| mac.parse().ok()).ok_or_else(|| {
            let why = format!("the snapshot `{}` does not tell its MAC addresses", restore.snapshot.shown());
            Failure::new(FailureKind::Other, why)
        })?;
        let here = source.heard.iter().filter(|(index, _)| *index == net);
        let ipv4 = here.clone().find_map(|(_, address)| match address {
            std::net::IpAddr::V4(v4) => Some(*v4),
            std::net::IpAddr::V6(_) => None,
        });
        Ok(Some(netbr::veil::Identity { mac, ipv4, ipv6: Vec::new() }))
    }

    /// What a restored guest is to be told of who it is, through its agent.
    ///
    /// # Errors
    /// When the host gives no random numbers, or the guest has no agent to tell it.
    pub(super) fn identify(&self, dir: &VmDir) -> Result<Option<Wanted>, Failure> {
        let Some(restore) = &self.restore else { return Ok(None) };
        let seed = || {
            RandomSeed::fresh().map_err(|e| {
                Failure::new(FailureKind::Other, format!("this host gives no random numbers: {e}"))
            })
        };
        let same = Wanted { seed: Some(seed()?), clock: true, ..Wanted::default() };
        match restore.wanted.identity {
            Identity::Full if self.kind != Kind::Linux => {
                let why = format!("a guest of kind `{}` cannot change its own identity", self.kind);
                Err(Failure::new(FailureKind::Usage, why).hint("use `--identity network`, or `none`"))
            }
            Identity::Full => {
                let source = &restore.snapshot.manifest.source;
                let nics = self.spec.nets.iter().zip(&source.macs).zip(&self.macs);
                let nics = nics.filter_map(|((net, old), new)| {
                    let address = match net {
                        Net::Nat { ip, .. } => *ip,
                        _ => None,
                    };
                    Some(Nic { old: old.parse().ok()?, new: *new, address })
                });
                let nics: Vec<Nic> = nics.collect();
                let host_key = seed::ensure_host_key(dir.state_dir(), &self.spec.name)
                    .map_err(|e| Failure::new(FailureKind::HostUnfit, crate::error::chain(&e)))?;
                Ok(Some(Wanted {
                    hostname: Some(self.spec.name.clone()),
                    machine_id: Some(self.uuid),
                    host_key: Some(host_key),
                    renew: (!nics.is_empty()).then(|| Renew::within(RENEWAL)),
                    nics,
                    ..same
                }))
            }
            Identity::Same if self.kind == Kind::Linux => Ok(Some(same)),
            Identity::Same | Identity::Network | Identity::None => Ok(None),
        }
    }

    /// Refuses to load a state into another machine than the one that was saved: QEMU would notice some of the differences and report
    /// them less clearly, and not notice the rest.
    pub(super) fn check_machine(&self, arguments: &[String]) -> Result<(), Failure> {
        let Some(restore) = &self.restore else { return Ok(()) };
        let differences = machine_differences(&restore.machine.arguments, arguments);
        if differences.is_empty() {
            return Ok(());
        }
        let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
        let name = restore.snapshot.shown();
        let why = format!("the machine would differ from the one of `{name}`: {}", differences.join("; "));
        Err(Failure::new(FailureKind::Incompatible, why)
            .hint("give the clone what its source had, or clone its disk alone with `midge clone --cold`"))
    }
}

/// The QEMU command line that a start of the VM would use now, the program first. The sockets' numbers are those of
/// a typical run.
pub fn plan_command_line(home: &Home, dir: &VmDir, record: &Record) -> Result<Vec<String>, Failure> {
    let plan = plan(home, dir, record, None)?;
    let taps = plan.spec.nets.iter().zip(13..).map(|(net, fd)| net.has_tap().then_some(fd)).collect();
    let resources = plan.resources(dir, [10, 11, 12], taps);
    let arguments = machine::arguments(&plan.spec, &plan.qemu, &resources)
        .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
    Ok(std::iter::once(plan.qemu.path.display().to_string()).chain(arguments).collect())
}

/// An image and where its parts lie.
struct Parts {
    image: Image,
    manifest: Manifest,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
}

impl Parts {
    fn of(home: &Home, spec: &VmSpec, recorded: &Manifest) -> Result<Self, Failure> {
        // An image without a disk leaves no trace in the VM, so the newest of its name is as good.
        let image = if recorded.disk.is_some() {
            Image::recorded(home, recorded)
        } else {
            image::store(home).get(&recorded.name)
        };
        let image = image.map_err(|e| Failure::new(FailureKind::NotFound, crate::error::chain(&e)))?;
        let arch = image.manifest.arch;
        if arch != spec.arch {
            let why = format!("the image `{}` is for {arch} and the VM is {}", recorded.name, spec.arch);
            return Err(Failure::new(FailureKind::Usage, why));
        }
        let (kernel, initrd, manifest) = (image.kernel(), image.initrd(), image.manifest.clone());
        Ok(Self { image, manifest, kernel, initrd })
    }
}

/// midge's own initial RAM disk for the image, where its kernel and initial RAM disk are to be used and it can take the latter's place.
fn small_initrd(home: &Home, spec: &VmSpec, image: &Parts) -> Option<PathBuf> {
    let own = spec.boot.kernel.is_none() && spec.boot.initrd.is_none();
    if !own || !initrd::suits(spec.boot.append.as_deref()) {
        return None;
    }
    match initrd::small(home, &image.image) {
        Ok(path) => Some(path),
        Err(e) => {
            tracing::info!("booting with the image's own initial RAM disk: {}", crate::error::chain(&e));
            None
        }
    }
}

/// The image's kernel unpacked, where an emulated guest would take long to do that itself.
fn unpacked_kernel(home: &Home, accel: ResolvedAccel, image: &Parts) -> Option<PathBuf> {
    let manifest = &image.manifest;
    if accel != ResolvedAccel::Tcg || manifest.kind != Kind::Linux || manifest.arch != Arch::X86_64 {
        return None;
    }
    let path = image::vmlinux::of(home, &image.image);
    path.map_err(|e| tracing::info!("booting the kernel as it is: {}", crate::error::chain(&e))).ok()
}

/// The kernel's command line: the image's words, the machine's, those that provision, the user's.
fn append(
    spec: &VmSpec,
    accel: ResolvedAccel,
    image: Option<&Parts>,
    disk: bool,
    seed: &Seed,
) -> Result<String, Failure> {
    let mut words: Vec<String> = Vec::new();
    if spec.boot.kernel.is_none()
        && let Some(image) = image
        && !image.manifest.append.is_empty()
    {
        words.push(image.manifest.append.clone());
    }
    words.extend(
        machine::kernel_words(spec, spec.kind, disk)
            .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?,
    );
    if spec.kind == Kind::Linux && accel == ResolvedAccel::Tcg {
        // An emulated CPU is no faster for guessing what comes next, so there is nothing to mitigate; page tables of the kernel's own, for
        // one, cost it a third of its boot, as QEMU forgets its translations at each switch of them (Linux, kernel-parameters.txt).
        words.push("mitigations=off".to_owned());
    }
    words.extend(seed.kernel_words(spec));
    words.extend(spec.boot.append.clone());
    Ok(words.join(" "))
}

/// The firmware that boots an image's disk, where it is not the one that the machine has by itself.
fn firmware(manifest: &Manifest) -> Result<Option<PathBuf>, Failure> {
    let uefi =
        manifest.firmware.as_ref().is_some_and(|boot| boot.firmware == image::contents::Firmware::Uefi);
    if !uefi {
        return Ok(None);
    }
    let found = image::firmware::uefi(Path::new("/"), manifest.arch);
    found.map(Some).ok_or_else(|| {
        let why = format!("the image `{}` boots by UEFI firmware, which is not installed", manifest.name);
        let package = image::firmware::package(manifest.arch);
        Failure::new(FailureKind::HostUnfit, why).hint(format!("install the package {package}"))
    })
}

/// The guest's family: as its spec says, else its image.
fn kind(spec: &VmSpec, image: Option<&Manifest>) -> Kind {
    match (spec.kind, image) {
        (Kind::Auto, Some(image)) => image.kind,
        (Kind::Auto, None) => Kind::Other,
        (kind, _) => kind,
    }
}

/// How the VM shows that it is ready: as its spec says, else its image, else its kind.
fn ready(spec: &VmSpec, image: Option<&Manifest>) -> Result<Option<Ready>, Failure> {
    if let Some(sign) = &spec.ready {
        return Ok(Some(sign.clone()));
    }
    match image.and_then(|i| i.ready.as_deref()) {
        Some(sign) => sign
            .parse()
            .map(Some)
            .map_err(|e| Failure::new(FailureKind::Other, format!("the image's manifest is damaged: {e}"))),
        None => Ok(default_ready(spec.kind, image.is_some_and(|i| i.agent))),
    }
}

/// Refuses a kernel that QEMU could not boot, with the reason that QEMU would not give.
fn check_kernel(path: &Path, arch: Arch) -> Result<PathBuf, Failure> {
    let path = check_readable("kernel", path)?;
    match image::kernel::inspect_kernel(&path, arch) {
        Ok(_) => Ok(path),
        Err(e) => Err(Failure::new(FailureKind::Usage, crate::error::chain(&e))),
    }
}

fn check_readable(what: &str, path: &Path) -> Result<PathBuf, Failure> {
    let kind = |e: &std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => FailureKind::NotFound,
        _ => FailureKind::Other,
    };
    match std::fs::File::open(path) {
        Ok(_) => Ok(path.to_owned()),
        Err(e) => Err(Failure::new(kind(&e), format!("cannot read the {what} {}: {e}", path.display()))),
    }
}

/// Refuses a forwarded port of a user-mode network that something else listens on, which QEMU would say less clearly.
fn check_ports(nets: &[Net]) -> Result<(), Failure> {
    let user = nets.iter().filter(|net| matches!(net, Net::User { .. }));
    for forward in user.flat_map(Net::forwards) {
        super::ports::listen(*forward)?;
    }
    Ok(())
}

/// Decides how the guest's instructions are run, and says so where the user might have hoped for better.
fn acceleration(spec: &VmSpec, notes: &mut Vec<String>) -> Result<ResolvedAccel, Failure> {
    let unfit = |why: String, next: &str| Failure::new(FailureKind::HostUnfit, why).hint(next);
    if spec.arch != Arch::host() {
        if spec.accel == Accel::Kvm {
            let why = format!("KVM runs {} guests on this host, and the VM is {}", Arch::host(), spec.arch);
            return Err(unfit(why, "use `--accel tcg` to emulate it"));
        }
        return Ok(ResolvedAccel::Tcg);
    }
    let why = match (spec.accel, host::kvm::state()) {
        (Accel::Tcg, _) => return Ok(ResolvedAccel::Tcg),
        (Accel::Kvm | Accel::Auto, KvmState::Works) | (Accel::Kvm, KvmState::Emulates { .. }) => {
            return Ok(ResolvedAccel::Kvm);
        }
        (Accel::Kvm, KvmState::Absent { reason, detail }) => {
            let state = KvmState::Absent { reason, detail: detail.clone() };
            let next =
                state.next_step().unwrap_or_else(|| "use `--accel tcg` to emulate the guest".to_owned());
            return Err(unfit(format!("KVM cannot be used: {detail}"), &next));
        }
        (Accel::Auto, KvmState::Emulates { .. }) => "KVM only emulates guest kernels on this host".to_owned(),
        (Accel::Auto, KvmState::Absent { detail, .. }) => format!("KVM cannot be used: {detail}"),
    };
    notes.push(format!("{why}; the guest is emulated (TCG), which is slower"));
    Ok(ResolvedAccel::Tcg)
}
