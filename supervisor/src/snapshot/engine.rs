//! What is asked of a running QEMU to save it and to load it. Nothing here knows of supervisors, records or names.
//!
//! # Saving without copying RAM while the guest stands still
//!
//! The RAM of a VM that booted itself is a shared mapping of a file, and that file must not change once it is a snapshot's. Three ways:
//!
//! - [`hand_over`]: a second QEMU is ready beforehand, with the file mapped privately. The first one stops, its state goes over, the
//!   second one goes on as the first clone of the snapshot, the first one quits. Nothing of RAM is copied while the guest stands
//!   still, so the pause is the same for every size. Afterwards [`super::ram::copy()`] writes the file, which never changes again, into the
//!   snapshot.
//! - [`state_of_template`] and `FICLONE`, where the RAM file's system has it: the same QEMU could go on. RAM files lie on tmpfs, which has
//!   not, so this is not used.
//! - [`state_of_template`] and a copy while the guest stands still, whose pause grows with the RAM in use: for VMs that end by being saved.
//!
//! A clone is saved by [`state_of_clone`] and the pages that are its own ([`super::ram::process`]).
//!
//! Soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst) would let the same QEMU go on everywhere; they exist on x86_64 only and not in
//! every kernel, and reading them for 4 GiB takes 36 ms, so they are not used.

