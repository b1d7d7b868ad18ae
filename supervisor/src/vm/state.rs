//! The life of a VM as a pure state machine: [`Event`]s in, [`Action`]s out, no I/O, no clock.
//!
//! ```text
//!            Start                MonitorUp             Ready
//!   (new) ─────────► Starting ───────────────► Booting ────────► Running
//!                       │  ▲                      │   ▲            │  ▲
//!                       │  │ BackoffOver          │   └── Resumed ─┤  │ Resumed (was ready)
//!                       │  │                      └──► Paused ◄────┘──┘   Stopped{paused, io-error}
//!                       │  │                             │
//!      Ask(Stop|Kill),  │  └────── Restarting            │  GuestShutdown, Panicked, Stopped{internal-error},
//!      TtlOver          │              ▲                 ▼  Ask(Stop|Kill), TtlOver
//!                       ├──────────────┼──────────► Stopping
//!                       │  QemuExited, │ policy          │ QemuExited
//!                       ▼              │ says so         ▼
//!                     (end) ───────────┴─────────────► Ended
//! ```
//!
//! QEMU runs with `-action shutdown=pause,panic=pause`: a guest that ends leaves QEMU paused, and QEMU leaves only when
//! this machine says [`Action::Quit`]. So the cause is still to be read by a supervisor that adopts the QEMU of one
//! that was killed (qemu(1), `-action`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::end::{AskedBy, Cause, End};
use crate::spec::{Kind, Restart};

/// How long QEMU may take to leave after `quit` before it is killed.
const QUIT_GRACE: Duration = Duration::from_secs(5);
/// The first pause before a restart; it doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause before a restart.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long a guest may take to reach the monitor's greeting before its QEMU counts as stuck.
const MONITOR_GRACE: Duration = Duration::from_secs(30);

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum State {
    /// QEMU is being started.
    Starting,
    /// The guest runs and has not shown that it is ready.
    Booting,
    /// The guest runs and is ready, or has nothing to show that it is.
    Running,
    /// The guest's CPUs stand still.
    Paused {
        /// Why.
        why: PauseReason,
    },
    /// The guest was asked to end, or has ended and QEMU is leaving.
    Stopping,
    /// The guest ended and will be started again.
    Restarting,
    /// There is no guest any more.
    Ended,
}

/// Why a guest's CPUs stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseReason {
    /// `midge pause`.
    User,
    /// A disk write failed because the host's disk is full; `midge resume` tries it again.
    DiskFull,
    /// A disk access failed in another way.
    DiskError,
}

/// What happens to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The supervisor begins.
    Start,
    /// The supervisor begins with a QEMU that is there already, whose monitor reported this status.
    Adopt {
        /// The guest's CPUs run.
        running: bool,
        /// QEMU's run state, as `query-status` names it.
        status: String,
        /// The guest had shown that it is ready.
        ready: bool,
    },
    /// QEMU's process exists.
    Spawned,
    /// QEMU could not be spawned, or what it needs could not be prepared.
    SpawnFailed {
        /// Why.
        detail: String,
    },
    /// The monitor answered; the machine is built and stands still.
    MonitorUp,
    /// The snapshot is loaded, and the guest stands where it was saved.
    Loaded,
    /// The snapshot could not be loaded.
    LoadFailed {
        /// Why.
        detail: String,
    },
    /// The guest, a spare that stands still, is somebody's VM now.
    Claimed,
    /// The guest was saved, and is to go on from there another time.
    Saved,
    /// The guest did not confirm its new identity, and is not to run without one.
    Unconfirmed {
        /// What is known.
        detail: String,
    },
    /// The guest's CPUs run (QMP `RESUME`).
    Resumed,
    /// The guest's CPUs stand still (QMP `STOP`), and `query-status` says why.
    Stopped {
        /// The run state.
        status: String,
        /// Whether the latest `BLOCK_IO_ERROR` was for want of space.
        no_space: bool,
    },
    /// QMP `SHUTDOWN`.
    Shutdown {
        /// Its reason (QAPI `ShutdownCause`).
        reason: String,
    },
    /// QMP `GUEST_PANICKED`.
    Panicked,
    /// QEMU's process is gone.
    QemuExited(Exit),
    /// The sign of readiness was seen.
    Ready,
    /// The boot came to nothing for a reason that is midge's own: QEMU is to be ended and started once more, otherwise.
    BootAgain,
    /// Somebody wants something.
    Ask(Ask),
    /// A timer ran out.
    TimeOut(Timer),
}

