//! Saving a VM that runs: from the request to a snapshot in the store.
//!
//! A VM that booted itself goes on in another QEMU, as the first clone of its own snapshot ([`crate::snapshot::engine`] has the
//! reasons). While it is open which of the two it runs in, the driver hears of neither, and `state.json` names both: a supervisor that
//! takes charge after this one was killed asks the successor whether it runs ([`settle`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ::qmp::Monitor;
use qapi::qmp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::control::{Conversation, Failure, FailureKind, Reply};
use super::driver::Input;
use super::link::{self, Adopted, Found, Handle, Link, MONITOR_DEADLINE};
use super::shared::Shared;
use super::state::{Event, State};
use crate::error::chain;
use crate::fault::{self, Point};
use crate::host::proc::{PidFd, ProcessId};
use crate::identity;
use crate::machine::{self, Ram, ResolvedAccel};
use crate::snapshot::check::HostView;
use crate::snapshot::manifest::{INITRD, KERNEL, MANIFEST_SCHEMA, Machine, Manifest, Source};
use crate::snapshot::save::{self, Captured, CloneSource};
use crate::snapshot::store::{Draft, Sizes, Snapshot, SnapshotStore};
use crate::snapshot::{SnapshotError, SnapshotName, engine, migratable};
use crate::spec::Kind;
use crate::store::{Origin, RamBase, Record, RunState, VmDir};

/// How long the guest is waited for before it is saved unprepared.
const PREPARATION: Duration = Duration::from_secs(10);

/// What is to be saved of a VM, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// All of it; it goes on.
    Live,
    /// All of it; it ends.
    Stop,
    /// As `stop`; its next start goes on from there.
    Suspend,
    /// Its disk alone; it goes on.
    Disk,
}

/// A snapshot that was made, for people and scripts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    /// Its name.
    pub name: SnapshotName,
    /// Its id.
    pub id: uuid::Uuid,
    /// How long the guest stood still, in milliseconds; none where it has not gone on.
    pub pause_ms: Option<f64>,
    /// Bytes that it takes on the disk, of its own.
    pub own: u64,
    /// Bytes that it shares with others.
    pub shared: u64,
}

/// Saves the VM.
pub(super) async fn save(
    shared: &Rc<Shared>,
    talk: &mut Conversation,
    name: SnapshotName,
    how: How,
    note: Option<String>,
    replace: bool,
) -> Result<Saved, Failure> {
    let Some(_saving) = shared.begin_save() else {
        let why = format!("`{}` is being saved already", shared.dir().name());
        return Err(Failure::new(FailureKind::WrongState, why).hint("wait for it, and try again"));
    };
    let job = Job::begin(shared, name, how, note, replace)?;
    match (how, job.run.base.clone()) {
        (How::Disk, _) => job.disk(talk).await,
        (How::Stop, _) => job.stop(talk, false).await,
        (How::Suspend, _) => job.stop(talk, true).await,
        (How::Live, Some(base)) => job.clone_of(base, talk).await,
        (How::Live, None) => job.hand_over(talk).await,
    }
}

/// One save.
struct Job {
    shared: Rc<Shared>,
    store: SnapshotStore,
    handle: Rc<Handle>,
    monitor: Monitor,
    record: Record,
    run: RunState,
    disk: Option<PathBuf>,
    name: SnapshotName,
    note: Option<String>,
    /// It may take the place of one of this name.
    replace: bool,
    tied: Vec<String>,
}

