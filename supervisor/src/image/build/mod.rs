//! Building Debian images: packages by mmdebstrap, the disk by mke2fs, kernel and initial RAM disk beside it.
//!
//! What was built lies in a cache of the user's, under a key made of everything that it was built from, so that a second build
//! is a comparison of digests, also for another `$MIDGE_HOME`. Root is not needed: then root of a user namespace does the work.
//!
//! The guest: any Ethernet interface asks by DHCP; its machine-id and SSH host key are made at its first boot; its one file system
//! grows with its disk at each boot. root has no password, so the console's login prompt lets nobody in: one logs in by SSH with a
//! key given as the systemd credential `ssh.authorized_keys.root` (tmpfiles.d writes it where no such file is yet), or runs
//! commands through the guest agent. Its host name is `debian` unless the kernel's command line has `systemd.hostname=`.

mod busybox;
mod cache;
mod mirror;
mod progress;
mod run;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use self::busybox::build as build_busybox;
pub use self::progress::{Phase, Progress};

use self::mirror::Mirrors;
use super::error::io_error;
use super::{
    Draft, Image, ImageError, ImageName, ImageNameError, ImageStore, Manifest, Pruned, digest, overlay,
};
use crate::machine::DiskFormat;
use crate::spec::{Arch, Kind};
use crate::store::scratch::{self, Scratch};

/// Others may pass through a build's folder, as files of a guest's users are made in there, but not look around.
const BUILD_MODE: u32 = 0o711;

/// Changes whenever the same inputs give another image for a reason that the key would not see.
const FORMAT: &str = "1";
/// The scripts that do the work; their text is part of the key.
const SCRIPTS: [(&str, &str); 3] = [
    ("build.sh", include_str!("build.sh")),
    ("prepare.sh", include_str!("prepare.sh")),
    ("finish.sh", include_str!("finish.sh")),
];
/// What every image has besides Debian's essential and required packages, and a kernel.
const PACKAGES: &str = "dbus,initramfs-tools,iproute2,libnss-myhostname,netbase,openssh-server,qemu-guest-agent,systemd-resolved,\
                        systemd-sysv,udev";

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12, bookworm.
    Debian12,
    /// Debian 13, trixie.
    Debian13,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The release.
    pub release: Release,
    /// The guest's instruction set; this machine's own, for now.
    pub arch: Arch,
    /// Have cloud-init in it.
    pub cloud_init: bool,
    /// Further packages. A `linux-image-…` among them takes the place of Debian's kernel for clouds.
    pub with: Vec<String>,
    /// Where packages come from; none for this machine's own mirror (apt's settings), or deb.debian.org.
    pub mirror: Option<String>,
    /// The image's name; none for the release's, such as `debian:12`.
    pub name: Option<String>,
    /// Build again although the same was built before: the archive may have updates.
    pub fresh: bool,
}

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Not something that can be built.
    #[error("cannot build `{0}`: there are debian:12, debian:13 and busybox")]
    UnknownRelease(String),
    /// The image's name cannot be one.
    #[error(transparent)]
    Name(#[from] ImageNameError),
    /// Not the name of a package.
    #[error("`{0}` is not the name of a Debian package")]
    PackageName(String),
    /// Not an address of a mirror.
    #[error("`{0}` is not a mirror: write an address that starts with http://, https:// or file:/")]
    Mirror(String),
    /// Another instruction set than this machine's.
    #[error("images for {wanted} cannot be built on this machine ({host}): build it on one of that kind")]
    ForeignArch {
        /// Debian's name of the one asked for.
        wanted: &'static str,
        /// Debian's name of this machine's.
        host: &'static str,
    },
    /// A program is missing.
    #[error("building an image needs `{program}`: install the package {package}")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// Its Debian package.
        package: &'static str,
    },
    /// Not root, and no range of subordinate user ids.
    #[error(
        "building an image as a user other than root needs a range of subordinate ids: let root run \
         `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`, or build as root"
    )]
    NoSubordinateIds {
        /// The user.
        user: String,
    },
    /// The kernel refuses namespaces.
    #[error(
        "building an image needs namespaces, which this system refuses ({said}); build as root, outside of a container"
    )]
    NoNamespaces {
        /// unshare's words.
        said: String,
    },
    /// The work failed.
    #[error("building failed{}\n{}", hint(tail), tail.join("\n"))]
    Failed {
        /// The last lines of the output.
        tail: Vec<String>,
    },
    /// The caller wanted it to end.
    #[error("building was interrupted")]
    Interrupted,
    /// The store of images, or the cache.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// Builds an image, or takes it from the cache, and puts it into the store.