/// How QEMU's process went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status or signal; nothing is known of a process that was not our child.
    pub status: Option<ExitStatus>,
    /// What it wrote on stderr, trimmed.
    pub stderr: String,
    /// Where the kernel said that its out-of-memory killer took it.
    pub oom: Option<String>,
}

/// A process's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this.
    Code(u8),
    /// This signal took it.
    Signal(i32),
}

/// What can be asked of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// End in good order, and by force after this time.
    Stop {
        /// Who asks.
        by: AskedBy,
        /// How long the guest may take.
        within: Duration,
    },
    /// End at once.
    Kill {
        /// Who asks.
        by: AskedBy,
    },
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
}

/// The machine's timers; arming one again replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// For the monitor to answer.
    Monitor,
    /// For a guest to end as asked.
    Stop,
    /// For QEMU to leave after `quit`.
    Quit,
    /// Before a restart.
    Backoff,
    /// For the VM's time to live; armed by the driver.
    Ttl,
    /// For a clone to confirm its identity; armed by the driver.
    Identity,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Prepare and spawn QEMU, and connect to it.
    Spawn,
    /// Load the snapshot.
    Load,
    /// QMP `cont`.
    Continue,
    /// QMP `stop`.
    Pause,
    /// Ask the guest to switch off: by its agent, else by the power button.
    PowerDown,
    /// QMP `quit`.
    Quit,
    /// SIGKILL.
    KillQemu,
    /// Start a timer.
    Arm(Timer, Duration),
    /// Stop a timer.
    Disarm(Timer),
    /// The run is over and was none: what is left of it is to be cleared away.
    Discard,
    /// The run is over, like this.
    RecordEnd(End),
    /// The supervisor's work is done.
    Finish,
    /// An [`Ask`] does not fit the state.
    Refuse(&'static str),
}

/// What the machine must know of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What follows an end.
    pub restart: Restart,
    /// Whether the guest can be asked to switch off: a unikernel that cannot hear is ended at once.
    pub hears: bool,
    /// Whether there is a sign of readiness to wait for.
    pub shows_ready: bool,
    /// Whether a reset by the guest ends it.
    pub reset_ends: bool,
    /// Whether the first run loads a snapshot instead of booting.
    pub restores: bool,
    /// Whether it is a spare, until [`Event::Claimed`].
    pub spare: Spare,
}

/// Whether a guest is nobody's VM yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spare {
    /// It is a VM.
    #[default]
    No,
    /// It is a spare that runs until it is told to stand still.
    Runs,
    /// It is a spare that stands still from the beginning.
    Waits,
}

impl Policy {
    /// Whether guests of this kind react to the power button or an agent.
    #[must_use]
    pub fn kind_hears(kind: Kind) -> bool {
        kind == Kind::Linux
    }
}

/// The state of one VM and what it remembers of the run.
#[derive(Debug, Clone)]
pub struct Machine {
    policy: Policy,
    state: State,
    /// QEMU's process exists.
    alive: bool,
    /// The monitor has answered in this run.
    monitor: bool,
    /// The guest has shown that it is ready.
    ready: bool,
    /// What the guest did that ends it, as far as seen before QEMU left.
    cause: Option<Cause>,
    asked_by: Option<AskedBy>,
    /// Midge itself ends QEMU without the guest's consent.
    forced: bool,
    /// QEMU is started once more when it has left.
    again: bool,
    /// This run loads a snapshot.
    restores: bool,
    backoff: Duration,
    restarts: u32,
}

