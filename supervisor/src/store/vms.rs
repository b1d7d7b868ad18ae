//! The folders of the VMs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::home::{create_dirs, write_whole};
use super::{Home, LastRun, Lock, Record, RunState, SCHEMA, StoreError};
use crate::fault::{self, Point};
use crate::host::proc::ProcessId;
use crate::machine::DiskFormat;
use crate::snapshot::SnapshotName;

/// Where the run folders of spares lie, in the folder for run-time files.
const SPARES: &str = "spares";

/// The names of QEMU's sockets in the run folder: monitor, serial console, agent.
pub(crate) const SOCKETS: [&str; 3] = ["monitor.sock", "console.sock", "agent.sock"];
/// Those of a QEMU that is to take a guest over, until it has.
pub(crate) const NEXT_SOCKETS: [&str; 3] = ["monitor.next.sock", "console.next.sock", "agent.next.sock"];

/// One VM's two folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDir {
    name: String,
    /// `$MIDGE_HOME/vms/NAME`
    state: PathBuf,
    /// `$MIDGE_RUN/vms/NAME`
    run: PathBuf,
}

/// What is known of a VM from its files alone, without asking its supervisor.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// No QEMU and no supervisor.
    Stopped,
    /// A supervisor is in charge.
    Supervised(RunState),
    /// QEMU lives and its supervisor does not: the next command that touches the VM puts that right.
    Orphaned(RunState),
}

impl Home {
    /// The folders of the VM of this name, which need not exist.
    #[must_use]
    pub fn vm(&self, name: &str) -> VmDir {
        VmDir { name: name.to_owned(), state: self.vms().join(name), run: self.run().join("vms").join(name) }
    }

    /// The folders of a spare of this pool, which need not exist.
    #[must_use]
    pub fn spare(&self, pool: &SnapshotName, name: &str) -> VmDir {
        let state = self.pool(pool).spares_dir().join(name);
        VmDir { name: name.to_owned(), state, run: self.run().join(SPARES).join(name) }
    }

    /// Everything that has a record of a VM: the spares of all pools, and the VMs. Whoever looks for what is in use needs both.
    pub fn vms_and_spares(&self) -> Result<Vec<VmDir>, StoreError> {
        let mut all = Vec::new();
        // The spares first: one that is claimed meanwhile is then found as a VM, or as both.
        for pool in self.pools()? {
            all.extend(pool.spares()?);
        }
        all.extend(self.vm_names()?.iter().map(|name| self.vm(name)));
        Ok(all)
    }

    /// The run folders of spares that are in no pool: what is left of one that was removed by hand, or whose claim was cut short.
    pub fn lost_spares(&self) -> Result<Vec<VmDir>, StoreError> {
        let mut lost = names_in(&self.run().join(SPARES))?;
        let known = self.vms_and_spares()?;
        lost.retain(|name| known.iter().all(|vm| vm.name != *name));
        // There is no state folder of theirs, wherever it was.
        let of = |name: &String| VmDir {
            name: name.clone(),
            state: self.tmp().join(name),
            run: self.run().join(SPARES).join(name),
        };
        Ok(lost.iter().map(of).collect())
    }

    /// The names of all VMs, sorted.
    pub fn vm_names(&self) -> Result<Vec<String>, StoreError> {
        names_in(&self.vms())
    }

    /// The folders of the VM of this name, which must exist.
    pub fn existing_vm(&self, name: &str) -> Result<VmDir, StoreError> {
        let dir = self.vm(name);
        // A name such as `..` or `a/b` would lead elsewhere: only names that a VM can have are looked for.
        if crate::spec::check_name(name).is_ok() && dir.state.is_dir() {
            return Ok(dir);
        }
        let near = self
            .vm_names()?
            .into_iter()
            .map(|known| (strsim::damerau_levenshtein(&known, name), known))
            .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
            .min()
            .map(|(_, known)| known);
        Err(StoreError::NotFound { name: name.to_owned(), near })
    }

