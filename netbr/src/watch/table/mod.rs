//! The addresses of the guest behind one port: frames and times in, changes and questions to the guest out.
//!
//! Pure: it reads no clock and sends nothing. Its rules:
//!
//! - *Learned.* From the DHCP ACK for the guest's MAC (`chaddr`, so any client identifier will do), from the addresses that the
//!   guest uses in ARP and neighbour discovery, from a DHCPv6 REPLY to its MAC. An address that the guest only tries out (an
//!   ARP probe, duplicate address detection) is kept back until it is used.
//! - *Confirmed.* By the guest's own word: ARP or neighbour discovery from the address. It is asked for one, a bounded number of
//!   times; see [`Asker`]. A guest that uses many addresses must answer for each.
//! - *Lost.* On RELEASE, DECLINE, NAK and at the lease's end; when another station claims it; when the guest's server gives
//!   another one; or, without a lease, when the guest has got another address and no longer answers for this one.
//!
//! What it cannot tell apart: a guest that answers ARP for addresses of machines behind it (proxy ARP) seems to have them. A
//! bridge port in hairpin mode, which gives a guest its own frames back, looks like a second station with the guest's MAC. An
//! address that moves between guests by intent (VRRP) is a conflict for the one that had it.

mod entry;
mod plan;
mod rules;
mod why;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use entry::{Address, Clocks, Saved, Source};
pub use why::{LikelyCause, NoAddress, Port, Want};

use super::frame;
use super::question::Asker;
use crate::Mac;
use crate::packet::Direction;
use entry::{Entry, Standing};
use plan::{Next, Pace, Plan};

/// Addresses that a table keeps at most.
pub const CAPACITY: usize = 64;
/// Addresses that the guest's word alone is enough for.
const TRUSTED: usize = 8;
/// Addresses that can be asked for at once: a /24.
pub const MOST_ASKED: usize = 256;
/// How long the claim of another station counts.
const DISPUTE: Duration = Duration::from_secs(30);

/// Whom a table is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// The MACs of the guest's interface behind the port: usually one.
    pub macs: Vec<Mac>,
    /// The MACs of its interfaces behind other ports of the same network. Linux answers ARP for any address of its own on any of
    /// its interfaces, so that is no conflict.
    pub siblings: Vec<Mac>,
    /// Who asks the guest.
    pub asker: Asker,
}

/// What became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The guest has an address.
    Appeared(Address),
    /// The guest has shown that it uses it.
    Confirmed(Address),
    /// It has it no longer.
    Lost {
        /// The address.
        address: IpAddr,
        /// Why.
        why: LostWhy,
    },
    /// Another station claims an address that the guest has. [`Event::Lost`] follows.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The other station; with the guest's own MAC if it is a copy of it.
        other: Mac,
    },
    /// Another station sends with the guest's MAC: of two clones, one needs another.
    DuplicateMac(Mac),
}

/// Why an address is no longer the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LostWhy {
    /// The guest gave it back to its server.
    Released,
    /// The guest found it in use when its server gave it.
    Declined,
    /// The server took it back.
    Refused,
    /// Its lease ended without renewal.
    Expired,
    /// The server gave the guest another one.
    Replaced,
    /// Another station claims it.
    Conflict,
    /// The guest uses another one and no longer answers for this one.
    Unanswered,
    /// The guest uses more addresses than are kept.
    Crowded,
}

/// What came of a frame, of time passing, or of a wish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// What became known, in order.
    pub events: Vec<Event>,
    /// Frames to send to the guest, out of the port.
    pub frames: Vec<Vec<u8>>,
}

/// Why a guest cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Too many addresses.
    #[error(
        "at most {MOST_ASKED} addresses can be asked for at once: name them, or a network of at most a /24"
    )]
    TooMany,
}

/// An address to ask for that is not known.
#[derive(Debug, Clone, Copy)]
struct Ask {
    address: IpAddr,
    probe: bool,
    due: Instant,
}

/// The addresses of the guest behind one port. See the module.
#[derive(Debug, Clone)]
pub struct Table {
    config: TableConfig,
    entries: Vec<Entry>,
    asks: VecDeque<Ask>,
    pace: Pace,
    dhcp: Dhcp,
    /// When the guest last sent anything that was read here.
    heard: Option<Instant>,
    /// When another station last sent with the guest's MAC, as said.
    duplicate: Option<(Mac, Instant)>,
    /// The last address that was disputed, and who has it if that is known.
    disputed: Option<(IpAddr, Option<Mac>)>,
}

