//! What each kind of frame changes in the table.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::entry::{Address, Entry, Source, Standing};
use super::{DISPUTE, Event, LostWhy, Output, TRUSTED, Table, usable};
use crate::Mac;
use crate::packet::Direction;
use crate::watch::frame::{Arp, Dhcp, DhcpKind, Dhcpv6, Frame, Neighbor, Observation};

/// How long a guest that tries out an IPv4 address may take until it announces it: three probes at most 2 s apart after at most
/// 1 s, then 2 s (RFC 5227, 1.1), and some for a slow guest.
const TRIED_IPV4: Duration = Duration::from_secs(12);
/// How long it tries out an IPv6 one: one probe, 1 s (RFC 4862, 5.1), and some.
const TRIED_IPV6: Duration = Duration::from_millis(1_100);
/// How long a tried IPv6 address is asked for.
const ASKED_IPV6: Duration = Duration::from_secs(50);

impl Table {
    pub(super) fn observe(&mut self, now: Instant, direction: Direction, frame: &Frame, out: &mut Output) {
        let own = self.config.macs.contains(&frame.source);
        match direction {
            Direction::FromGuest if own => self.heard = Some(now),
            Direction::ToGuest if own => self.duplicate_mac(now, frame.source, out),
            _ => {}
        }
        match &frame.observation {
            Observation::Arp(arp) => self.arp(now, direction, *arp, out),
            Observation::Dhcp(dhcp) if self.config.macs.contains(&dhcp.chaddr) => match direction {
                Direction::FromGuest => self.dhcp_request(dhcp, out),
                Direction::ToGuest => self.dhcp_answer(now, dhcp, out),
            },
            Observation::Dhcp(_) => {}
            Observation::Neighbor(neighbor) => self.neighbor(now, direction, frame.source, *neighbor, out),
            Observation::Dhcpv6(dhcpv6) => {
                let to_guest = self.config.macs.iter().find(|mac| mac.bytes() == frame.destination);
                match (direction, to_guest) {
                    (Direction::FromGuest, _) if own => self.dhcpv6_request(dhcpv6, out),
                    (Direction::ToGuest, Some(&mac)) => self.dhcpv6_answer(now, mac, dhcpv6, out),
                    _ => {}
                }
            }
        }
    }

    fn duplicate_mac(&mut self, now: Instant, mac: Mac, out: &mut Output) {
        let said = |(same, at): (Mac, Instant)| same == mac && now < at + DISPUTE;
        if !self.duplicate.is_some_and(said) {
            out.events.push(Event::DuplicateMac(mac));
            self.duplicate = Some((mac, now));
        }
    }

    fn arp(&mut self, now: Instant, direction: Direction, arp: Arp, out: &mut Output) {
        let guest = direction == Direction::FromGuest && self.config.macs.contains(&arp.sender_mac);
        match (guest, arp.sender.is_unspecified()) {
            (true, false) => {
                self.used(now, arp.sender.into(), arp.sender_mac, Source::Arp, arp.reply, out);
            }
            (true, true) if !arp.reply => {
                self.tried(now, arp.target.into(), arp.sender_mac, Source::Arp, out);
            }
            (false, false) => self.claimed(now, arp.sender.into(), arp.sender_mac, out),
            (_, true) => {}
        }
    }

    fn neighbor(
        &mut self,
        now: Instant,
        direction: Direction,
        sender: Mac,
        message: Neighbor,
        out: &mut Output,
    ) {
        let (address, mac, answer) = match message {
            Neighbor::Solicitation { source, target } if source.is_unspecified() => {
                if direction == Direction::FromGuest && self.config.macs.contains(&sender) {
                    self.tried(now, target.into(), sender, Source::Ndp, out);
                }
                return;
            }
            Neighbor::Solicitation { source, .. } | Neighbor::RouterSolicitation { source } => {
                (source, sender, false)
            }
            Neighbor::Advertisement { target, mac } => (target, mac.unwrap_or(sender), true),
        };
        if direction == Direction::FromGuest && self.config.macs.contains(&mac) {
            self.used(now, address.into(), mac, Source::Ndp, answer, out);
        } else {
            self.claimed(now, address.into(), mac, out);
        }
    }

