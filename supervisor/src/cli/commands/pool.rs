//! `pool`.

use std::process::{Command, Stdio};

use serde::Serialize;

use crate::cli::args::{PoolLsArgs, PoolRmArgs, PoolSetArgs, PoolVerb};
use crate::cli::context::{Context, each};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::table::Table;
use crate::cli::{Outcome, output, snapshots, units};
use crate::host::priority;
use crate::pool::{self, PoolError, Refilled};
use crate::snapshot::SnapshotName;
use crate::snapshot::store::Snapshot;
use crate::spec::Size;
use crate::store::{PoolDir, PoolRecord, SCHEMA};
use crate::vm::Identity;

impl From<PoolError> for Failed {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Store(error) => error.into(),
            PoolError::Snapshot(error) => error.into(),
            PoolError::Clone(error) => error.into(),
            PoolError::Launch(error) => error.into(),
            error @ (PoolError::Host(..) | PoolError::Stuck(_)) => Self::wrap(ExitKind::Other, error),
        }
    }
}

/// A pool, as `ls` and `set` tell of it.
#[derive(Debug, Serialize)]
struct Line {
    name: SnapshotName,
    /// How many spares are wanted.
    size: u32,
    identity: Identity,
    /// How many can be claimed.
    ready: usize,
    /// How many will be soon.
    making: usize,
    /// What they take of the host's memory for themselves.
    memory_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit_bytes: Option<u64>,
    /// Why there are fewer than are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// `midge pool`.
pub(super) fn pool(context: &Context, verb: &PoolVerb) -> Outcome {
    match verb {
        PoolVerb::Set(args) => set(context, args),
        PoolVerb::Ls(args) => ls(context, args),
        PoolVerb::Rm(args) => rm(context, args),
        PoolVerb::Refill(args) => refill(context, &args.name),
    }
}

fn set(context: &Context, args: &PoolSetArgs) -> Outcome {
    let home = context.home()?;
    let snapshot = snapshots::store(context)?.get(&args.name)?;
    let identity = Identity::from(args.identity);
    fits(&snapshot, identity)?;
    let pool = home.pool(&args.name);
    pool.write_record(&PoolRecord { schema: SCHEMA, size: args.size, identity, memory: args.memory })?;
    pool.write_note(None)?;
    if args.wait {
        if let Refilled::Short(why) = pool::fill(home, &pool)? {
            let text = format!("the pool of `{}` is not full: {why}", args.name);
            return Err(Failed::new(ExitKind::NoSpace, text).hint("`midge pool ls` shows how many are ready"));
        }
    } else {
        start_refill(context, &pool);
    }
    if args.output.json()
        && let Some(line) = line(&pool)?
    {
        output::json(&line)?;
    }
    Ok(0)
}

/// Whether spares of a snapshot can be made on this host, and be who they are to be.
fn fits(snapshot: &Snapshot, identity: Identity) -> Result<(), Failed> {
    let manifest = &snapshot.manifest;
    if manifest.machine.is_none() {
        let text =
            format!("`{}` is a snapshot of a disk: there is no memory to go on from", snapshot.shown());
        return Err(Failed::new(ExitKind::Usage, text).hint("save a VM that runs, without --disk-only"));
    }
    if identity == Identity::Full {
        snapshots::refuse_deaf(manifest)?;
    }
    snapshots::refuse_differences(snapshot, &snapshots::differences(manifest)?)
}

fn ls(context: &Context, args: &PoolLsArgs) -> Outcome {
    let mut lines = Vec::new();
    for pool in context.home()?.pools()? {
        let Some(line) = line(&pool)? else { continue };
        // After a reboot there are none.
        if line.ready + line.making < line.size as usize {
            start_refill(context, &pool);
        }
        lines.push(line);
    }
    if args.output.json() {
        output::json_lines(&lines)?;
        return Ok(0);
    }
    let mut table = Table::new(["NAME", "SIZE", "READY", "MAKING", "IDENTITY", "MEMORY", "NOTE"]);
    for line in lines {
        let identity = serde_json::to_value(line.identity).unwrap_or_default();
        table.row([
            line.name.to_string(),
            line.size.to_string(),
            line.ready.to_string(),
            line.making.to_string(),
            identity.as_str().unwrap_or_default().to_owned(),
            units::bytes(line.memory_bytes),
            line.note.unwrap_or_default(),
        ]);
    }
    output::print(|out| table.write(out))?;
    Ok(0)
}

/// What there is to tell of a pool; nothing of what is left of one.
fn line(pool: &PoolDir) -> Result<Option<Line>, Failed> {
    let Some(PoolRecord { size, identity, memory, .. }) = pool.record()? else { return Ok(None) };
    let spares = pool.spares()?;
    let found: Vec<_> = spares.iter().filter_map(pool::spare_of).collect();
    let ready = found.iter().filter(|spare| spare.ready).count();
    Ok(Some(Line {
        name: pool.name().clone(),
        size,
        identity,
        ready,
        making: found.len() - ready,
        memory_bytes: spares.iter().filter_map(pool::memory_of).sum(),
        memory_limit_bytes: memory.map(Size::bytes),
        note: pool.note(),
    }))
}

fn rm(context: &Context, args: &PoolRmArgs) -> Outcome {
    let home = context.home()?;
    each(&args.names, |name| {
        let pool = home.pool(name);
        if pool.record()?.is_none() {
            return Err(Failed::new(ExitKind::NotFound, format!("there is no pool of `{name}`")));
        }
        // A refill that is under way makes no further one.
        pool.forget()?;
        let ended = pool::clear(home, &pool)?;
        // They may have been the last to need what is left of a removed snapshot.
        snapshots::prune(context, false)?;
        context.voice.detail(format_args!("{ended} clones of `{name}` are not kept ready any more"));
        Ok(())
    })
}

/// Makes what a pool lacks: the work of a process that [`start_refill`] started.
fn refill(context: &Context, name: &SnapshotName) -> Outcome {
    // Away from the terminal of the command that started it. Fails only for a process group's leader, which had one made for it.
    let _ = nix::unistd::setsid();
    priority::lower();
    let home = context.home()?;
    match pool::refill(home, &home.pool(name))? {
        Refilled::Full | Refilled::Elsewhere => Ok(0),
        Refilled::Short(why) => Err(Failed::new(ExitKind::NoSpace, why)),
    }
}

/// Has a process make in the background what a pool lacks. A pool stays as it is where that cannot be.
pub(super) fn start_refill(context: &Context, pool: &PoolDir) {
    let start = || -> std::io::Result<()> {
        let home = context.home().map_err(|failed| std::io::Error::other(failed.error.to_string()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["pool", "refill", &pool.name().to_string()])
            .env("MIDGE_HOME", home.state())
            .env("MIDGE_RUN", home.run())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/");
        // Not waited for: it outlives this command, and init collects it.
        command.spawn().map(drop)
    };
    if let Err(e) = start() {
        context.voice.note(format_args!("the pool of `{}` is not filled: {e}", pool.name()));
    }
}
