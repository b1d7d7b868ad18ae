//! The life of a VM: a pure state machine ([`state`]) and one driver task that performs its actions, in a supervisor
//! process of the VM's own.

pub mod control;
mod end;
mod launch;
mod phase;
pub mod state;

pub use end::{AskedBy, Cause, End};
pub use launch::{LaunchError, Started, connect, start, supervise};
pub use phase::{ConsoleReader, Phase, PhaseName, Sign, default_ready};
pub use state::{PauseReason, State};
