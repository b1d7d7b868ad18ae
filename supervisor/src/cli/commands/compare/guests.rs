//! From words to guests: entries of compare.yaml, VMs, kernel files, images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::super::create;
use crate::cli::args::{CompareArgs, SpecFlags};
use crate::cli::context::Context;
use crate::cli::draft::{self, Draft, Target};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{describe, images};
use crate::compare::results::{FileSize, Guest, Size};
use crate::compare::{Measured, size as file_size};
use crate::image::cow::{self, Cow};
use crate::image::{Image, Manifest, overlay};
use crate::machine::DiskFormat;
use crate::spec::{Kind, Ready, VmSpec};
use crate::store::{Record, SCHEMA, VmDir};

/// How long a guest may be looked at, beside its boot.
const LONGEST: Duration = Duration::from_hours(2);

/// A guest that is to be compared.
#[derive(Debug)]
pub(super) struct Contender {
    /// What it is called.
    pub(super) name: String,
    /// What it is, for people.
    pub(super) what: String,
    /// The VM that is made for each boot; its name is only the beginning of one.
    pub(super) spec: VmSpec,
    /// The image, where it has one.
    pub(super) manifest: Option<Manifest>,
    /// The VM of which a copy is booted, where it is one.
    original: Option<Original>,
    /// Its sign of readiness.
    ready: Ready,
    /// Where it serves a page by itself.
    pub(super) http: Http,
    /// What a reader should know.
    pub(super) note: Option<String>,
}

/// A VM of the user's: its disk is the base of those that are booted.
#[derive(Debug)]
struct Original {
    record: Record,
    disk: Option<(PathBuf, DiskFormat)>,
}

/// `compare.yaml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    guests: BTreeMap<String, Entry>,
}

/// A guest of one's own.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    image: Option<String>,
    vm: Option<String>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    kind: Option<Kind>,
    ready: Option<Ready>,
    #[serde(default)]
    http: Http,
}

/// Where a guest serves a page.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Http {
    pub(super) port: u16,
    pub(super) path: String,
}

impl Default for Http {
    fn default() -> Self {
        Self { port: 80, path: "/".to_owned() }
    }
}

/// The guests that these words name.
pub(super) fn find(
    context: &Context,
    args: &CompareArgs,
    words: &[String],
) -> Result<Vec<Contender>, Failed> {
    let file = read(&args.file)?;
    let mut contenders: Vec<Contender> = Vec::new();
    for word in words {
        let contender = one(context, args, &file, word)?;
        if contenders.iter().any(|other| other.name == contender.name) {
            return Err(Failed::new(ExitKind::Usage, format!("`{word}` is named twice")));
        }
        contenders.push(contender);
    }
    Ok(contenders)
}

fn read(path: &Path) -> Result<File, Failed> {
    let what = || format!("cannot read {}", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => serde_yaml::from_str(&text).map_err(|e| Failed::wrap(ExitKind::Usage, e).context(what())),
        // The default need not be there.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path == Path::new("compare.yaml") => {
            Ok(File::default())
        }
        Err(e) => Err(Failed::io(what(), e)),
    }
}

