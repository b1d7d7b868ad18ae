//! What a supervisor's tasks share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::End;
use super::console::Console;
use super::control::{Failure, FailureKind, Family};
use super::driver::{Claim, Claimed, IDENTITY_DEADLINE, Input, SPARES_DEADLINE, spare};
use super::link::{Handle, Link};
use super::plan::{self, Plan};
use super::ports::Ports;
use super::state::Ask;
use crate::host::proc::ProcessId;
use crate::spec::{Arch, Kind};
use crate::store::{Home, RamBase, RunState, VmDir};

/// The published state of a VM.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// The run.
    pub(super) run: Rc<RunState>,
    /// How the guest ended, once it has, until it is started again.
    pub(super) end: Option<End>,
    /// What a person who follows the boot should know, a line each.
    pub(super) notes: Vec<String>,
    /// Nothing will happen any more.
    pub(super) finished: bool,
}

/// What every task may use.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) home: Home,
    /// Where the VM is; a spare becomes another when it is claimed.
    dir: RefCell<Rc<VmDir>>,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) snapshot: watch::Sender<Snapshot>,
    pub(super) console: Rc<Console>,
    link: RefCell<Option<Rc<Handle>>>,
    ports: RefCell<Rc<Ports>>,
    /// The guest's family, decided, and its instruction set.
    kind: Cell<(Kind, Arch)>,
    saving: Cell<bool>,
    /// The guest's file systems may stand still, for a save that was cut short.
    thaw_due: Cell<bool>,
}

/// The VM is being saved until this is dropped.
#[derive(Debug)]
pub(super) struct Saving(Rc<Shared>);

impl Drop for Saving {
    fn drop(&mut self) {
        self.0.saving.set(false);
        self.0.tell(Input::Saving(false));
    }
}

impl Shared {
    pub(super) fn new(
        home: Home,
        dir: VmDir,
        inputs: mpsc::UnboundedSender<Input>,
        snapshot: watch::Sender<Snapshot>,
    ) -> Rc<Self> {
        let console = Console::new(dir.console_log());
        Rc::new(Self {
            home,
            dir: RefCell::new(Rc::new(dir)),
            inputs,
            snapshot,
            console,
            link: RefCell::new(None),
            ports: RefCell::default(),
            kind: Cell::new((Kind::Other, Arch::host())),
            saving: Cell::new(false),
            thaw_due: Cell::new(false),
        })
    }

    /// The VM's folders.
    pub(super) fn dir(&self) -> Rc<VmDir> {
        self.dir.borrow().clone()
    }

    /// The VM's folders are these from now on.
    pub(super) fn moved(&self, dir: VmDir) {
        self.console.moved(dir.console_log());
        *self.dir.borrow_mut() = Rc::new(dir);
    }

    /// The running QEMU's monitor and agent.
    pub(super) fn link(&self) -> Result<Rc<Handle>, Failure> {
        self.link.borrow().clone().ok_or_else(|| {
            Failure::new(
                FailureKind::WrongState,
                format!("the VM `{}` has no running guest", self.dir().name()),
            )
        })
    }

    pub(super) fn set_link(&self, link: Option<Rc<Handle>>) {
        *self.link.borrow_mut() = link;
    }

    /// Puts something into the driver's queue.
    pub(super) fn tell(&self, input: Input) {
        // The driver is gone only when the VM has ended: nobody is interested any more.
        let _ = self.inputs.send(input);
    }

    /// Asks the driver for something and answers whether it fits the VM's state.
    pub(super) async fn ask(&self, ask: Ask) -> Result<(), Failure> {
        let (tx, rx) = oneshot::channel();
        self.tell(Input::Ask(ask, tx));
        match rx.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Failure::new(FailureKind::WrongState, why)),
            Err(_) => Err(Failure::new(FailureKind::WrongState, "the VM has ended")),
        }
    }

    /// The guest's family.
    pub(super) fn kind(&self) -> Kind {
        self.kind.get().0
    }

    /// The guest's instruction set.
    pub(super) fn arch(&self) -> Arch {
        self.kind.get().1
    }

    pub(super) fn set_kind(&self, kind: Kind, arch: Arch) {
        self.kind.set((kind, arch));
    }

    /// The guest's file systems are to be woken when its agent answers.
    pub(super) fn thaw_when_up(&self) {
        self.thaw_due.set(true);
    }

    /// Whether they are, asked once.
    pub(super) fn thaw_is_due(&self) -> bool {
        self.thaw_due.take()
    }

    /// Begins a save; nothing when there is one already.
    pub(super) fn begin_save(self: &Rc<Self>) -> Option<Saving> {
        if self.saving.replace(true) {
            return None;
        }
        self.tell(Input::Saving(true));
        Some(Saving(self.clone()))
    }

    /// Notes which QEMU may take the guest over, before it can.
    pub(super) async fn successor(&self, successor: Option<ProcessId>, forwards: &[(String, String)]) {
        let (noted, done) = oneshot::channel();
        self.tell(Input::Successor(successor, forwards.to_vec(), noted));
        // Fails only when the driver has gone, and the guest with it.
        let _ = done.await;
    }

    /// The guest has gone over to another QEMU. Answers the link to the one before.
    pub(super) async fn went_over(&self, link: Link, base: RamBase) -> Option<Link> {
        let (tell, before) = oneshot::channel();
        self.tell(Input::WentOver(Box::new(link), base, tell));
        before.await.ok().flatten()
    }

    /// How long the guest may take to confirm its identity.
    pub(super) fn identity_deadline(&self) -> Duration {
        if self.snapshot.borrow().run.spare.is_some() { SPARES_DEADLINE } else { IDENTITY_DEADLINE }
    }

    /// Makes the spare that this is a VM, and lets it go on.
    pub(super) async fn claim(&self, claim: Claim) -> Result<Claimed, Failure> {
        let (tell, told) = oneshot::channel();
        self.tell(Input::Claim(claim, tell));
        told.await.unwrap_or_else(|_| Err(spare::no_spare()))
    }

    /// Ends the spare that this is.
    pub(super) async fn retire(&self) -> Result<(), Failure> {
        let (tell, told) = oneshot::channel();
        self.tell(Input::Retire(tell));
        told.await.unwrap_or_else(|_| Err(spare::no_spare()))
    }

    /// Notes which snapshot the VM ends with, before that is whole; none where nothing came of it.
    pub(super) async fn becomes(&self, snapshot: Option<uuid::Uuid>) {
        let (noted, done) = oneshot::channel();
        self.tell(Input::Becomes(snapshot, noted));
        let _ = done.await;
    }

    /// The host's ends of the guest's interfaces.
    pub(super) fn ports(&self) -> Rc<Ports> {
        self.ports.borrow().clone()
    }

    pub(super) fn set_ports(&self, ports: Rc<Ports>) {
        *self.ports.borrow_mut() = ports;
    }

    /// Why the guest has no address of this family, as a failure of this kind.
    pub(super) async fn why_no_address(&self, family: Family, kind: FailureKind) -> Failure {
        let dir = self.dir();
        let name = dir.name();
        self.ports().why(family, kind).await.unwrap_or_else(|| {
            Failure::new(kind, format!("the guest of `{name}` has shown no address"))
                .hint(format!("midge console {name}"))
        })
    }

    /// A plan from the record as it is now.
    pub(super) fn replan(&self) -> Result<Plan, Failure> {
        let record = self.dir().record().map_err(|e| Failure::new(FailureKind::Other, e.to_string()))?;
        plan::plan(&self.home, &self.dir(), &record, None)
    }
}
