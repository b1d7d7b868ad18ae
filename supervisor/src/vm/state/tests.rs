//! The machine's promises, case by case and for any sequence of events.

use proptest::prelude::*;

use super::*;

fn policy(restart: Restart) -> Policy {
    Policy { restart, hears: true, shows_ready: true, reset_ends: false, restores: false, spare: Spare::No }
}

/// A machine whose guest runs.
fn booted(policy: Policy) -> Machine {
    let mut machine = Machine::new(policy);
    assert_eq!(machine.handle(Event::Start), [Action::Spawn]);
    machine.handle(Event::Spawned);
    assert!(machine.handle(Event::MonitorUp).contains(&Action::Continue));
    machine.handle(Event::Resumed);
    machine
}

fn exit(status: ExitStatus) -> Event {
    Event::QemuExited(Exit { status: Some(status), stderr: String::new(), oom: None })
}

/// The end that the machine records when QEMU exits like this after `before`.
fn end_after(before: &[Event], last: Event) -> End {
    let mut machine = booted(policy(Restart::No));
    for event in before {
        machine.handle(event.clone());
    }
    let actions = machine.handle(last);
    assert_eq!(machine.state(), State::Ended);
    assert_eq!(actions.last(), Some(&Action::Finish));
    actions
        .into_iter()
        .find_map(|a| if let Action::RecordEnd(end) = a { Some(end) } else { None })
        .expect("an end is recorded")
}

#[test]
fn a_boot_that_came_to_nothing_is_no_end() {
    let powered_off = Event::Shutdown { reason: "guest-shutdown".to_owned() };
    // The guest's word may come before or after its end, or it may hang.
    let orders = [
        vec![Event::BootAgain, powered_off.clone()],
        vec![powered_off, Event::BootAgain],
        vec![Event::BootAgain],
    ];
    for before in orders {
        let mut machine = booted(policy(Restart::No));
        let quits =
            before.iter().flat_map(|event| machine.handle(event.clone())).filter(|a| *a == Action::Quit);
        assert!(quits.count() >= 1, "{before:?}");
        let actions = machine.handle(exit(ExitStatus::Code(0)));
        assert_eq!(actions[actions.len() - 2..], [Action::Discard, Action::Spawn], "{before:?}");
        assert_eq!((machine.state(), machine.restarts()), (State::Starting, 0));
        // The next end is one.
        machine.handle(Event::Spawned);
        assert_eq!(machine.handle(exit(ExitStatus::Code(0))).last(), Some(&Action::Finish));
    }
    // Who asked for an end gets it.
    let asked = [Event::BootAgain, Event::Ask(Ask::Kill { by: AskedBy::User })];
    assert_eq!(end_after(&asked, exit(ExitStatus::Signal(9))).asked_by, Some(AskedBy::User));
}

#[test]
fn readiness_makes_it_running() {
    let mut machine = booted(policy(Restart::No));
    assert_eq!(machine.state(), State::Booting);
    machine.handle(Event::Ready);
    assert_eq!(machine.state(), State::Running);
    let mut silent = booted(Policy { shows_ready: false, ..policy(Restart::No) });
    assert_eq!(silent.state(), State::Running);
    silent.handle(Event::Ready);
    assert_eq!(silent.state(), State::Running);
}

#[test]
fn ends_are_told_apart() {
    let shutdown = |reason: &str| Event::Shutdown { reason: reason.to_owned() };
    let stopped = |status: &str| Event::Stopped { status: status.to_owned(), no_space: false };
    let left = || exit(ExitStatus::Code(0));
    let cases = [
        (vec![shutdown("guest-shutdown"), stopped("shutdown")], left(), Cause::PoweredOff),
        (vec![shutdown("guest-reset")], left(), Cause::Reset),
        (vec![Event::Panicked, shutdown("guest-panic")], left(), Cause::Panicked),
        (vec![stopped("internal-error")], left(), Cause::KvmInternalError),
        (vec![], exit(ExitStatus::Code(7)), Cause::DebugExit { code: 3 }),
        (vec![shutdown("guest-shutdown")], exit(ExitStatus::Code(7)), Cause::DebugExit { code: 3 }),
        (vec![], exit(ExitStatus::Code(1)), Cause::DebugExit { code: 0 }),
        (vec![], exit(ExitStatus::Signal(11)), Cause::QemuCrashed { detail: "signal 11".to_owned() }),
        (vec![], exit(ExitStatus::Code(2)), Cause::QemuCrashed { detail: "exit status 2".to_owned() }),
        (vec![Event::Ask(Ask::Kill { by: AskedBy::User })], exit(ExitStatus::Signal(9)), Cause::Killed),
    ];
    for (before, last, cause) in cases {
        assert_eq!(end_after(&before, last.clone()).cause, cause, "{before:?} then {last:?}");
    }
    let oom =
        Exit { status: Some(ExitStatus::Signal(9)), stderr: String::new(), oom: Some("kmsg".to_owned()) };
    assert_eq!(end_after(&[], Event::QemuExited(oom)).cause, Cause::OomKilled { detail: "kmsg".to_owned() });
    let fatal = Exit { status: Some(ExitStatus::Code(1)), stderr: "no disk".to_owned(), oom: None };
    let detail = "exit status 1: no disk".to_owned();
    assert_eq!(end_after(&[], Event::QemuExited(fatal)).cause, Cause::QemuCrashed { detail });
    let unseen = Exit { status: None, stderr: String::new(), oom: None };
    assert!(matches!(end_after(&[], Event::QemuExited(unseen)).cause, Cause::Unknown { .. }));
}

