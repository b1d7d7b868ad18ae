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
use super::{Draft, Image, ImageName, Manifest, Part, digest};
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

/// Something that was of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// The file or folder.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Removes the files of a folder of which `keep` does not want to keep any, or only says which where `dry` is set. A folder that is not
/// there has none.
pub(crate) fn prune_folder(
    folder: &Path,
    keep: impl Fn(&Path) -> bool,
    dry: bool,
) -> io::Result<Vec<Pruned>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut pruned = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if keep(&path) {
            continue;
        }
        let bytes = entry.metadata()?.len();
        if !dry {
            fs::remove_file(&path)?;
        }
        pruned.push(Pruned { path, bytes });
    }
    pruned.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pruned)
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

    /// Removes an image, unless `users` names VMs that need it; where `dry` is set, everything but that.
    pub fn remove(
        &self,
        name: &str,
        users: impl FnOnce(&Image) -> Vec<String>,
        dry: bool,
    ) -> Result<(), ImageError> {
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
        if dry {
            return Ok(());
        }
        // One step takes it out of sight; what follows may be cut short at any point.
        let scratch = self.scratch()?;
        fs::rename(&folder, scratch.path().join("removed")).map_err(io_error("remove", &folder))
    }

    /// Removes files that no manifest names any more and that nobody uses, and what killed commands left unfinished; returns what
    /// was removed, or would be where `dry` is set. `in_use` is asked with the path of each such file.
    pub fn prune(&self, in_use: impl Fn(&Path) -> bool, dry: bool) -> Result<Vec<Pruned>, ImageError> {
        let mut pruned = Vec::new();
        if !self.images.is_dir() {
            return Ok(pruned);
        }
        let _lock = self.lock()?;
        if !dry {
            self.sweep()?;
        }
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
                let bytes = file.metadata().map_or(0, |m| m.len());
                if !dry {
                    fs::remove_file(&path).map_err(io_error("remove", &path))?;
                }
                pruned.push(Pruned { path, bytes });
            }
            if image.is_none() && !dry {
                // Empty now unless a file of it is in use.
                let _ = fs::remove_dir(&folder);
            }
        }
        pruned.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(pruned)
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

    pub(super) fn scratch(&self) -> Result<Scratch, ImageError> {
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
        let (name, source) = (self.name.to_owned(), self.source.to_owned());
        Manifest {
            digest: digest::of_parts([None, Some(&part), None]),
            kernel: Some(part),
            ready: self.ready.map(ToOwned::to_owned),
            ..Manifest::bare(name, self.kind, self.arch, program_date(), source)
        }
    }
}