///
/// `cache` is the folder of images built before ([`default_cache`]). When `cancel` becomes readable, everything started is killed,
/// everything unfinished removed, and the answer is [`BuildError::Interrupted`]. If this process is killed, the programs end
/// with it, and what they wrote is swept by the next build.
pub fn build(
    store: &ImageStore,
    cache: &Path,
    request: &BuildRequest,
    cancel: Option<BorrowedFd<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, BuildError> {
    let recipe = Recipe::of(request)?;
    store.sweep()?;
    let tmp = cache.join("tmp");
    scratch::sweep(&tmp)
        .map_err(|source| BuildError::Io { what: format!("clean up {}", tmp.display()), source })?;

    let _lock = cache::lock(cache, &recipe.key, cancel, progress)?;
    let entry = cache.join(&recipe.key);
    if !request.fresh
        && let Some(image) = cache::find(&entry, &recipe.name, progress)?
    {
        return Ok(store.adopt(&image)?);
    }
    run::check_host()?;
    let scratch = Scratch::new(&tmp, "build", BUILD_MODE)
        .map_err(|source| BuildError::Io { what: format!("make a folder in {}", tmp.display()), source })?;
    let out = scratch.path().join("out");
    let job = run::Job {
        scripts: &SCRIPTS,
        environment: vec![
            ("SUITE", recipe.release.suite()),
            ("ARCHITECTURE", debian_arch(recipe.arch)),
            ("INCLUDE", &recipe.packages),
            ("SOURCES", &recipe.sources),
        ],
    };
    run::run(&job, scratch.path(), &out, cancel, progress)?;
    progress(Progress { phase: Phase::Digest, fraction: Some(0.97), detail: String::new() });
    let image = cache::keep(&entry, recipe.draft(&out)?, scratch.path(), &generation())?;
    Ok(store.adopt(&image)?)
}

/// Removes images built by another version of midge's scripts, and what killed builds left; returns what was removed, or would be
/// where `dry` is set. Images in stores lose nothing: they have their own links or copies.
pub fn prune_cache(cache: &Path, dry: bool) -> Result<Vec<Pruned>, ImageError> {
    if !dry {
        let tmp = cache.join("tmp");
        scratch::sweep(&tmp).map_err(io_error("clean up", &tmp))?;
    }
    cache::prune(cache, &generation(), dry)
}

/// What every recipe of this version of midge has in common.
fn generation() -> String {
    digest::of_list([FORMAT].into_iter().chain(SCRIPTS.iter().map(|(_, text)| *text)))
}

/// Where images built before are kept: `$XDG_CACHE_HOME/midge/images`, else `~/.cache/midge/images`; `None` where neither variable
/// is set (XDG Base Directory Specification).
#[must_use]
pub fn default_cache() -> Option<PathBuf> {
    let set = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("midge/images"))
}

/// Everything that an image is made of.
#[derive(Debug)]
struct Recipe {
    name: ImageName,
    release: Release,
    arch: Arch,
    packages: String,
    sources: String,
    key: String,
}

