//! `run`: make a VM, start it, and stay with it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use crate::cli::args::{RunArgs, WaitFor};
use crate::cli::context::Context;
use crate::cli::deadline::{DEFAULT_WAIT, Deadline, call};
use crate::cli::draft::{self, Draft, Target};
use crate::cli::evidence::Evidence;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::follow::{self, Followed, Show};
use crate::cli::interrupt::Interrupts;
use crate::cli::logfile::Follower;
use crate::cli::{Outcome, output};
use crate::image::cow::Cow;
use crate::spec::Ready;
use crate::store::{Home, VmDir};
use crate::vm::control::{Request, Until};
use crate::vm::{Begin, Cause, End};

use super::attach::{self, Ended};
use super::{create, exec, rm, start};

/// How long a guest may take to end after the first Ctrl-C.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long a supervisor may take to hand the console over.
const CONSOLE_LIMIT: Duration = Duration::from_secs(10);

/// `midge run`.
pub(super) fn run(context: &Context, args: &RunArgs) -> Outcome {
    let target = args.target.as_deref().map(Target::new);
    let mut spec = draft::spec(&Draft { flags: &args.spec, name: args.name.as_deref(), target })?;
    if !args.command.is_empty() {
        spec.ephemeral = true;
    }
    if args.dry_run {
        output::json_pretty(&spec)?;
        return Ok(0);
    }
    let arch_given = create::arch_given(&args.spec);
    if args.command.is_empty() {
        let ephemeral = spec.ephemeral;
        // Ctrl-C leaves a VM of the background that is to stay, as after `create` and `start`.
        let watch = match (args.detach, ephemeral) {
            (true, false) => None,
            (true, true) => Some(Watch::drop_unstarted(context)?),
            (false, _) => Some(Watch::stop_then_kill(context)?),
        };
        let (vm, _) = create::make(context, spec, arch_given, Cow::Auto)?;
        if let Some(code) = watch.as_ref().and_then(|watch| watch.begin(&vm)) {
            if ephemeral {
                rm::remove(context, &vm, false)?;
            }
            return Ok(code);
        }
        let outcome = match &watch {
            Some(watch) if !args.detach => foreground(context, &vm, &watch.interrupts),
            _ => background(context, &vm, args),
        };
        return match (outcome, watch.and_then(|watch| watch.interrupts.code())) {
            // The signal took the VM away before its start.
            (Err(_), Some(code)) if args.detach => Ok(code),
            (outcome, _) => outcome.map_err(|failed| keep_or_drop(context, &vm, ephemeral, failed)),
        };
    }
    // From here on the VM's own codes count. The signals are caught from before the VM is there until it is gone.
    let watch = Watch::kill(context).map_err(Failed::inside_exec)?;
    let (vm, record) = create::make(context, spec, arch_given, Cow::Auto).map_err(Failed::inside_exec)?;
    let early = watch.begin(&vm);
    let outcome = match (early, &record.image) {
        (Some(code), _) => Ok(code),
        // Known beforehand: nobody would answer, however long the command waited.
        (None, Some(image)) if !image.agent => Err(Failed::new(
            ExitKind::OwnFailure,
            format!("the image `{}` has no guest agent to run a command with", image.name),
        )
        .hint(format!("midge run {}", image.name))),
        _ => command(context, &vm, args, &watch.interrupts),
    };
    // Also after a failure and after Ctrl-C; the VM mostly has removed itself by then.
    let removed = rm::remove(context, &vm, true);
    outcome.and_then(|code| removed.map(|()| code)).map_err(Failed::inside_exec)
}

/// Signals while a VM is made and looked after. They are caught before it is there, so that none leaves it behind.
struct Watch {
    vm: Arc<OnceLock<VmDir>>,
    interrupts: Interrupts,
}

impl Watch {
    /// Catches them from now on; `act` is called as soon as there is a VM.
    fn catch(act: impl Fn(&VmDir, u32, u8) + Send + 'static) -> Result<Self, Failed> {
        let vm = Arc::new(OnceLock::new());
        let made = Arc::clone(&vm);
        let interrupts = Interrupts::catch(move |count, code| {
            if let Some(vm) = made.get() {
                act(vm, count, code);
            }
        });
        Ok(Self { vm, interrupts: interrupts.map_err(signals)? })
    }