/// When the running program was made, as far as its file tells.
fn program_date() -> String {
    let time = std::env::current_exe().and_then(fs::metadata).and_then(|m| m.modified());
    let time = time.ok().and_then(|t| jiff::Timestamp::try_from(t).ok()).unwrap_or_default();
    time.round(jiff::Unit::Second).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::machine::DiskFormat;

    const HELLO: Embedded = Embedded {
        name: "hello",
        kernel: b"a kernel",
        kind: Kind::Other,
        arch: Arch::X86_64,
        ready: Some("serial:init done"),
        source: "midge itself",
    };

    /// A store with a folder to make drafts in beside it.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn store(&self) -> ImageStore {
            ImageStore::new(self.0.path(), vec![HELLO])
        }

        fn draft(&self, name: &str, content: &str) -> Draft {
            let file = |role: &str| {
                let path = self.0.path().join(role);
                let _ = fs::remove_file(&path);
                fs::write(&path, format!("{role} {content}")).unwrap();
                path
            };
            Draft {
                disk: Some((file("disk"), DiskFormat::Raw, 4096)),
                kernel: Some(file("kernel")),
                initrd: None,
                manifest: Manifest { name: name.to_owned(), agent: true, ..HELLO.manifest() },
            }
        }

        fn edit(&self, folder: &str, change: impl Fn(&str) -> String) {
            let path = self.0.path().join("images").join(folder).join("manifest.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, change(&text)).unwrap();
        }
    }

    #[test]
    fn an_image_is_found_as_it_was_installed() {
        let home = Home::new();
        let installed = home.store().install(home.draft("debian:12", "x")).unwrap();
        let found = home.store().get("debian:12").unwrap();

        assert_eq!(found.manifest, installed.manifest);
        assert_eq!(fs::read_to_string(found.disk().unwrap()).unwrap(), "disk x");
        assert_eq!(fs::read_to_string(found.kernel().unwrap()).unwrap(), "kernel x");
        assert_eq!(found.initrd(), None);
        for path in [found.disk().unwrap(), found.kernel().unwrap(), found.folder.join("manifest.json")] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444, "{path:?}");
        }
        found.verify().unwrap();
        assert_eq!(fs::read_dir(home.0.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn the_embedded_image_is_listed_without_a_file_and_made_when_used() {
        let home = Home::new();
        let listing = home.store().list().unwrap();
        assert_eq!(listing.images.len(), 1);
        assert_eq!(fs::read_dir(home.0.path()).unwrap().count(), 0, "listing must not write");

        let image = home.store().get("hello").unwrap();
        assert_eq!(fs::read(image.kernel().unwrap()).unwrap(), b"a kernel");
        assert_eq!(image.manifest, listing.images[0].manifest);
        let inode = |image: &Image| fs::metadata(image.kernel().unwrap()).unwrap().ino();
        assert_eq!(inode(&home.store().get("hello").unwrap()), inode(&image), "made once");

        let newer = Embedded { kernel: b"a newer kernel", ..HELLO };
        let image = ImageStore::new(home.0.path(), vec![newer]).get("hello").unwrap();
        assert_eq!(fs::read(image.kernel().unwrap()).unwrap(), b"a newer kernel");
        assert!(matches!(home.store().remove("hello", |_| Vec::new(), false), Err(ImageError::Embedded(_))));
    }

    #[test]
    fn a_new_image_of_the_same_name_leaves_the_parts_of_the_old_to_their_users() {
        let home = Home::new();
        let store = home.store();
        let old = store.install(home.draft("debian:12", "old")).unwrap();
        let new = store.install(home.draft("debian:12", "new")).unwrap();
        assert_ne!(old.disk(), new.disk());

        let removed = |in_use: &dyn Fn(&Path) -> bool, dry| -> Vec<PathBuf> {
            store.prune(in_use, dry).unwrap().into_iter().map(|pruned| pruned.path).collect()
        };
        let (disk, kernel) = (old.disk().unwrap(), old.kernel().unwrap());
        assert_eq!(removed(&|_| false, true), [disk.clone(), kernel.clone()]);
        assert!(disk.exists() && kernel.exists(), "nothing is removed by asking");
        assert_eq!(removed(&|path| path == disk, false), std::slice::from_ref(&kernel));
        assert!(disk.exists() && !kernel.exists());
        assert_eq!(removed(&|_| false, false), [disk]);
        new.verify().unwrap();
    }

    #[test]
    fn an_image_in_use_stays() {
        let home = Home::new();
        let store = home.store();
        store.install(home.draft("debian:12", "x")).unwrap();

        let refused =
            store.remove("debian:12", |_| vec!["web".to_owned(), "db".to_owned()], true).unwrap_err();
        assert_eq!(refused.to_string(), "the image `debian:12` is used by web, db; remove them first");
        store.get("debian:12").unwrap();

        store.remove("debian:12", |_| Vec::new(), true).unwrap();
        store.get("debian:12").unwrap();
        store.remove("debian:12", |_| Vec::new(), false).unwrap();
        assert!(matches!(store.get("debian:12"), Err(ImageError::Unknown { .. })));
        assert!(matches!(store.remove("debian:12", |_| Vec::new(), false), Err(ImageError::Unknown { .. })));
        assert_eq!(fs::read_dir(home.0.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_what_to_do() {
        let home = Home::new();
        let store = home.store();
        let says = |name: &str| store.get(name).unwrap_err().to_string();
        assert_eq!(
            says("debian:12"),
            "there is no image `debian:12`; make it with `midge image build debian:12`"
        );
        assert_eq!(says("helo"), "there is no image `helo`; did you mean `hello`?");
        assert_eq!(
            says("debian13"),
            "there is no image `debian13`; did you mean `debian:13`? Make it with `midge image build debian:13`"
        );
        assert!(says("zzz").ends_with("there are hello; more are made with `midge image build debian:12`"));
        assert!(matches!(store.get("../etc"), Err(ImageError::Name(_))));
    }

    #[test]
    fn damage_is_found_and_said() {
        let home = Home::new();
        let store = home.store();
        let image = store.install(home.draft("debian:12", "x")).unwrap();
        let kernel = image.kernel().unwrap();
        fs::remove_file(&kernel).unwrap();
        fs::write(&kernel, "kernel y").unwrap();
        assert!(store.verify("debian:12").unwrap_err().to_string().contains("its SHA-256 is"));
        fs::write(&kernel, "short").unwrap();
        assert!(store.verify("debian:12").unwrap_err().to_string().contains("5 bytes instead of 8"));

        // Installing again puts the whole part in the place of the damaged one.
        store.install(home.draft("debian:12", "x")).unwrap();
        store.verify("debian:12").unwrap();

        home.edit("debian+12", |text| text.replace("sha256:", "sha256:0"));
        assert!(store.verify("debian:12").unwrap_err().to_string().contains("not that of its parts"));
    }

    #[test]
    fn a_manifest_that_cannot_be_trusted_is_refused_and_does_not_hide_the_others() {
        let home = Home::new();
        let store = home.store();
        store.install(home.draft("good", "x")).unwrap();
        let broken = |change: &dyn Fn(&str) -> String| {
            store.install(home.draft("bad", "x")).unwrap();
            home.edit("bad", change);
            let listing = store.list().unwrap();
            let names: Vec<_> = listing.images.iter().map(|i| i.manifest.name.as_str()).collect();
            assert_eq!(names, ["good", "hello"]);
            assert_eq!(listing.damaged.len(), 1);
            let error = store.get("bad").unwrap_err();
            store
                .remove("bad", |_| Vec::new(), false)
                .or_else(|e| match e {
                    // What a newer midge wrote is not this one's to remove.
                    ImageError::Newer { .. } => {
                        fs::remove_dir_all(home.0.path().join("images/bad")).map_err(|_| e)
                    }
                    e => Err(e),
                })
                .unwrap();
            error
        };
        assert!(matches!(broken(&|text| text[..text.len() / 2].to_owned()), ImageError::Manifest { .. }));
        assert!(matches!(broken(&|_| String::new()), ImageError::Manifest { .. }));
        assert!(matches!(broken(&|t| t.replace("\"agent\"", "\"agnet\"")), ImageError::Manifest { .. }));
        let newer = |t: &str| t.replace("\"schema\": 1", "\"schema\": 2, \"new\": 0");
        assert!(matches!(broken(&newer), ImageError::Newer { schema: 2, .. }));
        for outside in ["../../x", "/etc/shadow", "a/b", "."] {
            let to_outside = |text: &str| {
                let file = text.split("\"kernel-").nth(1).unwrap().split('"').next().unwrap();
                text.replace(&format!("kernel-{file}"), outside)
            };
            assert!(matches!(broken(&to_outside), ImageError::Outside { .. }), "{outside}");
        }
    }

    #[test]
    fn what_a_killed_install_leaves_is_no_image_and_is_swept() {
        let home = Home::new();
        let store = home.store();
        let half = home.0.path().join("images/debian+12");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("disk-0123456789abcdef.qcow2"), "half").unwrap();
        fs::create_dir_all(home.0.path().join("tmp/image-left")).unwrap();

        assert_eq!(store.list().unwrap().images.len(), 1);
        assert!(matches!(store.get("debian:12"), Err(ImageError::Unknown { .. })));
        assert_eq!(store.prune(|_| false, false).unwrap()[0].bytes, 4);
        assert!(!half.exists() && !home.0.path().join("tmp/image-left").exists());
    }
}