impl Recipe {
    fn of(request: &BuildRequest) -> Result<Self, BuildError> {
        let (wanted, host) = (debian_arch(request.arch), debian_arch(Arch::host()));
        if wanted != host {
            return Err(BuildError::ForeignArch { wanted, host });
        }
        if let Some(bad) = request.with.iter().find(|name| !is_package_name(name)) {
            return Err(BuildError::PackageName(bad.clone()));
        }
        let mut packages: Vec<&str> = PACKAGES.split(',').collect();
        packages.extend(request.with.iter().map(String::as_str));
        let cloud_kernel = format!("linux-image-cloud-{wanted}");
        if !request.with.iter().any(|name| name.starts_with("linux-image-")) {
            packages.push(&cloud_kernel);
        }
        if request.cloud_init {
            packages.push("cloud-init");
        }
        packages.sort_unstable();
        packages.dedup();
        let packages = packages.join(",");

        let mut mirrors = Mirrors::of_machine(Path::new("/etc/apt"));
        if let Some(mirror) = &request.mirror {
            if !mirror::is_usable(mirror) {
                return Err(BuildError::Mirror(mirror.clone()));
            }
            mirror.trim_end_matches('/').clone_into(&mut mirrors.archive);
        }
        let suite = request.release.suite();
        let sources = mirrors.sources(suite);
        let inputs = [FORMAT, suite, wanted, &packages, &sources].into_iter();
        let key = digest::of_list(inputs.chain(SCRIPTS.iter().map(|(_, text)| *text)));
        let name = match &request.name {
            Some(name) => name.parse()?,
            None => request.release.to_string().parse()?,
        };
        Ok(Self { name, release: request.release, arch: request.arch, packages, sources, key })
    }

    /// The image as it lies in `out` when the scripts have done their work.
    fn draft(&self, out: &Path) -> Result<Draft, BuildError> {
        let disk = out.join("disk.qcow2");
        let virtual_size = overlay::virtual_size(&disk, DiskFormat::Qcow2).map_err(|e| BuildError::Io {
            what: "use the disk that was built".to_owned(),
            source: io::Error::other(e),
        })?;
        let source = format!("{} by mmdebstrap: {}", self.sources.replace('\n', "; "), self.packages);
        Ok(Draft {
            disk: Some((disk, DiskFormat::Qcow2, virtual_size)),
            kernel: Some(out.join("kernel")),
            initrd: Some(out.join("initrd")),
            manifest: Manifest {
                // Not `quiet`: what the kernel says costs 0.1 s and tells a boot's phases. Its self-tests of ciphers cost 0.5 s.
                append: "root=/dev/vda rw cryptomgr.notests".to_owned(),
                agent: true,
                ssh: true,
                systemd: Some(self.release.systemd()),
                cloud_init: self.packages.split(',').any(|name| name == "cloud-init"),
                // By midge-network.service (prepare.sh).
                network_credentials: true,
                ready: Some("agent".to_owned()),
                ..Manifest::new(&self.name, Kind::Linux, self.arch, source)
            },
        })
    }
}

impl Release {
    /// The suite's name in the archive.
    #[must_use]
    pub fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13 => "trixie",
        }
    }

    /// The version of systemd in the release.
    fn systemd(self) -> u32 {
        match self {
            Self::Debian12 => 252,
            Self::Debian13 => 257,
        }
    }
}

impl FromStr for Release {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        match text {
            "debian:12" | "debian:bookworm" => Ok(Self::Debian12),
            "debian:13" | "debian:trixie" => Ok(Self::Debian13),
            _ => Err(BuildError::UnknownRelease(text.to_owned())),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian12 => "debian:12",
            Self::Debian13 => "debian:13",
        })
    }
}

/// Debian's name of an instruction set.
fn debian_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    }
}

/// Debian Policy 5.6.1: lower-case letters, digits, `+`, `-` and `.`; at least two, the first a letter or digit.
fn is_package_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() >= 2
        && name.starts_with(first)
        && name.chars().all(|c| first(c) || matches!(c, '+' | '-' | '.'))
}

