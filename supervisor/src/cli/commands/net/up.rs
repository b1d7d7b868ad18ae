//! `net up` and `net down`: a bridge over the host's uplink.
//!
//! The work is done by a process of its own that has left the terminal's session: a connection over SSH that hangs up while
//! addresses move takes the command that the user started with it, and not what puts everything back. What is to be done is written
//! down before; whoever finds that of a worker which was killed puts everything back.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use netbr::check::{GATEWAY_PATIENCE, Manager, Plan, recipe, restore};
use serde::{Deserialize, Serialize};

use super::{facts, link_failed, with_links};
use crate::cli::args::{NetApplyArgs, NetDownArgs, NetUpArgs, Recipe};
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::store::{Lock, write_whole};

/// A change that has begun.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    plan: Plan,
    /// Up, or down.
    up: bool,
}

/// `midge net up`.
pub(super) fn up(context: &Context, args: &NetUpArgs) -> Outcome {
    put_back_what_was_killed(context)?;
    let (bridge, uplink) = (args.bridge.as_str(), args.uplink.as_str());
    let plan =
        with_links(|links| async move { Plan::up(&facts(&links).await?, bridge, uplink).map_err(refused) })?;
    if let Some(tool) = args.print {
        return print(&plan, tool);
    }
    let question = format!("Put {uplink} into the bridge {bridge}?");
    agree(&plan.steps().iter().map(ToString::to_string).collect::<Vec<_>>(), &question, args.yes)?;
    work(context, &Change { plan, up: true })?;
    context.voice.note(format_args!(
        "{bridge} is there until the next reboot; `midge net up {bridge} --uplink {uplink} --print` tells how to keep it"
    ));
    output::line(bridge)?;
    Ok(0)
}

/// `midge net down`.
pub(super) fn down(context: &Context, args: &NetDownArgs) -> Outcome {
    put_back_what_was_killed(context)?;
    let bridge = args.bridge.as_str();
    let plan =
        with_links(|links| async move { Plan::down(&facts(&links).await?, bridge, false).map_err(refused) })?;
    let steps = [
        format!("move all addresses and routes of {bridge} back to {}", plan.uplink),
        format!("remove {bridge}"),
    ];
    agree(&steps, &format!("Take the bridge {bridge} away?"), args.yes)?;
    work(context, &Change { plan, up: false })?;
    output::line(bridge)?;
    Ok(0)
}

/// The hidden `midge net apply`: carries out what is written down.
pub(super) fn apply(context: &Context, args: &NetApplyArgs) -> Outcome {
    // The terminal may go at any moment, and with it whoever reads what is written.
    if nix::unistd::setsid().is_err() {
        return Err(Failed::new(ExitKind::Other, "`net apply` is run by `net up` only"));
    }
    let file = file(context, &args.bridge)?;
    let change = read(&file)?;
    let plan = &change.plan;
    let (done, half) = with_links(|links| async move {
        Ok(if change.up {
            let done = netbr::check::up(&links, plan, GATEWAY_PATIENCE).await;
            let half = matches!(done, Err(netbr::check::UpError::Stuck { .. }));
            (done.map_err(|e| Failed::wrap(ExitKind::HostUnfit, e)), half)
        } else {
            let done = restore(&links, plan).await;
            let half = done.is_err();
            (done.map_err(link_failed), half)
        })
    })?;
    if !half {
        // Done, or put back. Else the next command tries once more to put everything back.
        fs::remove_file(&file).map_err(|e| Failed::io(format!("cannot remove {}", file.display()), e))?;
    }
    done.map(|()| 0)
}

/// Puts everything back that a killed worker left half done.
pub(super) fn put_back_what_was_killed(context: &Context) -> Result<(), Failed> {
    let Ok(entries) = fs::read_dir(folder(context)?) else { return Ok(()) };
    let is_change = |path: &PathBuf| path.extension().is_some_and(|end| end == "change");
    for file in entries.flatten().map(|entry| entry.path()).filter(is_change) {
        // Whoever works on it holds its lock.
        let Some(_lock) = Lock::try_take(&file.with_extension("lock"))? else { continue };
        if !file.exists() {
            // Its worker has just finished.
            continue;
        }
        let change = read(&file)?;
        let plan = &change.plan;
        with_links(|links| async move { restore(&links, plan).await.map_err(link_failed) })?;
        context.voice.note(format_args!("put {} back, which an earlier command left half done", plan.uplink));
        fs::remove_file(&file).map_err(|e| Failed::io(format!("cannot remove {}", file.display()), e))?;
    }
    Ok(())
}

fn folder(context: &Context) -> Result<PathBuf, Failed> {
    Ok(context.home()?.run().join("net"))
}