#[test]
fn qemu_that_dies_before_its_monitor_failed_to_start() {
    let mut machine = Machine::new(policy(Restart::No));
    machine.handle(Event::Start);
    machine.handle(Event::Spawned);
    let exit = Exit { status: Some(ExitStatus::Code(1)), stderr: "bad option".to_owned(), oom: None };
    let actions = machine.handle(Event::QemuExited(exit));
    let detail = "it exited with status 1: bad option".to_owned();
    let end = End { cause: Cause::QemuFailed { detail }, asked_by: None };
    assert!(actions.contains(&Action::RecordEnd(end)));
}

#[test]
fn stop_asks_then_forces() {
    let mut machine = booted(policy(Restart::Always));
    let within = Duration::from_secs(30);
    let asked = machine.handle(Event::Ask(Ask::Stop { by: AskedBy::User, within }));
    assert_eq!(asked, [Action::PowerDown, Action::Arm(Timer::Stop, within)]);
    let forced = machine.handle(Event::TimeOut(Timer::Stop));
    assert!(forced.contains(&Action::Quit));
    let late = machine.handle(Event::TimeOut(Timer::Quit));
    assert_eq!(late, [Action::KillQemu]);
    let actions = machine.handle(exit(ExitStatus::Signal(9)));
    let end = End { cause: Cause::Killed, asked_by: Some(AskedBy::User) };
    assert!(actions.contains(&Action::RecordEnd(end)));
    assert_eq!(machine.state(), State::Ended, "a stop by the user is not undone by the restart policy");
}

#[test]
fn stop_of_a_paused_guest_wakes_it_first() {
    let mut machine = booted(policy(Restart::No));
    machine.handle(Event::Stopped { status: "paused".to_owned(), no_space: false });
    let asked = machine.handle(Event::Ask(Ask::Stop { by: AskedBy::User, within: Duration::from_secs(1) }));
    assert_eq!(asked[0], Action::Continue);
}

#[test]
fn a_guest_that_cannot_hear_is_ended_at_once() {
    let mut machine = booted(Policy { hears: false, ..policy(Restart::No) });
    let asked = machine.handle(Event::Ask(Ask::Stop { by: AskedBy::User, within: Duration::from_secs(30) }));
    assert!(asked.contains(&Action::Quit) && !asked.contains(&Action::PowerDown));
}

#[test]
fn a_full_disk_pauses_and_resume_goes_on() {
    let mut machine = booted(policy(Restart::No));
    machine.handle(Event::Ready);
    machine.handle(Event::Stopped { status: "io-error".to_owned(), no_space: true });
    assert_eq!(machine.state(), State::Paused { why: PauseReason::DiskFull });
    assert_eq!(machine.handle(Event::Ask(Ask::Resume)), [Action::Continue]);
    machine.handle(Event::Resumed);
    assert_eq!(machine.state(), State::Running);
}

#[test]
fn restarts_back_off_and_recover() {
    let mut machine = booted(policy(Restart::OnFailure));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let actions = machine.handle(exit(ExitStatus::Signal(11)));
        assert_eq!(machine.state(), State::Restarting);
        waits.extend(actions.iter().find_map(|a| match a {
            Action::Arm(Timer::Backoff, wait) => Some(wait.as_secs()),
            _ => None,
        }));
        assert_eq!(machine.handle(Event::TimeOut(Timer::Backoff)), [Action::Spawn]);
        machine.handle(Event::Spawned);
        machine.handle(Event::MonitorUp);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(machine.restarts(), 8);
    machine.handle(Event::Ready);
    let actions = machine.handle(exit(ExitStatus::Signal(11)));
    assert!(actions.contains(&Action::Arm(Timer::Backoff, FIRST_BACKOFF)));
    let done = machine.handle(Event::Ask(Ask::Stop { by: AskedBy::User, within: Duration::ZERO }));
    assert!(done.contains(&Action::Finish));
}

