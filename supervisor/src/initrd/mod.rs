//! A small initial RAM disk for an image, made by midge from the image's own kernel modules.
//!
//! A distribution's initial RAM disk is made for any machine: it brings a shell, udev and drivers for everything, and looks for what is
//! there. A guest of midge's has a virtio disk with a file system of a known kind, so a program of a few kilobytes (`init/`) that
//! loads a handful of modules in the right order does the same in a fraction of the time.
//!
//! It is made once for each image, at the first start that can use it, and kept in `$MIDGE_HOME/initrd` under a key made of all that it
//! was made from. When a root file system does not come up with it, a mark beside it says so and why, and the image's own initial RAM
//! disk is used from then on.

mod archive;
mod busybox;
mod dependencies;
mod module;
mod source;
mod version;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use busybox::busybox;
pub use dependencies::{Dependencies, order};
pub use module::{ModuleError, unpack, vermagic};

use crate::image::{Image, digest};
use crate::spec::Arch;
use crate::store::Home;

/// Changes whenever the same inputs give another archive for a reason that the key would not see.
const FORMAT: &str = "1";
/// The program; there is none for aarch64 yet.
#[cfg(init_x86_64)]
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init-x86_64"));
#[cfg(not(init_x86_64))]
const INIT: &[u8] = &[];

/// What a guest cannot do without: its disk, on either bus.
const NEEDED: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];
/// What it may need, or will need soon: loaded here, none of it waits for udev. `crc32c_generic` is for an ext4 that is a module.
const USEFUL: [&str; 7] =
    ["virtio_mmio", "virtio_console", "virtio_net", "virtio_rng", "qemu_fw_cfg", "crc32c_generic", "button"];

/// Words of the kernel's command line that ask an image's own initial RAM disk for something that the small one does not do
/// (initramfs-tools(7), dracut.cmdline(7)).
const FOR_THE_IMAGES_OWN: [&str; 10] =
    ["root", "rootfstype", "rootflags", "break", "boot", "cryptopts", "nfsroot", "ip", "resume", "modules"];

