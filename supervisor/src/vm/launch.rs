//! From a command to a supervisor: starting one, finding the one there is, or replacing one that was killed.

use crate::store::{Home, StoreError, VmDir};

use super::control::{Client, ClientError, Failure};

/// Why a command has no supervisor to talk to.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The supervisor said no: the VM could not be started.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The VM does not run.
    #[error("the VM `{0}` is not running; start it with `midge start {0}`")]
    NotRunning(String),
    /// The conversation failed.
    #[error(transparent)]
    Client(ClientError),
    /// The supervisor's process could not be started.
    #[error("cannot start a supervisor")]
    Spawn(#[source] std::io::Error),
}

/// A VM that runs, or is being started.
#[derive(Debug)]
pub struct Started {
    /// A fresh connection to its supervisor.
    pub client: Client,
    /// It ran already.
    pub already: bool,
}

/// Starts the VM, or finds it running. Returns as soon as a supervisor is in charge; what QEMU makes of it is told by
/// [`super::control::Request::Follow`].
pub fn start(_home: &Home, _vm: &VmDir) -> Result<Started, LaunchError> {
    todo!()
}

/// A connection to the supervisor of a VM that runs, which is replaced first when it was killed.
pub fn connect(_home: &Home, _vm: &VmDir) -> Result<Client, LaunchError> {
    todo!()
}

/// The whole work of `midge supervise NAME`: returns when the VM's supervisor is done.
pub fn supervise(_home: &Home, _name: &str) -> std::process::ExitCode {
    todo!()
}
