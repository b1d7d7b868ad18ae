//! What a guest's identity is to be.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ItemName;
use crate::seed::HostKey;
use crate::spec::{Blob, Mac};

/// How many random bytes a guest's kernel is given: twice of what its generator's key has.
const SEED: usize = 64;

/// What is to change in a running guest; what is missing stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Wanted {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its machine-id (machine-id(5)), which also says who it is to DHCPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<Uuid>,
    /// Interfaces that get another link-layer address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// By which its SSH server shows who it is; keys of other kinds are removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_key: Option<HostKey>,
    /// Random bytes for its kernel's generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<RandomSeed>,
    /// Its clock is set to this host's.
    pub clock: bool,
    /// The interfaces of `nics` ask for addresses anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew: Option<Renew>,
}

/// An interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Nic {
    /// The address that it has.
    pub old: Mac,
    /// The address that it is to have.
    pub new: Mac,
    /// The IPv4 address that it must get, where the VM's spec names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// How long new addresses are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Renew {
    /// In the guest, in milliseconds. Missing, they are asked for and not waited for: the items are pending, and whoever hears of the
    /// addresses on the wire [settles](super::Report::settle) them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
}

impl Renew {
    /// Waited for so long.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self { within_ms: Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)) }
    }
}

/// Random bytes, which are not for logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RandomSeed(Blob);

impl RandomSeed {
    /// Fresh ones of this host's kernel.
    pub fn fresh() -> std::io::Result<Self> {
        let mut bytes = vec![0; SEED];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))?;
        Ok(Self(Blob(bytes)))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.0
    }
}

impl fmt::Debug for RandomSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RandomSeed({} bytes)", self.bytes().len())
    }
}

impl Wanted {
    /// The items that a report must have to answer this.
    #[must_use]
    pub fn items(&self) -> Vec<ItemName> {
        let renew = self.renew.is_some();
        [
            (ItemName::Mac, !self.nics.is_empty()),
            (ItemName::Address, renew),
            (ItemName::Hostname, self.hostname.is_some()),
            (ItemName::MachineId, self.machine_id.is_some()),
            (ItemName::SshHostKeys, self.host_key.is_some()),
            (ItemName::Dhcp, renew),
            (ItemName::RandomSeed, self.seed.is_some()),
            (ItemName::Clock, self.clock),
            (ItemName::BootId, true),
        ]
        .into_iter()
        .filter_map(|(name, wanted)| wanted.then_some(name))
        .collect()
    }
}