    /// Creates a VM: its folder appears with its record and whatever `fill` puts beside it, or not at all.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when the name is in use, and what `fill` answers.
    pub fn create_vm<E: From<StoreError>>(
        &self,
        record: &Record,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<VmDir, E> {
        self.create_at(self.vm(&record.spec.name), record, fill)
    }

    /// As [`Home::create_vm`], in these folders.
    pub fn create_at<E: From<StoreError>>(
        &self,
        dir: VmDir,
        record: &Record,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<VmDir, E> {
        if dir.state.exists() {
            return Err(StoreError::Taken(record.spec.name.clone()).into());
        }
        dir.state.parent().map_or(Ok(()), create_dirs)?;
        let scratch = self.scratch("create")?;
        fill(scratch.path())?;
        // A VM that is removed when it ends does not outlive the host either: it need not survive a power cut.
        write_json(&scratch.path().join("vm.json"), record, !record.spec.ephemeral)?;
        if scratch.publish(&dir.state)? {
            Ok(dir)
        } else {
            Err(StoreError::Taken(record.spec.name.clone()).into())
        }
    }
}

impl VmDir {
    /// The VM's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder that survives reboots.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The folder that does not.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The VM's own disk, when its image has one.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        let raw = self.state.join("disk.raw");
        if raw.exists() { raw } else { self.state.join("disk.qcow2") }
    }

    /// The format of [`VmDir::disk`]: raw where it shares its blocks with its image's.
    #[must_use]
    pub fn disk_format(&self) -> DiskFormat {
        let raw = self.disk().extension().is_some_and(|suffix| suffix == "raw");
        if raw { DiskFormat::Raw } else { DiskFormat::Qcow2 }
    }

    /// The state that the running guest was loaded from, as long as no snapshot has it.
    #[must_use]
    pub fn base_state(&self) -> PathBuf {
        self.run.join("base.state")
    }

    /// What the guest wrote on its serial console.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.state.join("console.log")
    }

    /// What QEMU wrote on stderr in its latest run.
    #[must_use]
    pub fn qemu_log(&self) -> PathBuf {
        self.state.join("qemu.log")
    }

    /// What the supervisor had to say.
    #[must_use]
    pub fn midge_log(&self) -> PathBuf {
        self.state.join("midge.log")
    }

    /// What happened to the VM, one JSON object a line.
    #[must_use]
    pub fn events_log(&self) -> PathBuf {
        self.state.join("events.jsonl")
    }

