//! Fault points: the steps at which a test ends one of midge's processes, or holds it still, to see what the next command makes of what
//! it left.
//!
//! `MIDGE_FAULT=PROCESS:POINT` has the process of that kind (`cli` or `supervisor`) end itself by SIGKILL when it comes to that point. With
//! `:hold` behind it the process stops itself there (SIGSTOP), until the test has done what it has in mind and lets it go on. Builds without
//! debug assertions, as a release is, do not look at it.

#[cfg(debug_assertions)]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The environment variable that names the process and the point.
pub const VARIABLE: &str = "MIDGE_FAULT";

macro_rules! points {
    ($($point:ident = $name:literal: $what:literal,)+) => {
        /// A step at which a process may be made to end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $(#[doc = $what] $point,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    SaveBegun = "save.begun": "The snapshot's folder is made.",
    DiskLinked = "save.disk-linked": "The VM's disk has a name in it.",
    LayerMade = "save.layer-made": "The layer that the VM is to go on with is made.",
    Spawned = "save.spawned": "The second QEMU is started.",
    Noted = "save.noted": "The second QEMU is noted.",
    Paused = "save.paused": "The guest stands still.",
    Switched = "save.switched": "QEMU writes to the next layer of the disk.",
    DiskTaken = "save.disk-taken": "The next layer has the name of the VM's disk.",
    StateSaved = "save.state-saved": "The state of the devices is saved.",
    StateLoaded = "save.state-loaded": "The second QEMU has loaded it.",
    StateKept = "save.state-kept": "It is kept for the next save.",
    Resumed = "save.resumed": "The guest goes on.",
    WentOver = "save.went-over": "It is noted that the guest is in the second QEMU.",
    SocketsAdopted = "save.sockets-adopted": "The second QEMU's sockets have the names of the first one's.",
    FirstGone = "save.first-gone": "The first QEMU is gone.",
    Forwarded = "save.forwarded": "The host's ports lead into the second QEMU.",
    RamTaken = "save.ram-taken": "The RAM file is in the snapshot's folder, by another name.",
    RamCopied = "save.ram-copied": "The RAM is copied.",
    DeltaWritten = "save.delta-written": "The pages of a clone that differ are written.",
    Becoming = "save.becoming": "It is noted that the VM ends with its snapshot.",
    Sealed = "save.sealed": "All parts are on the disk.",
    Named = "save.named": "The snapshot's name leads to a folder without a manifest.",
    Published = "save.published": "The snapshot is whole.",
    OriginNoted = "save.origin-noted": "It is noted that the VM stands on it.",
    SourceSaved = "clone.source-saved": "The running source of a clone has a snapshot.",
    Pinned = "clone.pinned": "The snapshot is pinned.",
    CloneMade = "clone.made": "The clone's record exists.",
    CloneBegun = "clone.begun": "The clone's supervisor is in charge.",
    CloneFollowed = "clone.followed": "The clone is who it is to be.",
    ClonesDone = "clone.done": "All clones are made.",
    RunNoted = "start.noted": "It is noted that QEMU is about to be started.",
    QemuSpawned = "start.spawned": "QEMU is started.",
    QemuNoted = "start.qemu-noted": "QEMU is noted.",
    Loaded = "start.loaded": "The snapshot is loaded.",
    GoesOn = "start.goes-on": "The restored guest goes on.",
    Identified = "start.identified": "The guest has told what has become of its identity.",
    ClaimBegun = "claim.begun": "A spare is to become a VM, and nothing has been done.",
    ClaimRenamed = "claim.renamed": "Its folder is the VM's.",
    ClaimRunRenamed = "claim.run-renamed": "So is its run folder.",
    ClaimNoted = "claim.noted": "Its supervisor knows that it is a VM, and has let it go on.",
    SourceEnded = "restore.ended": "The VM that is to be restored is ended.",
    DiskPutBack = "restore.disk-put-back": "It has the snapshot's disk.",
    PutBack = "restore.put-back": "It is noted what it stands on.",
    Suspended = "suspend.noted": "It is noted that the VM is to go on from the snapshot.",
    Unnamed = "rm.unnamed": "The snapshot's name is gone.",
    Reclaimed = "rm.reclaimed": "So are those of its files that nobody needs.",
    OutOfSight = "rm.out-of-sight": "The VM's folder is where unfinished work is.",
}

/// It happens once: what is done again afterwards goes through.
#[cfg(debug_assertions)]
static HAPPENED: AtomicBool = AtomicBool::new(false);
static SUPERVISOR: AtomicBool = AtomicBool::new(false);

/// From now on this process is a supervisor.
pub(crate) fn in_supervisor() {
    SUPERVISOR.store(true, Ordering::Relaxed);
}

/// What is to happen, and where.
#[cfg(debug_assertions)]
struct Fault {
    supervisor: bool,
    point: Point,
    hold: bool,
}

#[cfg(debug_assertions)]
impl Fault {
    /// Reads the variable's value; what makes no sense is nothing.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let supervisor = match words.next()? {
            "supervisor" => true,
            "cli" => false,
            _ => return None,
        };
        let name = words.next()?;
        let point = *Point::ALL.iter().find(|point| point.name() == name)?;
        let hold = match words.next() {
            None => false,
            Some("hold") => true,
            Some(_) => return None,
        };
        words.next().is_none().then_some(Self { supervisor, point, hold })
    }
}

/// The process has come to this point.
#[cfg(debug_assertions)]
pub(crate) fn at(point: Point) {
    use nix::sys::signal::{Signal, raise};
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
    let fault = FAULT.get_or_init(|| Fault::parse(&std::env::var(VARIABLE).ok()?));
    let Some(fault) = fault.as_ref().filter(|fault| fault.point == point) else { return };
    if fault.supervisor == SUPERVISOR.load(Ordering::Relaxed) && !HAPPENED.swap(true, Ordering::Relaxed) {
        // Both cannot be caught, and fail for no process that sends them to itself.
        let _ = raise(if fault.hold { Signal::SIGSTOP } else { Signal::SIGKILL });
    }
}

/// The process has come to this point.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) const fn at(_point: Point) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }

    #[cfg(debug_assertions)]
    #[test]
    fn a_fault_is_meant_for_one_process() {
        let fault = Fault::parse("supervisor:save.paused:hold").unwrap();
        assert!(fault.supervisor && fault.hold && fault.point == Point::Paused);
        let fault = Fault::parse("cli:clone.made").unwrap();
        assert!(!fault.supervisor && !fault.hold && fault.point == Point::CloneMade);
        for text in ["", "cli", "cli:", "other:save.paused", "cli:save.never", "cli:save.paused:else"] {
            assert!(Fault::parse(text).is_none(), "{text}");
        }
        assert!(Fault::parse("cli:save.paused:hold:more").is_none());
    }
}
