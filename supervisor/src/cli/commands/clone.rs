//! `clone`.

use std::sync::Mutex;
use std::thread;

use serde::Serialize;

use super::snapshot::save;
use crate::cli::args::{CloneArgs, WaitFor, Who};
use crate::cli::context::Context;
use crate::cli::deadline::{DEFAULT_WAIT, Deadline};
use crate::cli::evidence::Evidence;
use crate::cli::exit::{ExitKind, Failed, io_kind};
use crate::cli::follow::{self, Show};
use crate::cli::{Outcome, describe, output, snapshots};
use crate::clone::{self, CloneError, Macs, Needs, Options, Place};
use crate::fault::{self, Point};
use crate::host::{HostRoot, Memory, Space};
use crate::image::overlay::OverlayError;
use crate::pool;
use crate::snapshot::store::{Pin, Removal, Snapshot, SnapshotStore};
use crate::snapshot::{SnapshotError, SnapshotName};
use crate::store::{PoolDir, Spare, Status, StoreError, VmDir};
use crate::vm::control::{Client, Until};
use crate::vm::{self, Begin, Claim, Claimed, How, Identity, LaunchError, Phase, Restore, Unconfirmed};

/// How many clones are started at the same time for each CPU: one waits for its QEMU while another computes.
const AT_ONCE: usize = 2;

impl From<CloneError> for Failed {
    fn from(error: CloneError) -> Self {
        match error {
            CloneError::Snapshot(error) => error.into(),
            CloneError::Store(error) => error.into(),
            CloneError::Disk(OverlayError::Io { ref source, .. }) => Self::wrap(io_kind(source), error),
            error @ CloneError::Disk(_) => Self::wrap(ExitKind::Other, error),
            error @ CloneError::NoMac => Self::wrap(ExitKind::Other, error),
        }
    }
}

/// What `clone -o json` prints, a line for each clone.
#[derive(Serialize)]
struct Cloned<'a> {
    name: &'a str,
    id: uuid::Uuid,
    snapshot: &'a str,
    /// How it came to run; it may not.
    begun: Begun,
    macs: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    addresses: &'a [std::net::IpAddr],
    /// What has become of each part of its identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    phases: &'a [Phase],
}

/// How a clone begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Begun {
    /// From the snapshot's memory.
    Memory,
    /// From the snapshot's memory, ahead of time.
    Pool,
    /// By booting.
    Cold,
    /// Not at all.
    Stopped,
}

/// What is cloned.
struct Source {
    store: SnapshotStore,
    snapshot: Snapshot,
    /// It was made for these clones: its name goes when they are made.
    implicit: bool,
    /// It stays until the clones' own records name it.
    _pins: Vec<Pin>,
}

/// `midge clone`.
pub(super) fn clone(context: &Context, args: &CloneArgs) -> Outcome {
    let names: Vec<String> = match args.count {
        None => vec![args.name.clone()],
        Some(count) => (1..=count).map(|number| format!("{}-{number}", args.name)).collect(),
    };
    for name in &names {
        crate::spec::check_name(name).map_err(|e| Failed::new(ExitKind::Usage, e.to_string()))?;
        if context.home()?.vm(name).state_dir().exists() {
            return Err(StoreError::Taken(name.clone()).into());
        }
    }
    let Some(pool) = pool_of(context, args)? else { return make_all(context, args, &names) };
    let left = claim_all(context, args, &pool, &names);
    // What was taken is made anew, also where something went wrong.
    let outcome = left.and_then(|left| if left.is_empty() { Ok(0) } else { make_all(context, args, &left) });
    super::pool::start_refill(context, &pool);
    outcome
}

/// The pool that may have clones ready.
fn pool_of(context: &Context, args: &CloneArgs) -> Result<Option<PoolDir>, Failed> {
    let home = context.home()?;
    if args.no_pool || args.how.cold || args.how.stopped {
        return Ok(None);
    }
    // A VM that is named is cloned as it is now.
    if !args.source.contains('@') && home.vm(&args.source).state_dir().exists() {
        return Ok(None);
    }
    let Ok(name) = args.source.parse() else { return Ok(None) };
    let pool = home.pool(&name);
    Ok(pool.record()?.is_some().then_some(pool))
}

