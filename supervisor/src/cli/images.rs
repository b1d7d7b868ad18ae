//! The images, as the commands use them: found by name, built when they are missing.

use std::path::Path;

use super::context::Context;
use super::exit::{ExitKind, Failed, io_kind};
use super::names;
use crate::image::{self, Image, ImageError, ImageName, ImageStore, Listing, Manifest};
use crate::spec::Size;
use crate::store::StoreError;

/// Images that midge knows how to build.
const BUILDABLE: [&str; 2] = ["debian:12", "debian:13"];
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

fn store(context: &Context) -> Result<ImageStore, Failed> {
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

/// The image of this name, built on the spot when it is one that midge builds and `build` allows it.
///
/// # Errors
/// [`ExitKind::NotFound`] with the nearest name.
pub(super) fn find(context: &Context, name: &str, build: bool) -> Result<Image, Failed> {
    let listing = list(context)?;
    let known: Vec<&str> = listing.images.iter().map(|image| image.manifest.name.as_str()).collect();
    let whole = whole_name(name, known.iter().copied());
    if known.contains(&whole) || listing.damaged.iter().any(|(folder, _)| folder == whole) {
        return Ok(store(context)?.get(whole)?);
    }
    if build && BUILDABLE.contains(&whole) {
        context.voice.note(format_args!("there is no image `{whole}` yet: building it, once"));
        return self::build(context, whole, false);
    }
    let failed = Failed::new(ExitKind::NotFound, format!("there is no image `{name}`"));
    let all = known.iter().copied().chain(BUILDABLE).collect::<Vec<_>>();
    Err(failed.hint(match names::nearest(name, all.iter().copied()) {
        Some(near) if BUILDABLE.contains(&near) && !build => {
            format!("build it with `midge image build {near}`")
        }
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            "`midge image ls` lists the images there are; a kernel file is given with a `/`, as in ./kernel"
                .to_owned()
        }
    }))
}

/// Builds an image, unless it is there already and `rebuild` is not wanted.
pub(super) fn build_named(context: &Context, name: &str, rebuild: bool) -> Result<Image, Failed> {
    let whole = if name == "debian" { DEBIAN } else { name };
    if !rebuild && let Ok(image) = store(context)?.get(whole) {
        context.voice.note(format_args!("the image `{whole}` is there already; --rebuild makes it anew"));
        return Ok(image);
    }
    build(context, whole, rebuild)
}

/// Builds an image and shows on stderr how far it is.
fn build(_context: &Context, name: &str, _fresh: bool) -> Result<Image, Failed> {
    Err(Failed::new(ExitKind::Other, format!("this midge cannot build `{name}`")))
}

/// Removes an image that no VM stands on.
pub(super) fn remove(context: &Context, name: &str) -> Result<(), Failed> {
    let users = users(context)?;
    let on = |image: &Image| {
        let stands = |(_, manifest): &&(String, Manifest)| manifest.name == image.manifest.name;
        users.iter().filter(stands).map(|(vm, _)| vm.clone()).collect()
    };
    Ok(store(context)?.remove(name, on)?)
}

/// Compares an image's files with its digests.
pub(super) fn verify(context: &Context, name: &str) -> Result<(), Failed> {
    Ok(store(context)?.verify(name)?)
}

/// Removes files of images that were replaced and on which no VM stands; answers the bytes freed.
pub(super) fn prune(context: &Context) -> Result<u64, Failed> {
    let home = context.home()?;
    if !home.images().is_dir() {
        return Ok(0);
    }
    let users = users(context)?;
    let used: Vec<_> = users
        .iter()
        .flat_map(|(_, manifest)| {
            let folder = manifest.name.parse::<ImageName>().map(|name| home.images().join(name.folder()));
            let disk = manifest.disk.as_ref().map(|disk| &disk.part);
            let parts = [disk, manifest.kernel.as_ref(), manifest.initrd.as_ref()].into_iter().flatten();
            folder.into_iter().flat_map(move |folder| {
                parts.clone().map(move |part| folder.join(&part.file)).collect::<Vec<_>>()
            })
        })
        .collect();
    Ok(store(context)?.prune(|path| used.iter().any(|used| used == path))?)
}

/// The VMs that stand on an image, with that image as it was then.
///
/// # Errors
/// When a record cannot be read: it may name any image.
fn users(context: &Context) -> Result<Vec<(String, Manifest)>, Failed> {
    let home = context.home()?;
    let mut users = Vec::new();
    for name in home.vm_names()? {
        match home.vm(&name).record() {
            Ok(record) => users.extend(record.image.map(|manifest| (name, manifest))),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(users)
}

/// Makes a VM's own disk over that of its image.
pub(super) fn make_disk(_image: &Image, _target: &Path, _size: Option<Size>) -> Result<(), Failed> {
    Ok(())
}

/// Makes a VM's disk larger.
pub(super) fn grow_disk(_disk: &Path, _size: Size) -> Result<(), Failed> {
    Ok(())
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