    /// Creates the run folder, readable by its owner only: its sockets command the VM.
    pub fn create_run_dir(&self) -> Result<(), StoreError> {
        if let Some(parent) = self.run.parent() {
            create_dirs(parent)?;
        }
        self.finish_claim()?;
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(&self.run) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io("create", &self.run)(e)),
            _ => Ok(()),
        }
    }

    /// Makes this spare the VM that `record` says: its folders become the VM's, first the one with the record. Where it is cut short
    /// between the two, whoever next starts a supervisor for the VM does the rest. The caller is the spare's supervisor.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when there is a VM of that name; the spare is then as it was.
    pub fn become_vm(&self, home: &Home, record: &Record) -> Result<Self, StoreError> {
        let vm = home.vm(&record.spec.name);
        let taken = || StoreError::Taken(vm.name.clone());
        if vm.state.exists() {
            return Err(taken());
        }
        create_dirs(&home.vms())?;
        vm.run.parent().map_or(Ok(()), create_dirs)?;
        vm.remove_stale_run_dir()?;
        let spare = self.record()?;
        write_json(&self.state.join("vm.json"), record, false)?;
        if !rename_new(&self.state, &vm.state)? {
            write_json(&self.state.join("vm.json"), &spare, false)?;
            return Err(taken());
        }
        fault::at(Point::ClaimRenamed);
        if let Err(e) = fs::rename(&self.run, &vm.run) {
            write_json(&vm.state.join("vm.json"), &spare, false)?;
            rename_new(&vm.state, &self.state)?;
            return Err(StoreError::io("rename", &self.run)(e));
        }
        fault::at(Point::ClaimRunRenamed);
        Ok(vm)
    }

    /// Takes away the run folder that an earlier VM of this name has left.
    fn remove_stale_run_dir(&self) -> Result<(), StoreError> {
        if !self.run.exists() {
            return Ok(());
        }
        // A supervisor that is just removing its VM still holds its lock.
        let Some(_lock) = self.try_lock_supervisor()? else {
            return Err(StoreError::Taken(self.name.clone()));
        };
        self.clear_run();
        fs::remove_dir_all(&self.run).map_err(StoreError::io("remove", &self.run))
    }

    /// Does the rest of [`VmDir::become_vm`] where it was cut short: the run folder is still the spare's, which the VM's id names.
    fn finish_claim(&self) -> Result<(), StoreError> {
        let spares = self.run.parent().and_then(Path::parent).map(|run| run.join(SPARES));
        let Some(spares) = spares.filter(|spares| !self.run.exists() && spares.is_dir()) else {
            return Ok(());
        };
        let Ok(record) = self.record() else { return Ok(()) };
        match fs::rename(spares.join(spare_name(record.id)), &self.run) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("rename into", &self.run)(e)),
            _ => Ok(()),
        }
    }

    /// Sees to it that the record survives a power cut.
    pub fn sync_record(&self) -> Result<(), StoreError> {
        let path = self.state.join("vm.json");
        fs::File::open(&path)
            .and_then(|file| file.sync_data())
            .map_err(StoreError::io("write to disk", &path))
    }

    /// Waits for the right to change this VM. Every command that starts, edits or removes a VM holds it meanwhile.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let near = None;
        Lock::take(&self.state.join(".lock"))?
            .ok_or_else(|| StoreError::NotFound { name: self.name.clone(), near })
    }

    /// As [`VmDir::lock`], and answers nothing when somebody holds it.
    pub fn try_lock(&self) -> Result<Option<Lock>, StoreError> {
        Lock::try_take(&self.state.join(".lock"))
    }

    /// Takes the supervisor's lock, held for the supervisor's whole life. Answers nothing when there is another one.
    pub fn try_lock_supervisor(&self) -> Result<Option<Lock>, StoreError> {
        Lock::try_take(&self.run.join("lock"))
    }

    /// Waits for the supervisor's lock.
    pub fn lock_supervisor(&self) -> Result<Lock, StoreError> {
        let near = None;
        Lock::take(&self.run.join("lock"))?
            .ok_or_else(|| StoreError::NotFound { name: self.name.clone(), near })
    }

    /// The VM's record.
    pub fn record(&self) -> Result<Record, StoreError> {
        let path = self.state.join("vm.json");
        let read = self.read_json(&path).map_err(|e| match e {
            StoreError::Damaged { name, path, reason } => {
                let reason = explain_spec(&path).unwrap_or(reason);
                StoreError::Damaged { name, path, reason }
            }
            other => other,
        });
        match read? {
            Some(record) => {
                let mut record: Record = record;
                // The folder's name is the VM's: a rename is one rename(2), whatever the record still says.
                record.spec.name.clone_from(&self.name);
                record.spec.validate().map_err(|e| self.damaged(&path, e.to_string()))?;
                Ok(record)
            }
            None if self.state.is_dir() => Err(self.damaged(&path, "it is missing".to_owned())),
            None => Err(StoreError::NotFound { name: self.name.clone(), near: None }),
        }
    }

    /// Writes the VM's record. The caller holds [`VmDir::lock`].
    pub fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        write_json(&self.state.join("vm.json"), record, true)
    }

    /// How the latest run went, if there was one.
    pub fn last_run(&self) -> Result<Option<LastRun>, StoreError> {
        self.read_json(&self.state.join("last.json"))
    }

    /// Writes how a run went.
    pub fn write_last_run(&self, last: &LastRun) -> Result<(), StoreError> {
        write_json(&self.state.join("last.json"), last, false)
    }

    /// Writes the state of the run.
    pub fn write_run_state(&self, run: &RunState) -> Result<(), StoreError> {
        write_json(&self.run.join("state.json"), run, false)
    }

    /// What the files and the process table say of the VM.
    ///
    /// Where the run-time file is damaged or gone (with a reboot, for one), the copy that was made when QEMU was spawned
    /// still names its processes.
    pub fn status(&self) -> Status {
        let Some(run) = self.run_state() else { return Status::Stopped };
        if run.supervisor.is_alive() {
            return Status::Supervised(run);
        }
        // While the VM was being saved there may have been two.
        let qemus = [&run.qemu, &run.successor, &run.predecessor];
        if qemus.into_iter().flatten().any(ProcessId::is_alive) {
            Status::Orphaned(run)
        } else {
            Status::Stopped
        }
    }

    /// The state of the latest run that was not closed.
    fn run_state(&self) -> Option<RunState> {
        let read = |path: PathBuf| self.read_json::<RunState>(&path).ok().flatten();
        read(self.run.join("state.json")).or_else(|| read(self.state.join("run.json")))
    }

    /// Notes beside the VM's record that it runs, so that somebody knows of it after the run-time files have gone with the
    /// host's reboot. Not forced to the disk: a power cut in the same seconds may take it along.
    pub fn write_run_mark(&self, run: &RunState) -> Result<(), StoreError> {
        write_json(&self.state.join("run.json"), run, false)
    }

    /// The state of a run whose supervisor and QEMU are both gone without the run having been closed: the host was
    /// rebooted, or both were killed.
    pub fn unfinished_run(&self) -> Option<RunState> {
        match (self.status(), self.run_state()) {
            (Status::Stopped, Some(run)) if run.qemu.is_some() => Some(run),
            _ => None,
        }
    }

    /// Removes what a run leaves behind. The caller holds the supervisor's lock or knows that there is none.
    pub fn clear_run(&self) {
        if let Some(ram) = self.run_state().and_then(|run| run.ram_file) {
            let _ = fs::remove_file(ram);
        }
        let _ = fs::remove_file(self.state.join("run.json"));
        crate::seed::clear(&self.run);
        for file in
            ["state.json", "control.sock", "ram", "base.state"].iter().chain(&SOCKETS).chain(&NEXT_SOCKETS)
        {
            let _ = fs::remove_file(self.run.join(file));
        }
    }

    /// Removes the VM. The caller holds [`VmDir::lock`] and knows that nothing runs.
    pub fn remove(&self, home: &Home) -> Result<(), StoreError> {
        self.clear_run();
        // Out of sight in one step, then piece by piece: whoever looks meanwhile sees a whole VM or none.
        let scratch = home.scratch("rm")?;
        let grave = scratch.path().join("vm");
        match fs::rename(&self.state, &grave) {
            Ok(()) => fault::at(Point::OutOfSight),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("remove", &self.state)(e)),
        }
        match fs::remove_dir_all(&self.run) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &self.run)(e)),
            _ => Ok(()),
        }
    }

    /// Gives the VM a new name. The caller holds [`VmDir::lock`] and knows that nothing runs.
    pub fn rename(&self, home: &Home, new: &str) -> Result<VmDir, StoreError> {
        let mut record = self.record()?;
        let target = home.vm(new);
        new.clone_into(&mut record.spec.name);
        if target.state.exists() {
            return Err(StoreError::Taken(new.to_owned()));
        }
        self.clear_run();
        let _ = fs::remove_dir_all(&self.run);
        if !rename_new(&self.state, &target.state)? {
            return Err(StoreError::Taken(new.to_owned()));
        }
        target.write_record(&record)?;
        Ok(target)
    }

    pub(super) fn read_json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        read_json(&self.name, path)
    }

    fn damaged(&self, path: &Path, reason: String) -> StoreError {
        damaged(&self.name, path, reason)
    }
}