#[test]
fn on_failure_leaves_a_good_end_alone() {
    let mut machine = booted(policy(Restart::OnFailure));
    machine.handle(Event::Shutdown { reason: "guest-shutdown".to_owned() });
    machine.handle(exit(ExitStatus::Code(0)));
    assert_eq!(machine.state(), State::Ended);
}

#[test]
fn adoption_finds_what_happened_meanwhile() {
    let adopt = |status: &str, running| {
        let mut machine = Machine::new(policy(Restart::No));
        let event = Event::Adopt { running, status: status.to_owned(), ready: true };
        let actions = machine.handle(event);
        (machine.state(), actions)
    };
    assert_eq!(adopt("running", true), (State::Running, vec![]));
    assert_eq!(adopt("paused", false), (State::Paused { why: PauseReason::User }, vec![]));
    assert_eq!(adopt("prelaunch", false).1, [Action::Continue]);
    for dead in ["shutdown", "guest-panicked", "internal-error"] {
        let (state, actions) = adopt(dead, false);
        assert_eq!(state, State::Stopping);
        assert!(actions.contains(&Action::Quit), "{dead}");
    }
}

#[test]
fn what_was_not_seen_is_not_made_up() {
    let ended = |reset_ends, status| {
        let mut machine = Machine::new(Policy { reset_ends, ..policy(Restart::No) });
        machine.handle(Event::Adopt { running: false, status: "shutdown".to_owned(), ready: true });
        let actions = machine.handle(exit(status));
        actions.into_iter().find_map(|a| if let Action::RecordEnd(end) = a { Some(end.cause) } else { None })
    };
    assert_eq!(ended(false, ExitStatus::Code(0)), Some(Cause::PoweredOff));
    assert_eq!(ended(false, ExitStatus::Code(7)), Some(Cause::DebugExit { code: 3 }));
    assert_eq!(ended(true, ExitStatus::Code(7)), Some(Cause::DebugExit { code: 3 }));
    assert!(matches!(ended(true, ExitStatus::Code(0)), Some(Cause::Unknown { .. })));
}