impl Job {
    /// Looks whether it can be done, before anything is touched.
    fn begin(
        shared: &Rc<Shared>,
        name: SnapshotName,
        how: How,
        note: Option<String>,
        replace: bool,
    ) -> Result<Self, Failure> {
        let handle = shared.link()?;
        let run = (*shared.snapshot.borrow().run).clone();
        if !matches!(run.state, State::Booting | State::Running | State::Paused { .. }) {
            let why = "only a guest that runs can be saved".to_owned();
            return Err(Failure::new(FailureKind::WrongState, why).hint(format!("midge start {name}")));
        }
        let record = shared.dir().record().map_err(|e| Failure::new(FailureKind::Other, chain(&e)))?;
        let mut spec = record.spec.clone();
        spec.kind = shared.kind();
        let ram = match (&run.ram_file, &run.base) {
            (_, Some(base)) => Ram::Private(base.file.clone()),
            (Some(file), None) => Ram::File(file.clone()),
            (None, None) => Ram::Anonymous,
        };
        let verdict = migratable::judge(&spec, &handle.command_line, &ram);
        if how != How::Disk && !verdict.refusals.is_empty() {
            return Err(Failure::from(SnapshotError::NotMigratable(verdict.refusals))
                .hint("save its disk alone with `--disk-only`"));
        }
        if how == How::Suspend && record.spec.ephemeral {
            let why =
                format!("`{}` is removed when it ends: there would be nothing to go on", record.spec.name);
            return Err(Failure::new(FailureKind::WrongState, why)
                .hint("`midge snapshot save --stop` keeps what it is, for clones"));
        }
        let disk = shared.dir().disk();
        let disk = disk.exists().then_some(disk);
        if how == How::Disk && disk.is_none() {
            return Err(Failure::new(FailureKind::Usage, "the VM has no disk to save"));
        }
        let monitor = handle.monitor()?;
        Ok(Self {
            store: SnapshotStore::new(&shared.home),
            shared: shared.clone(),
            handle,
            monitor,
            record,
            run,
            disk,
            name,
            note,
            replace,
            tied: verdict.tied,
        })
    }

    fn begin_draft(&self, needs: &[Snapshot]) -> Result<Draft, SnapshotError> {
        if self.replace { self.store.begin_over(needs) } else { self.store.begin(&self.name, needs) }
    }

    /// A VM that booted itself: it goes on as the first clone of its own snapshot.
    async fn hand_over(self, talk: &mut Conversation) -> Result<Saved, Failure> {
        let ram = self.run.ram_file.clone().ok_or_else(|| {
            Failure::new(FailureKind::WrongState, "its memory is not a file, and cannot be saved")
        })?;
        let paused = matches!(self.run.state, State::Paused { .. });
        self.prepare_identity().await;
        engine::check_migratable(&self.monitor).await?;
        let draft = self.begin_draft(&[])?;
        let next = self.disk.as_deref().map(|disk| save::prepare_disk(&draft, disk)).transpose()?;
        let taps = self.taps()?;
        let borrowed: Vec<Option<BorrowedFd<'_>>> =
            taps.iter().map(|tap| tap.as_ref().map(AsFd::as_fd)).collect();
        let version = engine::version(&self.monitor).await?;
        let started = Link::succeed(&self.shared, &self.handle, &borrowed, next.as_deref(), version);
        drop(borrowed);
        drop(taps);
        let (successor, succession) = match started {
            Ok(started) => started,
            Err(failure) => {
                save::forget_next(self.disk.as_deref());
                return Err(failure);
            }
        };
        let new = successor.handle();
        fault::at(Point::Spawned);
        self.shared.successor(new.process_id().cloned(), &succession.forwards).await;
        fault::at(Point::Noted);
        let discard = {
            let (new, dir) = (new.clone(), self.shared.dir().clone());
            move || async move {
                new.kill();
                new.gone().await;
                link::remove_sockets(&dir);
            }
        };
        let greeted = match new.greeted().await {
            Ok(monitor) => monitor,
            Err(failure) => {
                discard().await;
                save::forget_next(self.disk.as_deref());
                self.shared.successor(None, &[]).await;
                return Err(failure);
            }
        };
        self.handle.hold();
        let stderr = self.shared.dir().qemu_log();
        // Kept until the snapshot has it: without it, what the guest has become could not be saved.
        let kept = self.shared.dir().base_state();
        let keep = |state: &[u8]| {
            if let Err(e) = crate::store::write_whole(&kept, state, false) {
                tracing::warn!("{}", chain(&e));
            }
        };
        let disk = self.disk.as_deref();
        let handed =
            save::hand_over(&self.monitor, &greeted, disk, Some(&stderr), !paused, keep, discard).await;
        let handed = match handed {
            Ok(handed) => handed,
            Err(error) => {
                let _ = std::fs::remove_file(kept);
                self.handle.release(&self.shared);
                self.shared.successor(None, &[]).await;
                return Err(Failure::new(FailureKind::Other, chain(&error)));
            }
        };
        // From here on the guest is the successor's.
        let base = RamBase { snapshot: draft.id(), file: ram.clone() };
        let before = self.shared.went_over(successor, base).await;
        fault::at(Point::WentOver);
        // Not before it is noted: by the names of the sockets a supervisor that finds two QEMUs tells them apart.
        if let Err(e) = link::adopt_sockets(&self.shared.dir()) {
            tracing::error!("the sockets of the new QEMU keep their names: {e}");
        }
        fault::at(Point::SocketsAdopted);
        new.release(&self.shared);
        quit(&self.monitor, &self.handle).await;
        drop(before);
        fault::at(Point::FirstGone);
        forward(&greeted, &succession.forwards).await;
        self.shared.tell(Input::Alone);
        fault::at(Point::Forwarded);

        let arguments = succession_of(&self.handle);
        let store = self.store.clone();
        let (draft, captured) = in_background(talk, move |progress| {
            let captured = save::finish_hand_over(&store, &draft, &handed, &ram, progress);
            (draft, captured)
        })
        .await?;
        let saved = self.publish(talk, draft, captured?, None, &arguments).await?;
        let _ = std::fs::remove_file(kept);
        Ok(saved)
    }

