//! The run in a real VM, and what it proves.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{KvmAbsence, KvmState, guest, modules, why};
use crate::host::root::HostRoot;

mod sys;

/// How long the whole run may take before its CPU is called back; it takes about 10 ms.
const LIMIT: Duration = Duration::from_secs(2);

/// How long a CPU that was called back may take to come.
const GRACE: Duration = Duration::from_secs(1);

/// How often the loop is timed at most: the quickest counts, as any may be interrupted.
const LAPS: usize = 4;

/// Memory of the guest: 64 KiB is one page on the aarch64 kernels with the largest pages.
const MEMORY: usize = 64 << 10;

/// The signal that calls a CPU back. Blocked in the thread that runs it but for the time inside `KVM_RUN`, so it has
/// no handler and is lost nowhere.
pub(super) const KICK: Signal = Signal::SIGUSR1;

/// Runs the guest on a thread of its own, so that a KVM that hangs keeps nobody waiting.
pub(super) fn run(root: &HostRoot) -> KvmState {
    let special = guest::has_special();
    attempt(root, LIMIT, special, guest::code(special))
}

/// As [`run`], with a time limit and guest of the caller's choice; `special` says whether `code` holds that instruction.
fn attempt(root: &HostRoot, limit: Duration, special: bool, code: Vec<u8>) -> KvmState {
    // Blocked before the thread exists, which inherits it: it never has a moment in which the signal would end us.
    let mut kick = SigSet::empty();
    kick.add(KICK);
    let Ok(before) = kick.thread_swap_mask(SigmaskHow::SIG_BLOCK) else {
        return other("signals cannot be blocked");
    };
    let (send, receive) = mpsc::channel();
    let thread = std::thread::Builder::new().name("kvm-probe".to_owned()).spawn(move || {
        let _ = send.send(try_guest(special, &code));
    });
    let _ = before.thread_set_mask();
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => return other(&format!("no thread for the probe: {error}")),
    };
    let result = receive.recv_timeout(limit).or_else(|_| {
        sys::kick(&thread);
        receive.recv_timeout(GRACE)
    });
    match result {
        Ok(Ok(trial)) => trial.judge(&modules(root)),
        Ok(Err(Failure::Host(error))) => why::absent(root, &error),
        Ok(Err(Failure::Strange(detail))) => other(&detail),
        Ok(Err(Failure::Kicked)) | Err(_) => KvmState::Absent {
            reason: KvmAbsence::Stalled,
            detail: format!(
                "a guest of a few instructions did not come back from KVM within {} s",
                LIMIT.as_secs()
            ),
        },
    }
}

fn other(detail: &str) -> KvmState {
    KvmState::Absent { reason: KvmAbsence::Other, detail: detail.to_owned() }
}

/// Why there was no trial.
#[derive(Debug)]
enum Failure {
    /// The system refused something.
    Host(io::Error),
    /// KVM did what its interface does not say.
    Strange(String),
    /// Called back.
    Kicked,
}

impl From<kvm_ioctls::Error> for Failure {
    fn from(error: kvm_ioctls::Error) -> Self {
        Self::Host(io::Error::from_raw_os_error(error.errno()))
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trial {
    /// The instruction that emulators lack: what became of it, where the CPU has it.
    special: Option<Stop>,
    /// The quickest lap of the loop in the guest, where it came to that.
    guest: Option<Duration>,
    /// The quickest lap of the same loop on the host.
    host: Duration,
}

/// How one entry into the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// With this report.
    Report(u8),
    /// Otherwise, in words.
    Other(String),
}

/// Makes the VM and runs the guest's code step by step.
fn try_guest(with_special: bool, code: &[u8]) -> Result<Trial, Failure> {
    let kvm = Kvm::new()?;
    // "Applications should refuse to run if KVM_GET_API_VERSION returns a value other than 12" (api.rst, 4.1).
    let version = kvm.get_api_version();
    if version != 12 {
        return Err(Failure::Strange(format!("/dev/kvm speaks version {version} of its interface, not 12")));
    }
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| Failure::Strange(format!("no memory for the probe's guest: {error}")))?;
    memory
        .write_slice(code, GuestAddress(guest::CODE))
        .map_err(|error| Failure::Strange(format!("the probe's guest cannot be written: {error}")))?;

