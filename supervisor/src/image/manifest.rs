//! An image as it lies on disk: a folder with a manifest and the files that it names.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::contents::Firmware;
use super::error::{ImageError, io_error};
use super::{ImageName, digest, sparse};
use crate::machine::DiskFormat;
use crate::spec::{Arch, Kind};
use crate::store::Home;

/// Version of the manifest's format that this midge writes.
pub const MANIFEST_SCHEMA: u32 = 1;
/// Name of the file that describes an image.
const MANIFEST: &str = "manifest.json";

/// What an image's `manifest.json` says of it. Paths are relative to the image's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 1.
    pub schema: u32,
    /// The image's name, such as `debian:12`.
    pub name: String,
    /// `sha256:` and the digest of the manifest's parts in order.
    pub digest: String,
    /// Family of the guest.
    pub kind: Kind,
    /// Instruction set.
    pub arch: Arch,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ImageDisk>,
    /// The kernel for direct boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Part>,
    /// The initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Part>,
    /// The kernel's command line, without the console, which the machine decides.
    #[serde(default)]
    pub append: String,
    /// The guest runs the QEMU guest agent.
    #[serde(default)]
    pub agent: bool,
    /// The guest runs an SSH server.
    #[serde(default)]
    pub ssh: bool,
    /// What the system on the disk calls itself, where that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Firmware boots the disk: there is no kernel to be handed to QEMU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwareBoot>,
    /// systemd's version, where it has one: 252 and later take credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<u32>,
    /// The guest has cloud-init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cloud_init: bool,
    /// The guest's systemd-networkd takes networks from credentials.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network_credentials: bool,
    /// The sign of readiness that fits this image, in `--wait` syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// What it was made from and how, for people.
    #[serde(default)]
    pub source: String,
    /// What was fetched to make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// How a disk boots without a kernel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareBoot {
    /// By which firmware.
    pub firmware: Firmware,
    /// Why no kernel could be taken out of it.
    pub why: String,
}

/// What was fetched to make an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// From where.
    pub url: String,
    /// The publisher's digest of it, which it had: `sha512:` or `sha256:` and hexadecimal digits.
    pub digest: String,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// File name within the image's folder.
    pub file: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// The disk of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDisk {
    /// The file.
    #[serde(flatten)]
    pub part: Part,
    /// Its format.
    pub format: DiskFormat,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
}

/// An image as found in its folder.
#[derive(Debug, Clone)]
pub struct Image {
    /// What is known of it.
    pub manifest: Manifest,
    /// The folder with its files.
    pub folder: PathBuf,
}

/// The files and facts of which an image is to be made. Digests, sizes and file names are found, not given.
#[derive(Debug)]
pub struct Draft {
    /// The disk's file, its format and the size that the guest sees.
    pub disk: Option<(PathBuf, DiskFormat, u64)>,
    /// The kernel's file.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk's file.
    pub initrd: Option<PathBuf>,
    /// Everything else; `disk`, `kernel`, `initrd` and `digest` are filled in.
    pub manifest: Manifest,
}

/// An image about to be written: its manifest is complete, its files still lie elsewhere.
#[derive(Debug)]
pub(super) struct Sealed {
    manifest: Manifest,
    files: Vec<(PathBuf, Part)>,
}

