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

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use busybox::busybox;
pub use dependencies::{Dependencies, order};
pub use module::{ModuleError, unpack, vermagic};
pub use version::release;

use crate::image::{Image, ImageDisk, Manifest, Part, Pruned, digest, prune_folder};
use crate::spec::Arch;
use crate::store::Home;

/// Changes whenever the same inputs give another archive for a reason that the key would not see.
const FORMAT: &str = "1";
/// The program for each instruction set that it could be built for: that of the host, and others where its compiler has their libraries
/// (build.rs).
const INITS: &[(Arch, &[u8])] = &[
    #[cfg(init_x86_64)]
    (Arch::X86_64, include_bytes!(concat!(env!("OUT_DIR"), "/init-x86_64"))),
    #[cfg(init_aarch64)]
    (Arch::Aarch64, include_bytes!(concat!(env!("OUT_DIR"), "/init-aarch64"))),
];

/// How the names of archives end.
const ARCHIVE: &str = "cpio";
/// How the names of the marks end that say why one did not work.
const MARK: &str = "failed";

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
    #[error(
        "this midge was built without its first program for {0}, as the compiler had no libraries for that"
    )]
    Arch(Arch),
    /// The root file system is none that the program would find.
    #[error("its root file system is `{0}`, which only the image's own initial RAM disk finds")]
    Root(String),
    /// The disk has no root file system that can be read.
    #[error("the image's disk has no file system that midge can look into")]
    NoRoot,
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
    let init = init(manifest.arch).ok_or(InitrdError::Arch(manifest.arch))?;
    if let Some(word) = beyond(&manifest.append) {
        return Err(InitrdError::Root(word.to_owned()));
    }
    let (Some(disk), Some(kernel), Some(kernel_part)) = (&manifest.disk, image.kernel(), &manifest.kernel)
    else {
        return Err(InitrdError::NothingToBoot);
    };
    let path = place(home, init, disk, kernel_part);
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
    let archive = build(init, &files, &version)?;
    keep(&path, &archive)?;
    Ok(path)
}

/// Where the archive of an image with these parts is kept, under a key made of all that it is made from.
fn place(home: &Home, init: &[u8], disk: &ImageDisk, kernel: &Part) -> PathBuf {
    let key = digest::of_list([FORMAT, &disk.part.sha256, &kernel.sha256, &digest::of_bytes(init)]);
    folder(home).join(format!("{}.{ARCHIVE}", &key[..16]))
}

fn folder(home: &Home) -> PathBuf {
    home.state().join("initrd")
}

fn init(arch: Arch) -> Option<&'static [u8]> {
    INITS.iter().find(|(of, _)| *of == arch).map(|(_, init)| *init)
}

/// The word of an image's own command line by which the program would not find the root file system, if there is one. It knows disks,
/// partitions and what is written in them (`init/src/disk.rs`).
fn beyond(append: &str) -> Option<&str> {
    let found = ["/dev/vd", "UUID=", "LABEL=", "PARTUUID="];
    append.split_ascii_whitespace().find(|word| match word.split_once('=') {
        Some(("root", root)) => !found.iter().any(|start| root.starts_with(start)),
        Some((key, _)) => key.starts_with("rd."),
        None => word.starts_with("rd."),
    })
}

/// Removes the archives, and the marks of those that failed, that belong to no image with these manifests; returns what was removed, or
/// would be where `dry` is set.
///
/// # Errors
/// When the folder cannot be read, or a file cannot be removed.
pub fn prune(home: &Home, images: &[Manifest], dry: bool) -> io::Result<Vec<Pruned>> {
    let needed: BTreeSet<PathBuf> = images
        .iter()
        .filter_map(|image| {
            Some(place(home, init(image.arch)?, image.disk.as_ref()?, image.kernel.as_ref()?))
        })
        .flat_map(|path| [mark(&path), path])
        .collect();
    // Files with other names are being written.
    let ours = |path: &Path| path.extension().is_some_and(|ending| ending == ARCHIVE || ending == MARK);
    prune_folder(&folder(home), |path| !ours(path) || needed.contains(path), dry)
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
    path.with_extension(MARK)
}

