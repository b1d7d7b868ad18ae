//! The images, as the commands use them: found by name, built when they are missing.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::args::ImageBuildArgs;
use super::context::Context;
use super::exit::{ExitKind, Failed, io_kind};
use super::interrupt::Pipe as Signals;
use super::output::Voice;
use super::{names, output, snapshots};
use crate::image::build::{self, BuildError, BuildRequest, Progress};
use crate::image::busybox;
use crate::image::contents::Firmware;
use crate::image::cow::{self, Cow, CowError};
use crate::image::overlay::OverlayError;
use crate::image::{
    self, Image, ImageError, ImageName, ImageStore, Listing, Manifest, Pruned, pull, vmlinux,
};
use crate::initrd;
use crate::machine::DiskFormat;
use crate::spec::{Arch, Size};
use crate::store::StoreError;

/// Images that midge knows how to build.
const BUILDABLE: [&str; 3] = ["debian:12", "debian:13", busybox::NAME];
/// What `debian` means when no Debian is there.
const DEBIAN: &str = "debian:12";

impl From<ImageError> for Failed {
    fn from(error: ImageError) -> Self {
        let kind = match &error {
            ImageError::Name(_) => ExitKind::Usage,
            ImageError::Unknown { .. } => ExitKind::NotFound,
            ImageError::InUse { .. } | ImageError::Embedded(_) => ExitKind::WrongState,
            ImageError::Io { source, .. } => match io_kind(source) {
                ExitKind::NotFound => ExitKind::Other,
                kind => kind,
            },
            _ => ExitKind::Other,
        };
        Self::wrap(kind, error)
    }
}

pub(super) fn store(context: &Context) -> Result<ImageStore, Failed> {
    Ok(image::store(context.home()?))
}

/// All images, by name.
pub(super) fn list(context: &Context) -> Result<Listing, Failed> {
    Ok(store(context)?.list()?)
}

/// The whole name of an image: `debian` is the newest `debian:*` among `known`, or the one that midge builds.
fn whole_name<'a>(name: &'a str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    if name != "debian" {
        return name;
    }
    let number = |name: &str| name.strip_prefix("debian:").and_then(|tag| tag.parse::<u32>().ok());
    known.into_iter().filter(|name| number(name).is_some()).max_by_key(|name| number(name)).unwrap_or(DEBIAN)
}

/// The image of this name, built on the spot when it is one that midge builds and `may_build` allows it.
///
/// # Errors
/// [`ExitKind::NotFound`] with the nearest name.
pub(super) fn find(context: &Context, name: &str, may_build: bool) -> Result<Image, Failed> {
    let listing = list(context)?;
    let known: Vec<&str> = listing.images.iter().map(|image| image.manifest.name.as_str()).collect();
    // `debian` may be a name of somebody's own.
    let whole = if known.contains(&name) { name } else { whole_name(name, known.iter().copied()) };
    if known.contains(&whole) || listing.damaged.iter().any(|(folder, _)| folder == whole) {
        return Ok(store(context)?.get(whole)?);
    }
    if may_build && BUILDABLE.contains(&whole) {
        context.voice.note(format_args!("there is no image `{whole}` yet: building it, once"));
        return if whole == busybox::NAME {
            build_busybox(context, false)
        } else {
            build(context, &request(whole)?)
        };
    }
    let failed = Failed::new(ExitKind::NotFound, format!("there is no image `{name}`"));
    let all = known.iter().copied().chain(BUILDABLE).collect::<Vec<_>>();
    Err(failed.hint(match names::nearest(name, all.iter().copied()) {
        Some(near) if BUILDABLE.contains(&near) && !may_build => {
            format!("build it with `midge image build {near}`")
        }
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            "`midge image ls` lists the images there are; a kernel file is given with a `/`, as in ./kernel"
                .to_owned()
        }
    }))
}

/// Builds an image, unless it is there already and nothing about it is wanted otherwise.
pub(super) fn build_named(context: &Context, args: &ImageBuildArgs) -> Result<Image, Failed> {
    let whole = if args.name == "debian" { DEBIAN } else { &args.name };
    // What one was built with is not known by its name; the cache of builds knows.
    let foreign = args.arch.is_some_and(|arch| arch != Arch::host());
    let special = !args.with.is_empty() || args.mirror.is_some() || args.cloud_init || foreign;
    let as_usual = !args.rebuild && !special;
    if as_usual && let Ok(image) = store(context)?.get(whole) {
        context.voice.note(format_args!("the image `{whole}` is there already; --rebuild makes it anew"));
        return Ok(image);
    }
    if whole == busybox::NAME {
        if special {
            let text = format!(
                "`{whole}` is built of Debian's kernel and BusyBox alone, and takes no flag but --rebuild"
            );
            return Err(Failed::new(ExitKind::Usage, text));
        }
        return build_busybox(context, args.rebuild);
    }
    let usual = request(whole)?;
    let (with, mirror) = (args.with.clone(), args.mirror.clone());
    let arch = args.arch.unwrap_or(usual.arch);
    let cloud_init = args.cloud_init;
    build(context, &BuildRequest { with, mirror, arch, cloud_init, fresh: args.rebuild, ..usual })
}

