//! Records of VMs on disk: the only part of midge that writes them.
//!
//! Two folders (`ARCHITECTURE.md`, "State"):
//!
//! | folder | holds | survives a reboot |
//! |---|---|---|
//! | state, `$MIDGE_HOME` | `vms/NAME/{vm.json, origin, last.json, events.jsonl, disk.qcow2, *.log}`, `pools/NAME@TAG/{pool.json, spares/ID/}`, `images/`, `tmp/` | yes |
//! | run, `$MIDGE_RUN` | `vms/NAME/{lock, state.json, *.sock}`, `spares/ID/` | no |
//!
//! Every record is JSON, written to a temporary file and renamed, so a reader never sees half of one. Every lock is a
//! `flock(2)`, which ends with its holder. Whatever is unfinished lies under `tmp/` and is swept by the next command.

mod error;
mod home;
mod lock;
mod origin;
mod pool;
mod record;
mod run;
pub(crate) mod scratch;
mod vms;

pub use error::StoreError;
pub use home::Home;
pub(crate) use home::write_whole;
pub use lock::Lock;
pub use origin::Origin;
pub use pool::{PoolDir, PoolRecord};
pub use record::{LastRun, Record};
pub use run::{Heard, PortState, RamBase, RunState, Source, Spare};
pub(crate) use vms::{NEXT_SOCKETS, SOCKETS};
pub use vms::{Status, VmDir, spare_name};

/// Version of every record's format. A record with a higher one was written by a newer midge and is left alone.
pub const SCHEMA: u32 = 1;
