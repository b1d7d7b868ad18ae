//! One VM from its making to its removal, for a measurement.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::exec::decode;
use super::super::{rm, run};
use super::guests::Contender;
use super::progress::Progress;
use crate::cli::args::CompareArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::evidence::Evidence;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::follow::end_of;
use crate::cli::interrupt::Interrupts;
use crate::cli::{describe, names};
use crate::compare::results::{Boot, Memory};
use crate::compare::{cache, memory};
use crate::spec::{Ready, Size, VmSpec};
use crate::store::{RunState, VmDir};
use crate::vm::control::{Reply, Request, Stream, Until};

/// How long a guest must go on after it said that it is ready, to be believed.
const HOLD: Duration = Duration::from_millis(500);

/// What all trials share.
#[derive(Debug)]
pub(super) struct Trials<'a> {
    pub(super) context: &'a Context,
    pub(super) args: &'a CompareArgs,
    pub(super) progress: Progress,
    /// The VM that is up now, which a signal ends.
    current: Arc<Mutex<Option<VmDir>>>,
    interrupts: Interrupts,
}

impl<'a> Trials<'a> {
    /// From now on, signals end the VM that is up.
    pub(super) fn new(
        context: &'a Context,
        args: &'a CompareArgs,
        progress: Progress,
    ) -> Result<Self, Failed> {
        let current: Arc<Mutex<Option<VmDir>>> = Arc::default();
        let (home, seen) = (context.home()?.clone(), Arc::clone(&current));
        let interrupts = Interrupts::catch(move |_, _| {
            if let Some(vm) = &*seen.lock().unwrap_or_else(PoisonError::into_inner) {
                run::ask(&home, vm, &Request::Kill);
            }
        });
        let interrupts = interrupts.map_err(|e| Failed::io("cannot look out for Ctrl-C", e))?;
        Ok(Self { context, args, progress, current, interrupts })
    }

    /// The exit code of a signal that came.
    pub(super) fn interrupted(&self) -> Option<u8> {
        self.interrupts.code()
    }

    /// Memory of every guest.
    pub(super) const fn memory(&self) -> Size {
        self.args.memory
    }

    /// Nothing more is to be done.
    pub(super) fn end(&self) {
        self.progress.end();
    }

    /// Boots a guest in a fresh VM and waits until it is ready and has been for a moment. `change` is done to its spec before.
    ///
    /// # Errors
    /// When no VM can be made or QEMU cannot be started for a reason that is the host's. A guest that fails is a [`Trial`] with a boot
    /// that failed.
    pub(super) fn boot(
        &self,
        contender: &Contender,
        within: Duration,
        change: impl FnOnce(&mut VmSpec),
    ) -> Result<Trial<'_>, Failed> {
        let began = Instant::now();
        let mut spec = contender.spec.clone();
        let random = *uuid::Uuid::new_v4().as_bytes();
        spec.name = names::made_up(
            &format!("compare-{}", contender.name),
            [random[0], random[1], random[2], random[3]],
        );
        change(&mut spec);
        let vm = contender.make(self.context, spec)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(vm.clone());
        let boot = Boot { turn: 0, phases: Vec::new(), memory: None, failed: None, console: Vec::new() };
        let mut trial = Trial {
            trials: self,
            guest: contender.name.clone(),
            evidence: Evidence::of_next_run(&vm),
            vm,
            boot,
            began,
        };
        if self.interrupted().is_none() {
            trial.go(contender, within)?;
        }
        Ok(trial)
    }
}

/// A VM that was booted. Dropping it ends and removes it.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    trials: &'a Trials<'a>,
    guest: String,
    pub(super) vm: VmDir,
    evidence: Evidence,
    /// What became of it.
    pub(super) boot: Boot,
    began: Instant,
}