    /// A clone: what differs from its parent.
    async fn clone_of(self, base: RamBase, talk: &mut Conversation) -> Result<Saved, Failure> {
        let paused = matches!(self.run.state, State::Paused { .. });
        self.prepare_identity().await;
        let parent = self.parent(&base)?;
        let draft = self.begin_draft(parent.snapshot.as_slice())?;
        let (draft, captured) = self.capture_clone(draft, base, parent.clone(), !paused, talk).await?;
        let arguments = succession_of(&self.handle);
        self.publish(talk, draft, captured, parent.snapshot.as_ref(), &arguments).await
    }

    /// Saves the VM and ends it: its RAM is taken, not copied, where it lies on the store's file system.
    async fn stop(self, talk: &mut Conversation, suspend: bool) -> Result<Saved, Failure> {
        // Until it is known whether it ends, the VM is not called paused: a supervisor that takes charge lets it go on.
        self.handle.hold();
        let saved = self.save_to_end(talk, suspend).await;
        self.handle.release(&self.shared);
        let saved = saved?;
        let mut changes = self.shared.snapshot.subscribe();
        self.shared.tell(Input::Event(Event::Saved));
        // QEMU has the RAM file open for writing until it is gone.
        let _ = changes.wait_for(|now| now.run.state == State::Ended || now.finished).await;
        Ok(Saved { pause_ms: None, ..saved })
    }

    async fn save_to_end(&self, talk: &mut Conversation, suspend: bool) -> Result<Saved, Failure> {
        let arguments = succession_of(&self.handle);
        let (draft, captured, parent) = match self.run.base.clone() {
            Some(base) => {
                let parent = self.parent(&base)?;
                let draft = self.begin_draft(parent.snapshot.as_slice())?;
                let (draft, captured) = self.capture_clone(draft, base, parent.clone(), false, talk).await?;
                (draft, captured, parent.snapshot)
            }
            None => {
                let ram = self.run.ram_file.clone().ok_or_else(|| {
                    Failure::new(FailureKind::WrongState, "its memory is not a file, and cannot be saved")
                })?;
                let draft = self.begin_draft(&[])?;
                let (store, monitor, disk) = (self.store.clone(), self.monitor.clone(), self.disk.clone());
                let done = in_background(talk, move |progress| {
                    let runtime = tokio::runtime::Handle::current();
                    let taken =
                        save::save_and_stop(&store, &draft, &monitor, &ram, disk.as_deref(), progress);
                    let captured = runtime.block_on(taken);
                    (draft, captured)
                })
                .await;
                let (draft, captured) = done?;
                (draft, captured?, None)
            }
        };
        let id = draft.id();
        self.shared.becomes(Some(id)).await;
        fault::at(Point::Becoming);
        if suspend && let Err(e) = self.shared.dir().write_suspended(id) {
            tracing::error!("the VM will boot instead of going on: {}", chain(&e));
        }
        fault::at(Point::Suspended);
        let published = self.publish(talk, draft, captured, parent.as_ref(), &arguments).await;
        match published {
            Ok(saved) => Ok(saved),
            Err(failure) => {
                self.shared.dir().clear_suspended();
                self.shared.becomes(None).await;
                // It stands still, and nothing of it is lost.
                if let Err(e) = engine::resume(&self.monitor).await {
                    tracing::error!("{}", chain(&e));
                }
                Err(failure)
            }
        }
    }