    /// For a VM of one command, which has nothing to lose: it is ended at once. What waits for it here then finds it gone.
    fn kill(context: &Context) -> Result<Self, Failed> {
        let home = context.home()?.clone();
        Self::catch(move |vm, _, _| ask(&home, vm, &Request::Kill))
    }

    /// For a VM in the foreground.
    fn stop_then_kill(context: &Context) -> Result<Self, Failed> {
        let home = context.home()?.clone();
        Self::catch(move |vm, count, _| {
            let within_ms = u64::try_from(STOP_WITHIN.as_millis()).unwrap_or(u64::MAX);
            ask(&home, vm, &if count == 1 { Request::Stop { within_ms } } else { Request::Kill });
        })
    }

    /// For a VM in the background that goes when it has ended: one that has not begun goes now, any other goes on.
    fn drop_unstarted(context: &Context) -> Result<Self, Failed> {
        let context = context.clone();
        Self::catch(move |vm, _, code| {
            // Waits for a start that is under way, and refuses what runs.
            let _ = rm::remove(&context, vm, false);
            std::process::exit(i32::from(code));
        })
    }

    /// From now on there is a VM. Answers the exit code of a signal that came before.
    fn begin(&self, vm: &VmDir) -> Option<u8> {
        self.vm.get_or_init(|| vm.clone());
        self.interrupts.code()
    }
}

/// A VM that is to be removed after its end is removed when it has not even begun, too.
fn keep_or_drop(context: &Context, vm: &VmDir, remove: bool, failed: Failed) -> Failed {
    let began = crate::cli::describe::running(&vm.status()).is_some();
    if remove && !began && !failed.unheard {
        // The first failure is the one to tell.
        let _ = rm::remove(context, vm, false);
    }
    failed
}

fn background(context: &Context, vm: &VmDir, args: &RunArgs) -> Outcome {
    let show = shown(context, args.wait.is_some());
    let (_, _, followed) = start::begin(context, vm, args.wait.as_ref(), args.timeout, show)?;
    if args.output.json() {
        start::print_started(vm.name(), false, &followed.phases)?;
    } else {
        output::line(vm.name())?;
    }
    Ok(0)
}

fn shown(context: &Context, phases: bool) -> Show<'static> {
    let voice = context.voice;
    Show { phases: !voice.quiet && (phases || voice.verbose), prefix: "", notes: !voice.quiet }
}

/// Runs a command in a VM made for it.
fn command(context: &Context, vm: &VmDir, args: &RunArgs, interrupts: &Interrupts) -> Outcome {
    let interrupted = |outcome: Outcome| match interrupts.code() {
        Some(code) => Ok(code),
        None => outcome,
    };
    let agent = WaitFor::Sign(Ready::Agent);
    let timeout = Some(args.timeout.unwrap_or(DEFAULT_WAIT));
    if let Err(failed) = start::begin(context, vm, Some(&agent), timeout, shown(context, false)) {
        // This VM is about to be removed, so what is said of one that goes on does not hold.
        let hint =
            "start it with `midge run -d …` to look around in it; --timeout gives it longer".to_owned();
        return interrupted(Err(Failed { hint: Some(hint), ..failed }));
    }
    if let Some(code) = interrupts.code() {
        // The signal came before there was anything to end.
        return Ok(code);
    }
    let request = Request::Exec {
        argv: args.command.clone(),
        env: std::collections::BTreeMap::default(),
        dir: None,
        input: None,
    };
    let mut client = context.connect(vm)?;
    interrupted(exec::execute(&mut client, &request, Deadline::after(None)))
}