impl Machine {
    /// A VM that has not begun.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::Starting,
            alive: false,
            monitor: false,
            ready: false,
            cause: None,
            asked_by: None,
            forced: false,
            again: false,
            restores: policy.restores,
            backoff: FIRST_BACKOFF,
            restarts: 0,
        }
    }

    /// What the VM is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Restarts by policy so far.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Takes one event and answers what is to be done, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        if self.state == State::Ended {
            return match event {
                Event::Ask(_) => vec![Action::Refuse("the VM has ended")],
                _ => Vec::new(),
            };
        }
        match event {
            Event::Start => {
                let restores = self.restores;
                let actions = self.start();
                self.restores = restores;
                actions
            }
            Event::Adopt { running, status, ready } => self.adopt(running, &status, ready),
            Event::Spawned => {
                self.alive = true;
                // Told to end while the process was being made.
                if self.state == State::Stopping {
                    return vec![Action::KillQemu];
                }
                vec![Action::Arm(Timer::Monitor, MONITOR_GRACE)]
            }
            Event::SpawnFailed { detail } => self.over(Cause::QemuFailed { detail }),
            Event::MonitorUp => self.monitor_up(),
            Event::Loaded => self.loaded(),
            Event::LoadFailed { detail } => self.dead(Cause::NotRestored { detail }),
            Event::Claimed => self.claimed(),
            Event::Saved => self.dead(Cause::Saved),
            Event::Unconfirmed { detail } => self.dead(Cause::Unconfirmed { detail }),
            Event::Resumed => self.resumed(),
            Event::Stopped { status, no_space } => self.stopped(&status, no_space),
            Event::Shutdown { reason } => self.shutdown(&reason),
            Event::Panicked => self.dead(Cause::Panicked),
            Event::QemuExited(exit) => self.exited(exit),
            Event::Ready => self.became_ready(),
            Event::BootAgain => self.boot_again(),
            Event::Ask(ask) => self.ask(ask),
            Event::TimeOut(timer) => self.timed_out(timer),
        }
    }

    fn start(&mut self) -> Vec<Action> {
        self.state = State::Starting;
        self.monitor = false;
        self.ready = false;
        self.cause = None;
        self.asked_by = None;
        self.forced = false;
        self.again = false;
        // A guest that is started again boots.
        self.restores = false;
        vec![Action::Spawn]
    }

    fn adopt(&mut self, running: bool, status: &str, ready: bool) -> Vec<Action> {
        self.alive = true;
        self.monitor = true;
        self.ready = ready;
        self.state = self.awake();
        match status {
            // QEMU does not keep the reason.
            "shutdown" if self.policy.reset_ends => {
                let detail = "it powered off or reset itself while nobody watched".to_owned();
                self.dead(Cause::Unknown { detail })
            }
            "shutdown" => self.dead(Cause::PoweredOff),
            "guest-panicked" => self.dead(Cause::Panicked),
            "internal-error" => self.dead(Cause::KvmInternalError),
            // The supervisor died between the spawn and `cont`.
            "prelaunch" => vec![Action::Continue],
            // It died before the snapshot was loaded: QEMU waits for the rest of it.
            "inmigrate" => {
                let detail = "its supervisor was killed before it was loaded".to_owned();
                self.dead(Cause::NotRestored { detail })
            }
            "io-error" => {
                self.state = State::Paused { why: PauseReason::DiskError };
                Vec::new()
            }
            _ if running => Vec::new(),
            _ => {
                self.state = State::Paused { why: PauseReason::User };
                Vec::new()
            }
        }
    }

    fn monitor_up(&mut self) -> Vec<Action> {
        self.monitor = true;
        let mut actions = vec![Action::Disarm(Timer::Monitor)];
        if self.state == State::Starting {
            if self.restores {
                actions.push(Action::Load);
            } else {
                self.state = self.awake();
                actions.push(Action::Continue);
            }
        }
        actions
    }

    fn loaded(&mut self) -> Vec<Action> {
        if self.state != State::Starting {
            return Vec::new();
        }
        if self.policy.spare == Spare::Waits {
            self.state = State::Paused { why: PauseReason::User };
            return Vec::new();
        }
        self.state = self.awake();
        vec![Action::Continue]
    }

    fn claimed(&mut self) -> Vec<Action> {
        self.policy.spare = Spare::No;
        // Whoever waits for it to be ready waits for the VM, not for the spare.
        self.ready = false;
        vec![Action::Continue]
    }

    /// The state of a guest whose CPUs run.
    fn awake(&self) -> State {
        if self.ready || !self.policy.shows_ready { State::Running } else { State::Booting }
    }

    fn resumed(&mut self) -> Vec<Action> {
        if matches!(self.state, State::Paused { .. }) {
            self.state = self.awake();
        }
        Vec::new()
    }

    fn stopped(&mut self, status: &str, no_space: bool) -> Vec<Action> {
        match status {
            "internal-error" => self.dead(Cause::KvmInternalError),
            "guest-panicked" => self.dead(Cause::Panicked),
            "io-error" => {
                let why = if no_space { PauseReason::DiskFull } else { PauseReason::DiskError };
                self.stand_still(why)
            }
            "paused" => self.stand_still(PauseReason::User),
            // `shutdown` comes with its own event; the rest (save-vm, …) passes by itself.
            _ => Vec::new(),
        }
    }

    fn stand_still(&mut self, why: PauseReason) -> Vec<Action> {
        if matches!(self.state, State::Booting | State::Running | State::Paused { .. }) {
            self.state = State::Paused { why };
        }
        Vec::new()
    }

    fn shutdown(&mut self, reason: &str) -> Vec<Action> {
        match reason {
            "guest-shutdown" => self.dead(Cause::PoweredOff),
            "guest-reset" => self.dead(Cause::Reset),
            "guest-panic" => self.dead(Cause::Panicked),
            // Our own `quit`: the cause is known already.
            "host-qmp-quit" => Vec::new(),
            other => {
                let detail = format!("QEMU was told to end from outside: {other}");
                self.cause.get_or_insert(Cause::QemuCrashed { detail });
                self.quit()
            }
        }
    }

    /// The guest is over; QEMU is still there.
    fn dead(&mut self, cause: Cause) -> Vec<Action> {
        // What is seen first is nearest to the truth: a panic is followed by a shutdown, not the other way round.
        self.cause.get_or_insert(cause);
        self.quit()
    }

    fn quit(&mut self) -> Vec<Action> {
        self.state = State::Stopping;
        vec![Action::Disarm(Timer::Stop), Action::Quit, Action::Arm(Timer::Quit, QUIT_GRACE)]
    }

    fn became_ready(&mut self) -> Vec<Action> {
        self.ready = true;
        if self.state == State::Booting {
            self.state = State::Running;
        }
        Vec::new()
    }

    fn boot_again(&mut self) -> Vec<Action> {
        self.again = true;
        // A guest that has ended by itself is on its way already.
        if self.alive && self.state != State::Stopping { self.quit() } else { Vec::new() }
    }

    fn ask(&mut self, ask: Ask) -> Vec<Action> {
        match ask {
            Ask::Stop { by, within } => self.stop(by, within),
            Ask::Kill { by } => {
                self.asked_by.get_or_insert(by);
                self.forced = true;
                if self.state == State::Restarting {
                    return self.finish();
                }
                self.state = State::Stopping;
                if self.alive { vec![Action::KillQemu] } else { Vec::new() }
            }
            Ask::Pause => match self.state {
                State::Booting | State::Running => vec![Action::Pause],
                State::Paused { .. } => Vec::new(),
                _ => vec![Action::Refuse("only a guest that runs can be paused")],
            },
            Ask::Resume => match self.state {
                State::Paused { .. } => vec![Action::Continue],
                State::Booting | State::Running => Vec::new(),
                _ => vec![Action::Refuse("only a paused guest can go on")],
            },
        }
    }

    fn stop(&mut self, by: AskedBy, within: Duration) -> Vec<Action> {
        match self.state {
            State::Restarting => {
                self.asked_by = Some(by);
                self.finish()
            }
            // Asked again by the user: the guest is told once more, and the new time counts. What midge itself wishes does not
            // prolong the time that a user has set.
            State::Stopping if self.cause.is_none() && !self.forced && by == AskedBy::User => {
                vec![Action::PowerDown, Action::Arm(Timer::Stop, within)]
            }
            State::Stopping | State::Ended => Vec::new(),
            State::Starting | State::Booting | State::Running | State::Paused { .. } => {
                self.asked_by = Some(by);
                let paused = matches!(self.state, State::Paused { .. });
                let loading = self.restores && self.state == State::Starting;
                if !self.policy.hears || !self.monitor || within.is_zero() || loading {
                    self.forced = true;
                    return if self.monitor {
                        self.quit()
                    } else {
                        self.state = State::Stopping;
                        if self.alive { vec![Action::KillQemu] } else { Vec::new() }
                    };
                }
                self.state = State::Stopping;
                let mut actions = Vec::new();
                if paused {
                    actions.push(Action::Continue);
                }
                actions.extend([Action::PowerDown, Action::Arm(Timer::Stop, within)]);
                actions
            }
        }
    }

    fn timed_out(&mut self, timer: Timer) -> Vec<Action> {
        match timer {
            Timer::Monitor if self.alive && !self.monitor => {
                let detail = format!("its monitor did not answer within {} s", MONITOR_GRACE.as_secs());
                self.cause = Some(Cause::QemuFailed { detail });
                self.state = State::Stopping;
                vec![Action::KillQemu]
            }
            Timer::Stop if self.state == State::Stopping && self.cause.is_none() => {
                self.forced = true;
                self.quit()
            }
            Timer::Quit if self.alive => vec![Action::KillQemu],
            Timer::Backoff if self.state == State::Restarting => {
                self.restarts += 1;
                self.start()
            }
            Timer::Ttl => self.stop(AskedBy::Ttl, Duration::from_secs(30)),
            _ => Vec::new(),
        }
    }

    fn exited(&mut self, exit: Exit) -> Vec<Action> {
        self.alive = false;
        let cause = self.classify(exit);
        self.over(cause)
    }

    /// Names the cause of QEMU's leaving from what the guest showed before, then from how the process went.
    fn classify(&mut self, exit: Exit) -> Cause {
        let code = match exit.status {
            Some(ExitStatus::Code(code)) => Some(code),
            _ => None,
        };
        // isa-debug-exit makes QEMU leave with (value << 1) | 1. Before QEMU 9 it calls exit() at once and no event
        // tells; since then it asks for a shutdown, and the status comes with `quit`.
        let debug_exit = code.filter(|c| c % 2 == 1).map(|c| Cause::DebugExit { code: c >> 1 });
        match (self.cause.take(), &debug_exit) {
            (Some(Cause::PoweredOff | Cause::Unknown { .. }), Some(debug_exit)) => return debug_exit.clone(),
            (Some(cause), _) => return cause,
            (None, _) => {}
        }
        if self.forced {
            return Cause::Killed;
        }
        if let Some(detail) = exit.oom {
            return Cause::OomKilled { detail };
        }
        let words =
            |what: String| if exit.stderr.is_empty() { what } else { format!("{what}: {}", exit.stderr) };
        match exit.status {
            _ if !self.monitor => {
                let how = match exit.status {
                    Some(ExitStatus::Code(code)) => format!("it exited with status {code}"),
                    Some(ExitStatus::Signal(signal)) => format!("signal {signal} ended it"),
                    None => "it is gone".to_owned(),
                };
                Cause::QemuFailed { detail: words(how) }
            }
            Some(ExitStatus::Signal(signal)) => {
                Cause::QemuCrashed { detail: words(format!("signal {signal}")) }
            }
            Some(ExitStatus::Code(code)) => match debug_exit {
                // Status 1 is also QEMU's own for a fatal error, which it explains on stderr.
                Some(debug_exit) if exit.stderr.is_empty() || code != 1 => debug_exit,
                _ => Cause::QemuCrashed { detail: words(format!("exit status {code}")) },
            },
            None => Cause::Unknown { detail: "QEMU left and was not this supervisor's child".to_owned() },
        }
    }

    fn over(&mut self, cause: Cause) -> Vec<Action> {
        if self.again && self.asked_by.is_none() {
            let mut actions: Vec<Action> =
                [Timer::Monitor, Timer::Stop, Timer::Quit].map(Action::Disarm).into_iter().collect();
            actions.push(Action::Discard);
            actions.extend(self.start());
            return actions;
        }
        let end = End { cause, asked_by: self.asked_by };
        let mut actions: Vec<Action> =
            [Timer::Monitor, Timer::Stop, Timer::Quit].map(Action::Disarm).into_iter().collect();
        // A guest that was saved goes on from there, and one that is not who it is to be is not booted instead.
        let for_good =
            matches!(end.cause, Cause::Saved | Cause::Unconfirmed { .. } | Cause::NotRestored { .. });
        let again = end.asked_by.is_none()
            && !for_good
            && self.policy.spare == Spare::No
            && match self.policy.restart {
                Restart::No => false,
                Restart::OnFailure => end.is_failure(),
                Restart::Always => true,
            };
        actions.push(Action::RecordEnd(end));
        if again {
            // A guest that had come up is given a fresh start; one that fails at once is given time.
            if self.ready {
                self.backoff = FIRST_BACKOFF;
            }
            self.state = State::Restarting;
            actions.push(Action::Arm(Timer::Backoff, self.backoff));
            self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        } else {
            actions.extend(self.finish());
        }
        actions
    }

    fn finish(&mut self) -> Vec<Action> {
        self.state = State::Ended;
        vec![Action::Disarm(Timer::Backoff), Action::Disarm(Timer::Ttl), Action::Finish]
    }
}

#[cfg(test)]
mod tests;