use std::fs::File;
use std::io::{Read as _, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ::qmp::Monitor;
use qapi::qmp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{SnapshotError, io_error, qemu_error};
use super::stream;
use crate::fault::{self, Point};
use crate::machine;

/// How long a state may take to be saved or loaded: some milliseconds on a host that is not overloaded.
const DEADLINE: Duration = Duration::from_secs(60);
/// The capability that leaves shared RAM out of a state. It is set on both sides, as it also decides how a list in the state is written.
const CAPABILITIES: [&str; 1] = ["x-ignore-shared"];
/// The name under which QEMU keeps a descriptor for a state.
const STATE_FD: &str = "snapshot-state";

/// Asks QEMU what of this machine cannot be saved, before anything is stopped.
///
/// # Errors
/// [`SnapshotError::NotMigratable`] with QEMU's own words (`query-migrate`, `blocked-reasons`).
pub async fn check_migratable(monitor: &Monitor) -> Result<(), SnapshotError> {
    let failed = qemu_error("say whether the machine can be saved");
    let info = monitor.execute_raw("query-migrate", json!({}), DEADLINE).await.map_err(failed)?;
    let reasons = info.get("blocked-reasons").and_then(Value::as_array).into_iter().flatten();
    let reasons: Vec<String> = reasons.filter_map(Value::as_str).map(str::to_owned).collect();
    if reasons.is_empty() { Ok(()) } else { Err(SnapshotError::NotMigratable(reasons)) }
}

/// QEMU's version: major, minor, micro.
pub async fn version(monitor: &Monitor) -> Result<(u32, u32, u32), SnapshotError> {
    let asked = monitor.execute_raw("query-version", json!({}), DEADLINE).await;
    let version = asked.map_err(qemu_error("tell its version"))?;
    let number = |key: &str| version.get("qemu")?.get(key)?.as_u64()?.try_into().ok();
    Ok((number("major"), number("minor"), number("micro")))
        .map(|(major, minor, micro)| (major.unwrap_or(0), minor.unwrap_or(0), micro.unwrap_or(0)))
}

/// Stops the guest's CPUs and waits for its disk to be flushed. Answers the moment from which the pause counts.
pub async fn pause(monitor: &Monitor) -> Result<Instant, SnapshotError> {
    let since = Instant::now();
    monitor.execute(qmp::stop {}, DEADLINE).await.map_err(qemu_error("stop the guest"))?;
    Ok(since)
}

/// Lets the guest go on; its disks are taken back where they were given up.
pub async fn resume(monitor: &Monitor) -> Result<(), SnapshotError> {
    monitor.execute(qmp::cont {}, DEADLINE).await.map(drop).map_err(qemu_error("let the guest go on"))
}

/// The device state of a paused machine whose RAM is a shared file.
///
/// QEMU gives its disks up by this (their locks too) until [`resume`]: what has to be done with them comes before.
pub async fn state_of_template(monitor: &Monitor) -> Result<Vec<u8>, SnapshotError> {
    const WHAT: &str = "save the state of the machine";
    let (theirs, mut ours) = sockets()?;
    let getfd = qmp::getfd { fdname: STATE_FD.to_owned() };
    monitor.execute_with_fd(getfd, theirs.as_fd(), DEADLINE).await.map_err(qemu_error(WHAT))?;
    // QEMU has its own copy; with ours closed the end of the state is the end of the stream.
    drop(theirs);
    let uri = format!("fd:{STATE_FD}");
    let save =
        async { monitor.migrate(&uri, &CAPABILITIES, DEADLINE).await.map(drop).map_err(qemu_error(WHAT)) };
    let mut state = Vec::new();
    let read = async { ours.read_to_end(&mut state).await.map_err(io_error("read", Path::new("the state"))) };
    let done = tokio::try_join!(save, read);
    if done.is_err() {
        // A refused command leaves the descriptor where it was put.
        let _ = monitor.execute(qmp::closefd { fdname: STATE_FD.to_owned() }, DEADLINE).await;
    }
    done.map(|_| state)
}

/// The device state of a paused clone, whose RAM is a private mapping; `parent` is the state that it was loaded from.
pub async fn state_of_clone(monitor: &Monitor, parent: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    const WHAT: &str = "save the state of the clone";
    let failed = io_error("make", Path::new("a file in memory for the state"));
    // QEMU truncates what it opens, so no pipe will do, and it asks for a descriptor that can be written only.
    let memory = rustix::fs::memfd_create("snapshot-state", rustix::fs::MemfdFlags::CLOEXEC);
    let mut memory = File::from(memory.map_err(|e| failed(e.into()))?);
    let name = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let writer = File::options().write(true).open(name).map_err(&failed)?;
    let add_fd = qmp::add_fd { fdset_id: None, opaque: None };
    let added = monitor.execute_with_fd(add_fd, writer.as_fd(), DEADLINE).await.map_err(qemu_error(WHAT))?;
    drop(writer);
    let fdset_id = added.fdset_id;
    // `live=false`: the disks stay QEMU's.
    let filename = format!("/dev/fdset/{fdset_id}");
    let saved = monitor.execute(qmp::xen_save_devices_state { filename, live: Some(false) }, DEADLINE).await;
    let removed = monitor.execute(qmp::remove_fd { fdset_id, fd: None }, DEADLINE).await;
    saved.and(removed).map_err(qemu_error(WHAT))?;
    let mut devices = Vec::new();
    memory.seek(SeekFrom::Start(0)).and_then(|_| memory.read_to_end(&mut devices)).map_err(failed)?;
    stream::splice(parent, &devices)
}

/// Loads a state into a QEMU that was started with `-incoming defer` and `-S`, on the machine's own command line. The guest then stands
/// where it was saved, and [`resume`] lets it go on.
///
/// `stderr` is the file that QEMU's messages go to: before QEMU 9.1 a state that does not fit ends it, and says why only there.
pub async fn load(monitor: &Monitor, state: &[u8], stderr: Option<&Path>) -> Result<(), SnapshotError> {
    const WHAT: &str = "load the saved state";
    let (theirs, mut ours) = sockets()?;
    let getfd = qmp::getfd { fdname: STATE_FD.to_owned() };
    monitor.execute_with_fd(getfd, theirs.as_fd(), DEADLINE).await.map_err(qemu_error(WHAT))?;
    drop(theirs);
    let uri = format!("fd:{STATE_FD}");
    let load = monitor.migrate_incoming(&uri, &CAPABILITIES, DEADLINE);
    let write = async {
        // One that QEMU does not want to hear to its end fails, and QEMU says why.
        let _ = ours.write_all(state).await;
        drop(ours);
    };
    let (loaded, ()) = tokio::join!(load, write);
    loaded.map(drop).map_err(|error| match stderr.and_then(last_words) {
        Some(words) if error.is_closed() => SnapshotError::Qemu {
            what: WHAT,
            source: ::qmp::Error::Migration { status: "failed".to_owned(), desc: words },
        },
        _ => qemu_error(WHAT)(error),
    })
}

/// Puts the qcow2 file `layer` on top of the paused machine's disk: from now on the guest writes there, and what it has written so far
/// never changes again. The layer names the disk as its backing file already, and must hold nothing.
///
/// `suffix` tells the layer's nodes in QEMU from others. Answers `false` when the machine has no disk.
pub async fn switch_disk(monitor: &Monitor, layer: &Path, suffix: &str) -> Result<bool, SnapshotError> {
    const WHAT: &str = "put a new layer on the disk";
    let failed = qemu_error(WHAT);
    let Some(node) = disk_node(monitor).await? else { return Ok(false) };
    let not_text = || {
        let source = std::io::Error::other("its path is not UTF-8");
        SnapshotError::Io { what: "use", path: layer.to_owned(), source }
    };
    let (nodes, overlay) = machine::disk_layer(layer.to_str().ok_or_else(not_text)?, suffix);
    let mut added: Vec<Value> = Vec::new();
    let switched = async {
        for node in nodes {
            let name = node.get("node-name").cloned().unwrap_or_default();
            monitor.execute_raw("blockdev-add", node, DEADLINE).await?;
            added.insert(0, name);
        }
        let arguments = json!({"node": node, "overlay": overlay});
        monitor.execute_raw("blockdev-snapshot", arguments, DEADLINE).await
    };
    let switched = switched.await;
    if switched.is_err() {
        for name in added {
            let _ = monitor.execute_raw("blockdev-del", json!({"node-name": name}), DEADLINE).await;
        }
    }
    switched.map(|_| true).map_err(failed)
}

/// The name of the block node that the machine's disk shows its guest.
async fn disk_node(monitor: &Monitor) -> Result<Option<String>, SnapshotError> {
    let failed = qemu_error("name its disk");
    let blocks = monitor.execute_raw("query-block", json!({}), DEADLINE).await.map_err(failed)?;
    // A device is named by its path in QEMU's tree: `/machine/peripheral/disk0/virtio-backend`.
    let is_disk = |block: &&Value| {
        let path = block.get("qdev").and_then(Value::as_str).unwrap_or_default();
        path.split('/').any(|part| part == machine::DISK_DEVICE)
    };
    let disk = blocks.as_array().into_iter().flatten().find(is_disk);
    let node = disk.and_then(|disk| disk.get("inserted")?.get("node-name")?.as_str());
    Ok(node.map(str::to_owned))
}

/// What [`hand_over`] gives.
#[derive(Debug)]
pub struct HandedOver {
    /// The state that went over: a part of the snapshot.
    pub state: Vec<u8>,
    /// How long the guest stood still.
    pub pause: Duration,
    /// Of that, until the first QEMU had stopped and its state was saved.
    pub saved: Duration,
    /// Of that, until the second QEMU had loaded it.
    pub loaded: Duration,
}

/// Why [`hand_over`] failed, and what has become of the guest.
#[derive(Debug, thiserror::Error)]
#[error("the guest could not be handed over to a new QEMU; {}", if self.goes_on { "it goes on in its own" } else { "it stands still" })]
pub struct HandOverError {
    /// The guest runs on in the first QEMU.
    pub goes_on: bool,
    /// What failed.
    #[source]
    pub source: SnapshotError,
}

/// Lets a guest go on in another QEMU: `old` stops and is left stopped, `new` runs.
///
/// `new` was started with `-incoming defer`, with the RAM file of `old` mapped privately, and with a disk whose backing file
/// is the disk of `old`. Its monitor was greeted and its links are as they should be. `stderr` is as for [`load`].
///
/// Where the guest stood still before, it is left so: `goes_on` is false then. `keep` is given the state before the guest goes on:
/// whoever is to save the guest again needs it, whatever becomes of this process.
///
/// Where this fails, `discard` must end `new` before it answers: then the guest goes on in `old`. Where it succeeds the caller ends
/// `old` (`quit`), whose RAM file and disk must not change from now on.
pub async fn hand_over<F: Future<Output = ()>>(
    old: &Monitor,
    new: &Monitor,
    stderr: Option<&Path>,
    goes_on: bool,
    keep: impl FnOnce(&[u8]),
    discard: impl FnOnce() -> F,
) -> Result<HandedOver, HandOverError> {
    let handed = async {
        let since = pause(old).await?;
        fault::at(Point::Paused);
        let state = state_of_template(old).await?;
        let saved = since.elapsed();
        fault::at(Point::StateSaved);
        load(new, &state, stderr).await?;
        let loaded = since.elapsed();
        fault::at(Point::StateLoaded);
        keep(&state);
        fault::at(Point::StateKept);
        if goes_on {
            resume(new).await?;
        }
        fault::at(Point::Resumed);
        Ok(HandedOver { state, pause: since.elapsed(), saved, loaded })
    };
    match handed.await {
        Ok(handed) => Ok(handed),
        Err(source) => {
            discard().await;
            let goes_on = !goes_on || resume(old).await.is_ok();
            Err(HandOverError { goes_on, source })
        }
    }
}

/// Two connected sockets: one for QEMU, which sets it up as it likes, and one for us.
///
/// Sockets, not files: since QEMU 9.1 `fd:` with a file is deprecated, and 7.2 has no `file:`.
fn sockets() -> Result<(UnixStream, tokio::net::UnixStream), SnapshotError> {
    let make = || {
        let (theirs, ours) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((theirs, tokio::net::UnixStream::from_std(ours)?))
    };
    make().map_err(io_error("make", Path::new("a socket for the state")))
}

/// The last lines that QEMU wrote.
fn last_words(stderr: &Path) -> Option<String> {
    let text = std::fs::read(stderr).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(4)..)?.join("; ");
    (!last.is_empty()).then_some(last)
}