/// Shows the console and ends with the guest.
fn foreground(context: &Context, vm: &VmDir, interrupts: &Interrupts) -> Outcome {
    let log = |e| Failed::io("cannot follow the console log", e);
    let mut follower = Follower::new(&vm.console_log(), 0).map_err(log)?;
    let mut evidence = Evidence::of_next_run(vm);
    let mut started = crate::vm::start(context.home()?, vm, &Begin::Boot)?;
    if !context.voice.quiet {
        started.notes.iter().for_each(|note| output::say(format_args!("midge: {note}")));
    }
    if interrupts.code().is_some() {
        // The signal came before there was anything to end.
        ask(context.home()?, vm, &Request::Kill);
    }
    // The end is waited for on a thread of its own; the pipe's end tells of it.
    let (sender, result) = mpsc::channel();
    let (ended, ends) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| signals(e.into()))?;
    let show = shown(context, false);
    std::thread::Builder::new()
        .name("follow".to_owned())
        .spawn(move || {
            let _ends: OwnedFd = ends;
            // One request from the start to the end: a guest may be over before a second one could be made.
            let forever = Deadline::after(None);
            let seen = follow::follow(&mut started.client, &Until::Ended, forever, &mut evidence, show);
            let _ = sender.send((seen, evidence));
        })
        .map_err(signals)?;

    let console = keyboard(context, vm)?;
    if console.is_some() {
        context
            .voice
            .note(format_args!("console of `{}`; Ctrl-] leaves it running in the background", vm.name()));
    }
    match attach::watch(&mut follower, &ended, console.as_ref())? {
        Ended::Detached => {
            context
                .voice
                .note(format_args!("`{0}` goes on; `midge console {0}` comes back to it", vm.name()));
            Ok(0)
        }
        Ended::Guest => {
            let (seen, mut evidence) =
                result.recv().map_err(|_| Failed::new(ExitKind::Other, "nobody waited for the guest"))?;
            finished(context, vm, seen, &mut evidence, interrupts.code())
        }
    }
}

/// The way to the guest's keyboard, when there is a terminal here.
fn keyboard(context: &Context, vm: &VmDir) -> Result<Option<std::os::unix::net::UnixStream>, Failed> {
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Ok(None);
    }
    // A guest that is over already needs no keyboard.
    let Ok(mut client) = context.connect(vm) else { return Ok(None) };
    if call(&mut client, &Request::Console, Deadline::after(Some(CONSOLE_LIMIT)), |_| Ok(())).is_err() {
        return Ok(None);
    }
    client.set_timeout(None)?;
    let (socket, _) = client.into_raw().map_err(|e| Failed::io("cannot use the console", e))?;
    Ok(Some(socket))
}

/// The exit code of a foreground run.
fn finished(
    context: &Context,
    vm: &VmDir,
    followed: Result<Followed, Failed>,
    evidence: &mut Evidence,
    signal: Option<u8>,
) -> Outcome {
    let end = followed.map(|followed| followed.end)?;
    match (signal, end) {
        (Some(code), end) => {
            if let Some(end) = end {
                context.voice.note(format_args!("`{}`: {end}", vm.name()));
            }
            Ok(code)
        }
        (None, Some(end)) => {
            let code = exit_code(&end);
            match end.cause {
                Cause::DebugExit { .. } => {}
                _ if code == 0 => context.voice.detail(format_args!("`{}`: {end}", vm.name())),
                _ => {
                    let text = format!("the guest of `{}` ended: {end}", vm.name());
                    return Err(Failed::new(ExitKind::Other, text).sections(evidence.of_qemu()));
                }
            }
            Ok(code)
        }
        (None, None) => Ok(0),
    }
}

/// 0 for an end in good order or by somebody's wish, the number that the guest gave, else 1.
fn exit_code(end: &End) -> u8 {
    match end.cause {
        Cause::DebugExit { code } => code,
        _ if end.is_failure() => ExitKind::Other.code(),
        _ => 0,
    }
}

/// Asks a supervisor for something without staying for the answer; a VM that does not run is fine.
pub(super) fn ask(home: &Home, vm: &VmDir, request: &Request) {
    if let Ok(mut client) = crate::vm::connect(home, vm) {
        let _ = client.send(request);
        // The supervisor has taken the request in when it says anything at all, or hangs up.
        let _ = client.set_timeout(Some(Duration::from_secs(1)));
        let _ = client.receive();
    }
}

fn signals(error: std::io::Error) -> Failed {
    Failed::io("cannot look after the VM", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::AskedBy;

    #[test]
    fn a_foreground_run_ends_as_its_guest() {
        let end = |cause, asked_by| exit_code(&End { cause, asked_by });
        assert_eq!(end(Cause::PoweredOff, None), 0);
        assert_eq!(end(Cause::Reset, None), 0);
        assert_eq!(end(Cause::DebugExit { code: 0 }, None), 0);
        assert_eq!(end(Cause::DebugExit { code: 33 }, None), 33);
        assert_eq!(end(Cause::Panicked, None), 1);
        assert_eq!(end(Cause::KvmInternalError, None), 1);
        assert_eq!(end(Cause::Killed, Some(AskedBy::User)), 0);
    }
}