/// The image of this name with nothing special about it.
fn request(name: &str) -> Result<BuildRequest, Failed> {
    let release = name.parse().map_err(build_failed)?;
    Ok(BuildRequest {
        release,
        arch: Arch::host(),
        cloud_init: false,
        with: Vec::new(),
        mirror: None,
        name: None,
        fresh: false,
    })
}

/// Builds an image and shows on stderr how far it is. Ctrl-C ends it and leaves nothing behind.
fn build(context: &Context, request: &BuildRequest) -> Result<Image, Failed> {
    let signals =
        Signals::catch().map_err(|e| Failed::io("cannot look out for Ctrl-C during the build", e))?;
    let mut shown = ProgressLine::new(context.voice);
    let built = build::build(&store(context)?, &cache(), request, Some(signals.as_fd()), &mut |progress| {
        shown.show(&progress);
    });
    shown.end();
    built.map_err(build_failed)
}

/// Builds the smallest Linux, of the kernel of the Debian image, which is built first where it is missing.
fn build_busybox(context: &Context, fresh: bool) -> Result<Image, Failed> {
    let debian = find(context, DEBIAN, true)?;
    let signals =
        Signals::catch().map_err(|e| Failed::io("cannot look out for Ctrl-C during the build", e))?;
    let mut shown = ProgressLine::new(context.voice);
    let built = build::build_busybox(
        &store(context)?,
        &cache(),
        &debian,
        fresh,
        Some(signals.as_fd()),
        &mut |progress| {
            shown.show(&progress);
        },
    );
    shown.end();
    built.map_err(build_failed)
}

fn build_failed(error: BuildError) -> Failed {
    let kind = match &error {
        BuildError::UnknownRelease(_) => ExitKind::NotFound,
        BuildError::Name(_) | BuildError::PackageName(_) | BuildError::Mirror(_) => ExitKind::Usage,
        BuildError::ForeignArch { .. }
        | BuildError::MissingProgram { .. }
        | BuildError::NoSubordinateIds { .. }
        | BuildError::NoNamespaces { .. } => ExitKind::HostUnfit,
        BuildError::Interrupted => ExitKind::Interrupted,
        BuildError::Io { source, .. } if io_kind(source) == ExitKind::NoSpace => ExitKind::NoSpace,
        _ => ExitKind::Other,
    };
    match error {
        BuildError::Image(error) => error.into(),
        error => Failed::wrap(kind, error),
    }
}

/// How far a build is: one line that is rewritten on a terminal, else a line for each phase.
struct ProgressLine {
    voice: Voice,
    phase: Option<build::Phase>,
}

impl ProgressLine {
    fn new(voice: Voice) -> Self {
        Self { voice, phase: None }
    }

    fn show(&mut self, progress: &Progress) {
        let new = self.phase.replace(progress.phase) != Some(progress.phase);
        if self.voice.animated() {
            output::rewrite(progress_text(progress));
        } else if new {
            self.voice.note(progress.phase.words());
        }
    }

    fn end(&self) {
        if self.phase.is_some() && self.voice.animated() {
            output::rewrite("");
        }
    }
}

/// One line of at most 78 characters.
fn progress_text(progress: &Progress) -> String {
    let part = progress.fraction.map_or_else(String::new, |part| format!("{:3.0}% ", part * 100.0));
    let text = format!("{part}{} {}", progress.phase.words(), progress.detail);
    text.trim_end().chars().take(78).collect()
}

/// Removes an image that no VM and no snapshot stands on, or only says whether that could be.
pub(super) fn remove(context: &Context, name: &str, dry: bool) -> Result<(), Failed> {
    let users = users(context)?;
    let on = |image: &Image| {
        let stands = |(_, manifest): &&(String, Manifest)| manifest.name == image.manifest.name;
        users.iter().filter(stands).map(|(user, _)| user.clone()).collect()
    };
    Ok(store(context)?.remove(name, on, dry)?)
}

/// Compares an image's files with its digests.
pub(super) fn verify(context: &Context, name: &str) -> Result<(), Failed> {
    Ok(store(context)?.verify(name)?)
}

/// Removes files of images that were replaced and on which no VM and no snapshot stands, or only says which; with the bytes of each.
pub(super) fn prune(context: &Context, dry: bool) -> Result<Vec<Pruned>, Failed> {
    let home = context.home()?;
    let users = users(context)?;
    let used: Vec<_> = users
        .iter()
        .flat_map(|(_, manifest)| {
            let folder = manifest.name.parse::<ImageName>().map(|name| home.images().join(name.folder()));
            folder.into_iter().flat_map(|folder| {
                manifest.parts().into_iter().flatten().map(move |part| folder.join(&part.file))
            })
        })
        .collect();
    Ok(store(context)?.prune(|path| used.iter().any(|used| used == path), dry)?)
}