    /// The disk alone, as it is at this moment: as after a power cut, for file systems that the agent does not freeze.
    async fn disk(self, talk: &mut Conversation) -> Result<Saved, Failure> {
        let disk = self.disk.clone().ok_or_else(|| Failure::new(FailureKind::Usage, "the VM has no disk"))?;
        let base = crate::snapshot::qcow2::backing(&disk).ok().flatten();
        let needs = base.and_then(|base| self.store.owner(&base)).and_then(|id| self.store.by_id(id).ok()?);
        let draft = self.begin_draft(needs.as_slice())?;
        self.handle.agent.freeze().await;
        let captured = save::save_disk(&self.store, &draft, &self.monitor, &disk).await;
        // Also where the agent has not said that it did: it may have done it too late to say so.
        self.handle.agent.thaw().await;
        self.publish(talk, draft, captured?, None, &[]).await
    }

    async fn capture_clone(
        &self,
        draft: Draft,
        base: RamBase,
        parent: Parent,
        goes_on: bool,
        talk: &mut Conversation,
    ) -> Result<(Draft, Captured), Failure> {
        let pid = self.handle.process_id().map(|id| id.pid);
        let pid = pid.ok_or_else(|| Failure::new(FailureKind::WrongState, "QEMU is gone"))?;
        let (store, monitor, disk) = (self.store.clone(), self.monitor.clone(), self.disk.clone());
        self.handle.hold();
        let done = in_background(talk, move |progress| {
            let source = CloneSource {
                monitor: &monitor,
                pid,
                state: &parent.state,
                base: parent.base,
                mapped: &base.file,
                disk: disk.as_deref(),
                goes_on,
            };
            let saved = save::save_clone(&store, &draft, &source, progress);
            let captured = tokio::runtime::Handle::current().block_on(saved);
            (draft, captured)
        })
        .await;
        if goes_on {
            self.handle.release(&self.shared);
        }
        let (draft, captured) = done?;
        Ok((draft, captured?))
    }

    /// Puts into the guest what will give its clones their identities, so that each need not be sent it again. A guest that cannot take
    /// it now is sent it then.
    async fn prepare_identity(&self) {
        if self.shared.kind() != Kind::Linux || !self.handle.agent.is_up() {
            return;
        }
        let Ok(agent) = self.handle.agent.client().await else { return };
        if let Err(e) = identity::prepare(&agent, self.shared.arch(), PREPARATION).await {
            tracing::info!("the guest is not prepared for clones: {}", chain(&e));
        }
    }

    /// What the guest's state stands on.
    fn parent(&self, base: &RamBase) -> Result<Parent, Failure> {
        if let Some(snapshot) = self.store.by_id(base.snapshot)?
            && let Some(state) = self.store.state(&snapshot)?
        {
            let flat = self.store.ram_base(&snapshot);
            return Ok(Parent { state, base: flat, snapshot: Some(snapshot) });
        }
        // The save before came to nothing, after the guest had gone over.
        let path = self.shared.dir().base_state();
        match std::fs::read(&path) {
            Ok(state) => Ok(Parent { state, base: None, snapshot: None }),
            Err(e) => {
                let why = format!("what the guest was loaded from is gone ({}: {e})", path.display());
                Err(Failure::new(FailureKind::WrongState, why)
                    .hint("stop and start the VM; then it can be saved again"))
            }
        }
    }

    /// The taps of the guest's interfaces, for another QEMU to use.
    fn taps(&self) -> Result<Vec<Option<OwnedFd>>, Failure> {
        let failed = |e: std::io::Error| {
            Failure::new(FailureKind::Other, format!("cannot share the guest's tap: {e}"))
        };
        let ports = self.shared.ports();
        let ours = ports.taps();
        let pid = self.handle.process_id().map_or(0, |id| id.pid);
        (0..self.record.spec.nets.len())
            .map(|net| match (ours.get(net), machine::tap_number(&self.handle.command_line, net)) {
                (Some(Some(tap)), _) => tap.try_clone_to_owned().map(Some).map_err(failed),
                (_, None) => Ok(None),
                // Only QEMU has it: this supervisor found it running.
                (_, Some(number)) => {
                    let qemu = PidFd::open(pid).map_err(failed)?;
                    let qemu = qemu.ok_or_else(|| Failure::new(FailureKind::WrongState, "QEMU is gone"))?;
                    qemu.descriptor(number).map(Some).map_err(failed)
                }
            })
            .collect()
    }

