//! Who has which address: the rules, without a clock, a disk or a network of their own.
//!
//! **The key is `chaddr`**, the guest's MAC, and not the client identifier that RFC 2131 prefers: whoever owns the network knows a
//! guest by the MAC that it gave it, while one guest sends another identifier from its firmware, its initramfs, its installed
//! system and after every reinstallation, and clones of one disk all send the same. So a guest keeps one address whatever it
//! calls itself.
//!
//! A record outlives its lease: the address stays its guest's until the pool has no other one left. Two MACs never hold one address.
//!
//! **Clocks.** Ends are seconds of the wall clock, as they have to mean something after a reboot. When that clock jumps ahead,
//! leases end early in the books, but the addresses stay with their guests as said, and an address that changes hands is probed
//! first. When it jumps back, no lease has more time left than it was given (see [`Leases::settle`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use listing::{Row, RowState};
pub use refusal::{Refusal, ReserveError};

use super::subnet::Network;
use super::unix_seconds;
use crate::Mac;

mod listing;
mod refusal;

/// Seconds for which an address is kept that was chosen before its guest started.
const CHOSEN: u32 = 600;
/// Seconds for which an offer is kept.
const OFFERED: u32 = 60;
/// Seconds for which an address is avoided that something else was found to use.
const AVOIDED: u32 = 600;
/// Addresses that one guest can have avoided at once by declining them, so that none empties the pool for the others.
const DECLINES: usize = 8;

/// The leases, reservations and avoided addresses of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Leases {
    records: BTreeMap<Mac, Record>,
    reserved: BTreeMap<Mac, Ipv4Addr>,
    avoided: BTreeMap<Ipv4Addr, Avoided>,
}

/// How it comes from outside, where nothing promises that it is consistent.
#[derive(Deserialize)]
struct Stored {
    records: BTreeMap<Mac, Record>,
    reserved: BTreeMap<Mac, Ipv4Addr>,
    avoided: BTreeMap<Ipv4Addr, Avoided>,
}

/// What is known of one MAC's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The address.
    pub address: Ipv4Addr,
    /// How far the guest has come with it.
    pub state: State,
    /// When this state ends, in seconds since 1970.
    pub ends: u64,
    /// How long it was meant to last, in seconds.
    pub lasts: u32,
    /// Nobody else answered for the address when this MAC got it.
    pub probed: bool,
    /// The name that the guest gives itself.
    pub hostname: Option<String>,
}

/// How far a guest has come with its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Chosen for it, unsaid.
    Chosen,
    /// Offered.
    Offered,
    /// In use.
    Bound,
    /// Given back.
    Released,
}

/// An address that something else uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Avoided {
    /// Until then, in seconds since 1970.
    until: u64,
    /// For whom it was tried.
    by: Mac,
    /// The guest said so; else a probe did.
    declined: bool,
}

/// An address chosen for a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The address.
    pub address: Ipv4Addr,
    /// This MAC never had it: whether somebody else uses it is to be asked first.
    pub probe: bool,
}

impl From<Stored> for Leases {
    fn from(stored: Stored) -> Self {
        let Stored { records, reserved, avoided } = stored;
        let mut whole = Self { avoided, ..Self::default() };
        let mut owners = BTreeMap::new();
        for (mac, address) in reserved {
            if *owners.entry(address).or_insert(mac) == mac {
                whole.reserved.insert(mac, address);
            }
        }
        // Where two records name one address, the one that lasts longer is the one in use.
        let mut latest: Vec<_> = records.into_iter().collect();
        latest.sort_by_key(|(_, record)| std::cmp::Reverse(record.ends));
        for (mac, record) in latest {
            if *owners.entry(record.address).or_insert(mac) == mac {
                whole.records.insert(mac, record);
            }
        }
        whole
    }
}

impl Record {
    fn is_active(&self, now: u64) -> bool {
        self.state != State::Released && now < self.ends
    }
}

impl Leases {
    /// One lease that is reserved and in use.
    pub(super) fn fixed(now: SystemTime, mac: Mac, address: Ipv4Addr) -> Self {
        let mut leases = Self::default();
        leases.reserved.insert(mac, address);
        leases.bind(now, mac, address, OFFERED, None);
        leases
    }

    /// Forgets what time has ended, and takes from each lease what a clock that jumped back would add to it.
    pub fn settle(&mut self, now: SystemTime) {
        let now = unix_seconds(now);
        for record in self.records.values_mut() {
            record.ends = record.ends.min(now.saturating_add(record.lasts.into()));
        }
        for avoided in self.avoided.values_mut() {
            avoided.until = avoided.until.min(now.saturating_add(AVOIDED.into()));
        }
        self.avoided.retain(|_, avoided| now < avoided.until);
    }

    /// What is known of a MAC's address.
    #[must_use]
    pub fn get(&self, mac: Mac) -> Option<&Record> {
        self.records.get(&mac)
    }

    /// The address reserved for a MAC.
    #[must_use]
    pub fn reservation(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.reserved.get(&mac).copied()
    }