impl Trial<'_> {
    fn go(&mut self, contender: &Contender, within: Duration) -> Result<(), Failed> {
        if self.trials.args.cold {
            let plan =
                crate::vm::plan_command_line(self.trials.context.home()?, &self.vm, &self.vm.record()?)
                    .map_err(|failure| Failed::wrap(failure.kind.into(), failure))?;
            for (_, path) in contender.files(self.trials.context, &plan)? {
                cache::drop_file(&path).map_err(|e| {
                    Failed::io(format!("cannot drop {} from the page cache", path.display()), e)
                })?;
            }
        }
        let started = crate::vm::start(self.trials.context.home()?, &self.vm, &crate::vm::Begin::Boot)?;
        let mut client = started.client;
        let deadline = Deadline::after(Some(within));
        let (boot, evidence) = (&mut self.boot, &mut self.evidence);
        let ready = call(&mut client, &Request::Follow { until: Until::Ready }, deadline, |reply| {
            evidence.refresh();
            if let Reply::Phase(phase) = reply {
                boot.phases.push(phase);
            }
            Ok(())
        });
        match ready {
            Ok(_) => {
                self.boot.memory = self.memory();
                if let Some(how) = self.ends_within(HOLD) {
                    self.fail(format!(
                        "it said that it was ready, and ended within {} ms: {how}",
                        HOLD.as_millis()
                    ));
                }
                Ok(())
            }
            Err(failed)
                if matches!(
                    failed.kind,
                    ExitKind::HostUnfit | ExitKind::NoSpace | ExitKind::NotFound | ExitKind::Usage
                ) =>
            {
                Err(failed)
            }
            Err(failed) if failed.kind == ExitKind::Timeout => {
                self.fail(format!("it was not ready within {} s", within.as_secs_f64()));
                Ok(())
            }
            Err(failed) => {
                let how = end_of(&failed).map_or_else(
                    || format!("{:#}", failed.error),
                    |end| format!("it ended before it was ready: {end}"),
                );
                self.fail(how);
                Ok(())
            }
        }
    }

    fn fail(&mut self, why: String) {
        self.boot.failed = Some(why);
        self.boot.console = self.evidence.of_guest();
    }

    /// Whether it became ready and stayed so.
    pub(super) fn is_up(&self) -> bool {
        self.boot.failed.is_none() && !self.boot.phases.is_empty()
    }

    /// How the guest ends, if it does so in this time.
    pub(super) fn ends_within(&self, time: Duration) -> Option<String> {
        let ended = || -> Result<Option<String>, Failed> {
            let mut client = self.trials.context.connect(&self.vm)?;
            let mut end = None;
            let request = Request::Follow { until: Until::Ended };
            let waited = call(&mut client, &request, Deadline::after(Some(time)), |reply| {
                if let Reply::Ended(how) = reply {
                    end = Some(how.to_string());
                }
                Ok(())
            });
            match waited {
                Ok(_) => Ok(Some(end.unwrap_or_else(|| "it ended".to_owned()))),
                Err(failed) if failed.kind == ExitKind::Timeout => Ok(None),
                Err(failed) => Err(failed),
            }
        };
        ended().unwrap_or_else(|failed| Some(format!("{:#}", failed.error)))
    }

    /// The state of the run, while it lasts.
    pub(super) fn run(&self) -> Option<RunState> {
        describe::running(&self.vm.status()).cloned()
    }

    /// Its memory now, from outside.
    pub(super) fn memory(&self) -> Option<Memory> {
        let run = self.run()?;
        Some(memory::look(run.qemu.as_ref()?.pid, run.ram_file.as_deref()))
    }

    /// Asks its supervisor for something.
    pub(super) fn ask(&self, request: &Request, within: Duration) -> Result<serde_json::Value, Failed> {
        call(&mut self.trials.context.connect(&self.vm)?, request, Deadline::after(Some(within)), |_| Ok(()))
    }

    /// Waits for a sign.
    pub(super) fn shows(&self, sign: Ready, within: Duration) -> Result<(), Failed> {
        self.ask(&Request::Follow { until: Until::Sign(sign) }, within).map(drop)
    }

    /// Runs a line of shell in the guest through its agent; answers its exit code and what it printed.
    pub(super) fn shell(
        &self,
        script: &str,
        words: &[&str],
        within: Duration,
    ) -> Result<(u8, String), Failed> {
        let argv =
            ["/bin/sh", "-c", script, "sh"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let request = Request::Exec { argv, env: std::collections::BTreeMap::new(), dir: None, input: None };
        let (mut bytes, mut exit) = (Vec::new(), None);
        call(
            &mut self.trials.context.connect(&self.vm)?,
            &request,
            Deadline::after(Some(within)),
            |reply| {
                match reply {
                    Reply::Output { stream: Stream::Stdout, data } => bytes.extend(decode(&data)?),
                    Reply::Exited { code } => exit = Some(code),
                    _ => {}
                }
                Ok(())
            },
        )?;
        Ok((exit.unwrap_or_default(), String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        *self.trials.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Err(failed) = rm::remove(self.trials.context, &self.vm, true) {
            self.trials.context.voice.note(format_args!(
                "`{}` could not be removed: {:#}",
                self.vm.name(),
                failed.error
            ));
        }
        self.trials.progress.booted(&self.guest, self.began);
    }
}
