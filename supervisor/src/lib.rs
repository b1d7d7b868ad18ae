//! midge's library: everything behind the `midge` command.
//!
//! Data flows one way: [`cli`] → [`spec`] → plan ([`image`], [`host`], [`machine`]) → [`vm`] → QEMU.
//! Only `vm` spawns processes, only [`store`] writes records, and `machine` is a pure function.

pub mod cli;
pub mod clone;
pub mod compare;
mod error;
pub mod fault;
pub mod host;
pub mod identity;
pub mod image;
pub mod initrd;
pub mod machine;
pub mod pool;
pub mod seed;
pub mod setup;
pub mod snapshot;
pub mod spec;
pub mod store;
pub mod vm;
