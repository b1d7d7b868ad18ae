//! Whether this host has room for so many clones, told before the first is made.

use std::fmt;

use crate::snapshot::Manifest;
use crate::spec::Net;

/// What QEMU takes for itself, and the pages that an idle Debian touches at once: somewhat more than the 33 MB that were seen of an idle
/// clone (QEMU 10.0, q35).
const QEMU: u64 = 40 << 20;

/// What one clone takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Of memory at once: QEMU's own, and pages that the guest writes as soon as it runs.
    pub memory: u64,
    /// Of the disk at once: its record and an empty overlay.
    pub disk: u64,
    /// Addresses of midge's own network.
    pub addresses: u64,
}

impl Needs {
    /// What a clone takes that is not started.
    #[must_use]
    pub const fn stopped() -> Self {
        Self { memory: 0, disk: 64 << 10, addresses: 0 }
    }

    /// What a clone takes that goes on from this snapshot's memory: QEMU's own heap and the pages that an idle guest touches, and the
    /// delta of the snapshot's RAM, which is copied into each clone.
    #[must_use]
    pub fn from_memory(manifest: &Manifest) -> Self {
        let delta = manifest.ram.as_ref().filter(|ram| ram.base.is_some()).map_or(0, |ram| ram.part.size);
        Self::running(manifest, delta)
    }

    /// What a clone takes that boots: all its RAM, sooner or later.
    #[must_use]
    pub fn booting(manifest: &Manifest) -> Self {
        Self::running(manifest, manifest.spec.memory.bytes())
    }

    fn running(manifest: &Manifest, ram: u64) -> Self {
        let natted = manifest.spec.nets.iter().filter(|net| matches!(net, Net::Nat { .. }));
        Self { memory: QEMU + ram, addresses: natted.count() as u64, ..Self::stopped() }
    }
}

/// What there is not enough of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub what: &'static str,
    /// How much is needed.
    pub needed: u64,
    /// How much there is.
    pub there: u64,
    /// Counted in bytes, and not one by one.
    pub bytes: bool,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |number: u64| {
            if self.bytes { format!("{} MiB", number.div_ceil(1 << 20)) } else { number.to_string() }
        };
        write!(f, "{} of {} needed, {} free", shown(self.needed), self.what, shown(self.there))
    }
}

/// What is short for `count` clones, where so much is there; of addresses, where they are midge's to give.
#[must_use]
pub fn shortages(count: u64, needs: Needs, memory: u64, disk: u64, addresses: Option<u64>) -> Vec<Shortage> {
    let short = |what, each: u64, there, bytes| {
        let needed = each.saturating_mul(count);
        (needed > there).then_some(Shortage { what, needed, there, bytes })
    };
    let addresses = addresses.and_then(|there| short("network addresses", needs.addresses, there, false));
    let rest = [short("memory", needs.memory, memory, true), short("disk", needs.disk, disk, true)];
    rest.into_iter().flatten().chain(addresses).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_short_is_named() {
        let needs = Needs { memory: QEMU, addresses: 1, ..Needs::stopped() };
        assert_eq!(shortages(10, needs, 400 << 20, 1 << 20, Some(10)), []);
        let short = shortages(11, needs, 400 << 20, 1 << 10, Some(10));
        let texts: Vec<String> = short.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "440 MiB of memory needed, 400 MiB free",
                "1 MiB of disk needed, 1 MiB free",
                "11 of network addresses needed, 10 free"
            ]
        );
        assert_eq!(shortages(1000, Needs { memory: 0, disk: 0, addresses: 1 }, 0, 0, None), []);
    }
}