    /// The guest uses an address, or answers for it.
    fn used(
        &mut self,
        now: Instant,
        address: IpAddr,
        mac: Mac,
        source: Source,
        answer: bool,
        out: &mut Output,
    ) {
        if !usable(address) || self.config.asker.has(address) {
            return;
        }
        let Some(at) = self.find(address) else {
            let trusted = self.entries.iter().filter(|entry| entry.held()).count() < TRUSTED;
            let known = Address { confirmed: trusted, ..Address::new(now, address, mac, source) };
            let mut entry = Entry::new(known, Standing::Held);
            if !trusted {
                entry.distrusted = true;
                entry.plan = Some(self.plan(now, false, address));
            }
            if !known.is_link_local() {
                self.forget_dispute(address);
            }
            self.insert(entry, out);
            return self.doubt_others(now, &known);
        };
        let entry = &mut self.entries[at];
        entry.known.last_seen = now;
        entry.known.mac = mac;
        let appeared = match entry.standing {
            Standing::Disputed { until, .. } if now < until => return,
            Standing::Held => false,
            Standing::Tentative { .. } | Standing::Disputed { .. } => true,
        };
        entry.standing = Standing::Held;
        entry.distrusted &= !answer;
        let confirmed = !entry.distrusted && (!entry.known.confirmed || appeared);
        if !entry.distrusted {
            entry.known.confirmed = true;
            entry.plan = None;
            (entry.silent, entry.doubted) = (false, false);
        }
        let known = entry.known;
        if appeared {
            out.events.push(Event::Appeared(known));
        }
        if confirmed {
            out.events.push(Event::Confirmed(known));
        }
        if appeared {
            self.doubt_others(now, &known);
        }
    }

    /// The guest asks whether it may use an address.
    fn tried(&mut self, now: Instant, address: IpAddr, mac: Mac, source: Source, out: &mut Output) {
        if !usable(address) {
            return;
        }
        let (until, plan) = match address {
            IpAddr::V4(_) => (now + TRIED_IPV4, None),
            // Nothing need follow the trial of an IPv6 address, so it is asked for afterwards.
            IpAddr::V6(_) => (now + ASKED_IPV6, Some(self.plan(now + TRIED_IPV6, true, address))),
        };
        if let Some(at) = self.find(address) {
            let fresh = self.plan(now, true, address);
            let entry = &mut self.entries[at];
            match &mut entry.standing {
                Standing::Tentative { until: old } => {
                    *old = until;
                    entry.plan = plan;
                }
                // A probe in return would look like a rival.
                Standing::Held if entry.plan.is_some() => entry.plan = Some(fresh),
                Standing::Held | Standing::Disputed { .. } => {}
            }
            entry.known.last_seen = now;
            return;
        }
        let known = Address::new(now, address, mac, source);
        let mut entry = Entry::new(known, Standing::Tentative { until });
        entry.plan = plan;
        self.insert(entry, out);
    }

    /// Another station says that an address is its own.
    fn claimed(&mut self, now: Instant, address: IpAddr, other: Mac, out: &mut Output) {
        if self.config.siblings.contains(&other) {
            return;
        }
        let Some(at) = self.find(address) else { return };
        let entry = &mut self.entries[at];
        let held = entry.held();
        self.disputed = Some((address, Some(other)));
        if let Standing::Tentative { .. } = entry.standing {
            // The guest hears it, too, and does not use the address.
            return self.remove(at, LostWhy::Conflict, out);
        }
        entry.standing = Standing::Disputed { other, until: now + DISPUTE };
        entry.known.confirmed = false;
        entry.plan = None;
        if held {
            out.events.push(Event::Conflict { address, other });
            out.events.push(Event::Lost { address, why: LostWhy::Conflict });
        }
    }

    /// The guest has got an address in the place of one that another station has.
    fn forget_dispute(&mut self, new: IpAddr) {
        self.disputed.take_if(|(old, _)| *old != new && old.is_ipv4() == new.is_ipv4());
    }

    /// The guest has got an address: does it still have its others of the kind that nobody leased to it?
    fn doubt_others(&mut self, now: Instant, new: &Address) {
        if new.is_link_local() {
            return;
        }
        let plan = self.plan(now, false, new.address);
        for entry in &mut self.entries {
            let alike = entry.known.address.is_ipv4() == new.address.is_ipv4() && entry.known.mac == new.mac;
            let other = entry.known.address != new.address && !entry.known.is_link_local();
            if alike && other && entry.held() && !entry.leased() && entry.plan.is_none() {
                entry.plan = Some(plan);
                entry.doubted = true;
            }
        }
    }

    fn dhcp_request(&mut self, dhcp: &Dhcp, out: &mut Output) {
        let gone = match dhcp.kind {
            DhcpKind::Discover | DhcpKind::Request | DhcpKind::Inform => {
                self.dhcp.requests = self.dhcp.requests.saturating_add(1);
                self.dhcp.xid = Some(dhcp.xid);
                return;
            }
            DhcpKind::Release => Some((dhcp.ciaddr, LostWhy::Released)),
            DhcpKind::Decline => dhcp.requested.map(|address| (address, LostWhy::Declined)),
            // A guest that is itself a server.
            DhcpKind::Offer | DhcpKind::Ack | DhcpKind::Nak => None,
        };
        let Some((address, why)) = gone else { return };
        let address = IpAddr::V4(address);
        if why == LostWhy::Declined && usable(address) {
            let other = self.disputed.and_then(|(disputed, other)| other.filter(|_| disputed == address));
            self.disputed = Some((address, other));
        }
        if let Some(at) = self.find(address) {
            self.remove(at, why, out);
        }
    }