    /// Makes the snapshot whole and gives it its name.
    async fn publish(
        &self,
        talk: &mut Conversation,
        draft: Draft,
        captured: Captured,
        parent: Option<&Snapshot>,
        arguments: &[String],
    ) -> Result<Saved, Failure> {
        let manifest = self.manifest(&draft, &captured, parent, arguments).await?;
        let digests = captured.digests;
        let memory = captured.state.is_some();
        let published = in_background(talk, move |_| draft.publish(&manifest, digests)).await?;
        let snapshot = published?;
        if memory {
            // From here on there is a snapshot, and nothing may undo it: with `--stop` its RAM is the very file that the guest wrote to.
            let origin = Origin { snapshot: snapshot.id(), memory: true };
            if let Err(e) = self.shared.dir().write_origin(origin) {
                tracing::error!("{}", chain(&e));
            }
            fault::at(Point::OriginNoted);
        }
        let sizes = self.store.sizes(&snapshot).unwrap_or_else(|e| {
            tracing::warn!("{}", chain(&e));
            Sizes::default()
        });
        let pause_ms = captured.pause.map(|pause| (pause.as_secs_f64() * 1e6).round() / 1e3);
        Ok(Saved {
            name: self.name.clone(),
            id: snapshot.id(),
            pause_ms,
            own: sizes.own,
            shared: sizes.shared,
        })
    }

    async fn manifest(
        &self,
        draft: &Draft,
        captured: &Captured,
        parent: Option<&Snapshot>,
        arguments: &[String],
    ) -> Result<Manifest, Failure> {
        let machine = match &captured.state {
            Some(_) => Some(self.machine(arguments).await?),
            None => None,
        };
        let boot = &self.record.spec.boot;
        let copy = |file: &str, from: &Option<PathBuf>| {
            from.as_ref().map(|from| draft.copy_in(file, from)).transpose()
        };
        Ok(Manifest {
            schema: MANIFEST_SCHEMA,
            id: draft.id(),
            name: self.name.clone(),
            taken: jiff::Timestamp::now(),
            pause_us: captured.pause.and_then(|pause| u64::try_from(pause.as_micros()).ok()),
            note: self.note.clone(),
            parent: parent.map(Snapshot::id),
            source: self.source(),
            spec: self.record.spec.clone(),
            kind: self.shared.kind(),
            image: self.record.image.clone(),
            machine,
            tied: self.tied.clone(),
            state: captured.state.clone(),
            kernel: copy(KERNEL, &boot.kernel)?,
            initrd: copy(INITRD, &boot.initrd)?,
            ram: captured.ram.clone(),
            disk: captured.disk.clone(),
        })
    }

    /// Who the guest believes to be.
    fn source(&self) -> Source {
        self.run.believes.clone().unwrap_or_else(|| Source {
            id: self.record.id,
            macs: self.record.macs.clone(),
            hostname: Some(self.record.spec.name.clone()),
            addresses: self.run.addresses.clone(),
            heard: self.run.heard.iter().map(|heard| (heard.net, heard.address)).collect(),
            machine_id: None,
        })
    }

    async fn machine(&self, arguments: &[String]) -> Result<Machine, Failure> {
        let mut host = HostView::of_this_host(self.record.spec.arch)
            .map_err(|e| Failure::new(FailureKind::HostUnfit, chain(&e)))?;
        // The QEMU that runs may not be the one that is installed now.
        host.qemu.version = engine::version(&self.monitor).await.unwrap_or(host.qemu.version);
        if let Some(line) = &self.run.qemu_version {
            host.qemu.version_line.clone_from(line);
        }
        let accel = self.run.accel.unwrap_or(ResolvedAccel::Tcg);
        Machine::of(arguments, &self.record.spec, accel, &host)
            .ok_or_else(|| Failure::new(FailureKind::Other, "QEMU's command line lacks its machine or CPU"))
    }
}

/// What a clone's state stands on.
#[derive(Clone)]
struct Parent {
    /// The state that was loaded.
    state: Vec<u8>,
    /// The snapshot whose flat RAM file is mapped; none where that file is nobody's.
    base: Option<uuid::Uuid>,
    snapshot: Option<Snapshot>,
}

/// The arguments of a QEMU, without the program.
fn succession_of(handle: &Handle) -> Vec<String> {
    handle.command_line.iter().skip(1).cloned().collect()
}

