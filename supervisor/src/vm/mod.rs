//! The life of a VM: a pure state machine ([`state`]) and one driver task that performs its actions, in a supervisor
//! process of the VM's own.

mod addresses;
mod begin;
mod console;
pub mod control;
mod driver;
mod end;
mod find;
mod grow;
mod guest_agent;
mod guest_ops;
mod history;
mod identify;
mod launch;
mod link;
mod phase;
mod plan;
mod ports;
mod probe;
mod qemu;
mod requests;
mod save;
mod shared;
mod sockets;
pub mod state;
mod stats;
mod supervise;

pub use begin::{Begin, Identity, Restore, Unconfirmed};
pub use driver::{Claim, Claimed};
pub use end::{AskedBy, Cause, End};
pub use grow::SCRIPT as GROW_SCRIPT;
pub use history::{Entry, Happening};
pub use launch::{
    LaunchError, Started, close_unfinished, connect, connect_spare, refuse_nameless_qemu, start,
};
pub use phase::{ConsoleReader, Phase, PhaseName, Sign, default_ready};
pub use plan::plan_command_line;
pub use ports::{
    Mask, forget_leases, free_addresses, is_own_network, own_leases, own_network, own_network_state,
};
pub use save::{How, Saved};
pub use state::{PauseReason, State};
pub use stats::private_memory;
pub use supervise::supervise;
