//! Images: immutable disks and kernels, each with a digest and a manifest.
//!
//! [`ImageStore`] keeps them, [`build`] makes those of Debian, [`overlay`] gives a VM a disk of its own on top of one, and
//! [`kernel`] judges kernel files that users bring along.

pub mod build;
mod digest;
mod error;
pub mod kernel;
mod manifest;
mod name;
pub mod overlay;
mod scratch;
mod store;

pub use error::ImageError;
pub use manifest::{Draft, Image, ImageDisk, MANIFEST_SCHEMA, Manifest, Part};
pub use name::{ImageName, ImageNameError};
pub use store::{Embedded, ImageStore, Listing};
