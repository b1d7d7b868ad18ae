//! The control socket: how commands talk to a VM's supervisor.
//!
//! A connection carries one [`Request`] and its [`Reply`]s, each a line of JSON. The last reply is `done` or `error`; a
//! connection that ends without either belongs to a supervisor that was killed. Closing a connection gives the request
//! up where that makes sense (`exec`, `wait`); a `stop` that was asked for goes on.

mod client;
mod protocol;
mod server;

pub use client::{Client, ClientError};
pub use protocol::{Failure, FailureKind, Family, Reply, Request, Stream, Until};
pub(super) use server::{Conversation, accept};
