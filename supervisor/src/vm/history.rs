//! `events.jsonl`: what happened to a VM, for `midge events`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{End, Phase, State};

/// The file's size at which a new one is begun; one old one is kept.
const LIMIT: u64 = 1 << 20;

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub time: jiff::Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// Something that happened to a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happening {
    /// QEMU was spawned.
    Started {
        /// Its process number.
        pid: u32,
    },
    /// A supervisor took charge of a QEMU that had lost its own.
    Adopted {
        /// QEMU's process number.
        pid: u32,
    },
    /// The VM changed its state.
    State {
        /// To this.
        state: State,
    },
    /// A boot reached a phase.
    Phase(Phase),
    /// The guest reset itself and boots again.
    GuestReset,
    /// A disk access of the guest failed.
    DiskError {
        /// For want of space on the host.
        no_space: bool,
        /// QEMU's words.
        detail: String,
    },
    /// The guest ended.
    Ended(End),
    /// QEMU said something else that may matter.
    Qemu {
        /// The QMP event.
        name: String,
        /// What it carried.
        #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
        data: serde_json::Value,
    },
}

/// The open history of one VM.
#[derive(Debug)]
pub(super) struct History(Option<File>);

impl History {
    /// Opens it for appending. A history that cannot be written is reported in the log and does not stop the VM.
    pub(super) fn open(path: &Path) -> Self {
        let open = || -> io::Result<File> {
            if fs::metadata(path).is_ok_and(|m| m.len() > LIMIT) {
                fs::rename(path, path.with_extension("jsonl.old"))?;
            }
            File::options().create(true).append(true).open(path)
        };
        Self(open().inspect_err(|e| tracing::warn!("cannot keep the history {}: {e}", path.display())).ok())
    }

    /// Adds a line, in one write so that readers see it whole.
    pub(super) fn add(&mut self, what: Happening) {
        let entry = Entry { time: jiff::Timestamp::now(), what };
        let Some(file) = &mut self.0 else { return };
        let line = serde_json::to_string(&entry).map_err(io::Error::other);
        if let Err(e) = line.and_then(|line| file.write_all(format!("{line}\n").as_bytes())) {
            tracing::warn!("cannot add to the history: {e}");
            self.0 = None;
        }
    }
}
