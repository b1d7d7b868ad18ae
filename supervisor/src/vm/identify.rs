//! Giving the running guest an identity of its own.

use std::rc::Rc;
use std::time::Duration;

use super::control::{Failure, FailureKind};
use super::shared::Shared;
use crate::identity::{self, IdentityError, Report, Wanted};

/// Asks the guest's agent for it. The report says what came of it; a failure says that nothing is known.
pub(super) async fn identify(
    shared: &Rc<Shared>,
    wanted: &Wanted,
    deadline: Duration,
) -> Result<Report, Failure> {
    let link = shared.link()?;
    let agent = link.agent.client().await?;
    // An agent that ends takes with it what it knew of the program, and one that is started anew would be asked for it until the deadline.
    tokio::select! {
        done = identity::apply(&agent, shared.arch(), wanted, deadline) => done.map_err(|e| failure(&e)),
        () = link.agent.gone() => {
            Err(Failure::new(FailureKind::Agent, "the guest's agent ended while it gave the guest its identity"))
        }
    }
}

fn failure(error: &IdentityError) -> Failure {
    let kind = match error {
        IdentityError::NoProgram(_) => FailureKind::HostUnfit,
        IdentityError::TooMuch(_) => FailureKind::Usage,
        error if error.is_timeout() => FailureKind::Timeout,
        _ => FailureKind::Agent,
    };
    Failure::new(kind, crate::error::chain(error))
}
