//! The one task that performs what the state machine decides.
//!
//! Everything that happens (monitor events, the end of QEMU, signs on the console, requests, timers) arrives as an
//! [`Input`] in one queue, so there is one order of things and nothing to lock. Nothing here waits: what takes time runs
//! in a task that puts its result in the queue.

pub(super) mod spare;

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

pub use spare::{Claim, Claimed};

use super::addresses::Addresses;
use super::begin::{Identity, Unconfirmed};
use super::control::Failure;
use super::history::{Happening, History};
use super::link::{Adopted, Link};
use super::phase::{Phase, PhaseName, Sign};
use super::plan::{Plan, Restored};
use super::ports::Ports;
use super::shared::{Shared, Snapshot};
use super::state::{Action, Ask, Event, Machine, Policy, Spare, State, Timer};
use crate::fault::{self, Point};
use crate::host::proc::ProcessId;
use crate::identity::Report;
use crate::snapshot::store::{Removal, SnapshotStore};
use crate::spec::{Mac, Ready};
use crate::store::{Heard, LastRun, Origin, RamBase, RunState, SCHEMA, Source};

/// How long a clone may take to confirm its new identity: under emulation on a busy host its agent takes seconds.
pub(super) const IDENTITY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a spare may take, which gives way to others.
pub(super) const SPARES_DEADLINE: Duration = Duration::from_secs(300);

/// Something for the driver.
#[derive(Debug)]
pub(super) enum Input {
    /// For the state machine.
    Event(Event),
    /// Somebody's wish; the answer says whether it fits the state.
    Ask(Ask, oneshot::Sender<Result<(), &'static str>>),
    /// The console showed something.
    Sign(Sign),
    /// The guest's agent answers.
    AgentUp,
    /// The guest's agent tells of these addresses; none after it was asked for long.
    Addresses(Vec<(Option<Mac>, IpAddr)>),
    /// The watch on the port of this interface now knows these addresses.
    Heard(usize, Vec<Heard>),
    /// The run that follows the one before is prepared, or cannot be.
    Planned(Box<Result<Plan, Failure>>),
    /// The VM is being saved, or is not any more.
    Saving(bool),
    /// This QEMU may take the guest over, and is then to be asked for these ports; none when the question is settled. Answered when that
    /// is noted.
    Successor(Option<ProcessId>, Vec<(String, String)>, oneshot::Sender<()>),
    /// The guest has gone over to this QEMU; the link to the one before is wanted back.
    WentOver(Box<Link>, RamBase, oneshot::Sender<Option<Link>>),
    /// The QEMU that the guest has gone over from is gone, and the ports that led into it lead into the other.
    Alone,
    /// The VM ends with this snapshot, or will not after all. Answered when that is noted.
    Becomes(Option<uuid::Uuid>, oneshot::Sender<()>),
    /// What the guest says of the identity that was asked of it, or why it says nothing.
    Identified(Result<Report, String>),
    /// Somebody wants this spare to be a VM.
    Claim(Claim, oneshot::Sender<Result<Claimed, Failure>>),
    /// This spare is not needed any more.
    Retire(oneshot::Sender<Result<(), Failure>>),
    /// For the history alone.
    Happened(Happening),
}

/// The driver of one VM.
#[derive(Debug)]
pub(super) struct Driver {
    shared: Rc<Shared>,
    inputs: mpsc::UnboundedReceiver<Input>,
    machine: Machine,
    plan: Option<Plan>,
    history: History,
    run: RunState,
    link: Option<Link>,
    spawned_at: Instant,
    timers: HashMap<Timer, AbortHandle>,
    addresses: Addresses,
    /// The agent answers, and an address is all that is missing for the guest to be ready.
    awaits_address: bool,
    /// The guest has told its addresses, or was asked for them long enough.
    told_addresses: bool,
    /// The guest is ready but for its identity.
    waits_for_identity: bool,
    /// The guest was ready when it was made to stand still as a spare.
    ready_when_resumed: bool,
    /// The guest was restored under a supervisor that was killed before it went on.
    taken_over_restored: bool,
    /// The plan is to be made anew for the next start.
    stale_plan: bool,
    /// What a person who follows the boot should know.
    notes: Vec<String>,
    /// Restarts by policy under supervisors before this one.
    earlier_restarts: u32,
    finished: bool,
}

impl Driver {
    /// A driver and what others share with it. `plan` is that of the first start.
    pub(super) fn new(
        shared: Rc<Shared>,
        inputs: mpsc::UnboundedReceiver<Input>,
        plan: Plan,
        run: RunState,
    ) -> Self {
        let policy = Policy {
            restart: plan.spec.restart,
            hears: Policy::kind_hears(plan.spec.kind),
            shows_ready: plan.ready.is_some(),
            reset_ends: plan.spec.on_reset == crate::spec::OnReset::Stop,
            restores: plan.restore.is_some(),
            // Who it is to be is told from outside: it need not run before.
            spare: match &run.spare {
                None => Spare::No,
                Some(spare) if spare.identity == Identity::Full => Spare::Runs,
                Some(_) => Spare::Waits,
            },
        };
        shared.set_kind(plan.kind, plan.spec.arch);
        let history = History::open(&shared.dir().events_log());
        Self {
            shared,
            inputs,
            machine: Machine::new(policy),
            plan: Some(plan),
            history,
            addresses: Addresses::default(),
            awaits_address: false,
            told_addresses: false,
            waits_for_identity: false,
            ready_when_resumed: false,
            taken_over_restored: false,
            stale_plan: false,
            notes: Vec::new(),
            earlier_restarts: run.restarts,
            run,
            link: None,
            spawned_at: Instant::now(),
            timers: HashMap::new(),
            finished: false,
        }
    }

