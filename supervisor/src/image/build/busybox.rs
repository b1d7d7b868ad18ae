//! Building the image `busybox`: the kernel of a Debian image, and an initial RAM disk that midge writes of BusyBox and of that image's
//! modules.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::mirror::Mirrors;
use super::run::Job;
use super::{BUILD_MODE, BuildError, FORMAT, Phase, Progress, Release, cache, debian_arch, generation, run};
use crate::image::{Draft, Image, ImageStore, Manifest, busybox, digest};
use crate::initrd;
use crate::spec::{Arch, Kind};
use crate::store::scratch::{self, Scratch};

const SCRIPTS: [(&str, &str); 1] = [("busybox.sh", include_str!("busybox.sh"))];
/// What its initial RAM disk is made of besides; their text is part of the key.
const PARTS: [&str; 3] = [
    include_str!("../../initrd/busybox.rs"),
    include_str!("../../initrd/busybox-init.sh"),
    include_str!("../../initrd/busybox-lease.sh"),
];

/// Builds it of a Debian image, or takes it from the cache, and puts it into the store; see [`super::build`].
pub fn build(
    store: &ImageStore,
    cache: &Path,
    debian: &Image,
    fresh: bool,
    cancel: Option<BorrowedFd<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, BuildError> {
    let release = Release::Debian12;
    let sources = Mirrors::of_machine(Path::new("/etc/apt")).sources(release.suite());
    let inputs = [FORMAT, busybox::NAME, &sources, &debian.manifest.digest, SCRIPTS[0].1];
    let key = digest::of_list(inputs.into_iter().chain(PARTS));
    let tmp = cache.join("tmp");
    scratch::sweep(&tmp)
        .map_err(|source| BuildError::Io { what: format!("clean up {}", tmp.display()), source })?;
    let _lock = cache::lock(cache, &key, cancel, progress)?;
    let entry = cache.join(&key);
    let name = busybox::NAME.parse()?;
    if !fresh && let Some(image) = cache::find(&entry, &name, progress)? {
        return Ok(store.adopt(&image)?);
    }
    run::check_host()?;
    let scratch = Scratch::new(&tmp, "build", BUILD_MODE)
        .map_err(|source| BuildError::Io { what: format!("make a folder in {}", tmp.display()), source })?;
    let out = scratch.path().join("out");
    let job = Job {
        scripts: &SCRIPTS,
        environment: vec![
            ("SUITE", release.suite()),
            ("ARCHITECTURE", debian_arch(Arch::host())),
            ("SOURCES", &sources),
        ],
    };
    run::run(&job, scratch.path(), &out, cancel, progress)?;
    progress(Progress { phase: Phase::Digest, fraction: Some(0.9), detail: String::new() });
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| BuildError::Io { what, source }
    };
    let binary = fs::read(out.join("busybox")).map_err(io("read BusyBox"))?;
    let archive = initrd::busybox(debian, &binary)
        .map_err(|e| io("make the initial RAM disk")(std::io::Error::other(e)))?;
    let initrd = out.join("initrd");
    fs::write(&initrd, archive).map_err(io("write the initial RAM disk"))?;
    let source = format!(
        "the kernel of {} ({}) and busybox-static of {sources}",
        debian.manifest.name, debian.manifest.digest
    );
    let draft = Draft {
        disk: None,
        kernel: debian.kernel(),
        initrd: Some(initrd),
        manifest: Manifest {
            append: "cryptomgr.notests".to_owned(),
            ready: Some(busybox::READY.to_owned()),
            ..Manifest::new(&name, Kind::Linux, debian.manifest.arch, source.replace('\n', "; "))
        },
    };
    let image = cache::keep(&entry, draft, scratch.path(), &generation())?;
    Ok(store.adopt(&image)?)
}
