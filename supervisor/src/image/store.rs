//! The images of one `$MIDGE_HOME`: `images/NAME/manifest.json` and the files that it names.
//!
//! A part's file bears the start of its digest in its name and is never written again. When an image of the same name is
//! built anew, the manifest is replaced and the old parts stay until [`ImageStore::prune`] finds nobody using them:
//! the disks of VMs are overlays on them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::error::{ImageError, io_error};
use super::manifest::Sealed;
use super::{Draft, Image, ImageName, MANIFEST_SCHEMA, Manifest, Part, digest};
use crate::spec::{Arch, Kind};
use crate::store::scratch::{self, Scratch};

/// Names that `midge image build` understands, for hints.
const BUILDABLE: [&str; 2] = ["debian:12", "debian:13"];

/// The images of one `$MIDGE_HOME`.
#[derive(Debug)]
pub struct ImageStore {
    images: PathBuf,
    tmp: PathBuf,
    embedded: Vec<Embedded>,
}

/// An image whose kernel is a part of the program. It is always listed; its file is made when it is first used.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// Its name.
    pub name: &'static str,
    /// Its kernel's content.
    pub kernel: &'static [u8],
    /// Its family.
    pub kind: Kind,
    /// Its instruction set.
    pub arch: Arch,
    /// Its sign of readiness, in `--wait` syntax.
    pub ready: Option<&'static str>,
    /// What it is, for people.
    pub source: &'static str,
}

/// All images: the whole ones, by name, and those that cannot be read.
#[derive(Debug, Default)]
pub struct Listing {
    /// Images with a manifest that holds.
    pub images: Vec<Image>,
    /// Names of folders whose manifest does not, and why.
    pub damaged: Vec<(String, ImageError)>,
}

impl ImageStore {
    /// The store in `home` (`$MIDGE_HOME`), which need not exist yet.
    #[must_use]
    pub fn new(home: &Path, embedded: Vec<Embedded>) -> Self {
        Self { images: home.join("images"), tmp: home.join("tmp"), embedded }
    }