    let vm = kvm.create_vm()?;
    guest::prepare_vm(&vm);
    sys::give_memory(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0)?;
    guest::prepare_vcpu(&vm, &vcpu)?;
    sys::let_kick_through(&vcpu)?;

    match enter(&mut vcpu)? {
        Stop::Report(1) => {}
        Stop::Report(value) => {
            return Err(Failure::Strange(format!("the probe's guest began with {value}, not 1")));
        }
        Stop::Other(exit) => {
            return Err(Failure::Strange(format!("the probe's guest did not begin: {exit}")));
        }
    }
    let host = quickest(|| {
        guest::loop_on_host();
        Ok(true)
    })?;
    let special = if with_special { Some(enter(&mut vcpu)?) } else { None };
    let mut trial = Trial { special, guest: None, host: host.unwrap_or(Duration::MAX) };
    if trial.special_ran() {
        trial.guest = quickest(|| Ok(matches!(enter(&mut vcpu)?, Stop::Report(_))))?;
    }
    Ok(trial)
}

/// The shortest of several laps; none when a lap says that it failed.
fn quickest(mut lap: impl FnMut() -> Result<bool, Failure>) -> Result<Option<Duration>, Failure> {
    let mut best = None;
    for _ in 0..LAPS {
        let begun = Instant::now();
        if !lap()? {
            return Ok(None);
        }
        let took = begun.elapsed();
        best = Some(best.map_or(took, |best: Duration| best.min(took)));
    }
    Ok(best)
}

/// Enters the guest until it stops.
fn enter(vcpu: &mut VcpuFd) -> Result<Stop, Failure> {
    let exit = match vcpu.run() {
        Ok(VcpuExit::InternalError) => None,
        Ok(exit) => Some(guest::report(&exit).map_or_else(|| Stop::Other(format!("{exit:?}")), Stop::Report)),
        // Only the kick is let through.
        Err(error) if error.errno() == nix::libc::EINTR => return Err(Failure::Kicked),
        Err(error) => return Err(error.into()),
    };
    Ok(exit.unwrap_or_else(|| Stop::Other(sys::internal_error(vcpu))))
}

impl Trial {
    /// Whether the special instruction did what it should, or is not there to be tried.
    fn special_ran(&self) -> bool {
        self.special.as_ref().is_none_or(|stop| *stop == Stop::Report(guest::SPECIAL_RESULT))
    }

    /// The slowest lap that still counts as the hardware's.
    ///
    /// The guest's lap has one entry and one exit more than the host's: a few microseconds, tens under a nested
    /// hypervisor. An interpreter takes milliseconds.
    fn allowed(&self) -> Duration {
        self.host.saturating_mul(50).saturating_add(Duration::from_micros(300))
    }

