//! Pools: spares of a snapshot, made ready ahead of time and claimed in a moment.
//!
//! A spare is a clone with a supervisor of its own that stands still as soon as it is who it is to be. It lies beside the VMs
//! ([`crate::store::Home::spare`]), so that no verb takes it for one. Its supervisor decides who gets it: [`claim`] asks one spare after the other
//! until one says yes. [`refill`] makes those that are missing.
//!
//! There is no daemon: whoever claims a spare, or looks at a pool, starts a refill in the background, of which one at a time works and
//! one more may wait. A refill that is killed loses nothing, as the next one begins with what it finds.

mod refill;

use std::io;

pub use refill::{Refilled, clear, fill, leftovers, memory_of, refill};

use crate::clone::CloneError;
use crate::snapshot::SnapshotError;
use crate::store::{Home, PoolDir, Spare, Status, StoreError, VmDir, spare_name};
use crate::vm::control::{Client, ClientError, Failure, FailureKind, Request};
use crate::vm::{self, Claim, Claimed, LaunchError};

/// What is wrong with a pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A spare could not be made.
    #[error(transparent)]
    Clone(#[from] CloneError),
    /// A spare's supervisor could not be started, or did not make it ready.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The host did not say what it has, or a process could not be ended.
    #[error("cannot {0}")]
    Host(&'static str, #[source] io::Error),
    /// A spare does not go.
    #[error("the spare `{0}` does not end")]
    Stuck(String),
}

impl From<ClientError> for PoolError {
    fn from(error: ClientError) -> Self {
        Self::Launch(error.into())
    }
}

/// What a spare's own file says of it, where its supervisor lives.
#[must_use]
pub fn spare_of(vm: &VmDir) -> Option<Spare> {
    match vm.status() {
        Status::Supervised(run) => run.spare,
        Status::Stopped | Status::Orphaned(_) => None,
    }
}

/// Claims a spare for a VM, of those that `fits` says yes to. Nothing where there is none.
///
/// # Errors
/// When the VM's name is taken, or a spare's supervisor was killed just when it had made it the VM.
pub fn claim(
    home: &Home,
    pool: &PoolDir,
    claim: &Claim,
    fits: impl Fn(&Spare) -> bool,
) -> Result<Option<Claimed>, LaunchError> {
    let spares = pool.spares()?;
    // Each begins elsewhere, so that many at once do not all ask the same one.
    let first = std::process::id() as usize % spares.len().max(1);
    for spare in spares[first..].iter().chain(&spares[..first]) {
        if !spare_of(spare).is_some_and(|found| found.ready && fits(&found)) {
            continue;
        }
        match call(spare, &Request::Claim(claim.clone())) {
            Ok(value) => {
                let strange = |e: serde_json::Error| ClientError::Strange(e.to_string());
                return Ok(Some(serde_json::from_value(value).map_err(strange)?));
            }
            Err(LaunchError::Refused(Failure { kind: FailureKind::Claimed, .. })) => {}
            Err(LaunchError::NotRunning(_)) => {}
            // Its supervisor was killed, perhaps after it had made it the VM.
            Err(error @ LaunchError::Client(ClientError::Gone | ClientError::Io(_))) => {
                let record = home.vm(&claim.name).record();
                if record.is_ok_and(|record| spare_name(record.id) == spare.name()) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn call(spare: &VmDir, request: &Request) -> Result<serde_json::Value, LaunchError> {
    let Some(mut client) = vm::connect_spare(spare)? else {
        return Err(LaunchError::NotRunning(spare.name().to_owned()));
    };
    Ok(Client::call(&mut client, request, |_| ())?)
}
