//! `net`: the host's networks as guests see them.

mod check;
mod leases;
mod ls;
mod setup;
mod up;

use std::future::Future;

use netbr::Namespace;
use netbr::check::Facts;
use netbr::link::{LinkError, Links, Reason};

use crate::cli::Outcome;
use crate::cli::args::NetVerb;
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};

/// `midge net`.
pub(super) fn net(context: &Context, verb: &NetVerb) -> Outcome {
    match verb {
        NetVerb::Check(args) => check::check(context, args),
        NetVerb::Ls(args) => ls::ls(context, args),
        NetVerb::Up(args) => up::up(context, args),
        NetVerb::Down(args) => up::down(context, args),
        NetVerb::Apply(args) => up::apply(context, args),
        NetVerb::Leases(args) => leases::leases(context, args),
        NetVerb::Setup(args) => setup::setup(context, args),
    }
}

/// Does something with this host's interfaces.
fn with_links<T, F: Future<Output = Result<T, Failed>>>(work: impl FnOnce(Links) -> F) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failed::io("cannot start", e))?;
    runtime.block_on(async { work(Links::open(&Namespace::current()).map_err(link_failed)?).await })
}

/// What is so on this host.
async fn facts(links: &Links) -> Result<Facts, Failed> {
    Facts::collect(links).await.map_err(|e| Failed::wrap(ExitKind::HostUnfit, e))
}

/// What went wrong with an interface, with its exit code.
fn link_failed(error: LinkError) -> Failed {
    let kind = match (&error, error.reason()) {
        (LinkError::Name(_), _) => ExitKind::Usage,
        (_, Some(Reason::Gone)) => ExitKind::NotFound,
        (_, Some(Reason::Exists | Reason::Busy)) => ExitKind::WrongState,
        _ => ExitKind::HostUnfit,
    };
    Failed::wrap(kind, error)
}