    /// What the trial proves.
    fn judge(&self, modules: &[String]) -> KvmState {
        let by = match modules.iter().find(|name| *name != "kvm") {
            Some(module) => format!("KVM ({module})"),
            None => "KVM".to_owned(),
        };
        if !self.special_ran() {
            let how = match &self.special {
                Some(Stop::Other(exit)) => exit.clone(),
                Some(Stop::Report(value)) => format!("its result was {value}"),
                None => String::new(),
            };
            return KvmState::Emulates {
                detail: format!("{by} could not run {}, which this CPU has: {how}", guest::SPECIAL),
            };
        }
        match self.guest {
            None => other(&format!("{by} lost the probe's guest in a loop of {} rounds", guest::ROUNDS)),
            Some(took) if took <= self.allowed() => KvmState::Works,
            Some(took) => KvmState::Emulates {
                detail: format!(
                    "{by} took {} µs for a loop of {} rounds that takes {} µs on this CPU",
                    took.as_micros(),
                    guest::ROUNDS,
                    self.host.as_micros()
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    fn ran() -> Option<Stop> {
        guest::has_special().then_some(Stop::Report(guest::SPECIAL_RESULT))
    }

    #[test]
    fn judge_quick_loop_works() {
        for guest in [3, 60, 390] {
            let trial = Trial { special: ran(), guest: Some(micros(guest)), host: micros(2) };
            assert_eq!(trial.judge(&[]), KvmState::Works, "{guest} µs");
        }
    }

    #[test]
    fn judge_slow_loop_emulates_and_names_both_paces() {
        let trial = Trial { special: None, guest: Some(micros(3300)), host: micros(2) };
        let KvmState::Emulates { detail } = trial.judge(&["kvm".to_owned(), "kvm_x".to_owned()]) else {
            panic!("emulates")
        };
        assert!(
            detail.contains("kvm_x") && detail.contains("3300 µs") && detail.contains("takes 2 µs"),
            "{detail}"
        );
    }

    #[test]
    fn judge_slow_host_is_allowed_a_slow_guest() {
        let trial = Trial { special: None, guest: Some(micros(3300)), host: micros(200) };
        assert_eq!(trial.judge(&[]), KvmState::Works);
    }

    #[test]
    fn judge_missing_instruction_emulates() {
        for stop in [
            Stop::Other("KVM internal error".to_owned()),
            Stop::Report(guest::SPECIAL_RESULT.wrapping_add(1)),
        ] {
            let trial = Trial { special: Some(stop), guest: None, host: micros(2) };
            assert!(matches!(trial.judge(&[]), KvmState::Emulates { .. }));
        }
    }

    #[test]
    fn judge_lost_guest_is_absent() {
        let trial = Trial { special: ran(), guest: None, host: micros(2) };
        assert!(matches!(trial.judge(&[]), KvmState::Absent { reason: KvmAbsence::Other, .. }));
    }

    #[test]
    fn loop_on_host_takes_time_in_proportion() {
        // 5000 rounds are at least 5000 cycles of some kind: not less than 0.5 µs on any CPU.
        let took = quickest(|| {
            guest::loop_on_host();
            Ok(true)
        })
        .unwrap()
        .unwrap();
        assert!(took > Duration::from_nanos(500), "{took:?}");
    }

    /// Runs another guest than the probe's; none where KVM cannot be opened.
    fn attempt_here(limit: Duration, code: Vec<u8>) -> Option<KvmState> {
        let root = HostRoot::system();
        let opened = !matches!(run(&root), KvmState::Absent { .. });
        opened.then(|| attempt(&root, limit, false, code))
    }

    #[test]
    fn pace_alone_gives_the_same_answer() {
        let Some(by_pace) = attempt_here(LIMIT, guest::code(false)) else { return };
        assert_eq!(by_pace == KvmState::Works, run(&HostRoot::system()) == KvmState::Works, "{by_pace:?}");
    }

    #[test]
    fn guest_that_never_stops_is_called_back() {
        let begun = Instant::now();
        let limit = Duration::from_millis(100);
        let Some(state) = attempt_here(limit, guest::ENDLESS.to_vec()) else { return };
        assert!(matches!(state, KvmState::Absent { reason: KvmAbsence::Stalled, .. }), "{state:?}");
        assert!(begun.elapsed() < limit + GRACE, "it was given up, not called back: {:?}", begun.elapsed());
    }

    #[test]
    fn guest_that_faults_is_absent_with_the_exit() {
        // All ones: an invalid instruction on either architecture, and no handler for the fault.
        let Some(state) = attempt_here(Duration::from_millis(500), vec![0xff; 64]) else { return };
        assert!(matches!(state, KvmState::Absent { .. }), "{state:?}");
    }
}