    /// Runs the VM to its end.
    pub(super) async fn run(mut self, adopted: Option<Adopted>) {
        self.arm_ttl();
        match adopted {
            None => self.feed(Event::Start),
            Some(adopted) => self.adopt(adopted),
        }
        while !self.finished {
            // The driver holds `shared`, and with it a sender: the queue does not end before the VM does.
            let Some(input) = self.inputs.recv().await else { break };
            self.take(input);
        }
        self.link = None;
        self.shared.console.detach_all();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => {
                match &event {
                    Event::MonitorUp => self.mark(PhaseName::Monitor),
                    Event::Loaded => self.loaded(),
                    Event::Resumed => self.resumed(),
                    Event::TimeOut(Timer::Identity) => {
                        let deadline = self.shared.identity_deadline();
                        self.identified(Err(format!("no answer within {} s", deadline.as_secs())));
                    }
                    _ => {}
                }
                self.feed(event);
            }
            Input::Ask(ask, answer) => {
                let refused = self.feed_ask(ask);
                // The command may have hung up; what it asked for is done all the same.
                let _ = answer.send(refused);
            }
            Input::Sign(Sign::Phase(name)) => self.mark(name),
            Input::Sign(Sign::Address(address)) => {
                self.told_by_guest(Source::Console, &[(None, address.into())]);
            }
            Input::Sign(Sign::Ready) => self.ready(),
            Input::Sign(Sign::RootFailed(reason)) => self.root_failed(reason),
            Input::AgentUp => {
                if matches!(self.plan.as_ref().and_then(|p| p.ready.as_ref()), Some(Ready::Agent)) {
                    let expects_address = self.plan.as_ref().is_some_and(Plan::expects_address);
                    self.awaits_address = expects_address && self.run.addresses.is_empty();
                    if !self.awaits_address {
                        self.ready();
                    }
                }
            }
            Input::Addresses(addresses) => {
                self.told_by_guest(Source::Agent, &addresses);
                self.told_addresses = true;
                // None, after all this time: the guest is as ready as it will be.
                if std::mem::take(&mut self.awaits_address) {
                    self.ready();
                }
            }
            // A guest that stands still neither gains nor loses an address; it is asked when it goes on.
            Input::Heard(..) if self.is_parked() => {}
            Input::Heard(net, heard) => {
                self.addresses.port(net, heard);
                self.addresses_changed();
            }
            Input::Planned(planned) => self.spawn(*planned),
            Input::Identified(told) => self.identified(told),
            Input::Saving(saving) => self.run.saving = saving,
            Input::Successor(successor, forwards, noted) => {
                self.run.successor = successor;
                self.run.forwards_due = forwards;
                self.publish(None);
                let _ = noted.send(());
            }
            Input::Alone => {
                self.run.predecessor = None;
                self.run.forwards_due.clear();
            }
            Input::Becomes(snapshot, noted) => {
                self.run.becoming = snapshot;
                self.publish(None);
                let _ = noted.send(());
            }
            Input::WentOver(link, base, before) => {
                self.run.predecessor = std::mem::replace(&mut self.run.qemu, link.process_id().cloned());
                self.run.successor = None;
                self.run.base = Some(base);
                self.shared.set_link(Some(link.handle()));
                let _ = before.send(self.link.replace(*link));
                // What was asked for meanwhile was asked of the QEMU before.
                if self.machine.state() == State::Stopping
                    && let Some(link) = &self.link
                {
                    if self.timers.contains_key(&Timer::Stop) {
                        link.command(&Action::PowerDown);
                    } else {
                        link.kill();
                    }
                }
                if let Err(e) = self.shared.dir().write_run_mark(&self.run) {
                    tracing::error!("cannot note that the VM runs: {e}");
                }
            }
            Input::Claim(claim, answer) => drop(answer.send(self.claim(&claim))),
            Input::Retire(answer) => drop(answer.send(self.retire())),
            Input::Happened(what) => {
                if let Happening::DiskNotGrown { disk, reason } = &what {
                    self.notes.push(format!(
                        "the disk has {disk}, and the guest's root file system could not be made to fill it: {reason}"
                    ));
                }
                self.history.add(what);
            }
        }
        self.park();
        self.publish(None);
    }