/// What the output of a failed build says of its cause, and the next step.
fn hint(tail: &[String]) -> &'static str {
    let says = |words: &str| tail.iter().any(|line| line.contains(words));
    if says("Unable to locate package") {
        ": a package of that name is not in this release"
    } else if says("Temporary failure resolving") || says("Could not connect") || says("Could not resolve") {
        ": the mirror cannot be reached; check the network, or name another with --mirror"
    } else if says("NO_PUBKEY") || says("couldn't be verified") {
        ": the archive's key is not known here; upgrade the package debian-archive-keyring"
    } else if says("No space left on device") {
        ": the disk is full"
    } else {
        "; its last words:"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> BuildRequest {
        BuildRequest {
            release: Release::Debian12,
            arch: Arch::host(),
            cloud_init: false,
            with: Vec::new(),
            mirror: Some("http://mirror.example/debian".to_owned()),
            name: None,
            fresh: false,
        }
    }

    fn key(change: impl FnOnce(&mut BuildRequest)) -> String {
        let mut request = request();
        change(&mut request);
        Recipe::of(&request).unwrap().key
    }

    #[test]
    fn the_key_covers_what_is_built_and_nothing_else() {
        let plain = key(|_| {});
        assert_eq!(plain, key(|r| r.name = Some("other".to_owned())));
        assert_eq!(plain, key(|r| r.fresh = true));
        assert_eq!(plain, key(|r| r.mirror = Some("http://mirror.example/debian/".to_owned())));
        assert_ne!(plain, key(|r| r.release = Release::Debian13));
        assert_ne!(plain, key(|r| r.with = vec!["nginx".to_owned()]));
        assert_ne!(plain, key(|r| r.cloud_init = true));
        assert_ne!(plain, key(|r| r.mirror = Some("http://other.example/debian".to_owned())));
        let two = |a: &str, b: &str| key(|r| r.with = vec![a.to_owned(), b.to_owned()]);
        assert_eq!(two("nginx", "tmux"), two("tmux", "nginx"));
    }

    #[test]
    fn another_kernel_takes_the_place_of_the_usual_one() {
        let mut request = request();
        assert!(Recipe::of(&request).unwrap().packages.contains("linux-image-cloud-"));
        request.with = vec!["linux-image-amd64".to_owned()];
        let packages = Recipe::of(&request).unwrap().packages;
        assert!(packages.contains("linux-image-amd64") && !packages.contains("cloud"), "{packages}");
    }

    #[test]
    fn requests_that_cannot_be_met_are_refused_at_once() {
        let refused = |change: fn(&mut BuildRequest)| {
            let mut request = request();
            change(&mut request);
            Recipe::of(&request).unwrap_err()
        };
        for bad in ["", "a", "Nginx", "nginx;reboot", "-o", "nginx,tmux", "./x.deb"] {
            let mut request = request();
            request.with = vec![bad.to_owned()];
            assert!(matches!(Recipe::of(&request), Err(BuildError::PackageName(_))), "{bad}");
        }
        for bad in ["", "http://", "ftp://x", "http://x y", "http://x\nmain", "[trusted=yes] http://x"] {
            let mut request = request();
            request.mirror = Some(bad.to_owned());
            assert!(matches!(Recipe::of(&request), Err(BuildError::Mirror(_))), "{bad}");
        }
        let foreign = |r: &mut BuildRequest| {
            r.arch = if Arch::host() == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        };
        assert!(matches!(refused(foreign), BuildError::ForeignArch { .. }));
        assert!(matches!(refused(|r| r.name = Some("../x".to_owned())), BuildError::Name(_)));
        assert!(matches!("debian:11".parse::<Release>(), Err(BuildError::UnknownRelease(_))));
    }

    #[test]
    fn a_failure_names_its_likely_cause() {
        let failed = |line: &str| BuildError::Failed { tail: vec![line.to_owned()] }.to_string();
        let text = failed("E: Unable to locate package nosuch");
        assert_eq!(
            text,
            "building failed: a package of that name is not in this release\nE: Unable to locate package nosuch"
        );
        assert!(failed("Temporary failure resolving 'deb.debian.org'").contains("--mirror"));
    }
}
