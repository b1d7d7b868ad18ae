//! Making the spares that are missing, and ending those that are not wanted.

use std::time::Duration;

use super::{PoolError, call, spare_of};
use crate::clone::{self, Macs, Needs, Options, Place};
use crate::host::proc::{ProcessId, Signal};
use crate::host::{HostRoot, Memory, Space};
use crate::snapshot::store::{Snapshot, SnapshotStore};
use crate::store::{Home, PoolDir, PoolRecord, Status, StoreError, VmDir};
use crate::vm::control::{FailureKind, Request, Until};
use crate::vm::{self, Begin, LaunchError, Restore, Unconfirmed};

/// How long a spare may take: its supervisor gives up before that.
const MAKING: Duration = Duration::from_secs(600);
/// How long a process that was told to end may take to vanish.
const VANISH: Duration = Duration::from_secs(30);
/// The part of the host's memory that spares leave free: one in so many.
const RESERVE: u64 = 10;

/// What a refill came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refilled {
    /// All spares are there.
    Full,
    /// Another one is under way, and one more waits already; or there is no such pool.
    Elsewhere,
    /// There are fewer than are wanted.
    Short(String),
}

/// Makes the spares that a pool lacks, one after the other, and ends those that it is not to have.
///
/// # Errors
/// When the pool cannot be read, or a spare cannot be ended. A spare that cannot be made is no error: the pool's note says why.
pub fn refill(home: &Home, pool: &PoolDir) -> Result<Refilled, PoolError> {
    match pool.lock()? {
        Some(_lock) => work(home, pool),
        None => Ok(Refilled::Elsewhere),
    }
}

/// As [`refill`], after all those that are under way or wait.
///
/// # Errors
/// As [`refill`].
pub fn fill(home: &Home, pool: &PoolDir) -> Result<Refilled, PoolError> {
    match pool.lock_surely()? {
        Some(_lock) => work(home, pool),
        None => Ok(Refilled::Elsewhere),
    }
}

/// The caller holds the pool's lock.
fn work(home: &Home, pool: &PoolDir) -> Result<Refilled, PoolError> {
    // Read anew each time: it may be changed or removed meanwhile.
    while let Some(record) = pool.record()? {
        let short = match step(home, pool, &record) {
            Ok(Step::Made) => continue,
            Ok(Step::Nothing) => {
                pool.write_note(None)?;
                return Ok(Refilled::Full);
            }
            Ok(Step::Short(why)) => why,
            Err(error) => crate::error::chain(&error),
        };
        pool.write_note(Some(&short))?;
        return Ok(Refilled::Short(short));
    }
    Ok(Refilled::Elsewhere)
}

/// What one step of a refill did.
enum Step {
    /// A spare is there that was missing.
    Made,
    /// There is nothing to do.
    Nothing,
    /// There is not enough for another one.
    Short(String),
}

fn step(home: &Home, pool: &PoolDir, record: &PoolRecord) -> Result<Step, PoolError> {
    let store = SnapshotStore::new(home);
    let snapshot = store.get(pool.name())?;
    let mut spares = Vec::new();
    for spare in pool.spares()? {
        let fits = spare_of(&spare)
            .is_some_and(|found| found.snapshot == snapshot.id() && found.identity == record.identity);
        if fits {
            spares.push(spare);
        } else {
            end(home, &spare)?;
        }
    }
    while spares.len() > record.size as usize
        && let Some(spare) = spares.pop()
    {
        end(home, &spare)?;
    }
    if spares.len() == record.size as usize {
        return Ok(Step::Nothing);
    }
    if let Some(why) = no_room(home, record, &snapshot, &spares)? {
        return Ok(Step::Short(why));
    }
    make(home, pool, record, &store, &snapshot)?;
    Ok(Step::Made)
}

/// Why there is no room for one more.
fn no_room(
    home: &Home,
    record: &PoolRecord,
    snapshot: &Snapshot,
    spares: &[VmDir],
) -> Result<Option<String>, PoolError> {
    let host = |e| PoolError::Host("find out what this host has", e);
    let memory = Memory::of(&HostRoot::system()).map_err(host)?;
    let disk = Space::of(home.state()).map_err(host)?;
    let needs = Needs::from_memory(&snapshot.manifest);
    // Where it cannot be told, the spare's own supervisor finds out.
    let addresses = if needs.addresses > 0 { vm::free_addresses(home).ok() } else { None };
    let free = memory.available.saturating_sub(memory.total / RESERVE);
    let short = clone::shortages(1, needs, free, disk.available, addresses);
    if !short.is_empty() {
        let texts: Vec<String> = short.iter().map(ToString::to_string).collect();
        return Ok(Some(texts.join("; ")));
    }
    let Some(bound) = record.memory else { return Ok(None) };
    let taken: u64 = spares.iter().filter_map(memory_of).sum();
    let full = taken + needs.memory > bound.bytes();
    Ok(full.then(|| format!("the spares take {} MiB of their {bound}", taken >> 20)))
}