    fn ready(&mut self) {
        // Who it is comes first: a clone that answers as its source is not ready for anything.
        if self.run.unconfirmed.is_some() {
            self.waits_for_identity = true;
            return;
        }
        self.mark(PhaseName::Ready);
        self.feed(Event::Ready);
    }

    fn told(&mut self, source: Source, addresses: &[IpAddr]) {
        let user_net = |net: &crate::spec::Net| matches!(net, crate::spec::Net::User { .. });
        let net = self.plan.as_ref().and_then(|plan| plan.spec.nets.iter().position(user_net));
        self.addresses.told(source, net.unwrap_or_default(), addresses, jiff::Timestamp::now());
        self.addresses_changed();
    }

    /// What a guest tells once may not hold for ever. Where the guest's ports are watched, it is asked there whether it has
    /// these addresses; those behind QEMU's user-mode network cannot be watched.
    fn told_by_guest(&mut self, source: Source, told: &[(Option<Mac>, IpAddr)]) {
        let ports = self.shared.ports();
        if ports.is_empty() {
            let addresses: Vec<IpAddr> = told.iter().map(|(_, address)| *address).collect();
            return self.told(source, &addresses);
        }
        let (hidden, open): (Vec<_>, Vec<_>) =
            told.iter().copied().partition(|(_, address)| is_user_mode(*address));
        let hidden: Vec<IpAddr> = hidden.into_iter().map(|(_, address)| address).collect();
        let has_user_net = self.plan.as_ref().is_some_and(|p| crate::machine::user_netdev(&p.spec).is_some());
        self.told(source, if has_user_net { &hidden } else { &[] });
        ports.ask(&open);
    }

    fn addresses_changed(&mut self) {
        self.run.heard = self.addresses.heard();
        self.run.addresses = self.addresses.usable();
        if !self.run.addresses.is_empty() {
            self.mark(PhaseName::Network);
            if matches!(self.plan.as_ref().and_then(|p| p.ready.as_ref()), Some(Ready::Ip))
                || std::mem::take(&mut self.awaits_address)
            {
                self.ready();
            }
        }
    }

    /// A guest behind a mask has its address before it says a word.
    fn masked(&mut self) {
        for heard in self.shared.ports().masked() {
            self.addresses.port(heard.net, vec![heard]);
        }
        self.run.heard = self.addresses.heard();
        self.run.addresses = self.addresses.usable();
    }

    fn forget_addresses(&mut self) {
        self.addresses = Addresses::default();
        self.run.heard.clear();
        self.run.addresses.clear();
    }

