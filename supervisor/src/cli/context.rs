//! What every command has at hand.

use std::sync::OnceLock;

use super::exit::{ExitKind, Failed};
use super::output::Voice;
use crate::store::{Home, VmDir};
use crate::vm::control::Client;

/// The folders, found when first asked for, and how talkative to be.
#[derive(Debug, Clone)]
pub(super) struct Context {
    home: OnceLock<Home>,
    /// How talkative to be.
    pub(super) voice: Voice,
}

impl Context {
    /// A context that has looked at nothing yet.
    pub(super) fn new(quiet: bool, verbose: bool) -> Self {
        Self { home: OnceLock::new(), voice: Voice { quiet, verbose } }
    }

    /// The folders.
    pub(super) fn home(&self) -> Result<&Home, Failed> {
        if self.home.get().is_none() {
            let _ = self.home.set(Home::from_env()?);
        }
        self.home.get().ok_or_else(|| Failed::new(ExitKind::Other, "midge has no folders"))
    }

    /// The folders of a VM, which must exist.
    pub(super) fn vm(&self, name: &str) -> Result<VmDir, Failed> {
        Ok(self.home()?.existing_vm(name)?)
    }

    /// A connection to the supervisor of a VM that runs.
    pub(super) fn connect(&self, vm: &VmDir) -> Result<Client, Failed> {
        Ok(crate::vm::connect(self.home()?, vm)?)
    }
}

/// Does the same with several VMs: all are tried, each failure but the last is told at once, and the last one decides the
/// exit code.
pub(super) fn each<T>(items: &[T], mut act: impl FnMut(&T) -> Result<(), Failed>) -> super::Outcome {
    let mut last = None;
    for item in items {
        if let Err(failed) = act(item) {
            if failed.unheard {
                return Err(failed);
            }
            if let Some(before) = last.replace(failed) {
                super::output::failure(&before);
            }
        }
    }
    last.map_or(Ok(0), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_tried_and_the_last_failure_decides() {
        let mut tried = Vec::new();
        let outcome = each(&[1, 2, 3], |n| {
            tried.push(*n);
            match n {
                1 => Err(Failed::new(ExitKind::NotFound, "one")),
                2 => Err(Failed::new(ExitKind::WrongState, "two")),
                _ => Ok(()),
            }
        });
        assert_eq!(tried, [1, 2, 3]);
        assert_eq!(outcome.unwrap_err().kind, ExitKind::WrongState);
    }
}