fn any_event() -> impl Strategy<Value = Event> {
    let status = prop_oneof![
        Just("paused"),
        Just("io-error"),
        Just("shutdown"),
        Just("internal-error"),
        Just("guest-panicked"),
        Just("save-vm"),
    ];
    let reason = prop_oneof![
        Just("guest-shutdown"),
        Just("guest-reset"),
        Just("guest-panic"),
        Just("host-signal"),
        Just("host-qmp-quit"),
    ];
    let exit_status = prop_oneof![
        any::<u8>().prop_map(|c| Some(ExitStatus::Code(c))),
        (1..32).prop_map(|s| Some(ExitStatus::Signal(s))),
        Just(None),
    ];
    let by = prop_oneof![Just(AskedBy::User), Just(AskedBy::Ttl), Just(AskedBy::Host)];
    prop_oneof![
        Just(Event::Spawned),
        Just(Event::SpawnFailed { detail: "no".to_owned() }),
        Just(Event::MonitorUp),
        Just(Event::Resumed),
        Just(Event::Panicked),
        Just(Event::Ready),
        Just(Event::BootAgain),
        (status, any::<bool>()).prop_map(|(s, no_space)| Event::Stopped { status: s.to_owned(), no_space }),
        reason.prop_map(|r| Event::Shutdown { reason: r.to_owned() }),
        (exit_status, any::<bool>()).prop_map(|(status, oom)| Event::QemuExited(Exit {
            status,
            stderr: String::new(),
            oom: oom.then(|| "kmsg".to_owned())
        })),
        (by.clone(), 0..3u64)
            .prop_map(|(by, s)| Event::Ask(Ask::Stop { by, within: Duration::from_secs(s) })),
        by.prop_map(|by| Event::Ask(Ask::Kill { by })),
        Just(Event::Ask(Ask::Pause)),
        Just(Event::Ask(Ask::Resume)),
        prop_oneof![
            Just(Timer::Monitor),
            Just(Timer::Stop),
            Just(Timer::Quit),
            Just(Timer::Backoff),
            Just(Timer::Ttl)
        ]
        .prop_map(Event::TimeOut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, and in whatever order a faulty QEMU reports it: one QEMU at a time, one `Finish`, an end for each
    /// run, nothing after the end, and no state that nothing can lead out of.
    #[test]
    fn any_sequence_keeps_the_promises(
        restart in prop_oneof![Just(Restart::No), Just(Restart::OnFailure), Just(Restart::Always)],
        hears in any::<bool>(),
        shows_ready in any::<bool>(),
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut machine = Machine::new(Policy { restart, hears, shows_ready, reset_ends: false, restores: false, spare: Spare::No });
        let (mut qemus, mut ends, mut finished, mut spawns) = (0_i32, 0, 0, 0);
        let mut quit_armed = false;
        for event in std::iter::once(Event::Start).chain(events) {
            // The driver's own rules: a process is reported spawned once after `Spawn`, and gone once after that.
            match &event {
                Event::Spawned | Event::SpawnFailed { .. } if qemus != 0 || spawns == ends => continue,
                Event::QemuExited(_) if qemus == 0 => continue,
                Event::MonitorUp | Event::Resumed | Event::Stopped { .. } | Event::Shutdown { .. }
                | Event::Panicked | Event::Ready | Event::BootAgain if qemus == 0 => continue,
                Event::TimeOut(Timer::Quit) if !quit_armed => continue,
                _ => {}
            }
            match &event {
                Event::Spawned => qemus += 1,
                Event::QemuExited(_) => qemus -= 1,
                _ => {}
            }
            let over = machine.state() == State::Ended;
            let actions = machine.handle(event.clone());
            if over {
                prop_assert!(actions.iter().all(|a| matches!(a, Action::Refuse(_))), "{actions:?} after the end");
            }
            for action in &actions {
                match action {
                    Action::Spawn => {
                        prop_assert_eq!(qemus, 0, "a second QEMU");
                        spawns += 1;
                    }
                    Action::RecordEnd(_) | Action::Discard => ends += 1,
                    Action::Finish => finished += 1,
                    Action::Arm(Timer::Quit, _) => quit_armed = true,
                    Action::Disarm(Timer::Quit) => quit_armed = false,
                    Action::KillQemu => prop_assert!(qemus == 1, "killing what is not there"),
                    _ => {}
                }
            }
            if actions.contains(&Action::Quit) {
                prop_assert!(quit_armed, "a quit that nothing bounds");
            }
            prop_assert!(finished <= 1);
            prop_assert!(ends <= spawns);
            prop_assert_eq!(finished == 1, machine.state() == State::Ended);
        }
        // From anywhere, a kill and QEMU's leaving lead to the end.
        if machine.state() != State::Ended {
            machine.handle(Event::Ask(Ask::Kill { by: AskedBy::User }));
            if machine.state() != State::Ended {
                let last = if qemus == 1 {
                    Event::QemuExited(Exit { status: None, stderr: String::new(), oom: None })
                } else {
                    Event::SpawnFailed { detail: "killed before the spawn".to_owned() }
                };
                machine.handle(last);
                prop_assert_eq!(machine.state(), State::Ended);
            }
        }
    }
}

#[test]
fn a_spare_stands_still_until_it_is_claimed_and_never_boots() {
    for (spare, runs) in [(Spare::Waits, false), (Spare::Runs, true)] {
        let mut machine = Machine::new(Policy { restores: true, spare, ..policy(Restart::Always) });
        machine.handle(Event::Start);
        machine.handle(Event::Spawned);
        machine.handle(Event::MonitorUp);
        assert_eq!(machine.handle(Event::Loaded).contains(&Action::Continue), runs);
        assert_eq!(
            machine.state(),
            if runs { State::Booting } else { State::Paused { why: PauseReason::User } }
        );
        let mut killed = machine.clone();
        let exit = Exit { status: Some(ExitStatus::Signal(9)), stderr: String::new(), oom: None };
        killed.handle(Event::QemuExited(exit.clone()));
        assert_eq!(killed.state(), State::Ended, "nobody's VM is not started again");

        machine.handle(Event::Ready);
        machine.handle(Event::Stopped { status: "paused".to_owned(), no_space: false });
        assert_eq!(machine.handle(Event::Claimed), [Action::Continue]);
        machine.handle(Event::Resumed);
        assert_eq!(machine.state(), State::Booting, "the VM is not ready because the spare was");
        machine.handle(Event::QemuExited(exit));
        assert_eq!(machine.state(), State::Restarting);
    }
}
