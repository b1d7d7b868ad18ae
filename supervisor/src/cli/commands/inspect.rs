//! `inspect`.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::context::{Context, each};
use crate::cli::describe::{self, Seen};
use crate::cli::{Outcome, output};
use crate::store::{LastRun, Record, RunState, Status, StoreError, VmDir};

/// `midge inspect`: one document for each VM.
pub(super) fn inspect(context: &Context, names: &[String]) -> Outcome {
    each(names, |name| {
        let vm = context.vm(name)?;
        let Some(seen) = Seen::read(&vm) else {
            return Err(StoreError::NotFound { name: name.clone(), near: None }.into());
        };
        output::json_pretty(&Whole::of(&vm, &seen))
    })
}

/// Everything that is known of a VM.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    name: &'a str,
    state: &'static str,
    /// QEMU lives and its supervisor does not; the next command that touches the VM puts that right.
    orphaned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a RunState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<LastRun>,
    paths: Paths,
}

#[derive(Debug, Serialize)]
struct Paths {
    state: PathBuf,
    run: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<PathBuf>,
    console_log: PathBuf,
    qemu_log: PathBuf,
    midge_log: PathBuf,
    events: PathBuf,
}

impl<'a> Whole<'a> {
    fn of(vm: &VmDir, seen: &'a Seen) -> Self {
        Self {
            name: &seen.name,
            state: seen.state(),
            orphaned: matches!(seen.status, Status::Orphaned(_)),
            problem: seen.record.as_ref().err().map(ToString::to_string),
            record: seen.record.as_ref().ok(),
            run: describe::running(&seen.status),
            last: vm.last_run().ok().flatten(),
            paths: Paths {
                state: vm.state_dir().to_owned(),
                run: vm.run_dir().to_owned(),
                disk: Some(vm.disk()).filter(|disk| disk.exists()),
                console_log: vm.console_log(),
                qemu_log: vm.qemu_log(),
                midge_log: vm.midge_log(),
                events: vm.events_log(),
            },
        }
    }
}
