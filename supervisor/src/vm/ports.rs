//! The host's ends of a guest's interfaces: the tap of each that is on a bridge, and the watch on it.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::control::{Failure, FailureKind};
use super::plan::Plan;
use crate::spec::Net;

/// The ports of one VM, kept from its first start until its supervisor leaves.
#[derive(Debug, Default)]
pub(super) struct Ports {
    taps: Vec<Option<OwnedFd>>,
}

impl Ports {
    /// Makes what the plan's interfaces need.
    pub(super) fn make(plan: &Plan) -> Result<Self, Failure> {
        if plan.spec.nets.iter().any(Net::has_tap) {
            return Err(Failure::new(FailureKind::HostUnfit, "bridges are not built yet"));
        }
        Ok(Self { taps: plan.spec.nets.iter().map(|_| None).collect() })
    }

    /// Why the guest has no address, as far as its ports tell.
    pub(super) fn why(&self, _kind: FailureKind) -> Option<Failure> {
        None
    }

    /// For each interface its open tap, where it has one.
    pub(super) fn taps(&self) -> Vec<Option<BorrowedFd<'_>>> {
        use std::os::fd::AsFd;
        self.taps.iter().map(|tap| tap.as_ref().map(AsFd::as_fd)).collect()
    }
}