/// What passed between the guest and DHCP servers.
#[derive(Debug, Clone, Copy, Default)]
struct Dhcp {
    /// Requests since the last answer.
    requests: u32,
    /// The transaction of the last request.
    xid: Option<u32>,
    /// Whether a server has offered an address, or refused one, since the guest last had a lease.
    offered: bool,
    refused: bool,
}

impl Table {
    /// A table that knows nothing yet.
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        Self {
            config,
            entries: Vec::new(),
            asks: VecDeque::new(),
            pace: Pace::new(),
            dhcp: Dhcp::default(),
            heard: None,
            duplicate: None,
            disputed: None,
        }
    }

    /// The guest's addresses, the best one first: those beyond the link before link-local ones, confirmed before unconfirmed.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let mut held: Vec<_> =
            self.entries.iter().filter(|entry| entry.held()).map(|entry| entry.known).collect();
        held.sort_by_key(Address::rank);
        held
    }

    /// Takes in a frame that went through the port, at the time that it did.
    pub fn frame(&mut self, now: Instant, direction: Direction, bytes: &[u8]) -> Output {
        let mut out = Output::default();
        if let Some(frame) = frame::parse(bytes) {
            self.observe(now, direction, &frame, &mut out);
        }
        self.act(now, &mut out);
        out
    }

    /// Does what is due; to be called at [`Self::next_deadline`]. Calling it at other times does no harm.
    pub fn tick(&mut self, now: Instant) -> Output {
        let mut out = Output::default();
        self.act(now, &mut out);
        out
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let free = self.pace.free();
        let paced = |due: Instant| free.map_or(due, |free| free.max(due));
        let entries = self.entries.iter().flat_map(|entry| {
            let standing = match entry.standing {
                Standing::Tentative { until } => Some(until),
                Standing::Disputed { until, .. } if entry.plan.is_none() => Some(until),
                Standing::Disputed { .. } | Standing::Held => None,
            };
            let asked = entry.plan.map(|plan| match plan.next() {
                (due, Next::Ask { .. }) => paced(due),
                (due, Next::GiveUp) => due,
            });
            [entry.known.lease_end, standing, asked].into_iter().flatten()
        });
        entries.chain(self.asks.front().map(|ask| paced(ask.due))).min()
    }

    /// Asks the guest for addresses that it may have without ever saying so: for a static one, on its owner's request.
    ///
    /// Each is asked for twice, at most about 250 a second. What the guest answers for appears like any other address.
    pub fn ask(
        &mut self,
        now: Instant,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Output, AskError> {
        let known = |address: &IpAddr| self.entries.iter().any(|entry| entry.known.address == *address);
        let wanted: Vec<_> = addresses
            .into_iter()
            .take(MOST_ASKED + 1)
            .filter(|address| usable(*address) && !self.config.asker.has(*address) && !known(address))
            .collect();
        if wanted.len() > MOST_ASKED {
            return Err(AskError::TooMany);
        }
        // The second time by a probe: a guest in another network may not answer a host of this one.
        let again = now + Duration::from_secs(2);
        self.asks.clear();
        for (second, due) in [(false, now), (true, again)] {
            self.asks.extend(wanted.iter().map(|&address| {
                let probe = second || !self.config.asker.named(address);
                Ask { address, probe, due }
            }));
        }
        Ok(self.tick(now))
    }

    /// Asks the guest for every address of a network of at most a /24; see [`Self::ask`].
    pub fn sweep(&mut self, now: Instant, network: Ipv4Addr, prefix: u8) -> Result<Output, AskError> {
        self.ask(now, Self::hosts(network, prefix)?)
    }

    /// The addresses of a network of at most a /24 that hosts can have.
    pub fn hosts(network: Ipv4Addr, prefix: u8) -> Result<impl Iterator<Item = IpAddr>, AskError> {
        let bits =
            32_u32.checked_sub(u32::from(prefix)).filter(|bits| *bits <= 8).ok_or(AskError::TooMany)?;
        let last = (1_u32 << bits) - 1;
        let first = network.to_bits() & !last;
        // The first and the last of a network are no host's, but in networks of one or two (RFC 3021).
        let hosts = if bits > 1 { 1..last } else { 0..last + 1 };
        Ok(hosts.map(move |host| Ipv4Addr::from_bits(first | host).into()))
    }

    /// Takes back what an earlier table knew, after its owner was restarted: unconfirmed, and asked for at once.
    pub fn restore(&mut self, clocks: Clocks, saved: &[Saved]) -> Output {
        let mut out = Output::default();
        for known in saved.iter().filter_map(|saved| saved.restore(clocks)) {
            let wanted = usable(known.address) && self.config.macs.contains(&known.mac);
            if wanted && self.find(known.address).is_none() {
                let mut entry = Entry::new(known, Standing::Held);
                entry.plan = Some(self.plan(clocks.now, false, known.address));
                self.insert(entry, &mut out);
            }
        }
        self.act(clocks.now, &mut out);
        out
    }

    /// Asks for every address anew, as when the port's link comes back: the guest may have changed meanwhile.
    pub fn recheck(&mut self, now: Instant) -> Output {
        for at in 0..self.entries.len() {
            let plan = self.plan(now, false, self.entries[at].known.address);
            let entry = &mut self.entries[at];
            if entry.held() {
                entry.plan.get_or_insert(plan);
                entry.doubted = !entry.leased();
            }
        }
        self.tick(now)
    }

    fn find(&self, address: IpAddr) -> Option<usize> {
        self.entries.iter().position(|entry| entry.known.address == address)
    }

    fn plan(&self, start: Instant, fresh: bool, address: IpAddr) -> Plan {
        Plan::new(start, fresh, self.config.asker.named(address))
    }

    /// Adds an entry, where there is no room in the place of one that is worth less; says so if it is held.
    fn insert(&mut self, entry: Entry, out: &mut Output) {
        if self.entries.len() >= CAPACITY {
            let worth = |at: &usize| (self.entries[*at].worth(), self.entries[*at].known.last_seen);
            let Some(least) = (0..self.entries.len()).min_by_key(worth) else { return };
            if self.entries[least].worth() > entry.worth() {
                return;
            }
            self.remove(least, LostWhy::Crowded, out);
        }
        if entry.held() {
            out.events.push(Event::Appeared(entry.known));
            if entry.known.confirmed {
                out.events.push(Event::Confirmed(entry.known));
            }
        }
        self.entries.push(entry);
    }

    /// Forgets an entry, and says so if it was told before.
    fn remove(&mut self, at: usize, why: LostWhy, out: &mut Output) {
        let entry = self.entries.swap_remove(at);
        if entry.held() {
            out.events.push(Event::Lost { address: entry.known.address, why });
        }
    }

    /// Does what is due by now.
    fn act(&mut self, now: Instant, out: &mut Output) {
        for at in (0..self.entries.len()).rev() {
            self.act_on(at, now, out);
        }
        while let Some(ask) = self.asks.front().copied()
            && ask.due <= now
        {
            if self.find(ask.address).is_none() {
                if !self.pace.take(now) {
                    break;
                }
                out.frames.push(self.config.asker.question(ask.address, ask.probe, None));
            }
            self.asks.pop_front();
        }
    }

    fn act_on(&mut self, at: usize, now: Instant, out: &mut Output) {
        let entry = &mut self.entries[at];
        if entry.known.lease_end.is_some_and(|end| end <= now) {
            return self.remove(at, LostWhy::Expired, out);
        }
        match entry.standing {
            Standing::Tentative { until } if until <= now => {
                return self.remove(at, LostWhy::Unanswered, out);
            }
            Standing::Disputed { until, .. } if until <= now && entry.plan.is_none() => {
                let named = self.config.asker.named(entry.known.address);
                entry.plan = Some(Plan::new(now, false, named));
            }
            _ => {}
        }
        let Some(plan) = &mut entry.plan else { return };
        let (due, next) = plan.next();
        if due > now {
            return;
        }
        match next {
            Next::Ask { probe } => {
                if self.pace.take(now) {
                    plan.asked(now);
                    let Address { address, mac, .. } = entry.known;
                    out.frames.push(self.config.asker.question(address, probe, Some(mac)));
                }
            }
            Next::GiveUp => {
                let alive = self.heard.is_some_and(|heard| heard > plan.start);
                entry.plan = None;
                entry.silent = true;
                if !entry.held() || (entry.doubted && alive) {
                    self.remove(at, LostWhy::Unanswered, out);
                }
            }
        }
    }
}

/// Whether a host can have an address.
fn usable(address: IpAddr) -> bool {
    let never = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let broadcast =
        matches!(address, IpAddr::V4(address) if address.is_broadcast() || address.octets()[0] == 0);
    !never && !broadcast
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
