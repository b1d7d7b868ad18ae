//! What is known of VMs, in words: for `ls` and `inspect`.

use std::time::Duration;

use jiff::Timestamp;

use super::units;
use crate::spec::VmSpec;
use crate::store::{LastRun, Record, RunState, Status, StoreError, VmDir};
use crate::vm::{PauseReason, State};

/// A VM as its files show it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    /// Its record, or why that cannot be read.
    pub(super) record: Result<Record, StoreError>,
    pub(super) status: Status,
    /// Its latest run, when it has ended.
    pub(super) last: Option<LastRun>,
}

impl Seen {
    /// Reads the files of a VM. Nothing when it is gone meanwhile.
    pub(super) fn read(vm: &VmDir) -> Option<Self> {
        let record = match vm.record() {
            Err(StoreError::NotFound { .. }) => return None,
            record => record,
        };
        let status = vm.status();
        // While it runs, how it ended before is of no interest.
        let last = if running(&status).is_none() { vm.last_run().ok().flatten() } else { None };
        Some(Self { name: vm.name().to_owned(), record, status, last })
    }

    /// The word for what it does.
    pub(super) fn state(&self) -> &'static str {
        match (&self.record, running(&self.status)) {
            (_, Some(run)) => state_word(run.state),
            (Err(_), None) => "damaged",
            (Ok(_), None) => "stopped",
        }
    }

    /// How long it has been up, or when and how it ended.
    pub(super) fn uptime_or_end(&self, now: Timestamp) -> String {
        if let Some(run) = running(&self.status) {
            return run.started.map(|started| units::age(units::between(started, now))).unwrap_or_default();
        }
        match &self.last {
            Some(last) => format!("{}, {} ago", last.end, units::age(units::between(last.ended, now))),
            None => String::new(),
        }
    }
}

/// The run, unless it is over.
pub(super) fn running(status: &Status) -> Option<&RunState> {
    match status {
        Status::Supervised(run) | Status::Orphaned(run) if run.state != State::Ended => Some(run),
        _ => None,
    }
}

/// A state in a word. It says why a guest stands still where that is not by the user's wish.
pub(super) fn state_word(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Booting => "booting",
        State::Running => "running",
        State::Paused { why: PauseReason::User } => "paused",
        State::Paused { why: PauseReason::DiskFull } => "paused:disk-full",
        State::Paused { why: PauseReason::DiskError } => "paused:disk-error",
        State::Stopping => "stopping",
        State::Restarting => "restarting",
        State::Ended => "stopped",
    }
}

/// What a VM boots, in one word.
pub(super) fn boots(spec: &VmSpec) -> String {
    match (&spec.boot.image, &spec.boot.kernel) {
        (Some(image), _) => image.clone(),
        (None, Some(kernel)) => {
            kernel.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        (None, None) => String::new(),
    }
}

/// Ports and addresses of a VM: `8080->80 10.0.2.15`.
pub(super) fn reach(spec: Option<&VmSpec>, run: Option<&RunState>) -> String {
    let forwards =
        spec.into_iter().flat_map(|spec| &spec.nets).flat_map(crate::spec::Net::forwards).map(|f| {
            let address = if f.address.is_loopback() { String::new() } else { format!("{}:", f.address) };
            format!("{address}{}->{}", f.host, f.guest)
        });
    let addresses = run.into_iter().flat_map(|run| &run.addresses).map(ToString::to_string);
    forwards.chain(addresses).collect::<Vec<_>>().join(" ")
}

/// Time left until a point in time; nothing when it is past.
pub(super) fn left(until: Timestamp, now: Timestamp) -> Option<Duration> {
    (until > now).then(|| units::between(now, until))
}
