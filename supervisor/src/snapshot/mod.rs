//! Snapshots: device state, RAM and disk of one paused VM as one unit.
pub mod archive;
pub mod check;
pub mod digest;
pub mod engine;
mod error;
pub mod manifest;
pub mod migratable;
mod name;
mod qcow2;
pub mod ram;
pub mod save;
pub mod store;
pub mod stream;
#[allow(unsafe_code, reason = "a fcntl(2) and an ioctl(2) for which no crate in use has a safe call")]
mod sys;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests;

pub use error::SnapshotError;
pub use manifest::Manifest;
pub use name::{DEFAULT_TAG, SnapshotName};