    /// Notes that a phase was reached, the first time that it is.
    fn mark(&mut self, name: PhaseName) {
        if self.run.phases.iter().all(|p| p.name != name) {
            let ms = self.spawned_at.elapsed().as_secs_f64() * 1e3;
            let phase = Phase { name, ms: (ms * 1e3).round() / 1e3 };
            if name == PhaseName::Ready {
                self.note_provisioned();
            }
            self.run.phases.push(phase);
            self.history.add(Happening::Phase(phase));
        }
    }

    /// Notes that the guest has been up once, with all that it was given for its first boot.
    fn note_provisioned(&self) {
        let mark = self.shared.dir().state_dir().join(crate::seed::PROVISIONED);
        if let Err(e) = std::fs::File::options().create(true).append(true).open(&mark) {
            tracing::warn!("cannot note in {} that the guest has been up: {e}", mark.display());
        }
    }

    fn feed_ask(&mut self, ask: Ask) -> Result<(), &'static str> {
        let actions = self.machine.handle(Event::Ask(ask));
        let refused =
            actions.iter().find_map(|a| if let Action::Refuse(why) = a { Some(*why) } else { None });
        self.perform_all(actions);
        refused.map_or(Ok(()), Err)
    }

    fn feed(&mut self, event: Event) {
        let actions = self.machine.handle(event);
        self.perform_all(actions);
    }

    fn perform_all(&mut self, actions: Vec<Action>) {
        for action in actions {
            tracing::debug!(?action);
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn => {
                // A restart sees the image, the host and the record as they are now.
                let first = self.machine.restarts() == 0 && !std::mem::take(&mut self.stale_plan);
                match self.plan.take().filter(|_| first) {
                    Some(plan) => self.spawn(Ok(plan)),
                    None => self.plan_again(),
                }
            }
            Action::Continue | Action::Pause | Action::PowerDown | Action::Quit => {
                if let Some(link) = &self.link {
                    link.command(&action);
                }
            }
            Action::Load => {
                let restore = self.plan.as_ref().and_then(|plan| plan.restore.as_ref());
                if let (Some(link), Some(restore)) = (&self.link, restore) {
                    link.load(&self.shared, restore);
                }
            }
            Action::KillQemu => {
                if let Some(link) = &self.link {
                    link.kill();
                }
            }
            Action::Arm(timer, after) => self.arm(timer, after),
            Action::Disarm(timer) => {
                if let Some(running) = self.timers.remove(&timer) {
                    running.abort();
                }
            }
            Action::RecordEnd(end) => {
                self.history.add(Happening::Ended(end.clone()));
                let now = jiff::Timestamp::now();
                let last = LastRun {
                    schema: SCHEMA,
                    started: self.run.started.unwrap_or(now),
                    ended: now,
                    end: end.clone(),
                    phases: self.run.phases.clone(),
                };
                if let Err(e) = self.shared.dir().write_last_run(&last) {
                    tracing::error!("cannot record how the guest ended: {e}");
                }
                self.clear_away();
                self.let_go_of_memory();
                if self.machine.state() == State::Restarting {
                    // Whoever waits for a sign waits for the next run's.
                    self.run.phases.clear();
                    self.forget_addresses();
                }
                self.publish(Some(&end));
            }
            Action::Discard => self.clear_away(),
            Action::Finish => {
                self.finished = true;
                self.publish(None);
            }
            Action::Refuse(_) => {}
        }
    }

    /// Prepares the next run: it sees the image, the host and the record as they are now, and gets ports of its own, as the taps of
    /// the run before have gone with its QEMU.
    fn plan_again(&mut self) {
        let shared = self.shared.clone();
        let before = shared.ports();
        shared.set_ports(Rc::default());
        tokio::task::spawn_local(async move {
            // Not left in between: the network would go and come, and with it what is under way through it.
            // But it must have let go of its taps and listening ports, which the next run may want.
            before.quiet().await;
            let networks = before.networks();
            drop(before);
            let planned = match shared.replan() {
                Ok(plan) => Ports::make(&shared.home, &plan).await.map(|ports| (plan, ports)),
                Err(failure) => Err(failure),
            };
            if planned.is_err() {
                networks.leave().await;
            }
            let planned = planned.map(|(plan, ports)| {
                let ports = Rc::new(ports);
                shared.set_ports(ports.clone());
                ports.watch(&shared, &[]);
                plan
            });
            shared.tell(Input::Planned(Box::new(planned)));
        });
    }

    /// A guest that has ended boots when it is started again: from now on only the VM's disk stands on a snapshot.
    fn let_go_of_memory(&mut self) {
        if self.run.base.take().is_none() || self.shared.dir().suspended().is_some() {
            return;
        }
        let dir = &self.shared.dir();
        let given_up = dir.origin().and_then(|origin| match origin {
            Some(origin) if origin.memory => dir.write_origin(Origin { memory: false, ..origin }),
            _ => Ok(()),
        });
        if let Err(e) = given_up {
            tracing::warn!("{}", crate::error::chain(&e));
        }
    }

    /// Lets go of a QEMU that has left.
    fn clear_away(&mut self) {
        self.link = None;
        self.shared.set_link(None);
        if let Some(ram) = self.run.ram_file.take() {
            let _ = std::fs::remove_file(ram);
        }
        self.run.qemu = None;
    }

    /// Boots once more with the image's own initial RAM disk, and sees to it that every later boot begins with that one.
    fn root_failed(&mut self, reason: String) {
        let Some(path) = self.plan.as_ref().and_then(|plan| plan.small_initrd.as_deref()) else { return };
        if let Err(e) = crate::initrd::give_up(path, &reason) {
            // It would only fail again.
            tracing::error!("cannot note that {} does not work: {e}", path.display());
            return;
        }
        self.notes.push(format!(
            "midge's own initial RAM disk did not bring up the root file system ({reason}); booting with the image's own, now and \
             from now on"
        ));
        self.history.add(Happening::InitrdFailed { reason });
        self.stale_plan = true;
        self.feed(Event::BootAgain);
    }

    fn spawn(&mut self, planned: Result<Plan, Failure>) {
        self.spawned_at = Instant::now();
        self.run.phases.clear();
        self.forget_addresses();
        self.masked();
        self.awaits_address = false;
        self.told_addresses = false;
        self.run.restarts = self.earlier_restarts + self.machine.restarts();
        self.run.started = Some(jiff::Timestamp::now());
        self.run.ports = self.shared.ports().states();
        let launched = planned.and_then(|plan| {
            self.run.accel = Some(plan.accel);
            self.run.qemu_version = Some(plan.qemu.version_line.clone());
            self.run.ram_file = plan.ram_file().map(ToOwned::to_owned);
            self.begins_as(plan.restore.as_ref());
            // Before the RAM file is made, so that whoever finds us killed knows of it.
            self.publish(None);
            fault::at(Point::RunNoted);
            let link = Link::launch(&self.shared, &plan, &self.shared.ports());
            self.plan = Some(plan);
            link
        });
        match launched {
            Ok(link) => {
                self.run.qemu = link.process_id().cloned();
                self.shared.set_link(Some(link.handle()));
                self.link = Some(link);
                self.mark(PhaseName::Spawned);
                if let Some(ProcessId { pid, .. }) = self.run.qemu {
                    self.history.add(Happening::Started { pid });
                }
                if let Err(e) = self.shared.dir().write_run_mark(&self.run) {
                    tracing::error!("cannot note that the VM runs: {e}");
                }
                self.publish(None);
                fault::at(Point::QemuNoted);
                self.feed(Event::Spawned);
            }
            Err(failure) => self.feed(Event::SpawnFailed { detail: failure.to_string() }),
        }
        self.publish(None);
    }

    /// Notes who a guest is at its beginning, by what it was restored from.
    fn begins_as(&mut self, restore: Option<&Restored>) {
        self.run.base = restore.map(Restored::base);
        self.run.identity = None;
        self.waits_for_identity = false;
        let wanted = restore.map(|restore| &restore.wanted);
        self.run.unconfirmed =
            wanted.filter(|wanted| wanted.identity == Identity::Full).map(|wanted| wanted.unconfirmed);
        let other = restore.filter(|restore| restore.wanted.identity != Identity::Same);
        self.run.believes = other.map(|restore| restore.snapshot.manifest.source.clone());
    }

    /// A snapshot is loaded. What was a sign of readiness once is shown by no guest again.
    fn loaded(&mut self) {
        self.mark(PhaseName::Loaded);
        let restored = self.plan.as_ref().and_then(|plan| plan.restore.as_ref());
        let suspended = self.shared.dir().suspended();
        if suspended.is_some() && suspended == restored.map(|restored| restored.snapshot.id()) {
            self.shared.dir().clear_suspended();
            // What the guest went on from is no place to come back to; its files go when the guest needs them no more.
            let names = self.plan.as_ref().and_then(|plan| plan.restore.as_ref()).map(Restored::names);
            let store = SnapshotStore::new(&self.shared.home);
            tokio::task::spawn_blocking(move || {
                for name in names.unwrap_or_default() {
                    if let Err(e) = store.remove(&name, Removal::Detach) {
                        tracing::warn!("{}", crate::error::chain(&e));
                    }
                }
            });
        }
        if self.run.unconfirmed.is_some() {
            self.arm(Timer::Identity, self.shared.identity_deadline());
        }
    }

    /// The guest runs, for the first time or again.
    fn resumed(&mut self) {
        self.mark(PhaseName::Resumed);
        let Some(plan) = &self.plan else { return };
        if plan.restore.is_some() {
            fault::at(Point::GoesOn);
        }
        let shown = match &plan.ready {
            None => true,
            Some(Ready::Serial(_)) => plan.restore.is_some() || self.taken_over_restored,
            Some(_) => false,
        };
        let restored = plan.restore.is_some();
        let identified = restored && self.run.unconfirmed.is_none();
        if identified {
            self.mark(PhaseName::Identified);
        }
        if restored && !self.run.addresses.is_empty() {
            self.addresses_changed();
        }
        if shown || std::mem::take(&mut self.ready_when_resumed) {
            self.ready();
        }
    }

    /// What has become of the identity that was asked of the guest.
    fn identified(&mut self, told: Result<Report, String>) {
        fault::at(Point::Identified);
        let earlier = self.run.identity.take().and_then(|report| serde_json::from_value(report).ok());
        let judged = told.and_then(|report| {
            let report = match earlier {
                Some(earlier) => report.after(earlier),
                None => report,
            };
            self.run.identity = serde_json::to_value(&report).ok();
            // As the agent would tell them a moment later.
            let addresses: Vec<_> = report.addresses.iter().map(|address| (None, *address)).collect();
            self.told_by_guest(Source::Agent, &addresses);
            if report.confirmed() { Ok(()) } else { Err(report.unconfirmed()) }
        });
        let Some(unconfirmed) = self.run.unconfirmed else {
            // Asked of one that is the same as before: nothing depends on it.
            if let Err(why) = judged {
                self.notes
                    .push(format!("the guest's clock and random numbers are as they were saved: {why}"));
            }
            return;
        };
        if let Some(timer) = self.timers.remove(&Timer::Identity) {
            timer.abort();
        }
        match (judged, unconfirmed) {
            (Ok(()), _) => {
                self.run.unconfirmed = None;
                self.run.believes = None;
                self.mark(PhaseName::Identified);
                if std::mem::take(&mut self.waits_for_identity) {
                    self.ready();
                }
            }
            (Err(detail), Unconfirmed::Keep) => {
                self.notes.push(format!("the guest has not confirmed its new identity: {detail}"));
            }
            (Err(detail), Unconfirmed::Stop) => self.feed(Event::Unconfirmed { detail }),
        }
    }

    fn adopt(&mut self, adopted: Adopted) {
        let Adopted { link, running, status } = adopted;
        if let Some(started) = self.run.started {
            let age = jiff::Timestamp::now().duration_since(started);
            let age = Duration::try_from(age).unwrap_or_default();
            self.spawned_at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        }
        let ready = self.run.phases.iter().any(|p| p.name == PhaseName::Ready);
        // It stood still for the sake of a save that was cut short, or stands where it was restored.
        self.taken_over_restored = self.run.state == State::Starting && self.run.base.is_some();
        if self.run.saving {
            self.shared.thaw_when_up();
        }
        let interrupted = match self.run.state {
            State::Booting | State::Running => std::mem::take(&mut self.run.saving),
            State::Starting => true,
            _ => false,
        };
        if let Some(ProcessId { pid, .. }) = self.run.qemu {
            self.history.add(Happening::Adopted { pid });
        }
        // Whoever waits for these waits no longer; when they were reached is not known where nobody saw it.
        self.mark(PhaseName::Monitor);
        if status != "prelaunch" {
            self.mark(PhaseName::Resumed);
        }
        self.shared.set_link(Some(link.handle()));
        self.link = Some(link);
        self.feed(Event::Adopt { running, status, ready });
        // Its supervisor was killed at the moment when it became a VM.
        let claimed = self.run.spare.take();
        if claimed.as_ref().is_some_and(|spare| spare.identity == Identity::Full) {
            // Its name, its clock and its random numbers are not its own yet, and what its claim wanted is not known any more.
            let detail = "its supervisor was killed while it was claimed".to_owned();
            self.feed(Event::Unconfirmed { detail });
        } else if claimed.is_some() && matches!(self.machine.state(), State::Paused { .. }) {
            let _ = self.feed_ask(Ask::Resume);
            if matches!(self.plan.as_ref().map(|plan| &plan.ready), Some(None | Some(Ready::Serial(_)))) {
                self.ready();
            }
        }
        if self.run.unconfirmed == Some(Unconfirmed::Stop) {
            let detail = "its supervisor was killed before it had".to_owned();
            self.feed(Event::Unconfirmed { detail });
        }
        if self.has_become_a_snapshot() {
            self.feed(Event::Saved);
        } else if interrupted && matches!(self.machine.state(), State::Paused { .. }) {
            let _ = self.feed_ask(Ask::Resume);
        }
        self.publish(None);
    }

    /// Whether the snapshot that the VM was to end with is whole: its RAM file is the one that the guest would write to.
    fn has_become_a_snapshot(&mut self) -> bool {
        let Some(id) = self.run.becoming.take() else { return false };
        // One that cannot be read is there all the same.
        let whole = !matches!(SnapshotStore::new(&self.shared.home).by_id(id), Ok(None));
        if !whole {
            self.shared.dir().clear_suspended();
        }
        whole
    }

    fn arm_ttl(&mut self) {
        if let Some(expires) = self.run.expires {
            let left = expires.duration_since(jiff::Timestamp::now());
            // Over already (the supervisor was away): at once.
            self.arm(Timer::Ttl, Duration::try_from(left).unwrap_or(Duration::ZERO));
        }
    }

    fn arm(&mut self, timer: Timer, after: Duration) {
        let inputs = self.shared.inputs.clone();
        let task = tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            let _ = inputs.send(Input::Event(Event::TimeOut(timer)));
        });
        if let Some(earlier) = self.timers.insert(timer, task.abort_handle()) {
            earlier.abort();
        }
    }

    /// Makes the state known: to the requests that wait for it, and to whoever reads the files.
    fn publish(&mut self, end: Option<&super::End>) {
        let state = self.machine.state();
        let changed = self.run.state != state;
        self.run.state = state;
        if changed {
            self.history.add(Happening::State { state });
        }
        let mut write = changed;
        self.shared.snapshot.send_if_modified(|snapshot| {
            let end = match state {
                // A new run begins: the end of the one before is history.
                State::Starting if end.is_none() => None,
                _ => end.cloned().or_else(|| snapshot.end.clone()),
            };
            let finished = self.finished;
            let told = snapshot.notes.len() == self.notes.len();
            if *snapshot.run == self.run && snapshot.end == end && snapshot.finished == finished && told {
                return false;
            }
            write = true;
            let notes = self.notes.clone();
            *snapshot = Snapshot { run: Rc::new(self.run.clone()), end, notes, finished };
            true
        });
        if write && let Err(e) = self.shared.dir().write_run_state(&self.run) {
            tracing::error!("cannot write the state of the VM: {e}");
        }
    }
}

/// Whether an address is one of QEMU's user-mode network (qemu(1), `-netdev user`: `net=10.0.2.0/24`, `ipv6-net=fec0::/64`).
fn is_user_mode(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [10, 0, 2],
        IpAddr::V6(v6) => v6.segments()[..4] == [0xfec0, 0, 0, 0],
    }
}

/// The queue's two ends and the published state's.
pub(super) fn queue(
    run: &RunState,
) -> (mpsc::UnboundedSender<Input>, mpsc::UnboundedReceiver<Input>, watch::Sender<Snapshot>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let (snapshot, _) =
        watch::channel(Snapshot { run: Rc::new(run.clone()), end: None, notes: Vec::new(), finished: false });
    (tx, rx, snapshot)
}