/// Claims as many as there are, and answers the names of those that are still to be made.
fn claim_all(
    context: &Context,
    args: &CloneArgs,
    pool: &PoolDir,
    names: &[String],
) -> Result<Vec<String>, Failed> {
    let snapshot = snapshots::store(context)?.get(pool.name())?;
    let identity = Identity::from(args.identity);
    let fits = |spare: &Spare| spare.snapshot == snapshot.id() && spare.identity == identity;
    for (done, name) in names.iter().enumerate() {
        let claim = Claim {
            name: name.clone(),
            ephemeral: args.rm,
            ttl_seconds: ttl_seconds(args),
            unconfirmed: unconfirmed(args),
        };
        let home = context.home()?;
        let claimed = pool::claim(home, pool, &claim, fits).map_err(|error| match error {
            error @ LaunchError::Client(_) => give_up(context, args, &home.vm(name), error.into()),
            error => error.into(),
        });
        let Some(claimed) = claimed? else { return Ok(names[done..].to_vec()) };
        print_claimed(context, args, &snapshot, name, &claimed)?;
    }
    Ok(Vec::new())
}

/// Waits for what is waited for of a clone that runs, and prints it.
fn print_claimed(
    context: &Context,
    args: &CloneArgs,
    snapshot: &Snapshot,
    name: &str,
    claimed: &Claimed,
) -> Result<(), Failed> {
    let vm = context.home()?.vm(name);
    let phases = match &args.wait {
        Some(wait) => {
            let evidence = Evidence::of_this_run(&vm);
            let waited = stay(context, args, &vm, context.connect(&vm)?, &wait.until(), evidence);
            waited.map_err(|failed| give_up(context, args, &vm, failed))?
        }
        None => Vec::new(),
    };
    if !args.output.json() {
        return output::line(name);
    }
    let run = describe::running(&vm.status()).cloned();
    output::json(&Cloned {
        name,
        id: claimed.id,
        snapshot: &snapshot.shown(),
        begun: Begun::Pool,
        macs: &claimed.macs,
        addresses: &claimed.addresses,
        identity: run.as_ref().and_then(|run| run.identity.as_ref()),
        phases: &phases,
    })
}

fn make_all(context: &Context, args: &CloneArgs, names: &[String]) -> Outcome {
    snapshots::sweep(context)?;
    let source = find(context, args)?;
    let outcome = clone_all(context, args, &source, names);
    fault::at(Point::ClonesDone);
    if source.implicit {
        // Its files stay for as long as a clone needs them.
        for name in &source.snapshot.names {
            source.store.remove(name, Removal::Detach)?;
        }
    }
    outcome
}

fn unconfirmed(args: &CloneArgs) -> Unconfirmed {
    if args.keep_unconfirmed { Unconfirmed::Keep } else { Unconfirmed::Stop }
}

fn ttl_seconds(args: &CloneArgs) -> Option<u64> {
    args.ttl.map(|ttl| ttl.as_secs().max(1))
}

/// The snapshot that is meant; of a VM that is named, one is made.
fn find(context: &Context, args: &CloneArgs) -> Result<Source, Failed> {
    let store = snapshots::store(context)?;
    let pinned = |snapshot: Snapshot, implicit| {
        let pins = store.pin(&snapshot)?;
        fault::at(Point::Pinned);
        Ok(Source { store: store.clone(), snapshot, implicit, _pins: pins })
    };
    if args.source.contains('@') {
        let name: SnapshotName = args.source.parse().map_err(|e: SnapshotError| Failed::from(e))?;
        return pinned(store.get(&name)?, false);
    }
    let vm = match context.home()?.existing_vm(&args.source) {
        Ok(vm) => vm,
        // A VM that is gone may have left a snapshot.
        Err(missing) => {
            let latest = args.source.parse::<SnapshotName>().ok().and_then(|name| store.get(&name).ok());
            return latest.map_or_else(|| Err(missing.into()), |snapshot| pinned(snapshot, false));
        }
    };
    let name = SnapshotName::implicit(vm.name())?;
    if vm.status() == Status::Stopped {
        if args.how.memory {
            let text = format!("`{}` is stopped: it has no memory to go on from", vm.name());
            return Err(
                Failed::new(ExitKind::WrongState, text).hint("leave --memory away, or start it first")
            );
        }
        return pinned(save::of_stopped(context, &vm, name, None, false)?, true);
    }
    let how = if args.how.cold || args.how.stopped { How::Disk } else { How::Live };
    let saved = save::of_running(context, &vm, name.clone(), how, None, false)?;
    fault::at(Point::SourceSaved);
    if let Some(pause) = saved.pause_ms {
        context.voice.detail(format_args!("`{}` stood still for {pause:.1} ms", vm.name()));
    }
    pinned(store.get(&name)?, true)
}

