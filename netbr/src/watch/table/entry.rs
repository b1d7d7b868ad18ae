//! One address in the table, and how it is told to others.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::Mac;

/// How an address was learned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A DHCP server gave it.
    Dhcp,
    /// The guest used it in ARP.
    Arp,
    /// The guest used it in neighbour discovery.
    Ndp,
    /// A DHCPv6 server gave it.
    Dhcpv6,
}

/// An address of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The MAC that has it.
    pub mac: Mac,
    /// How it was learned of.
    pub source: Source,
    /// When it was learned of.
    pub first_seen: Instant,
    /// When the guest or its server last spoke of it.
    pub last_seen: Instant,
    /// Whether the guest itself has shown that it uses it.
    pub confirmed: bool,
    /// When its lease ends; nothing where it has none or keeps it for ever.
    pub lease_end: Option<Instant>,
    /// The DHCP server that gave it.
    pub server: Option<Ipv4Addr>,
}

impl Address {
    /// One that is heard of for the first time, without a lease and not confirmed.
    pub(super) const fn new(now: Instant, address: IpAddr, mac: Mac, source: Source) -> Self {
        Self {
            address,
            mac,
            source,
            first_seen: now,
            last_seen: now,
            confirmed: false,
            lease_end: None,
            server: None,
        }
    }

    /// Whether it means nothing beyond the link: 169.254/16 and fe80::/10.
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
    }

    /// The best first: beyond the link before link-local, confirmed before not, IPv4 before IPv6, a lease before a word, old
    /// before new.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        (
            self.is_link_local(),
            !self.confirmed,
            self.address.is_ipv6(),
            self.source,
            self.first_seen,
            self.address,
        )
    }
}

/// An address as it is kept outside of the process: with times by the wall clock, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Saved {
    /// The address.
    pub address: IpAddr,
    /// The MAC that has it.
    pub mac: Mac,
    /// How it was learned of.
    pub source: Source,
    /// When it was learned of.
    pub first_seen: u64,
    /// When the guest or its server last spoke of it.
    pub last_seen: u64,
    /// Whether the guest itself has shown that it uses it.
    pub confirmed: bool,
    /// When its lease ends.
    pub lease_end: Option<u64>,
    /// The DHCP server that gave it.
    pub server: Option<Ipv4Addr>,
}

/// The same moment by both clocks, to go from one to the other.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// By the clock that never jumps. It stands still while the host sleeps, so a lease then ends late.
    pub now: Instant,
    /// By the wall clock.
    pub wall: SystemTime,
}

impl Clocks {
    /// Now.
    #[must_use]
    pub fn read() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }

    fn millis(self, instant: Instant) -> u64 {
        let wall = match instant.checked_duration_since(self.now) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.now.duration_since(instant)),
        };
        let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// A moment of the past; one of the future is now, as the wall clock has been set back since.
    fn past(self, millis: u64) -> Instant {
        let then = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        let age = then.and_then(|then| self.wall.duration_since(then).ok()).unwrap_or_default();
        self.now.checked_sub(age).unwrap_or(self.now)
    }

    /// A moment to come; nothing if it is over.
    fn future(self, millis: u64) -> Option<Instant> {
        let then = UNIX_EPOCH.checked_add(Duration::from_millis(millis))?;
        self.now.checked_add(then.duration_since(self.wall).ok()?)
    }
}

impl Saved {
    /// Puts an address down for later.
    #[must_use]
    pub fn new(address: &Address, clocks: Clocks) -> Self {
        Self {
            address: address.address,
            mac: address.mac,
            source: address.source,
            first_seen: clocks.millis(address.first_seen),
            last_seen: clocks.millis(address.last_seen),
            confirmed: address.confirmed,
            lease_end: address.lease_end.map(|end| clocks.millis(end)),
            server: address.server,
        }
    }

    /// The address, unconfirmed; nothing if its lease is over.
    pub(super) fn restore(&self, clocks: Clocks) -> Option<Address> {
        let lease_end = match self.lease_end {
            Some(end) => Some(clocks.future(end)?),
            None => None,
        };
        Some(Address {
            address: self.address,
            mac: self.mac,
            source: self.source,
            first_seen: clocks.past(self.first_seen),
            last_seen: clocks.past(self.last_seen),
            confirmed: false,
            lease_end,
            server: self.server,
        })
    }
}

/// Where an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The guest is trying it out and does not use it yet. Not told to anybody.
    Tentative {
        /// When to forget it unless it is used.
        until: Instant,
    },
    /// The guest has it.
    Held,
    /// Another station claims it. Told as a conflict and as lost.
    Disputed {
        /// The other station.
        other: Mac,
        /// Until when the other's last claim counts.
        until: Instant,
    },
}

/// An address and what is being done about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) known: Address,
    pub(super) standing: Standing,
    /// Questions still to be asked.
    pub(super) plan: Option<Plan>,
    /// All questions were asked in vain.
    pub(super) silent: bool,
    /// The guest has got another address meanwhile: this one is given up unless it answers.
    pub(super) doubted: bool,
    /// One word of the guest is not enough: it uses too many addresses already.
    pub(super) distrusted: bool,
}

impl Entry {
    pub(super) const fn new(known: Address, standing: Standing) -> Self {
        Self { known, standing, plan: None, silent: false, doubted: false, distrusted: false }
    }

    /// Whether a server gave it.
    pub(super) const fn leased(&self) -> bool {
        matches!(self.known.source, Source::Dhcp | Source::Dhcpv6)
    }

    pub(super) const fn held(&self) -> bool {
        matches!(self.standing, Standing::Held)
    }

    /// The higher, the longer it is kept where there is no room. The lease of a MAC is its only one, so it always finds room;
    /// of unconfirmed DHCPv6 addresses there can be any number.
    pub(super) const fn worth(&self) -> u8 {
        match (self.standing, self.known.source, self.known.confirmed) {
            (Standing::Tentative { .. }, ..) => 0,
            (Standing::Disputed { .. }, ..) => 1,
            (Standing::Held, Source::Dhcp, false) => 3,
            (Standing::Held, _, false) => 1,
            (Standing::Held, Source::Arp | Source::Ndp, true) => 2,
            (Standing::Held, Source::Dhcp | Source::Dhcpv6, true) => 4,
        }
    }
}