/// What a spare takes of the host's memory for itself, in bytes.
#[must_use]
pub fn memory_of(spare: &VmDir) -> Option<u64> {
    match spare.status() {
        Status::Supervised(run) => vm::private_memory(run.qemu?.pid),
        Status::Stopped | Status::Orphaned(_) => None,
    }
}

/// Makes one spare, and stays until it can be claimed.
fn make(
    home: &Home,
    pool: &PoolDir,
    record: &PoolRecord,
    store: &SnapshotStore,
    snapshot: &Snapshot,
) -> Result<(), PoolError> {
    let _pins = store.pin(snapshot)?;
    let options = Options { ephemeral: true, ttl_seconds: None, memory: true };
    let spare = clone::make(home, snapshot, Place::Spare(pool.name()), &options, &mut Macs::in_use(home)?)?;
    let begin = Begin::Restore(Restore {
        snapshot: snapshot.id(),
        identity: record.identity,
        unconfirmed: Unconfirmed::Stop,
        spare: Some(pool.name().clone()),
    });
    let started = || -> Result<(), LaunchError> {
        let mut client = vm::start(home, &spare, &begin)?.client;
        client.set_timeout(Some(MAKING))?;
        client.call(&Request::Follow { until: Until::Spare }, |_| ())?;
        Ok(())
    };
    started().or_else(|error| {
        end(home, &spare)?;
        Err(error.into())
    })
}

/// Ends what a pool has, and removes it.
///
/// # Errors
/// When a spare does not end.
pub fn clear(home: &Home, pool: &PoolDir) -> Result<usize, PoolError> {
    let Some(_lock) = pool.lock_surely()? else { return Ok(0) };
    let spares = pool.spares()?;
    for spare in &spares {
        end(home, spare)?;
    }
    pool.remove()?;
    Ok(spares.len())
}

/// The names of the spares that killed processes have left, which are removed unless this is a dry run: those without a supervisor, and all
/// of a pool that there is no more. None where somebody else is at work there.
///
/// # Errors
/// When one cannot be removed.
pub fn leftovers(home: &Home, pool: &PoolDir, dry: bool) -> Result<Vec<String>, PoolError> {
    let Some(_lock) = pool.try_lock()? else { return Ok(Vec::new()) };
    let removed = pool.record()?.is_none();
    let mut left = pool.spares()?;
    left.retain(|spare| removed || !matches!(spare.status(), Status::Supervised(_)));
    if !dry {
        left.iter().try_for_each(|spare| end(home, spare))?;
        if removed {
            pool.remove()?;
        }
    }
    Ok(left.iter().map(|spare| spare.name().to_owned()).collect())
}

/// Ends a spare, unless somebody has claimed it meanwhile, and removes it.
fn end(home: &Home, spare: &VmDir) -> Result<(), PoolError> {
    match spare.status() {
        Status::Supervised(run) => {
            // Only its supervisor knows whether it is a spare still.
            match call(spare, &Request::Retire) {
                Ok(_) => {}
                Err(LaunchError::Refused(failure)) if failure.kind == FailureKind::Claimed => return Ok(()),
                // On its way out, or not up yet.
                Err(LaunchError::Client(_) | LaunchError::NotRunning(_)) => {}
                Err(error) => return Err(error.into()),
            }
            vanish(spare, &run.supervisor, None)?;
        }
        // Without a supervisor nobody can have claimed it.
        Status::Orphaned(run) => {
            if let Some(qemu) = &run.qemu {
                vanish(spare, qemu, Some(Signal::KILL))?;
            }
        }
        Status::Stopped => {}
    }
    let _lock = match spare.lock() {
        // It has removed itself.
        Err(StoreError::NotFound { .. }) => return Ok(()),
        lock => lock?,
    };
    spare.create_run_dir()?;
    // One that is just coming up holds it, and is a spare soon.
    let Some(_supervisor) = spare.try_lock_supervisor()? else { return Ok(()) };
    if spare.status() != Status::Stopped {
        return Err(PoolError::Stuck(spare.name().to_owned()));
    }
    vm::refuse_nameless_qemu(spare)?;
    let macs = spare.record().map(|record| record.macs).unwrap_or_default();
    spare.remove(home)?;
    vm::forget_leases(home, &macs);
    Ok(())
}

/// Sees a process end, by this signal if one is given.
fn vanish(spare: &VmDir, process: &ProcessId, signal: Option<Signal>) -> Result<(), PoolError> {
    let ended = || -> std::io::Result<bool> {
        let Some(process) = process.open()? else { return Ok(true) };
        if let Some(signal) = signal {
            process.signal(signal)?;
        }
        process.wait_for(VANISH)
    };
    match ended() {
        Ok(true) => Ok(()),
        Ok(false) => Err(PoolError::Stuck(spare.name().to_owned())),
        Err(e) => Err(PoolError::Host("end a spare", e)),
    }
}