fn clone_all(context: &Context, args: &CloneArgs, source: &Source, names: &[String]) -> Outcome {
    let begun = begun(context, args, source)?;
    enough(context, source, begun, names.len())?;
    let options =
        Options { ephemeral: args.rm, ttl_seconds: ttl_seconds(args), memory: begun == Begun::Memory };
    let macs = Mutex::new(Macs::in_use(context.home()?)?);
    let one = |name: &String| clone_one(context, args, source, &options, begun, &macs, name);
    if let [name] = names {
        return one(name).map(|()| 0);
    }
    // Each by itself: one that fails takes no other along, and all failures are told.
    let next = Mutex::new(names.iter());
    let failures = Mutex::new(Vec::new());
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..(cpus * AT_ONCE).min(names.len()) {
            scope.spawn(|| {
                loop {
                    let Some(name) = next.lock().ok().and_then(|mut names| names.next()) else { return };
                    if let Err(failed) = one(name)
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push(failed.context(format!("the clone `{name}` was not made")));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_default();
    let last = failures.pop();
    failures.iter().for_each(output::failure);
    last.map_or(Ok(0), Err)
}

/// How the clones begin, after a look at whether this host can load what they would go on from.
fn begun(context: &Context, args: &CloneArgs, source: &Source) -> Result<Begun, Failed> {
    let snapshot = &source.snapshot;
    if args.how.stopped {
        return Ok(Begun::Stopped);
    }
    if snapshot.manifest.machine.is_none() {
        if args.how.memory {
            let text =
                format!("`{}` is a snapshot of a disk: there is no memory to go on from", snapshot.shown());
            return Err(Failed::new(ExitKind::Usage, text).hint("leave --memory away: the clone boots"));
        }
        return Ok(Begun::Cold);
    }
    if args.how.cold {
        return Ok(Begun::Cold);
    }
    let differences = snapshots::differences(&snapshot.manifest)?;
    if let Some(first) = differences.first().filter(|_| args.or_boot) {
        context.voice.note(format_args!("booting, as this host cannot load the snapshot: {first}"));
        return Ok(Begun::Cold);
    }
    snapshots::refuse_differences(snapshot, &differences)
        .map_err(|failed| failed.hint("`--or-boot` boots the clone from the snapshot's disk instead"))?;
    if args.identity == Who::Full {
        snapshots::refuse_deaf(&snapshot.manifest)?;
    }
    source.store.refuse_writers(snapshot)?;
    Ok(Begun::Memory)
}

/// Refuses clones that this host has no room for, before the first one is made.
fn enough(context: &Context, source: &Source, begun: Begun, count: usize) -> Result<(), Failed> {
    let manifest = &source.snapshot.manifest;
    let home = context.home()?;
    let failed = |e| Failed::io("cannot find out what this host has", e);
    let memory = Memory::of(&HostRoot::system()).map_err(failed)?;
    let disk = Space::of(home.state()).map_err(failed)?;
    let needs = match begun {
        Begun::Stopped => Needs::stopped(),
        Begun::Memory | Begun::Pool => Needs::from_memory(manifest),
        Begun::Cold => Needs::booting(manifest),
    };
    let addresses = if needs.addresses > 0 {
        Some(vm::free_addresses(home).map_err(|e| Failed::wrap(ExitKind::Other, e))?)
    } else {
        None
    };
    let short = clone::shortages(count as u64, needs, memory.available, disk.available, addresses);
    if short.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = short.iter().map(ToString::to_string).collect();
    Err(Failed::new(ExitKind::NoSpace, texts.join("\n"))
        .context(format!("there is not enough for {count} clones of `{}`", source.snapshot.shown()))
        .hint("make fewer at a time, or stop VMs that nobody needs"))
}

fn clone_one(
    context: &Context,
    args: &CloneArgs,
    source: &Source,
    options: &Options,
    begun: Begun,
    macs: &Mutex<Macs>,
    name: &str,
) -> Result<(), Failed> {
    let home = context.home()?;
    let made = {
        let mut macs = macs.lock().map_err(|_| Failed::new(ExitKind::Other, "another clone broke off"))?;
        clone::make(home, &source.snapshot, Place::Vm(name), options, &mut macs)
    };
    let vm = made?;
    fault::at(Point::CloneMade);
    let phases = match begun {
        Begun::Stopped => Vec::new(),
        _ => match start(context, args, source, begun, &vm) {
            Ok(phases) => phases,
            Err(failed) => {
                return Err(give_up(context, args, &vm, failed));
            }
        },
    };
    let record = vm.record()?;
    if args.output.json() {
        let run = describe::running(&vm.status()).cloned();
        output::json(&Cloned {
            name,
            id: record.id,
            snapshot: &source.snapshot.shown(),
            begun,
            macs: &record.macs,
            addresses: run.as_ref().map_or(&[], |run| run.addresses.as_slice()),
            identity: run.as_ref().and_then(|run| run.identity.as_ref()),
            phases: &phases,
        })
    } else {
        output::line(name)
    }
}

/// A clone that did not come up is removed, where nobody has asked to keep it: it has nothing that its source has not.
fn give_up(context: &Context, args: &CloneArgs, vm: &VmDir, failed: Failed) -> Failed {
    let timed_out = failed.kind == ExitKind::Timeout;
    if timed_out || args.keep_unconfirmed {
        return failed;
    }
    match super::rm::remove(context, vm, true) {
        Ok(()) => failed,
        Err(more) => failed.hint(format!(
            "the clone is left behind ({:#}); `midge rm --force {}`",
            more.error,
            vm.name()
        )),
    }
}

/// Starts a clone and stays until it runs as who it is to be, or until what is waited for.
fn start(
    context: &Context,
    args: &CloneArgs,
    source: &Source,
    begun: Begun,
    vm: &VmDir,
) -> Result<Vec<Phase>, Failed> {
    let begin = match begun {
        Begun::Memory | Begun::Pool => Begin::Restore(Restore {
            snapshot: source.snapshot.id(),
            spare: None,
            identity: args.identity.into(),
            unconfirmed: unconfirmed(args),
        }),
        Begun::Cold | Begun::Stopped => Begin::Boot,
    };
    let evidence = Evidence::of_next_run(vm);
    let started = vm::start(context.home()?, vm, &begin)?;
    fault::at(Point::CloneBegun);
    if !context.voice.quiet {
        started.notes.iter().for_each(|note| output::say(format_args!("midge: {note}")));
    }
    let until = match (&args.wait, begun, args.identity) {
        (Some(wait), _, _) => wait.until(),
        (None, Begun::Memory, Who::Full | Who::Network) => Until::Identified,
        _ => Until::Resumed,
    };
    stay(context, args, vm, started.client, &until, evidence)
}

/// Stays until a clone shows what is waited for.
fn stay(
    context: &Context,
    args: &CloneArgs,
    vm: &VmDir,
    mut client: Client,
    until: &Until,
    mut evidence: Evidence,
) -> Result<Vec<Phase>, Failed> {
    let show = Show {
        phases: !context.voice.quiet
            && args.count.is_none()
            && (args.wait.is_some() || context.voice.verbose),
        prefix: "",
        notes: !context.voice.quiet,
    };
    let deadline = Deadline::after(Some(args.timeout.unwrap_or(DEFAULT_WAIT)));
    let followed = follow::follow(&mut client, until, deadline, &mut evidence, show)?;
    fault::at(Point::CloneFollowed);
    if args.wait == Some(WaitFor::CloudInit) {
        let report = super::cloud_init::report(context, vm, deadline)?;
        report.judge(vm.name())?;
    }
    Ok(followed.phases)
}