impl Image {
    /// Reads the image in `folder`; none where there is no manifest.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, ImageError> {
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let manifest = Manifest::parse(&text, &path)?;
        Ok(Some(Self { manifest, folder: folder.to_owned() }))
    }

    /// Itself, ready to be written elsewhere; its digests are taken as they are.
    pub(super) fn sealed(&self) -> Sealed {
        let parts = self.manifest.parts().into_iter().flatten();
        Sealed {
            manifest: self.manifest.clone(),
            files: parts.map(|part| (self.folder.join(&part.file), part.clone())).collect(),
        }
    }

    /// Names of the files that belong to it, the manifest's among them.
    pub(super) fn file_names(&self) -> Vec<PathBuf> {
        let parts = self.manifest.parts().into_iter().flatten().map(|part| part.file.clone());
        parts.chain([PathBuf::from(MANIFEST)]).collect()
    }

    /// The image that a manifest of earlier describes: its own parts, which stay for as long as a VM stands on them, and
    /// not those of an image of the same name that was made since.
    ///
    /// # Errors
    /// [`ImageError::Name`] when the manifest's name is none; whether the parts are there is seen when they are opened.
    pub fn recorded(home: &Home, manifest: &Manifest) -> Result<Self, ImageError> {
        let name: ImageName = manifest.name.parse()?;
        Ok(Self { manifest: manifest.clone(), folder: home.images().join(name.folder()) })
    }

    /// The disk's file.
    #[must_use]
    pub fn disk(&self) -> Option<PathBuf> {
        self.manifest.disk.as_ref().map(|disk| self.folder.join(&disk.part.file))
    }

    /// The kernel's file.
    #[must_use]
    pub fn kernel(&self) -> Option<PathBuf> {
        self.manifest.kernel.as_ref().map(|part| self.folder.join(&part.file))
    }

    /// The initial RAM disk's file.
    #[must_use]
    pub fn initrd(&self) -> Option<PathBuf> {
        self.manifest.initrd.as_ref().map(|part| self.folder.join(&part.file))
    }

    /// Compares every part with its digest.
    pub fn verify(&self) -> Result<(), ImageError> {
        for part in self.manifest.parts().into_iter().flatten() {
            let path = self.folder.join(&part.file);
            let (found, size) = digest::of_file(&path).map_err(io_error("read", &path))?;
            if size != part.size {
                let what = format!("it has {size} bytes instead of {}", part.size);
                return Err(ImageError::Damaged { path, what });
            }
            if found != part.sha256 {
                let what = format!("its SHA-256 is {found} instead of {}", part.sha256);
                return Err(ImageError::Damaged { path, what });
            }
        }
        if digest::of_parts(self.manifest.parts()) != self.manifest.digest {
            let what = "its digest is not that of its parts".to_owned();
            return Err(ImageError::Damaged { path: self.folder.join(MANIFEST), what });
        }
        Ok(())
    }
}

impl Draft {
    /// Computes digests, names the files by them and completes the manifest.
    pub(super) fn seal(self) -> Result<Sealed, ImageError> {
        let mut manifest = self.manifest;
        let mut files = Vec::new();
        let mut add = |role: &str, path: PathBuf, suffix: &str| -> Result<Part, ImageError> {
            let (sha256, size) = digest::of_file(&path).map_err(io_error("read", &path))?;
            let part = Part { file: format!("{role}-{}{suffix}", &sha256[..16]).into(), size, sha256 };
            files.push((path, part.clone()));
            Ok(part)
        };
        if let Some((path, format, virtual_size)) = self.disk {
            let suffix = match format {
                DiskFormat::Qcow2 => ".qcow2",
                DiskFormat::Raw => ".raw",
            };
            manifest.disk = Some(ImageDisk { part: add("disk", path, suffix)?, format, virtual_size });
        }
        if let Some(path) = self.kernel {
            manifest.kernel = Some(add("kernel", path, "")?);
        }
        if let Some(path) = self.initrd {
            manifest.initrd = Some(add("initrd", path, "")?);
        }
        manifest.digest = digest::of_parts(manifest.parts());
        Ok(Sealed { manifest, files })
    }
}

