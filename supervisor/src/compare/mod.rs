//! Guests side by side: what was measured, what it says, and how it is shown.
//!
//! Nothing in here starts a VM; `cli/commands/compare` does, in the way of the other commands, and asks this module to look.
//!
//! - [`results`] is the record of a comparison, `results.json`; everything shown is made from it alone
//! - [`stats`] says what samples say, and whether two differ. Pure
//! - [`report`] makes [`document`]s of results, [`against`] of two; [`markdown`], [`html`] and `chart` write them. Pure
//! - [`memory`], [`size`], [`surface`], [`systemd`] and [`cache`] look at a guest's files, its QEMU and what its agent said
//! - [`load`] and [`wire`] talk to a guest over the network: requests, pings, ports

pub mod against;
pub mod cache;
mod chart;
pub mod document;
pub mod html;
pub mod load;
pub mod markdown;
pub mod memory;
pub mod report;
pub mod results;
pub mod size;
pub mod stats;
pub mod surface;
pub mod systemd;
pub mod wire;

pub use results::{Measured, Results, Section};