fn one(context: &Context, args: &CompareArgs, file: &File, word: &str) -> Result<Contender, Failed> {
    let entry = match file.guests.get(word) {
        Some(entry) => entry.clone(),
        None if context.home()?.existing_vm(word).is_ok() => {
            Entry { vm: Some(word.to_owned()), ..Entry::default() }
        }
        None => match Target::new(word) {
            Target::Kernel(path) => Entry { kernel: Some(path), ..Entry::default() },
            Target::Image(image) => Entry { image: Some(image), ..Entry::default() },
        },
    };
    if entry.vm.is_some() && (entry.image.is_some() || entry.kernel.is_some()) {
        let text = format!("the guest `{word}` of {} is a VM and something else", args.file.display());
        return Err(Failed::new(ExitKind::Usage, text));
    }
    let flags = SpecFlags {
        image: entry.image.clone(),
        kernel: entry.kernel.clone(),
        initrd: entry.initrd.clone(),
        append: entry.append.clone(),
        kind: entry.kind,
        memory: Some(args.memory),
        accel: args.accel,
        machine: args.machine,
        net: args.net.clone().into_iter().collect(),
        rm: true,
        no_reboot: true,
        // Should this process be killed, they do not stay for ever.
        ttl: Some(args.timeout + LONGEST),
        ..SpecFlags::default()
    };
    let (mut spec, manifest, original) = match &entry.vm {
        Some(vm) => of_vm(context, &flags, vm)?,
        None => {
            let mut spec = draft::spec(&Draft { flags: &flags, name: None, target: None })?;
            let image = match &spec.boot.image {
                Some(name) => Some(images::find(context, name, true)?),
                None => None,
            };
            spec.boot.image = image.as_ref().map(|image| image.manifest.name.clone());
            if let Some(image) = &image {
                spec.arch = image.manifest.arch;
            }
            (spec, image.map(|image| image.manifest), None)
        }
    };
    let kind = match spec.kind {
        Kind::Auto => manifest.as_ref().map_or(Kind::Other, |manifest| manifest.kind),
        kind => kind,
    };
    spec.kind = kind;
    let own = || {
        let image = manifest.as_ref().and_then(|manifest| manifest.ready.as_ref()?.parse().ok());
        let agent = manifest.as_ref().is_some_and(|manifest| manifest.agent);
        spec.ready.clone().or(image).or_else(|| crate::vm::default_ready(kind, agent))
    };
    let ready = args.until.clone().or_else(|| entry.ready.clone()).or_else(own).ok_or_else(|| {
        Failed::new(
            ExitKind::Usage,
            format!("nothing is known of the guest `{word}` that shows when it is ready"),
        )
        .hint("say it by --until, or in compare.yaml: serial:REGEX, tcp:PORT or ip")
    })?;
    spec.ready = Some(ready.clone());
    let what = match (&entry.vm, &spec.boot.kernel, &spec.boot.image) {
        (Some(vm), ..) => format!("copies of the VM `{vm}`"),
        (None, Some(kernel), Some(image)) => format!("kernel {} with the image `{image}`", file_name(kernel)),
        (None, Some(kernel), None) => format!("kernel {}", file_name(kernel)),
        (None, None, image) => format!("image `{}`", image.as_deref().unwrap_or_default()),
    };
    let note = manifest.as_ref().filter(|_| spec.boot.kernel.is_none()).and_then(images::firmware_note);
    Ok(Contender { name: word.to_owned(), what, spec, manifest, original, ready, http: entry.http, note })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A VM as it is, but with the flags that all guests share.
fn of_vm(
    context: &Context,
    flags: &SpecFlags,
    name: &str,
) -> Result<(VmSpec, Option<Manifest>, Option<Original>), Failed> {
    let vm = context.vm(name)?;
    if describe::running(&vm.status()).is_some() {
        let text = format!("the VM `{name}` is running, and its disk changes");
        return Err(Failed::new(ExitKind::WrongState, text).hint(format!("midge stop {name}")));
    }
    let record = vm.record()?;
    // What all share comes from a spec without a word about this VM; what is booted from the VM's own.
    let template = SpecFlags { image: Some("hello".to_owned()), ..flags.clone() };
    let shared = draft::spec(&Draft { flags: &template, name: None, target: None })?;
    let own = &record.spec;
    let spec = VmSpec {
        boot: own.boot.clone(),
        kind: flags.kind.unwrap_or(own.kind),
        arch: own.arch,
        provision: own.provision,
        ssh_keys: own.ssh_keys.clone(),
        user: own.user.clone(),
        files: own.files.clone(),
        cloud_init: own.cloud_init.clone(),
        ready: own.ready.clone(),
        ..shared
    };
    let disk = vm.disk().exists().then(|| (vm.disk(), vm.disk_format()));
    let manifest = record.image.clone();
    Ok((spec, manifest, Some(Original { record, disk })))
}

impl Contender {
    /// A place for what is measured of it.
    pub(super) fn guest(&self) -> Guest {
        let kind = self.spec.kind;
        let mut guest = Guest::new(self.name.clone(), self.what.clone(), kind, self.spec.arch.to_string());
        guest.digest = self.manifest.as_ref().map(|manifest| manifest.digest.clone());
        guest.ready = Some(self.ready.to_string());
        guest
    }

    /// Whether its agent can be asked.
    pub(super) fn has_agent(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.agent)
    }

    /// Makes a VM of it, fresh.
    pub(super) fn make(&self, context: &Context, spec: VmSpec) -> Result<VmDir, Failed> {
        let Some(original) = &self.original else {
            return Ok(create::make(context, spec, true, Cow::Qcow2)?.0);
        };
        let home = context.home()?;
        create::fits_host(&spec)?;
        let record = Record {
            schema: SCHEMA,
            id: uuid::Uuid::new_v4(),
            created: jiff::Timestamp::now(),
            image: original.record.image.clone(),
            macs: create::macs(home, &spec, &[])?,
            spec,
        };
        home.create_vm(&record, |folder| match &original.disk {
            Some((disk, format)) => cow::make(folder, disk, *format, None, Cow::Qcow2)
                .map(drop)
                .map_err(|e| Failed::wrap(ExitKind::Other, e)),
            None => Ok(()),
        })
    }

    /// The files that QEMU reads, by its command line, and what they are: kernel, initrd, the disk below the VM's own.
    pub(super) fn files(
        &self,
        context: &Context,
        command_line: &[String],
    ) -> Result<Vec<(&'static str, PathBuf)>, Failed> {
        let mut files = Vec::new();
        for (role, option) in [("kernel", "-kernel"), ("initrd", "-initrd")] {
            let value =
                command_line.windows(2).find(|pair| pair[0] == option).map(|pair| PathBuf::from(&pair[1]));
            files.extend(value.map(|path| (role, path)));
        }
        let disk = match &self.original {
            Some(original) => original.disk.as_ref().map(|(path, _)| path.clone()),
            None => self.image(context)?.and_then(|image| image.disk()),
        };
        files.extend(disk.map(|path| ("disk", path)));
        Ok(files)
    }

    fn image(&self, context: &Context) -> Result<Option<Image>, Failed> {
        let manifest = self.manifest.as_ref();
        manifest.map(|manifest| Image::recorded(context.home()?, manifest).map_err(Failed::from)).transpose()
    }
}