    /// Reserves an address for a MAC, in the pool or beside it. The guest gets it when it next asks; until then it may use the
    /// one that it has.
    pub fn reserve(
        &mut self,
        network: &Network,
        now: SystemTime,
        mac: Mac,
        address: Ipv4Addr,
    ) -> Result<(), ReserveError> {
        self.settle(now);
        let now = unix_seconds(now);
        if !network.may_give(address) {
            return Err(ReserveError::Outside { address, network: network.subnet });
        }
        if let Some((owner, _)) =
            self.reserved.iter().find(|(owner, reserved)| **reserved == address && **owner != mac)
        {
            return Err(ReserveError::Reserved { address, mac: *owner });
        }
        if let Some((owner, record)) = self.holder(address).filter(|(owner, _)| *owner != mac) {
            if record.is_active(now) {
                return Err(ReserveError::Leased { address, mac: owner, left: record.ends - now });
            }
            self.records.remove(&owner);
        }
        self.reserved.insert(mac, address);
        Ok(())
    }

    /// Ends a MAC's reservation; it keeps its lease.
    pub fn unreserve(&mut self, mac: Mac) {
        self.reserved.remove(&mac);
    }

    /// Forgets all that is known of a MAC: its guest is gone.
    pub fn forget(&mut self, mac: Mac) {
        self.reserved.remove(&mac);
        self.records.remove(&mac);
        self.avoided.retain(|_, avoided| avoided.by != mac);
    }

    /// Chooses an address for a MAC and keeps it for it: the reserved one, the one it had, the one it wants, one that its MAC
    /// leads to, the next free one, the one whose owner has gone for longest.
    pub fn choose(
        &mut self,
        network: &Network,
        now: SystemTime,
        mac: Mac,
        wanted: Option<Ipv4Addr>,
    ) -> Result<Choice, Refusal> {
        self.settle(now);
        let now = unix_seconds(now);
        let address = match self.reservation(mac) {
            Some(address) if !network.may_give(address) => {
                return Err(Refusal::ReservedOutside { address, mac, network: network.subnet });
            }
            Some(address) if self.avoided.contains_key(&address) => {
                return Err(Refusal::ReservedInUse { address, mac });
            }
            Some(address) => address,
            None => self
                .kept(network, mac)
                .or_else(|| wanted.filter(|wanted| self.is_free(network, *wanted)))
                .or_else(|| self.next_free(network, mac))
                .map_or_else(|| self.reclaim(network, now, mac), Ok)?,
        };
        let record = self.records.entry(mac).or_insert_with(|| Record::new(address, now));
        if record.address != address {
            *record = Record { hostname: record.hostname.take(), ..Record::new(address, now) };
        }
        if !record.is_active(now) {
            record.enter(State::Chosen, now, CHOSEN);
        }
        Ok(Choice { address, probe: !record.probed })
    }

    /// Takes in what a probe found: nobody answered for the address, or who did. The MAC itself answering is no conflict.
    ///
    /// Says whether the address is in use by another one; then it is avoided for a time, and another one is to be chosen.
    pub fn probed(&mut self, now: SystemTime, mac: Mac, address: Ipv4Addr, answered: Option<Mac>) -> bool {
        let taken = answered.is_some_and(|who| who != mac);
        match self.records.get_mut(&mac).filter(|record| record.address == address) {
            Some(_) if taken => {
                self.records.remove(&mac);
                self.avoid(now, mac, address, false);
            }
            Some(record) => record.probed = true,
            None => {}
        }
        taken
    }

    /// Whether an address is this MAC's to use.
    pub(super) fn is_entitled(&self, network: &Network, mac: Mac, address: Ipv4Addr) -> bool {
        match self.reservation(mac) {
            Some(reserved) => {
                reserved == address && network.may_give(address) && !self.avoided.contains_key(&address)
            }
            None => self.kept(network, mac) == Some(address),
        }
    }

    /// Whether a MAC that was told of no address may go on using one from an earlier life of these records.
    pub(super) fn is_adoptable(&self, network: &Network, mac: Mac, address: Ipv4Addr) -> bool {
        self.get(mac).is_none_or(|record| record.state == State::Chosen)
            && self.reservation(mac).is_none()
            && self.is_free(network, address)
    }

    pub(super) fn offer(&mut self, now: SystemTime, mac: Mac) {
        let now = unix_seconds(now);
        if let Some(record) = self.records.get_mut(&mac)
            && !(record.state == State::Bound && record.is_active(now))
        {
            record.enter(State::Offered, now, OFFERED);
        }
    }

    pub(super) fn bind(
        &mut self,
        now: SystemTime,
        mac: Mac,
        address: Ipv4Addr,
        seconds: u32,
        hostname: Option<String>,
    ) {
        let now = unix_seconds(now);
        let record = self.records.entry(mac).or_insert_with(|| Record::new(address, now));
        let hostname = hostname.or_else(|| record.hostname.take());
        *record = Record { address, probed: true, hostname, ..Record::new(address, now) };
        record.enter(State::Bound, now, seconds);
    }

