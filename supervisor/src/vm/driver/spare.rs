//! Spares: guests that are made ready ahead of time and stand still until somebody claims them.
//!
//! A spare's supervisor alone decides who gets it: claims are inputs of its one queue, and the first that finds it ready has it.

use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Driver, IDENTITY_DEADLINE, Input};
use crate::fault::{self, Point};
use crate::host::priority;
use crate::identity::{self, Item, ItemName, RandomSeed, Report, Wanted};
use crate::store::StoreError;
use crate::vm::begin::{Identity, Unconfirmed};
use crate::vm::control::{Failure, FailureKind};
use crate::vm::history::Happening;
use crate::vm::phase::PhaseName;
use crate::vm::state::{Ask, Event, State, Timer};
use crate::vm::{AskedBy, identify, supervise};

/// What a spare is to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The VM's name.
    pub name: String,
    /// It is removed when it ends.
    pub ephemeral: bool,
    /// It is ended after this many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// What becomes of it when it does not confirm its identity.
    pub unconfirmed: Unconfirmed,
}

/// A VM that was a spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// Its id.
    pub id: Uuid,
    /// The MAC address of each interface.
    pub macs: Vec<String>,
    /// Its addresses, as far as they are known.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// The failure of whoever comes too late, or too early.
pub(in crate::vm) fn no_spare() -> Failure {
    Failure::new(FailureKind::Claimed, "this is no spare that can be claimed")
}

impl Driver {
    /// Whether this is a spare that stands still until it is claimed.
    pub(super) fn is_parked(&self) -> bool {
        self.run.spare.as_ref().is_some_and(|spare| spare.ready)
    }

    /// Lets a spare stand still that is who it is to be; one that does can be claimed.
    pub(super) fn park(&mut self) {
        let Some(spare) = &mut self.run.spare else { return };
        if spare.ready || self.run.unconfirmed.is_some() {
            return;
        }
        match self.machine.state() {
            State::Paused { .. } => {
                spare.ready = true;
                priority::restore();
            }
            // Its agent has told everything: one that is cut off in the middle of a word would finish it at the wrong time.
            State::Booting | State::Running if self.told_addresses => {
                // Asked again at each input until it does: QEMU stops a guest that stands still once more without a word.
                let _ = self.feed_ask(Ask::Pause);
            }
            _ => {}
        }
    }

    /// Ends a spare.
    pub(super) fn retire(&mut self) -> Result<(), Failure> {
        let Some(spare) = &mut self.run.spare else { return Err(no_spare()) };
        spare.ready = false;
        self.feed_ask(Ask::Kill { by: AskedBy::Host })
            .map_err(|why| Failure::new(FailureKind::WrongState, why))
    }

    /// Of what the spare has told of itself, this is told anew.
    fn awaits(&mut self, wanted: &Wanted) {
        let told = self.run.identity.take().and_then(|told| serde_json::from_value::<Report>(told).ok());
        let Some(mut report) = told else { return };
        for name in wanted.items().into_iter().filter(|name| *name != ItemName::BootId) {
            report.items.insert(name, Item { state: identity::State::Pending, detail: String::new(), us: 0 });
        }
        self.run.identity = serde_json::to_value(report).ok();
    }

    /// Makes a spare a VM: first the folders, as a name that is taken leaves the spare as it was, then everything that knows of them.
    pub(super) fn claim(&mut self, claim: &Claim) -> Result<Claimed, Failure> {
        let store = |e: StoreError| {
            let kind =
                if matches!(e, StoreError::Taken(_)) { FailureKind::WrongState } else { FailureKind::Other };
            Failure::new(kind, crate::error::chain(&e))
        };
        let parked = self.is_parked() && matches!(self.machine.state(), State::Paused { .. });
        let Some(spare) = self.run.spare.clone().filter(|_| parked) else { return Err(no_spare()) };
        let before = self.shared.dir();
        let mut record = before.record().map_err(store)?;
        claim.name.clone_into(&mut record.spec.name);
        record.spec.ephemeral = claim.ephemeral;
        record.spec.ttl_seconds = claim.ttl_seconds;
        record.created = jiff::Timestamp::now();
        let wanted = match spare.identity {
            Identity::Full => Some(Wanted {
                hostname: Some(claim.name.clone()),
                seed: Some(RandomSeed::fresh().map_err(|e| {
                    Failure::new(FailureKind::Other, format!("this host gives no random numbers: {e}"))
                })?),
                clock: true,
                ..Wanted::default()
            }),
            Identity::Network | Identity::None | Identity::Same => None,
        };
        fault::at(Point::ClaimBegun);
        let dir = before.become_vm(&self.shared.home, &record).map_err(store)?;
        self.history.moved(dir.events_log());
        self.shared.moved(dir);

        self.run.spare = None;
        self.run.expires = supervise::expires(&record);
        self.run.started = Some(record.created);
        self.spawned_at = Instant::now();
        // What showed the spare to be ready is not shown again; the VM is when it is who it is to be.
        let was_ready = self.run.phases.iter().any(|phase| phase.name == PhaseName::Ready);
        self.run.phases.clear();
        self.history.add(Happening::Claimed { spare: before.name().to_owned() });
        self.mark(PhaseName::Monitor);
        if let Some(plan) = &mut self.plan {
            claim.name.clone_into(&mut plan.spec.name);
        }
        if let Some(wanted) = wanted {
            self.run.unconfirmed = Some(claim.unconfirmed);
            self.waits_for_identity = was_ready;
            self.awaits(&wanted);
            self.arm(Timer::Identity, IDENTITY_DEADLINE);
            let shared = self.shared.clone();
            tokio::task::spawn_local(async move {
                let told = identify::identify(&shared, &wanted, IDENTITY_DEADLINE).await;
                shared.tell(Input::Identified(told.map_err(|failure| failure.message)));
            });
        }
        self.ready_when_resumed = was_ready && self.run.unconfirmed.is_none();
        self.arm_ttl();
        self.feed(Event::Claimed);
        fault::at(Point::ClaimNoted);
        let dir = self.shared.dir();
        if let Err(e) = dir.write_run_mark(&self.run) {
            tracing::error!("cannot note that the VM runs: {e}");
        }
        let known: Vec<_> = self.run.addresses.iter().map(|address| (None, *address)).collect();
        self.shared.ports().ask(&known);
        // What the claim wrote is to survive a power cut; nobody waits for that.
        let dir = (*dir).clone();
        tokio::task::spawn_blocking(move || {
            if let Err(e) = dir.sync_record() {
                tracing::warn!("{}", crate::error::chain(&e));
            }
        });
        Ok(Claimed { id: record.id, macs: record.macs, addresses: self.run.addresses.clone() })
    }
}