/// Reads a record of what has this name.
pub(super) fn read_json<T: DeserializeOwned>(name: &str, path: &Path) -> Result<Option<T>, StoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("read", path)(e)),
    };
    match serde_json::from_slice::<Version>(&text) {
        Ok(Version { schema }) if schema > u64::from(SCHEMA) => {
            Err(StoreError::Newer { path: path.to_owned(), found: schema, known: SCHEMA })
        }
        _ => serde_json::from_slice(&text).map(Some).map_err(|e| damaged(name, path, e.to_string())),
    }
}

fn damaged(name: &str, path: &Path, reason: String) -> StoreError {
    StoreError::Damaged { name: name.to_owned(), path: path.to_owned(), reason }
}

/// The part of a record that every version of its format has.
#[derive(Deserialize)]
struct Version {
    schema: u64,
}

/// What is wrong with the spec in a record that was edited by hand: all of it, with the names that were meant.
fn explain_spec(path: &Path) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    crate::spec::VmSpec::from_json(record.get("spec")?).err().map(|e| e.to_string())
}

/// The name of the spare that a VM of this id is, until it is claimed.
#[must_use]
pub fn spare_name(id: uuid::Uuid) -> String {
    let id = id.simple().to_string();
    format!("spare-{}", &id[..12])
}

/// The names in a folder, sorted; none where there is no such folder.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("read", folder)(e)),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Renames a folder; answers `false`, and leaves it, where the new name is in use.
fn rename_new(from: &Path, to: &Path) -> Result<bool, StoreError> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(e) => Err(StoreError::io("rename", from)(e.into())),
    }
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::io("write", path)(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    text.push(b'\n');
    write_whole(path, &text, durable)
}

#[cfg(test)]
mod tests;
