//! Images: immutable disks and kernels, each with a digest and a manifest.
//!
//! [`ImageStore`] keeps them, [`build`] makes those of Debian, [`overlay`] gives a VM a disk of its own on top of one, and
//! [`kernel`] judges kernel files that users bring along.

pub mod build;
pub(crate) mod digest;
mod error;
pub mod hello;
pub mod kernel;
mod manifest;
mod name;
pub mod overlay;
mod store;

pub use error::ImageError;
pub use kernel::{KernelError, KernelFormat, inspect_kernel};
pub use manifest::{Draft, Image, ImageDisk, MANIFEST_SCHEMA, Manifest, Part};
pub use name::{ImageName, ImageNameError};
pub use store::{Embedded, ImageStore, Listing};

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
