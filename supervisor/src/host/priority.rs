//! Work that nobody waits for takes what others leave of the CPUs.
//!
//! Not by nice(2): a process without privilege cannot take that back (setpriority(2)), and a guest that was made ready in the
//! background is somebody's VM later. The weight of the session's autogroup can be raised and lowered by anybody (sched(7), "The
//! autogroup feature"), and a supervisor has a session of its own. Where the kernel groups otherwise this has no effect.

use std::fs;

/// The nice value of what is done in the background: a third of the usual weight (sched(7)). With much less a guest on a busy host would not
/// answer in time.
const BACKGROUND: i8 = 5;

/// The processes of this session, which this process leads, give way to others from now on.
pub fn lower() {
    set(BACKGROUND);
}

/// They have their usual share again.
pub fn restore() {
    set(0);
}

fn set(nice: i8) {
    // The processes of another's session are not ours to slow down.
    if nix::unistd::getsid(None) != Ok(nix::unistd::getpid()) {
        return;
    }
    if let Err(e) = fs::write("/proc/self/autogroup", format!("{nice}\n")) {
        tracing::debug!("the session's priority stays as it is: {e}");
    }
}