/// Why an image has no small initial RAM disk.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// There is no program for it.
    #[error("there is none for {0} yet")]
    Arch(Arch),
    /// The image has no disk of its own with modules, or no kernel.
    #[error("the image has no kernel with a disk")]
    NothingToBoot,
    /// The kernel does not tell its version.
    #[error("the kernel does not tell its version")]
    NoVersion,
    /// The disk cannot be read.
    #[error("the image's disk cannot be read: {0}")]
    Disk(String),
    /// A file that is to be there is not.
    #[error("the image's disk has no {0}")]
    Missing(String),
    /// A module that is needed is neither there nor built in.
    #[error("the kernel has no module {0}")]
    NoModule(&'static str),
    /// A module.
    #[error("the module {path} cannot be used")]
    Module {
        /// Which.
        path: String,
        /// Why not.
        source: ModuleError,
    },
    /// It was tried, and failed.
    #[error("it was tried before and did not bring up the root file system: {0}")]
    GaveUp(String),
    /// A file of midge's own.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The small initial RAM disk of an image, made where it is not there yet.
pub fn small(home: &Home, image: &Image) -> Result<PathBuf, InitrdError> {
    let manifest = &image.manifest;
    if manifest.arch != Arch::X86_64 || INIT.is_empty() {
        return Err(InitrdError::Arch(manifest.arch));
    }
    let (Some(disk), Some(kernel), Some(kernel_part)) = (&manifest.disk, image.kernel(), &manifest.kernel)
    else {
        return Err(InitrdError::NothingToBoot);
    };
    let key = digest::of_list([FORMAT, &disk.part.sha256, &kernel_part.sha256, &init_digest()]);
    let path = home.state().join("initrd").join(format!("{}.cpio", &key[..16]));
    if let Ok(why) = fs::read_to_string(mark(&path)) {
        return Err(InitrdError::GaveUp(why.trim().to_owned()));
    }
    if path.is_file() {
        return Ok(path);
    }
    let version =
        version::of(&kernel).map_err(|e| InitrdError::Disk(e.to_string()))?.ok_or(InitrdError::NoVersion)?;
    let disk = image.disk().ok_or(InitrdError::NothingToBoot)?;
    let format = manifest.disk.as_ref().map(|disk| disk.format).ok_or(InitrdError::NothingToBoot)?;
    let files = source::Files::open(&disk, format)?;
    let archive = build(&files, &version)?;
    keep(&path, &archive)?;
    Ok(path)
}

/// Whether the words that a user adds to the kernel's command line leave the small one of use.
#[must_use]
pub fn suits(append: Option<&str>) -> bool {
    let words = append.unwrap_or_default().split_ascii_whitespace();
    !words
        .map(|word| word.split('=').next().unwrap_or_default())
        .any(|key| FOR_THE_IMAGES_OWN.contains(&key) || key.starts_with("rd."))
}

/// Notes that a root file system did not come up with this archive; [`small`] then answers why.
pub fn give_up(path: &Path, why: &str) -> io::Result<()> {
    fs::write(mark(path), format!("{why}\n"))
}

fn mark(path: &Path) -> PathBuf {
    path.with_extension("failed")
}

fn init_digest() -> String {
    digest::of_bytes(INIT)
}

/// The archive for the kernel of this version.
fn build(files: &dyn ModuleFiles, version: &str) -> Result<Vec<u8>, InitrdError> {
    let modules = modules(files, version, &NEEDED, &USEFUL)?;
    archive::write(INIT, &modules).map_err(|e| InitrdError::Disk(e.to_string()))
}

/// The modules for the kernel of this version, unpacked, in the order in which they are to be loaded: those that are needed, and those of
/// the useful ones that there are.
fn modules(
    files: &dyn ModuleFiles,
    version: &str,
    needed: &[&'static str],
    useful: &[&'static str],
) -> Result<Vec<(String, Vec<u8>)>, InitrdError> {
    let folder = format!("/lib/modules/{version}");
    let text = |name: &str| {
        let path = format!("{folder}/{name}");
        let bytes = files.read(&path)?.ok_or(InitrdError::Missing(path))?;
        Ok::<_, InitrdError>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let dependencies = Dependencies::read(&text("modules.dep")?, &text("modules.builtin")?);
    if let Some(missing) = needed.iter().find(|name| !dependencies.has(name)) {
        return Err(InitrdError::NoModule(missing));
    }
    let mut modules = Vec::new();
    for path in order(&dependencies, needed.iter().chain(useful).copied()) {
        let whole = format!("{folder}/{path}");
        let packed = files.read(&whole)?.ok_or_else(|| InitrdError::Missing(whole.clone()))?;
        let failed = |source| InitrdError::Module { path: whole.clone(), source };
        let module = unpack(&path, packed).map_err(failed)?;
        match vermagic(&module) {
            Some(made_for) if made_for == version => {}
            made_for => {
                let found = made_for.unwrap_or("nothing").to_owned();
                return Err(failed(ModuleError::WrongKernel { found, wanted: version.to_owned() }));
            }
        }
        let name = dependencies::name_of(&path).replace('-', "_");
        modules.push((format!("{name}.ko"), module));
    }
    Ok(modules)
}

/// Where an image's modules are read from.
trait ModuleFiles {
    /// The content of a file; none where there is no such file.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InitrdError>;
}

/// Writes the archive so that it is there whole or not at all.
fn keep(path: &Path, archive: &[u8]) -> Result<(), InitrdError> {
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(archive)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| InitrdError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl ModuleFiles for BTreeMap<String, Vec<u8>> {
        fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InitrdError> {
            Ok(self.get(path).cloned())
        }
    }

    fn tree(version: &str) -> BTreeMap<String, Vec<u8>> {
        let folder = "/lib/modules/6.1-test";
        let module =
            |name: &str| format!("\u{7f}ELF {name}\0vermagic={version} SMP\0name={name}\0").into_bytes();
        let files = [
            ("modules.builtin", b"kernel/fs/ext4/ext4.ko\n".to_vec()),
            (
                "modules.dep",
                b"v/virtio_pci.ko: v/virtio.ko\nv/virtio_blk.ko: v/virtio.ko\nv/virtio.ko:\n".to_vec(),
            ),
            ("v/virtio.ko", module("virtio")),
            ("v/virtio_pci.ko", module("virtio_pci")),
            ("v/virtio_blk.ko", module("virtio_blk")),
        ];
        files.into_iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes)).collect()
    }

    #[test]
    fn modules_lie_in_the_order_of_their_needs() {
        let archive = build(&tree("6.1-test"), "6.1-test").unwrap();
        let names = archive::names(&archive);
        assert!(names.contains(&"init".to_owned()) && names.contains(&"m/virtio.ko".to_owned()), "{names:?}");
        let list = archive::content(&archive, "modules");
        assert_eq!(list, b"/m/virtio.ko\n/m/virtio_pci.ko\n/m/virtio_blk.ko\n");
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let error = build(&tree("6.1-other"), "6.1-test").unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains("6.1-other") && text.contains("6.1-test"), "{text}");
    }

    #[test]
    fn a_kernel_without_what_is_needed_is_told() {
        let mut files = tree("6.1-test");
        files.insert("/lib/modules/6.1-test/modules.builtin".to_owned(), Vec::new());
        assert!(matches!(build(&files, "6.1-test"), Err(InitrdError::NoModule("ext4"))));
        files.remove("/lib/modules/6.1-test/modules.dep");
        assert!(matches!(build(&files, "6.1-test"), Err(InitrdError::Missing(_))));
    }

    #[test]
    fn words_for_the_images_own_keep_the_small_one_away() {
        assert!(suits(None) && suits(Some("quiet init=/bin/sh systemd.unit=rescue.target")));
        for words in ["root=/dev/vdb", "quiet rd.break", "break=mount", "ip=dhcp"] {
            assert!(!suits(Some(words)), "{words}");
        }
    }

    #[test]
    fn what_failed_once_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.cpio");
        give_up(&path, "no disk").unwrap();
        assert_eq!(fs::read_to_string(mark(&path)).unwrap(), "no disk\n");
    }
}