    /// Gives a lease back; says whether there was one.
    pub(super) fn release(&mut self, now: SystemTime, mac: Mac, address: Ipv4Addr) -> bool {
        match self.records.get_mut(&mac).filter(|record| record.address == address) {
            Some(record) => {
                record.enter(State::Released, unix_seconds(now), 0);
                true
            }
            None => false,
        }
    }

    /// The guest found its address in use; says whether it was its address.
    pub(super) fn decline(&mut self, now: SystemTime, mac: Mac, address: Ipv4Addr) -> bool {
        if self.get(mac).is_none_or(|record| record.address != address) {
            return false;
        }
        self.records.remove(&mac);
        let mut declined: Vec<_> = self
            .avoided
            .iter()
            .filter(|(_, avoided)| avoided.declined && avoided.by == mac)
            .map(|(address, avoided)| (avoided.until, *address))
            .collect();
        declined.sort_unstable();
        let surplus = (declined.len() + 1).saturating_sub(DECLINES);
        for (_, address) in &declined[..surplus] {
            self.avoided.remove(address);
        }
        self.avoid(now, mac, address, true);
        true
    }

    /// The address that a MAC's record keeps for it, if it may still have it.
    fn kept(&self, network: &Network, mac: Mac) -> Option<Ipv4Addr> {
        let address = self.get(mac)?.address;
        let anothers = self.reserved.iter().any(|(owner, reserved)| *reserved == address && *owner != mac);
        (network.in_pool(address) && !anothers && !self.avoided.contains_key(&address)).then_some(address)
    }

    fn holder(&self, address: Ipv4Addr) -> Option<(Mac, &Record)> {
        self.records.iter().find(|(_, record)| record.address == address).map(|(mac, record)| (*mac, record))
    }

    fn is_free(&self, network: &Network, address: Ipv4Addr) -> bool {
        network.in_pool(address)
            && self.holder(address).is_none()
            && !self.avoided.contains_key(&address)
            && !self.reserved.values().any(|reserved| *reserved == address)
    }

    fn next_free(&self, network: &Network, mac: Mac) -> Option<Ipv4Addr> {
        let pool = network.pool.as_ref().filter(|pool| !pool.is_empty())?;
        let first = u64::from(pool.start().to_bits());
        let size = u64::from(pool.end().to_bits()) - first + 1;
        let taken: BTreeSet<Ipv4Addr> = self
            .records
            .values()
            .map(|record| record.address)
            .chain(self.reserved.values().copied())
            .chain(self.avoided.keys().copied())
            .collect();
        // Of so many in a row, one is free, unless the pool reaches out of its subnet; besides those taken there are the subnet's
        // two ends, the server and the router.
        let tries = size.min(taken.len() as u64 + 5);
        let start = fnv(mac) % size;
        (0..tries)
            .filter_map(|step| u32::try_from(first + (start + step) % size).ok())
            .map(Ipv4Addr::from_bits)
            .find(|address| network.in_pool(*address) && !taken.contains(address))
    }

    /// Takes the address of the one that has been gone for longest.
    fn reclaim(&mut self, network: &Network, now: u64, mac: Mac) -> Result<Ipv4Addr, Refusal> {
        let Some(pool) = &network.pool else { return Err(Refusal::NoPool(mac)) };
        let gone = self
            .records
            .iter()
            .filter(|(_, record)| {
                !record.is_active(now)
                    && network.in_pool(record.address)
                    && !self.avoided.contains_key(&record.address)
                    && !self.reserved.values().any(|reserved| *reserved == record.address)
            })
            .min_by_key(|(_, record)| record.ends)
            .map(|(owner, record)| (*owner, record.address));
        if let Some((owner, address)) = gone {
            self.records.remove(&owner);
            return Ok(address);
        }
        let count = |addresses: &mut dyn Iterator<Item = Ipv4Addr>| {
            addresses.filter(|address| network.in_pool(*address)).count()
        };
        let leased = count(&mut self.records.values().map(|record| record.address));
        let unused = self.reserved.values().filter(|address| self.holder(**address).is_none());
        Err(Refusal::Exhausted {
            first: *pool.start(),
            last: *pool.end(),
            size: network.pool_size(),
            leased,
            reserved: count(&mut unused.copied()),
            avoided: count(&mut self.avoided.keys().copied()),
        })
    }

    fn avoid(&mut self, now: SystemTime, by: Mac, address: Ipv4Addr, declined: bool) {
        let until = unix_seconds(now).saturating_add(AVOIDED.into());
        self.avoided.insert(address, Avoided { until, by, declined });
    }
}

impl Record {
    const fn new(address: Ipv4Addr, now: u64) -> Self {
        Self { address, state: State::Chosen, ends: now, lasts: 0, probed: false, hostname: None }
    }

    fn enter(&mut self, state: State, now: u64, seconds: u32) {
        self.state = state;
        self.lasts = seconds;
        self.ends = now.saturating_add(seconds.into());
    }
}

/// FNV-1a, 64 bits, of a MAC: the same in every release, so that a guest's first address is, too.
fn fnv(mac: Mac) -> u64 {
    mac.bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
