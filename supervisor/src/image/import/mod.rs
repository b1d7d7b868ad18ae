//! Making images of files that users bring: disks of any common format, and kernels.

mod convert;
pub mod format;
pub mod qcow2;
pub mod vmdk;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use format::Format;
pub use qcow2::Qcow2Error;

use super::contents::{Contents, ContentsError, Firmware, GuestDisk, TreeError};
use super::manifest::{FirmwareBoot, Origin};
use super::packed::{self, PackedError};
use super::{
    Draft, Image, ImageError, ImageName, ImageNameError, ImageStore, KernelError, Manifest, inspect_kernel,
    overlay, sparse,
};
use crate::machine::DiskFormat;
use crate::spec::{Arch, Kind};

/// The largest kernel file that is read, in bytes.
const LARGEST_KERNEL: u64 = 512 << 20;
/// A raw disk is kept as it is, for disks of VMs that share its blocks, when it is at most so many times as large as what is written in
/// it: its digest takes reading all of it, holes too. Else it becomes qcow2, which has none.
const HOLES: u64 = 8;

/// What to make an image of.
#[derive(Debug)]
pub struct ImportRequest<'a> {
    /// The file.
    pub file: &'a Path,
    /// The image's name.
    pub name: ImageName,
    /// The instruction set, where the file does not tell.
    pub arch: Option<Arch>,
    /// Where the file came from, when it was fetched.
    pub origin: Option<Origin>,
    /// The file is midge's own and may become a part of the image without being copied.
    pub owned: bool,
}

impl ImportRequest<'_> {
    /// What a person knows the file by: where it came from, else its path.
    fn shown(&self) -> PathBuf {
        self.origin.as_ref().map_or_else(|| self.file.to_owned(), |origin| PathBuf::from(&origin.url))
    }
}

/// Why a file cannot become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing that midge knows.
    #[error("cannot make an image of {}: {looks}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        looks: &'static str,
    },
    /// A folder, a device, a pipe.
    #[error("{} is no plain file", .0.display())]
    NotAFile(PathBuf),
    /// The disk cannot be trusted.
    #[error("cannot make an image of {}", path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Qcow2Error,
    },
    /// The disk cannot be used, in words.
    #[error("cannot make an image of {}: {what}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// What is in the disk is damaged.
    #[error("cannot make an image of {}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ContentsError,
    },
    /// The kernel cannot be booted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel cannot be unpacked.
    #[error("cannot unpack the kernel {}", path.display())]
    Packed {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: PackedError,
    },
    /// For another instruction set than the one asked for.
    #[error("{} is made for {found}, and --arch says {wanted}", path.display())]
    WrongArch {
        /// The file.
        path: PathBuf,
        /// What it is for.
        found: Arch,
        /// What was asked for.
        wanted: Arch,
    },
    /// The file changed while it was read.
    #[error("{} was changed while it was imported; import it again when nobody writes to it", .0.display())]
    Changed(PathBuf),
    /// There is no qemu-img.
    #[error("converting a {0} disk needs `qemu-img`: install the package qemu-utils")]
    NoQemuImg(&'static str),
    /// qemu-img failed.
    #[error("qemu-img cannot convert {} from {format}: {said}", path.display())]
    Convert {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// qemu-img's words.
        said: String,
    },
    /// The store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    move |source| ImportError::Io { what, path: path.to_owned(), source }
}

/// The name for an image of a file, by the file's.
///
/// # Errors
/// When it gives none.
pub fn name_of(file: &Path) -> Result<ImageName, ImageNameError> {
    super::name::of_file(&file.file_name().unwrap_or_default().to_string_lossy())
}

/// Makes an image of a file and puts it into the store, in place of one of the same name.
///
/// # Errors
/// [`ImportError`]; the store is as it was before.
pub fn import(store: &ImageStore, request: &ImportRequest<'_>) -> Result<Image, ImportError> {
    let path = request.file;
    // A named pipe would keep open(2) waiting.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed("open", path))?;
    let before = file.metadata().map_err(failed("read", path))?;
    if !before.is_file() {
        return Err(ImportError::NotAFile(path.to_owned()));
    }
    let mut start = Vec::new();
    (&file).take(format::LOOKED_AT).read_to_end(&mut start).map_err(failed("read", path))?;
    let format =
        format::identify(&start).map_err(|looks| ImportError::Unknown { path: request.shown(), looks })?;
    drop(start);

    let scratch = store.scratch()?;
    let work = Work { request, file, size: before.len(), folder: scratch.path() };
    let unchanged = |work: &Work<'_>| -> Result<(), ImportError> {
        let now = work.file.metadata().map_err(failed("read", path))?;
        let mark = |about: &fs::Metadata| (about.len(), about.mtime(), about.mtime_nsec());
        if request.owned || mark(&now) == mark(&before) {
            Ok(())
        } else {
            Err(ImportError::Changed(path.to_owned()))
        }
    };
    let drafted = match format {
        Format::Kernel(..) => work.kernel(),
        Format::Qcow2 => work.qcow2(),
        Format::Raw => work.raw(),
        Format::Vmdk => work.convert(convert::Foreign::Vmdk),
        Format::Vhdx => work.convert(convert::Foreign::Vhdx),
    };
    let draft = match drafted {
        // A file that changed meanwhile may look like any fault.
        Err(e) => return Err(unchanged(&work).err().unwrap_or(e)),
        Ok(draft) => draft,
    };
    unchanged(&work)?;
    Ok(store.install(draft)?)
}

