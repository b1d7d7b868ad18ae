//! One QEMU's monitor and guest agent, asynchronously.
//!
//! [`Monitor`] speaks QMP with one QEMU over a connected Unix socket. The commands and their results are the types
//! of [`qapi`]; the transport is our own, so that an unknown event, a late answer or a cancelled call never ends a
//! connection, commands can run out of band, and file descriptors can be passed.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! let stream = tokio::net::UnixStream::connect("/run/vm/monitor.sock").await?;
//! let (monitor, mut events) = qmp::Monitor::connect(stream, Duration::from_secs(5)).await?;
//! println!("QEMU {}", monitor.version());
//! monitor.execute(qapi::qmp::cont {}, Duration::from_secs(1)).await?;
//! while let Some(event) = events.recv().await {
//!     println!("{} {}", event.name, event.data);
//! }
//! println!("gone: {}", monitor.closed().await);
//! # Ok(()) }
//! ```
//!
//! [`Agent`](agent::Agent) speaks with the guest agent over another socket.
//!
//! The crate knows nothing of virtual machines, images or networks: whoever starts QEMU also makes the sockets. The
//! pure parts are [`wire`] (one line in or out) and [`router`] (which answer belongs to which call).

pub mod agent;
mod client;
mod connection;
mod deadline;
pub mod error;
pub mod event;
mod job;
mod migration;
mod random;
pub mod router;
pub mod wire;

pub use client::Monitor;
pub use error::{Error, ErrorClass, ProtocolError};
pub use event::{Event, Events};
pub use migration::Migration;
pub use qapi;
pub use wire::Version;
