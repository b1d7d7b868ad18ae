//! The last words of a guest and of its QEMU, for errors.
//!
//! The logs are opened while the VM exists: a VM that is removed when its guest ends takes its logs away before anybody
//! could look at them, but not from who has them open.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::exit::Section;
use super::logfile;
use crate::store::VmDir;

/// How many lines of each log are shown.
const LINES: usize = 20;

/// What the log of QEMU's stderr is called.
const QEMU: &str = "what QEMU wrote on stderr";

/// The logs of one run.
#[derive(Debug)]
pub(super) struct Evidence {
    name: String,
    logs: [Log; 2],
}

#[derive(Debug)]
struct Log {
    title: &'static str,
    source: &'static str,
    path: PathBuf,
    /// The log of an earlier run, which says nothing about this one.
    before: Option<u64>,
    open: Option<File>,
}

impl Evidence {
    /// Of a run that is about to begin: logs of earlier runs do not count.
    pub(super) fn of_next_run(vm: &VmDir) -> Self {
        Self::of(vm, true)
    }

    /// Of the run that there is.
    pub(super) fn of_this_run(vm: &VmDir) -> Self {
        let mut evidence = Self::of(vm, false);
        evidence.refresh();
        evidence
    }

    fn of(vm: &VmDir, next: bool) -> Self {
        let log = |title, source, path: PathBuf| {
            let before = std::fs::metadata(&path).ok().filter(|_| next).map(|m| m.ino());
            Log { title, source, path, before, open: None }
        };
        let logs = [
            log("last lines of the serial console", "serial", vm.console_log()),
            log(QEMU, "qemu", vm.qemu_log()),
        ];
        Self { name: vm.name().to_owned(), logs }
    }

    /// Opens what there is by now.
    pub(super) fn refresh(&mut self) {
        for log in self.logs.iter_mut().filter(|log| log.open.is_none()) {
            let inode = |file: &File| file.metadata().map(|m| m.ino()).ok();
            log.open =
                File::open(&log.path).ok().filter(|file| log.before.is_none() || inode(file) != log.before);
        }
    }

    /// The last lines of QEMU's alone, for those who have seen the guest's.
    pub(super) fn of_qemu(&mut self) -> Vec<Section> {
        let mut sections = self.sections();
        sections.retain(|section| section.title.starts_with(QEMU));
        sections
    }

    /// The last lines of the guest's alone.
    pub(super) fn of_guest(&mut self) -> Vec<String> {
        let guests = self.sections().into_iter().find(|section| !section.title.starts_with(QEMU));
        guests.map(|section| section.lines).unwrap_or_default()
    }

    /// The last lines of each.
    pub(super) fn sections(&mut self) -> Vec<Section> {
        self.refresh();
        let name = &self.name;
        let section = |log: &mut Log| {
            let lines =
                logfile::last_lines(log.open.as_mut()?, LINES).ok().filter(|lines| !lines.is_empty())?;
            let all = format!("midge logs --source {} {name}", log.source);
            let title =
                if log.path.exists() { format!("{} (all: {all})", log.title) } else { log.title.to_owned() };
            Some(Section { title, lines })
        };
        self.logs.iter_mut().filter_map(section).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::Home;

    #[test]
    fn an_earlier_runs_log_is_no_evidence_and_a_removed_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let vm = Home::new(folder.path().join("home"), folder.path().join("run")).vm("web");
        fs::create_dir_all(vm.state_dir()).unwrap();
        fs::write(vm.console_log(), "earlier\n").unwrap();
        let mut evidence = Evidence::of_next_run(&vm);
        assert_eq!(evidence.sections(), []);

        fs::rename(vm.console_log(), vm.state_dir().join("old")).unwrap();
        fs::write(vm.console_log(), "now\n").unwrap();
        evidence.refresh();
        fs::remove_dir_all(vm.state_dir()).unwrap();
        let sections = evidence.sections();
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].lines, ["now"]);
    }
}
