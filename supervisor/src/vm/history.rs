//! `events.jsonl`: what happened to a VM, for `midge events`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{End, Phase, State};
use crate::spec::{Mac, Size};
use crate::store::Source;

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
    /// A spare became this VM.
    Claimed {
        /// What it was called as a spare.
        spare: String,
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
    /// The guest has an address.
    Address {
        /// Its interface.
        net: usize,
        /// The address.
        address: IpAddr,
        /// What gave it away.
        source: Source,
    },
    /// The guest has an address no longer.
    AddressLost {
        /// Its interface.
        net: usize,
        /// The address.
        address: IpAddr,
        /// Why.
        why: String,
    },
    /// Another machine uses an address of the guest.
    AddressConflict {
        /// The interface.
        net: usize,
        /// The address.
        address: IpAddr,
        /// The other machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        other: Option<Mac>,
    },
    /// Another machine sends with the guest's own MAC.
    MacConflict {
        /// The interface.
        net: usize,
        /// The MAC.
        mac: Mac,
    },
    /// midge's own network has no address for the guest.
    NoLease {
        /// The interface.
        net: usize,
        /// Why, and what to do.
        why: String,
    },
    /// The host's end of an interface is gone, or cannot be watched any more.
    PortLost {
        /// The interface.
        net: usize,
        /// What happened to it.
        detail: String,
    },
    /// midge's own initial RAM disk did not bring up the root file system; the image's own takes its place from now on.
    InitrdFailed {
        /// What the guest said.
        reason: String,
    },
    /// The guest's root file system was made to fill its disk, which is larger than the image's.
    DiskGrown {
        /// The disk's size.
        disk: Size,
        /// The file system's size in bytes.
        file_system: u64,
    },
    /// That failed; it is tried again at the next start.
    DiskNotGrown {
        /// The disk's size.
        disk: Size,
        /// Why.
        reason: String,
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

/// The history of one VM.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    file: Option<File>,
}

impl History {
    /// Opens it for appending. A history that cannot be written is reported in the log and does not stop the VM.
    pub(super) fn open(path: &Path) -> Self {
        let mut history = Self { path: path.to_owned(), file: None };
        if let Err(e) = history.reopen() {
            tracing::warn!("cannot keep the history {}: {e}", path.display());
        }
        history
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(File::options().create(true).append(true).open(&self.path)?);
        Ok(())
    }

    /// The history is kept here from now on: the file itself has been moved.
    pub(super) fn moved(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Adds a line, in one write so that readers see it whole.
    pub(super) fn add(&mut self, what: Happening) {
        if let Err(e) = self.write(&Entry { time: jiff::Timestamp::now(), what }) {
            tracing::warn!("cannot add to the history {}: {e}", self.path.display());
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
        line.push(b'\n');
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let length = file.metadata()?.len();
        if length > LIMIT {
            fs::rename(&self.path, self.path.with_extension("jsonl.old"))?;
            self.reopen()?;
            return self.write(entry);
        }
        file.write_all(&line).inspect_err(|_| {
            // A full disk takes half a line: away with it, and on when there is room again.
            let _ = file.set_len(length);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_history_begins_anew_and_keeps_the_old_one() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("events.jsonl");
        let mut history = History::open(&path);
        let line = Happening::Qemu { name: "X".repeat(60 << 10), data: serde_json::Value::Null };
        for _ in 0..20 {
            history.add(line.clone());
        }
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(length(&path) < LIMIT);
        assert!(length(&path.with_extension("jsonl.old")) > LIMIT);
        let last = fs::read_to_string(&path).unwrap();
        assert!(last.lines().all(|line| serde_json::from_str::<Entry>(line).is_ok()));
    }
}