    fn dhcp_answer(&mut self, now: Instant, dhcp: &Dhcp, out: &mut Output) {
        match dhcp.kind {
            DhcpKind::Offer => {
                self.dhcp.requests = 0;
                self.dhcp.offered = true;
            }
            // Another client's, or a late one of a server that lost: the guest does not heed it either.
            DhcpKind::Nak if self.dhcp.xid.is_some_and(|xid| xid != dhcp.xid) => {}
            DhcpKind::Nak => {
                self.dhcp.requests = 0;
                self.dhcp.refused = true;
                self.end_leases(dhcp.chaddr, None, LostWhy::Refused, out);
            }
            DhcpKind::Ack => {
                self.dhcp.requests = 0;
                // The answer to an INFORM gives no address.
                if usable(dhcp.yiaddr.into()) {
                    (self.dhcp.offered, self.dhcp.refused) = (false, false);
                    self.end_leases(dhcp.chaddr, Some(dhcp.yiaddr), LostWhy::Replaced, out);
                    self.leased(now, dhcp.yiaddr.into(), dhcp.chaddr, dhcp.lease_secs, dhcp.server, out);
                }
            }
            DhcpKind::Discover
            | DhcpKind::Request
            | DhcpKind::Decline
            | DhcpKind::Release
            | DhcpKind::Inform => {}
        }
    }

    /// Ends all of a MAC's leases but one.
    fn end_leases(&mut self, mac: Mac, but: Option<Ipv4Addr>, why: LostWhy, out: &mut Output) {
        for at in (0..self.entries.len()).rev() {
            let entry = &self.entries[at];
            let other = but.is_none_or(|but| entry.known.address != IpAddr::V4(but));
            if entry.known.source == Source::Dhcp && entry.known.mac == mac && other {
                self.remove(at, why, out);
            }
        }
    }

    /// A server gives the guest an address, or gives it anew.
    fn leased(
        &mut self,
        now: Instant,
        address: IpAddr,
        mac: Mac,
        secs: Option<u32>,
        server: Option<Ipv4Addr>,
        out: &mut Output,
    ) {
        let lease_end = secs.filter(|secs| *secs != u32::MAX);
        let lease_end = lease_end.and_then(|secs| now.checked_add(Duration::from_secs(u64::from(secs))));
        let source = if address.is_ipv4() { Source::Dhcp } else { Source::Dhcpv6 };
        self.forget_dispute(address);
        let plan = self.plan(now, true, address);
        let Some(at) = self.find(address) else {
            let known = Address { lease_end, server, ..Address::new(now, address, mac, source) };
            let mut entry = Entry::new(known, Standing::Held);
            entry.plan = Some(plan);
            self.insert(entry, out);
            return self.doubt_others(now, &known);
        };
        let entry = &mut self.entries[at];
        entry.known = Address { mac, source, last_seen: now, lease_end, server, ..entry.known };
        entry.doubted = false;
        if let Standing::Tentative { .. } = entry.standing {
            entry.standing = Standing::Held;
            let known = entry.known;
            out.events.push(Event::Appeared(known));
            self.doubt_others(now, &known);
        }
        let entry = &mut self.entries[at];
        if entry.held() && !entry.known.confirmed {
            entry.plan = Some(plan);
            entry.silent = false;
        }
    }

    fn dhcpv6_request(&mut self, message: &Dhcpv6, out: &mut Output) {
        let why = match message.kind {
            Dhcpv6::RELEASE => LostWhy::Released,
            Dhcpv6::DECLINE => LostWhy::Declined,
            _ => return,
        };
        for (address, _) in &message.addresses {
            if let Some(at) = self.find((*address).into()) {
                self.remove(at, why, out);
            }
        }
    }

    fn dhcpv6_answer(&mut self, now: Instant, mac: Mac, message: &Dhcpv6, out: &mut Output) {
        if message.kind != Dhcpv6::REPLY {
            return;
        }
        for &(address, valid) in &message.addresses {
            let address = IpAddr::V6(address);
            match (valid, self.find(address)) {
                (0, Some(at)) => self.remove(at, LostWhy::Refused, out),
                (0, None) => {}
                _ if usable(address) => self.leased(now, address, mac, Some(valid), None, out),
                _ => {}
            }
        }
    }
}