/// Does what takes long on a thread of its own, and tells the command how far it has come.
async fn in_background<T: Send + 'static>(
    talk: &mut Conversation,
    work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T + Send + 'static,
) -> Result<T, Failure> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut working = tokio::task::spawn_blocking(move || {
        work(&mut |done, total| {
            let _ = tell.send((done, total));
        })
    });
    loop {
        tokio::select! {
            done = &mut working => {
                return done.map_err(|e| Failure::new(FailureKind::Other, format!("it broke off: {e}")));
            }
            Some((done, total)) = told.recv() => {
                // A command that has hung up does not end what it began: the snapshot is made.
                let _ = talk.send(&Reply::Progress { done, total }).await;
            }
        }
    }
}

/// Ends a QEMU whose guest has gone over.
async fn quit(monitor: &Monitor, handle: &Handle) {
    let _ = monitor.execute(qmp::quit {}, MONITOR_DEADLINE).await;
    if tokio::time::timeout(Duration::from_secs(5), handle.gone()).await.is_err() {
        handle.kill();
        handle.gone().await;
    }
}

/// Opens the ports of the host that lead into the guest's user-mode network, which the QEMU before has let go of.
async fn forward(monitor: &Monitor, forwards: &[(String, String)]) {
    for (net, word) in forwards {
        let command_line = format!("hostfwd_add {net} {word}");
        let command = qmp::human_monitor_command { command_line, cpu_index: None };
        match monitor.execute(command, MONITOR_DEADLINE).await {
            Ok(said) if said.trim().is_empty() => {}
            Ok(said) => tracing::error!("the port {word} leads nowhere any more: {}", said.trim()),
            Err(e) => tracing::error!("the port {word} leads nowhere any more: {e}"),
        }
    }
}

/// Puts right what a supervisor that was killed while it saved its VM has left: of two QEMUs the one that the guest is not in is
/// ended, and the other is the VM's.
pub(super) async fn settle(dir: &VmDir, run: &mut RunState) -> Result<(), Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(FailureKind::Other, format!("cannot tell which QEMU the guest is in: {e}"))
    };
    match (run.predecessor.take(), run.successor.take()) {
        (Some(old), _) => {
            end(&old).await.map_err(failed)?;
            link::adopt_sockets(dir).map_err(failed)?;
        }
        (None, Some(new)) => {
            let found = Found::successor(dir).await;
            if new.is_alive() && found.is_some_and(|found| found.went_on()) {
                if let Some(old) = &run.qemu {
                    end(old).await.map_err(failed)?;
                }
                link::adopt_sockets(dir).map_err(failed)?;
                run.qemu = Some(new);
                // The state that it stands on is in no snapshot, but kept beside the sockets.
                let snapshot = uuid::Uuid::nil();
                run.base = run.ram_file.clone().map(|file| RamBase { snapshot, file });
            } else {
                end(&new).await.map_err(failed)?;
                link::remove_sockets(dir);
                run.forwards_due.clear();
                let disk = dir.disk();
                if let Some(old) = &run.qemu
                    && old.is_alive()
                    && disk.exists()
                    && !save::is_open_in(&disk, old.pid)?
                {
                    // The disk went over, and the guest with it, before its QEMU ended: this one would write to what is the snapshot's.
                    end(old).await.map_err(failed)?;
                }
            }
        }
        (None, None) => {
            // One that was started and not noted yet: it has nothing of the guest.
            if let Some(new) = Found::successor(dir).await {
                new.quit().await;
            }
            link::remove_sockets(dir);
        }
    }
    match &run.qemu {
        Some(qemu) if qemu.is_alive() => Ok(save::settle_disk_of(&dir.disk(), qemu.pid)?),
        _ => Ok(()),
    }
}

/// Opens the ports of the host that a supervisor which was killed had yet to ask for.
pub(super) async fn open_ports(adopted: &Adopted, due: Vec<(String, String)>) {
    if let Ok(monitor) = adopted.link.handle().monitor() {
        forward(&monitor, &due).await;
    }
}

/// Ends a process at once; one that is gone already is fine.
async fn end(process: &ProcessId) -> std::io::Result<()> {
    let Some(process) = process.open()? else { return Ok(()) };
    process.signal(crate::host::proc::Signal::KILL)?;
    process.ended().await
}