    /// All images by name, those inside the program among them.
    pub fn list(&self) -> Result<Listing, ImageError> {
        let mut listing = Listing::default();
        let entries = match fs::read_dir(&self.images) {
            Ok(entries) => Some(entries),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_error("list", &self.images)(e)),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry.map_err(io_error("list", &self.images))?;
            let folder = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = ImageName::from_folder(&folder) else { continue };
            if self.embedded(&name).is_some() {
                continue;
            }
            match self.load(&name) {
                Ok(Some(image)) => listing.images.push(image),
                // An install that was cut short.
                Ok(None) => {}
                Err(e) => listing.damaged.push((folder, e)),
            }
        }
        listing.images.extend(self.embedded.iter().map(|embedded| Image {
            manifest: embedded.manifest(),
            folder: self.images.join(embedded.name),
        }));
        listing.images.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        listing.damaged.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(listing)
    }

    /// The image called `name`, its files in place.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        let name: ImageName = name.parse()?;
        let stored = self.load(&name);
        if let Some(embedded) = self.embedded(&name) {
            let manifest = embedded.manifest();
            return match stored {
                Ok(Some(image))
                    if image.manifest.digest == manifest.digest
                        && image.kernel().is_some_and(|kernel| kernel.exists()) =>
                {
                    Ok(image)
                }
                // Never used, of another version of midge, or damaged: its content is at hand.
                _ => self.materialise(embedded, manifest),
            };
        }
        match stored? {
            Some(image) => Ok(image),
            None => Err(ImageError::Unknown { hint: self.hint(&name)?, name }),
        }
    }

    /// Compares every part of an image with its digest.
    pub fn verify(&self, name: &str) -> Result<(), ImageError> {
        self.get(name)?.verify()
    }

    /// Puts an image in place. Its files are hard links where the file system allows, else copies, so the caller gives its
    /// own up for writing; an image of the same name is replaced.
    pub fn install(&self, draft: Draft) -> Result<Image, ImageError> {
        let name: ImageName = draft.manifest.name.parse()?;
        self.write(&name, draft.seal()?)
    }

    /// Puts an image that lies elsewhere, and whose digests were compared, in place, as [`ImageStore::install`] does.
    pub(super) fn adopt(&self, image: &Image) -> Result<Image, ImageError> {
        let name: ImageName = image.manifest.name.parse()?;
        self.write(&name, image.sealed())
    }

    fn write(&self, name: &ImageName, sealed: Sealed) -> Result<Image, ImageError> {
        let _lock = self.lock()?;
        let scratch = self.scratch()?;
        sealed.write_to(&self.images.join(name.folder()), scratch.path())
    }

    /// Removes an image, unless `users` names VMs that need it.
    pub fn remove(&self, name: &str, users: impl FnOnce(&Image) -> Vec<String>) -> Result<(), ImageError> {
        let name: ImageName = name.parse()?;
        if self.embedded(&name).is_some() {
            return Err(ImageError::Embedded(name));
        }
        let _lock = self.lock()?;
        let folder = self.images.join(name.folder());
        match self.load(&name) {
            Ok(Some(image)) => {
                let users = users(&image);
                if !users.is_empty() {
                    return Err(ImageError::InUse { name, users });
                }
            }
            Ok(None) => return Err(ImageError::Unknown { hint: self.hint(&name)?, name }),
            // Removing is the way out of a damaged one.
            Err(ImageError::Manifest { .. } | ImageError::Outside { .. }) => {}
            Err(e) => return Err(e),
        }
        // One step takes it out of sight; what follows may be cut short at any point.
        let scratch = self.scratch()?;
        fs::rename(&folder, scratch.path().join("removed")).map_err(io_error("remove", &folder))
    }

    /// Removes files that no manifest names any more and that nobody uses, and what killed commands left unfinished; returns the
    /// bytes freed. `in_use` is asked with the path of each such file.
    pub fn prune(&self, in_use: impl Fn(&Path) -> bool) -> Result<u64, ImageError> {
        let _lock = self.lock()?;
        self.sweep()?;
        let mut freed = 0;
        for entry in fs::read_dir(&self.images).map_err(io_error("list", &self.images))? {
            let folder = entry.map_err(io_error("list", &self.images))?.path();
            let Some(name) = folder.file_name().and_then(|f| ImageName::from_folder(&f.to_string_lossy()))
            else {
                continue;
            };
            // What cannot be read is not judged.
            let Ok(image) = self.load(&name) else { continue };
            let named = image.as_ref().map(Image::file_names).unwrap_or_default();
            for file in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
                let file = file.map_err(io_error("list", &folder))?;
                let (path, file_name) = (file.path(), PathBuf::from(file.file_name()));
                if named.contains(&file_name) || in_use(&path) {
                    continue;
                }
                freed += file.metadata().map_or(0, |m| m.len());
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
            if image.is_none() {
                // Empty now unless a file of it is in use.
                let _ = fs::remove_dir(&folder);
            }
        }
        Ok(freed)
    }

    /// Removes what killed commands left unfinished.
    pub fn sweep(&self) -> Result<(), ImageError> {
        scratch::sweep(&self.tmp).map(drop).map_err(io_error("clean up", &self.tmp))
    }

    fn embedded(&self, name: &ImageName) -> Option<&Embedded> {
        self.embedded.iter().find(|embedded| embedded.name == name.as_str())
    }

    fn load(&self, name: &ImageName) -> Result<Option<Image>, ImageError> {
        Image::read(&self.images.join(name.folder()))
    }

    fn scratch(&self) -> Result<Scratch, ImageError> {
        Scratch::new(&self.tmp, "image", 0o700).map_err(io_error("make a folder in", &self.tmp))
    }

    fn materialise(&self, embedded: &Embedded, manifest: Manifest) -> Result<Image, ImageError> {
        let scratch = self.scratch()?;
        let kernel = scratch.path().join("kernel");
        fs::write(&kernel, embedded.kernel).map_err(io_error("write", &kernel))?;
        self.install(Draft { disk: None, kernel: Some(kernel), initrd: None, manifest })
    }

    /// Held while the store's folders change; released by the kernel when its holder dies.
    fn lock(&self) -> Result<Flock<File>, ImageError> {
        fs::create_dir_all(&self.images).map_err(io_error("make", &self.images))?;
        let path = self.images.join(".lock");
        let file = File::options().create(true).append(true).open(&path).map_err(io_error("open", &path))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| io_error("lock", &path)(e.into()))
    }

    /// What to tell someone who asked for an image that is not there.
    fn hint(&self, name: &ImageName) -> Result<String, ImageError> {
        if BUILDABLE.contains(&name.as_str()) {
            return Ok(format!("make it with `midge image build {name}`"));
        }
        let listing = self.list()?;
        let present: Vec<&str> = listing.images.iter().map(|image| image.manifest.name.as_str()).collect();
        let near = present
            .iter()
            .chain(&BUILDABLE)
            .map(|known| (strsim::jaro_winkler(name.as_str(), known), *known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Ok(match near {
            Some((_, near)) if present.contains(&near) => format!("did you mean `{near}`?"),
            Some((_, near)) => format!("did you mean `{near}`? Make it with `midge image build {near}`"),
            None => format!(
                "there are {}; more are made with `midge image build debian:12`",
                if present.is_empty() { "none yet".to_owned() } else { present.join(", ") }
            ),
        })
    }
}

impl Embedded {
    /// The manifest of the image as it will be when it is used.
    fn manifest(&self) -> Manifest {
        let sha256 = digest::of_bytes(self.kernel);
        let part =
            Part { file: format!("kernel-{}", &sha256[..16]).into(), size: self.kernel.len() as u64, sha256 };
        Manifest {
            schema: MANIFEST_SCHEMA,
            name: self.name.to_owned(),
            digest: digest::of_parts([None, Some(&part), None]),
            kind: self.kind,
            arch: self.arch,
            created: program_date(),
            disk: None,
            kernel: Some(part),
            initrd: None,
            append: String::new(),
            agent: false,
            ssh: false,
            systemd: None,
            ready: self.ready.map(ToOwned::to_owned),
            source: self.source.to_owned(),
        }
    }
}

/// When the running program was made, as far as its file tells.
fn program_date() -> String {
    let time = std::env::current_exe().and_then(fs::metadata).and_then(|m| m.modified());
    let time = time.ok().and_then(|t| jiff::Timestamp::try_from(t).ok()).unwrap_or_default();
    time.round(jiff::Unit::Second).unwrap_or(time).to_string()
}