/// As [`prune`], and cut-off downloads, outdated builds, small initial RAM disks and unpacked kernels too.
pub(super) fn prune_all(context: &Context, dry: bool) -> Result<Vec<Pruned>, Failed> {
    let mut pruned = prune(context, dry)?;
    pruned.extend(
        pull::sweep(&downloads(context)?, dry).map_err(|e| Failed::io("cannot clear the downloads", e))?,
    );
    pruned.extend(build::prune_cache(&cache(), dry)?);
    pruned.extend(prune_made(context, dry)?);
    Ok(pruned)
}

/// Removes the small initial RAM disks and unpacked kernels that neither an image nor a VM needs any more.
fn prune_made(context: &Context, dry: bool) -> Result<Vec<Pruned>, Failed> {
    let mut images: Vec<Manifest> = users(context)?.into_iter().map(|(_, manifest)| manifest).collect();
    images.extend(store(context)?.list()?.images.into_iter().map(|image| image.manifest));
    let home = context.home()?;
    let initrds =
        initrd::prune(home, &images, dry).map_err(|e| Failed::io("cannot clear the initial RAM disks", e))?;
    let kernels =
        vmlinux::prune(home, &images, dry).map_err(|e| Failed::io("cannot clear the kernels", e))?;
    Ok(initrds.into_iter().chain(kernels).collect())
}

/// Where downloads lie until they are whole: on the file system of the store, to become a part of it by a link.
pub(super) fn downloads(context: &Context) -> Result<PathBuf, Failed> {
    Ok(context.home()?.state().join("downloads"))
}

/// Where images built before are kept.
fn cache() -> PathBuf {
    build::default_cache().unwrap_or_else(|| PathBuf::from("/var/cache/midge/images"))
}

/// The VMs and snapshots that stand on an image, with that image as it was then.
///
/// # Errors
/// When a record or a snapshot's manifest cannot be read: it may name any image.
fn users(context: &Context) -> Result<Vec<(String, Manifest)>, Failed> {
    let home = context.home()?;
    let mut users = Vec::new();
    for vm in home.vms_and_spares()? {
        match vm.record() {
            Ok(record) => users.extend(record.image.map(|manifest| (vm.name().to_owned(), manifest))),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    users.extend(snapshots::store(context)?.images()?);
    Ok(users)
}

/// Makes a VM's own disk of that of its image, when the image has one.
pub(super) fn make_disk(image: &Image, folder: &Path, size: Option<Size>, cow: Cow) -> Result<(), Failed> {
    if let (Some(base), Some(disk)) = (image.disk(), &image.manifest.disk) {
        cow::make(folder, &base, disk.format, size, cow).map_err(disk_failed)?;
    }
    Ok(())
}

fn disk_failed(error: CowError) -> Failed {
    let kind = match &error {
        CowError::NoSharing(_) => ExitKind::HostUnfit,
        CowError::Overlay(OverlayError::Io { source, .. }) if io_kind(source) == ExitKind::NoSpace => {
            ExitKind::NoSpace
        }
        CowError::Overlay(OverlayError::Io { .. }) => ExitKind::Other,
        CowError::Overlay(_) => ExitKind::Usage,
    };
    Failed::wrap(kind, error)
}

/// Makes a VM's disk larger. The VM is stopped.
pub(super) fn grow_disk(disk: &Path, format: DiskFormat, size: Size) -> Result<(), Failed> {
    match cow::grow(disk, format, size) {
        Err(OverlayError::Shrinks { wanted, base }) => {
            let text = format!("the disk is {base} and can only grow; {wanted} is smaller");
            Err(Failed::new(ExitKind::Usage, text))
        }
        grown => grown.map_err(|e| disk_failed(e.into())),
    }
}

/// What a user should know of an image's disk that its own firmware boots; nothing of others.
pub(super) fn firmware_note(manifest: &Manifest) -> Option<String> {
    let boot = manifest.firmware.as_ref()?;
    let by = match boot.firmware {
        Firmware::Bios => "SeaBIOS",
        Firmware::Uefi => "UEFI firmware",
    };
    Some(format!("`{}` boots by {by}, more slowly than directly: {}", manifest.name, boot.why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_is_the_newest_there_is() {
        assert_eq!(whole_name("debian", ["debian:9", "debian:12", "debian:sid", "hello"]), "debian:12");
        assert_eq!(whole_name("debian", ["hello"]), "debian:12");
        assert_eq!(whole_name("debian:13", ["debian:12"]), "debian:13");
    }
}
