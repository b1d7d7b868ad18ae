//! Snapshots: device state, RAM and disk of one paused VM as one unit.
pub mod digest;
mod error;
#[allow(unsafe_code, reason = "leases are asked for by a fcntl(2) for which no crate in use has a safe call")]
mod lease;
pub mod ram;
pub mod stream;

pub use error::SnapshotError;