/// One import.
struct Work<'a> {
    request: &'a ImportRequest<'a>,
    file: File,
    size: u64,
    folder: &'a Path,
}

impl Work<'_> {
    fn path(&self) -> PathBuf {
        self.request.shown()
    }

    fn kernel(&self) -> Result<Draft, ImportError> {
        let path = self.request.file;
        if self.size > LARGEST_KERNEL {
            return Err(ImportError::Unusable {
                path: self.path(),
                what: "it is larger than any kernel".to_owned(),
            });
        }
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, 0).map_err(failed("read", path))?;
        let target = self.folder.join("kernel");
        let arch = write_kernel(&bytes, &target)
            .map_err(|e| e.named(path))?
            .unwrap_or_else(|| self.request.arch.unwrap_or_else(Arch::host));
        self.check_arch(arch)?;
        // Says why where it cannot be booted after all.
        inspect_kernel(&target, arch)?;
        let manifest = self.manifest(Kind::Other, arch);
        Ok(Draft { disk: None, kernel: Some(target), initrd: None, manifest })
    }

    fn check_arch(&self, found: Arch) -> Result<(), ImportError> {
        match self.request.arch {
            Some(wanted) if wanted != found => {
                Err(ImportError::WrongArch { path: self.path(), found, wanted })
            }
            _ => Ok(()),
        }
    }

    fn qcow2(&self) -> Result<Draft, ImportError> {
        let refused = |source| ImportError::Qcow2 { path: self.path(), source };
        qcow2::check(&self.file).map_err(refused)?;
        let target = self.folder.join("disk.qcow2");
        if !(self.request.owned && fs::hard_link(self.request.file, &target).is_ok()) {
            let copy = new_file(&target)?;
            sparse::copy(&self.file, &copy, self.size).map_err(failed("copy", self.request.file))?;
            // What was copied counts, should somebody write to the original meanwhile.
            qcow2::check(&copy).map_err(refused)?;
        }
        self.disk(target, DiskFormat::Qcow2)
    }

    fn raw(&self) -> Result<Draft, ImportError> {
        let path = self.request.file;
        if !self.size.is_multiple_of(512) {
            let what = format!("its {} bytes are no whole number of sectors; it may be cut off", self.size);
            return Err(ImportError::Unusable { path: self.path(), what });
        }
        let written = self.file.metadata().map_err(failed("read", path))?.blocks().saturating_mul(512);
        if written.saturating_mul(HOLES) >= self.size {
            let target = self.folder.join("disk.raw");
            let copy = new_file(&target)?;
            match sparse::share(&self.file, &copy) {
                Ok(()) => return self.disk(target, DiskFormat::Raw),
                Err(e) if sparse::cannot_share(&e) => {}
                Err(e) => return Err(failed("copy", path)(e)),
            }
        }
        let target = self.folder.join("disk.qcow2");
        sparse::to_qcow2(&self.file, &new_file(&target)?, self.size).map_err(failed("copy", path))?;
        self.disk(target, DiskFormat::Qcow2)
    }

    fn convert(&self, format: convert::Foreign) -> Result<Draft, ImportError> {
        let target = self.folder.join("disk.qcow2");
        convert::convert(&self.path(), &self.file, format, &target)?;
        self.disk(target, DiskFormat::Qcow2)
    }

    /// An image of a disk that lies in the scratch folder, by what is in it.
    fn disk(&self, disk: PathBuf, format: DiskFormat) -> Result<Draft, ImportError> {
        let wrong = |source| ImportError::Contents { path: self.path(), source };
        let virtual_size = overlay::virtual_size(&disk, format)
            .map_err(|e| ImportError::Unusable { path: self.path(), what: e.to_string() })?;
        let open = File::open(&disk)
            .and_then(|file| GuestDisk::open(&file, format))
            .map_err(failed("read", &disk))?;
        let contents = Contents::of(open).map_err(wrong)?;
        let (mut kernel, mut initrd, mut boots) = (None, None, None);
        let mut why = String::new();
        match &contents.boot {
            Ok(files) => match self.take_out(&contents, files) {
                Ok(parts) => {
                    (kernel, initrd) = parts;
                    boots = Some(files);
                }
                // A kernel that cannot be had is no reason to refuse a disk that boots by itself.
                Err(Refused::Packed(e)) => why = crate::error::chain(&e),
                Err(Refused::Error(e)) => return Err(e),
            },
            Err(no) => why = no.to_string(),
        }
        let arch = match boots {
            Some(files) => files.arch,
            None => self.request.arch.unwrap_or_else(Arch::host),
        };
        self.check_arch(arch)?;
        let os = contents.os.clone().unwrap_or_default();
        // A system was found, or there is one where nobody can look.
        let linux = contents.os.is_some()
            || matches!(&contents.boot, Err(super::contents::NoDirectBoot::FileSystem(_)));
        let ready = if os.agent { Some("agent") } else { os.ssh.then_some("ssh") };
        let firmware = boots.is_none().then(|| FirmwareBoot {
            firmware: contents.firmware.unwrap_or_else(|| Firmware::usual(arch)),
            why,
        });
        let manifest = Manifest {
            append: boots.map(|files| files.append.clone()).unwrap_or_default(),
            agent: os.agent,
            ssh: os.ssh,
            systemd: os.systemd,
            cloud_init: os.cloud_init,
            network_credentials: os.network_credentials,
            os: os.name,
            firmware,
            ready: ready.map(str::to_owned),
            ..self.manifest(if linux { Kind::Linux } else { Kind::Other }, arch)
        };
        Ok(Draft { disk: Some((disk, format, virtual_size)), kernel, initrd, manifest })
    }

    /// Takes the kernel and the initial RAM disk out of a disk.
    fn take_out(
        &self,
        contents: &Contents,
        files: &super::contents::BootFiles,
    ) -> Result<(Option<PathBuf>, Option<PathBuf>), Refused> {
        let wrong = |source: TreeError| match source {
            TreeError::Write { source, .. } => {
                ImportError::Io { what: "write", path: self.folder.to_owned(), source }
            }
            source => ImportError::Contents { path: self.path(), source: source.into() },
        };
        let mut bytes = Vec::new();
        contents.extract(&files.kernel, &mut bytes).map_err(wrong)?;
        let kernel = self.folder.join("kernel");
        write_kernel(&bytes, &kernel).map_err(|e| match e {
            KernelWrite::Packed(e) => Refused::Packed(e),
            e @ KernelWrite::Io(_) => Refused::Error(e.named(&kernel)),
        })?;
        let initrd = match &files.initrd {
            None => None,
            Some(initrd) => {
                let target = self.folder.join("initrd");
                let mut file = new_file(&target)?;
                contents.extract(initrd, &mut file).map_err(wrong)?;
                Some(target)
            }
        };
        Ok((Some(kernel), initrd))
    }

    fn manifest(&self, kind: Kind, arch: Arch) -> Manifest {
        let source = match &self.request.origin {
            Some(origin) => origin.url.clone(),
            None => format!("the file {}", self.request.file.display()),
        };
        let origin = self.request.origin.clone();
        Manifest { origin, ..Manifest::new(&self.request.name, kind, arch, source) }
    }
}

/// Why a disk's kernel was not taken out.
enum Refused {
    Packed(PackedError),
    Error(ImportError),
}

impl From<ImportError> for Refused {
    fn from(error: ImportError) -> Self {
        Self::Error(error)
    }
}

/// Why a kernel was not written.
enum KernelWrite {
    Packed(PackedError),
    Io(io::Error),
}

impl KernelWrite {
    fn named(self, path: &Path) -> ImportError {
        match self {
            Self::Packed(source) => ImportError::Packed { path: path.to_owned(), source },
            Self::Io(e) => failed("write", path)(e),
        }
    }
}

/// Writes a kernel, unpacked, and answers for which instruction set it is.
fn write_kernel(bytes: &[u8], target: &Path) -> Result<Option<Arch>, KernelWrite> {
    let unpacked = packed::unpack(bytes).map_err(KernelWrite::Packed)?;
    let bytes = unpacked.as_deref().unwrap_or(bytes);
    fs::write(target, bytes).map_err(KernelWrite::Io)?;
    Ok(super::kernel::told(bytes).and_then(|(_, arch)| arch.ok()))
}

fn new_file(path: &Path) -> Result<File, ImportError> {
    File::options().read(true).write(true).create_new(true).open(path).map_err(failed("make", path))
}
