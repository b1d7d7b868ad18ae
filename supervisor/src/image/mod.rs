//! Images: immutable disks and kernels, each with a digest and a manifest.
//!
//! [`ImageStore`] keeps them. They come from [`build`] (Debian, of its packages), [`pull`] (the catalogue, or an address) and
//! [`import`] (a file); [`contents`] finds out what is in a disk and how it boots. [`cow`] gives a VM a disk of its own, mostly as an
//! [`overlay`], and [`kernel`] judges kernel files that users bring along.

pub mod build;
pub mod busybox;
pub mod contents;
pub mod cow;
pub(crate) mod digest;
mod error;
pub mod firmware;
pub mod hello;
pub mod import;
pub mod kernel;
mod manifest;
mod name;
pub mod overlay;
pub mod packed;
pub mod pull;
mod sparse;
mod store;
pub mod vmlinux;

pub use error::ImageError;
pub use kernel::{KernelError, KernelFormat, inspect_kernel};
pub use manifest::{Draft, FirmwareBoot, Image, ImageDisk, MANIFEST_SCHEMA, Manifest, Origin, Part};
pub use name::{ImageName, ImageNameError};
pub(crate) use store::prune_folder;
pub use store::{Embedded, ImageStore, Listing, Pruned};

use crate::spec::Arch;
use crate::store::Home;

/// The images in `home`, those that are a part of the program among them.
#[must_use]
pub fn store(home: &Home) -> ImageStore {
    let embedded = hello::kernel(Arch::host()).map(|kernel| Embedded {
        name: hello::NAME,
        kernel,
        kind: hello::KIND,
        arch: Arch::host(),
        ready: Some(hello::READY),
        source: "midge's reference unikernel, embedded in the program",
    });
    ImageStore::new(home.state(), embedded.into_iter().collect())
}