fn file(context: &Context, bridge: &str) -> Result<PathBuf, Failed> {
    netbr::link::check_name(bridge).map_err(link_failed)?;
    Ok(folder(context)?.join(format!("{bridge}.change")))
}

fn read(file: &Path) -> Result<Change, Failed> {
    let what = || format!("cannot read {}", file.display());
    let text = fs::read(file).map_err(|e| Failed::io(what(), e))?;
    serde_json::from_slice(&text).map_err(|e| Failed::wrap(ExitKind::Other, e).context(what()))
}

/// Has a change carried out by a process of its own.
fn work(context: &Context, change: &Change) -> Result<(), Failed> {
    let bridge = &change.plan.bridge;
    let folder = folder(context)?;
    let file = file(context, bridge)?;
    fs::create_dir_all(&folder).map_err(|e| Failed::io(format!("cannot make {}", folder.display()), e))?;
    let Some(lock) = Lock::try_take(&file.with_extension("lock"))? else {
        let text = format!("another command is working on {bridge}");
        return Err(Failed::new(ExitKind::WrongState, text));
    };
    let text = serde_json::to_vec_pretty(change).map_err(|e| Failed::wrap(ExitKind::Other, e))?;
    write_whole(&file, &text, false)?;
    let exe = std::env::current_exe().map_err(|e| Failed::io("cannot find midge's own program", e))?;
    let mut worker = Command::new(exe);
    worker.args(["net", "apply", bridge]).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = lock.for_child().and_then(|held| worker.stdin(held).spawn());
    let mut child = child.map_err(|e| Failed::io("cannot run midge itself", e))?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What it has to say is shown as its own words below.
        let _ = stderr.read_to_string(&mut said);
    }
    let status = child.wait().map_err(|e| Failed::io("cannot wait for midge itself", e))?;
    drop(lock);
    if status.success() {
        return Ok(());
    }
    let said = said.trim().trim_start_matches("midge: error: ");
    let first = said
        .lines()
        .next()
        .unwrap_or("it was killed; the next `midge net up` or `down` puts everything back");
    Err(Failed::new(ExitKind::HostUnfit, first))
}

/// Shows what will be done and asks for consent, unless it is given already.
pub(super) fn agree(steps: &[String], question: &str, yes: bool) -> Result<(), Failed> {
    if yes {
        return Ok(());
    }
    let mut stderr = io::stderr().lock();
    let shown = (|| {
        writeln!(stderr, "This will:")?;
        steps.iter().try_for_each(|step| writeln!(stderr, "  - {step}"))?;
        write!(stderr, "{question} [y/N] ")?;
        stderr.flush()
    })();
    shown.map_err(|e| Failed::io("cannot ask", e))?;
    drop(stderr);
    if !io::stdin().is_terminal() {
        let text = "nobody can be asked, as standard input is no terminal";
        return Err(Failed::new(ExitKind::Usage, text).hint("`--yes` does it without asking"));
    }
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|e| Failed::io("cannot read the answer", e))?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failed::new(ExitKind::Interrupted, "nothing was changed"))
    }
}

fn print(plan: &Plan, tool: Recipe) -> Outcome {
    let detected = Manager::detect(Path::new("/"), plan);
    let managers = match tool {
        Recipe::Auto => detected.map_or_else(|| Manager::ALL.to_vec(), |manager| vec![manager]),
        Recipe::Netplan => vec![Manager::Netplan],
        Recipe::Nm => vec![Manager::NetworkManager],
        Recipe::Networkd => vec![Manager::Networkd],
        Recipe::Ifupdown => vec![Manager::Ifupdown],
    };
    output::print(|out| {
        writeln!(
            out,
            "# What `midge net up {} --uplink {}` does until the next reboot:",
            plan.bridge, plan.uplink
        )?;
        plan.steps().iter().try_for_each(|step| writeln!(out, "#   - {step}"))?;
        for manager in &managers {
            writeln!(out, "\n# To have the bridge at every boot, with {manager}:\n")?;
            writeln!(out, "{}", recipe(*manager, plan).trim_end())?;
        }
        Ok(())
    })?;
    Ok(0)
}

fn refused(refusal: netbr::check::Refusal) -> Failed {
    use netbr::check::Refusal as R;
    let kind = match &refusal {
        R::Name(_) => ExitKind::Usage,
        R::NoUplink { .. } | R::NoBridge(_) => ExitKind::NotFound,
        R::AlreadyUp { .. } | R::PortOf { .. } | R::NotOurs { .. } | R::Unfinished(_) | R::InUse { .. } => {
            ExitKind::WrongState
        }
        R::NotAnUplink { .. } | R::NotEthernet(_) | R::Wifi(_) | R::Route { .. } => ExitKind::HostUnfit,
    };
    Failed::wrap(kind, refusal)
}
