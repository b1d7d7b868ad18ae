//! Snapshots: device state, RAM and disk of one paused VM as one unit, which never changes again, and what is cloned from them.
//!
//! | module | is |
//! |---|---|
//! | [`migratable`] | what keeps a VM from being saved (pure) |
//! | [`engine`] | what is asked of a running QEMU: save, load, hand a guest over, put a layer on its disk |
//! | [`stream`] | as much of QEMU's state format as a clone's state needs (pure) |
//! | [`ram`] | RAM as files: sparse copies, the pages of a clone that differ, their delta |
//! | [`save`] | the steps of a save and of a load in their order, with the way back from each |
//! | [`manifest`] | what is known of a snapshot |
//! | [`check`] | whether a host can run it, told before anything is spawned (pure) |
//! | [`store`] | where snapshots are: published whole, named once, kept for as long as somebody needs them, verified |
//! | [`archive`] | one stream to take elsewhere |
//! | [`digest`] | checksums, chunk by chunk |
//!
//! Nothing here spawns a process or knows of supervisors: `vm` starts the QEMUs, with [`crate::machine::Ram::Private`] and
//! [`crate::machine::Restore`], and calls these modules.

pub mod archive;
pub mod check;
pub mod digest;
pub mod engine;
mod error;
pub mod manifest;
pub mod migratable;
mod name;
pub(crate) mod qcow2;
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