/// What the files of a guest take.
pub(super) fn size(context: &Context, contender: &Contender, command_line: &[String]) -> Measured<Size> {
    let look = || -> Result<Size, Failed> {
        let made = ["initrd", "kernels"].map(|folder| context.home().map(|home| home.state().join(folder)));
        let [made_initrds, unpacked_kernels] = made;
        let (made_initrds, unpacked_kernels) = (made_initrds?, unpacked_kernels?);
        let mut sizes: Vec<FileSize> = Vec::new();
        for (role, path) in contender.files(context, command_line)? {
            let of = |role: &str, path: &Path| {
                file_size::of(role, path)
                    .map_err(|e| Failed::io(format!("cannot measure {}", path.display()), e))
            };
            let mut size = of(role, &path)?;
            if role == "disk" {
                let format = contender.disk_format();
                size.virtual_size = overlay::virtual_size(&path, format).ok();
            }
            let (initrd, kernel) = (path.starts_with(&made_initrds), path.starts_with(&unpacked_kernels));
            size.made_here = initrd || kernel;
            sizes.push(size);
            // The image's own stays a part of the image.
            let image = if initrd || kernel { contender.image(context)? } else { None };
            if let Some(own) = image.as_ref().filter(|_| initrd).and_then(Image::initrd) {
                sizes.push(of("the image's own initrd, not used", &own)?);
            }
            if let Some(own) = image.as_ref().filter(|_| kernel).and_then(Image::kernel) {
                sizes.push(of("the image's own kernel, unpacked here", &own)?);
            }
        }
        Ok(Size { files: sizes })
    };
    if command_line.is_empty() {
        return Measured::Failed("it was never started".to_owned());
    }
    look().map_or_else(|failed| Measured::Failed(format!("{:#}", failed.error)), Measured::Value)
}

impl Contender {
    fn disk_format(&self) -> DiskFormat {
        let original = self.original.as_ref().and_then(|original| Some(original.disk.as_ref()?.1));
        let image = self.manifest.as_ref().and_then(|manifest| Some(manifest.disk.as_ref()?.format));
        original.or(image).unwrap_or(DiskFormat::Raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_guests_is_read_and_slips_are_told() {
        let text = "guests:\n  nginx:\n    kernel: ./nginx\n    kind: unikraft\n    ready: tcp:80\n    http: {path: /x}\n";
        let file: File = serde_yaml::from_str(text).unwrap();
        let entry = &file.guests["nginx"];
        assert_eq!((entry.kind, entry.ready.clone()), (Some(Kind::Unikraft), Some(Ready::Tcp(80))));
        assert_eq!((entry.http.port, entry.http.path.as_str()), (80, "/x"));
        assert!(serde_yaml::from_str::<File>("guests: {a: {kernal: x}}").is_err());
        assert!(serde_yaml::from_str::<File>("guests: {a: {ready: soon}}").is_err());
    }
}