/// The archive for the kernel of this version.
fn build(init: &[u8], files: &dyn ModuleFiles, version: &str) -> Result<Vec<u8>, InitrdError> {
    let modules = modules(files, version, &NEEDED, &USEFUL)?;
    archive::write(init, &modules).map_err(|e| InitrdError::Disk(e.to_string()))
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
        let archive = build(b"init", &tree("6.1-test"), "6.1-test").unwrap();
        let names = archive::names(&archive);
        assert!(names.contains(&"init".to_owned()) && names.contains(&"m/virtio.ko".to_owned()), "{names:?}");
        let list = archive::content(&archive, "modules");
        assert_eq!(list, b"/m/virtio.ko\n/m/virtio_pci.ko\n/m/virtio_blk.ko\n");
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let error = build(b"init", &tree("6.1-other"), "6.1-test").unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains("6.1-other") && text.contains("6.1-test"), "{text}");
    }

    #[test]
    fn a_kernel_without_what_is_needed_is_told() {
        let mut files = tree("6.1-test");
        files.insert("/lib/modules/6.1-test/modules.builtin".to_owned(), Vec::new());
        assert!(matches!(build(b"init", &files, "6.1-test"), Err(InitrdError::NoModule("ext4"))));
        files.remove("/lib/modules/6.1-test/modules.dep");
        assert!(matches!(build(b"init", &files, "6.1-test"), Err(InitrdError::Missing(_))));
    }

    #[test]
    fn words_for_the_images_own_keep_the_small_one_away() {
        assert!(suits(None) && suits(Some("quiet init=/bin/sh systemd.unit=rescue.target")));
        for words in ["root=/dev/vdb", "quiet rd.break", "break=mount", "ip=dhcp"] {
            assert!(!suits(Some(words)), "{words}");
        }
    }

    #[test]
    fn what_no_image_needs_is_pruned() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("home"), folder.path().join("run"));
        fs::create_dir_all(super::folder(&home)).unwrap();
        let part = |digest: &str| Part { file: "x".into(), size: 1, sha256: digest.repeat(64) };
        let image = |digest| {
            let format = crate::machine::DiskFormat::Raw;
            let mut image = Manifest::bare(
                "x".to_owned(),
                crate::spec::Kind::Linux,
                Arch::X86_64,
                String::new(),
                String::new(),
            );
            image.disk = Some(ImageDisk { part: part(digest), format, virtual_size: 1 });
            image.kernel = Some(part("f"));
            image
        };
        let path = |image: &Manifest| {
            let (disk, kernel) = (image.disk.as_ref().unwrap(), image.kernel.as_ref().unwrap());
            place(&home, init(Arch::X86_64).unwrap(), disk, kernel)
        };
        let (used, old) = (image("a"), image("b"));
        for path in [path(&used), path(&old), mark(&path(&old)), super::folder(&home).join(".being-written")]
        {
            fs::write(path, "123").unwrap();
        }
        let unused = [path(&old), mark(&path(&old))];
        for dry in [true, false] {
            let pruned = prune(&home, std::slice::from_ref(&used), dry).unwrap();
            assert_eq!(
                pruned.iter().map(|pruned| (&pruned.path, pruned.bytes)).collect::<Vec<_>>(),
                [(&unused[0], 3), (&unused[1], 3)]
            );
            assert_eq!(unused[0].exists(), dry);
        }
        assert!(path(&used).exists());
        assert_eq!(prune(&home, std::slice::from_ref(&used), false).unwrap(), []);
    }

    #[test]
    fn roots_that_the_program_would_not_find_are_left_to_the_images_own() {
        for append in ["root=/dev/vda rw a", "root=PARTUUID=1 ro", "root=LABEL=x", "root=UUID=2", "quiet"] {
            assert_eq!(beyond(append), None);
        }
        assert_eq!(beyond("ro root=/dev/mapper/vg-root a"), Some("root=/dev/mapper/vg-root"));
        assert_eq!(beyond("root=UUID=2 rd.luks.uuid=3"), Some("rd.luks.uuid=3"));
    }

    #[test]
    fn what_failed_once_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.cpio");
        give_up(&path, "no disk").unwrap();
        assert_eq!(fs::read_to_string(mark(&path)).unwrap(), "no disk\n");
    }
}
