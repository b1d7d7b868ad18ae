//! How a supervisor begins.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::snapshot::SnapshotName;

/// The environment variable in which a command tells the supervisor that it starts how to begin.
pub(super) const VARIABLE: &str = "MIDGE_BEGIN";

/// How a supervisor begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Begin {
    /// Boot the guest, or take charge of the one that runs.
    #[default]
    Boot,
    /// Take charge of the guest that runs; start none.
    Adopt,
    /// Load a snapshot instead of booting.
    Restore(Restore),
}

/// Which snapshot is to be loaded, and who the guest is then to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// The snapshot's id. Whoever starts the supervisor sees to it that the VM's origin names it, so that it stays.
    pub snapshot: Uuid,
    /// Who the guest is to be.
    pub identity: Identity,
    /// What becomes of a guest that does not confirm its identity.
    #[serde(default)]
    pub unconfirmed: Unconfirmed,
    /// The pool that it is a spare of, where it is one: then it stands still until it is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<SnapshotName>,
}

/// What a restored guest is told of who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// It is another: everything that tells one machine from another is changed inside the guest, through its agent.
    Full,
    /// It is another to the network only: what it sends and hears is rewritten on its port, and nothing is asked of it.
    Network,
    /// It is left as it is.
    None,
    /// It is the same one as before: only its clock has stood still, and its random numbers must not come again.
    Same,
}

/// What becomes of a guest that does not confirm its identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unconfirmed {
    /// It is stopped.
    #[default]
    Stop,
    /// It runs on, and is never called ready.
    Keep,
}

impl Begin {
    /// What the command that started this supervisor has told it.
    ///
    /// # Errors
    /// What is wrong with its words.
    pub(super) fn from_env() -> Result<Self, String> {
        match std::env::var(VARIABLE) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| format!("{VARIABLE} makes no sense: {e}")),
            Err(std::env::VarError::NotPresent) => Ok(Self::Boot),
            Err(e) => Err(format!("{VARIABLE} makes no sense: {e}")),
        }
    }

    /// The words for it.
    pub(super) fn text(&self) -> String {
        // A handful of names and a number: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        let restore = Restore {
            snapshot: Uuid::new_v4(),
            identity: Identity::Full,
            unconfirmed: Unconfirmed::Keep,
            spare: Some("web@ready".parse().unwrap()),
        };
        for begin in [Begin::Boot, Begin::Adopt, Begin::Restore(restore)] {
            assert_eq!(serde_json::from_str::<Begin>(&begin.text()).unwrap(), begin);
        }
    }
}