impl Sealed {
    /// Writes the image to `folder`, the manifest last: until then a former image there stays as it was. `scratch` is a folder on
    /// the same file system for what is not yet whole. Files are hard links where that can be, else copies.
    pub(super) fn write_to(self, folder: &Path, scratch: &Path) -> Result<Image, ImageError> {
        fs::create_dir_all(folder).map_err(io_error("make", folder))?;
        for (source, part) in &self.files {
            place(source, &folder.join(&part.file), &scratch.join(&part.file), part)?;
        }
        let target = folder.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|source| ImageError::Manifest { path: target.clone(), source })?;
        write_file(&text, &target, &scratch.join(MANIFEST))?;
        File::open(folder).and_then(|f| f.sync_all()).map_err(io_error("write", folder))?;
        Ok(Image { manifest: self.manifest, folder: folder.to_owned() })
    }
}

impl Manifest {
    /// One of an image made now, of which nothing else is known.
    pub(super) fn new(name: &ImageName, kind: Kind, arch: Arch, source: String) -> Self {
        let now = jiff::Timestamp::now();
        let created = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
        Self::bare(name.to_string(), kind, arch, created, source)
    }

    /// One of which nothing else is known.
    pub(crate) fn bare(name: String, kind: Kind, arch: Arch, created: String, source: String) -> Self {
        Self {
            schema: MANIFEST_SCHEMA,
            name,
            digest: String::new(),
            kind,
            arch,
            created,
            disk: None,
            kernel: None,
            initrd: None,
            append: String::new(),
            agent: false,
            ssh: false,
            systemd: None,
            cloud_init: false,
            network_credentials: false,
            os: None,
            firmware: None,
            ready: None,
            source,
            origin: None,
        }
    }

    /// The parts in the order of the digest: disk, kernel, initrd.
    #[must_use]
    pub fn parts(&self) -> [Option<&Part>; 3] {
        [self.disk.as_ref().map(|disk| &disk.part), self.kernel.as_ref(), self.initrd.as_ref()]
    }

    /// Reads a manifest's text; `path` is where it was found.
    fn parse(text: &[u8], path: &Path) -> Result<Self, ImageError> {
        #[derive(serde::Deserialize)]
        struct Version {
            schema: u32,
        }
        let wrong = |source| ImageError::Manifest { path: path.to_owned(), source };
        // The version first: a newer format may have fields that this one would call unknown.
        let Version { schema } = serde_json::from_slice(text).map_err(wrong)?;
        if schema > MANIFEST_SCHEMA {
            return Err(ImageError::Newer { path: path.to_owned(), schema });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(wrong)?;
        for part in manifest.parts().into_iter().flatten() {
            let mut components = part.file.components();
            if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                return Err(ImageError::Outside { path: path.to_owned(), file: part.file.clone() });
            }
        }
        Ok(manifest)
    }
}

/// Puts `source` at `target` by link or, by way of `scratch` on the target's file system, by a copy that shares blocks where the file
/// system can and keeps holes.
fn place(source: &Path, target: &Path, scratch: &Path, part: &Part) -> Result<(), ImageError> {
    // A file of this digest may be there already, of the same content unless it was damaged since.
    let is_whole = |path: &Path| {
        digest::of_file(path).is_ok_and(|(sha256, size)| sha256 == part.sha256 && size == part.size)
    };
    let linked = fs::hard_link(source, target);
    if linked.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists) && is_whole(target) {
        return Ok(());
    }
    if linked.is_err() {
        let copy = || {
            let (from, to) = (File::open(source)?, File::create(scratch)?);
            sparse::copy(&from, &to, from.metadata()?.len())
        };
        copy().map_err(io_error("write", scratch))?;
        fs::rename(scratch, target).map_err(io_error("write", target))?;
    }
    let seal = |file: File| {
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()
    };
    File::open(target).and_then(seal).map_err(io_error("write", target))
}

/// Writes a small file so that it is there whole or not at all, also after a power cut.
fn write_file(content: &[u8], target: &Path, scratch: &Path) -> Result<(), ImageError> {
    let write = || {
        let mut file = File::create(scratch)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()
    };
    write().map_err(io_error("write", scratch))?;
    fs::rename(scratch, target).map_err(io_error("write", target))
}
