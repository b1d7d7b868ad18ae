//! What is known of a guest's addresses, from everything that tells of them. Pure.
//!
//! The watch on a port hears an address the moment that the guest has it; the agent and the console tell of those behind QEMU's
//! user-mode network, which has no port to watch.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::store::{Heard, Source};

/// All that is known of the addresses of one guest.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    /// By interface: what its port's watch knows now.
    ports: BTreeMap<usize, Vec<Heard>>,
    /// What the agent and the console told.
    told: Vec<Heard>,
}

impl Addresses {
    /// The watch on an interface's port now knows these, and no others.
    pub(super) fn port(&mut self, net: usize, heard: Vec<Heard>) {
        self.ports.insert(net, heard);
    }

    /// The guest itself told of these, and no others, by its agent or console. `net` is the interface that they are taken to be of.
    pub(super) fn told(&mut self, source: Source, net: usize, addresses: &[IpAddr], now: jiff::Timestamp) {
        let before = std::mem::take(&mut self.told);
        self.told = addresses
            .iter()
            .map(|address| Heard {
                net,
                address: *address,
                source,
                confirmed: true,
                since: before.iter().find(|h| h.address == *address).map_or(now, |h| h.since),
                seen: now,
                lease_ends: None,
            })
            .collect();
    }

    /// Everything, the address that a user most likely wants first, each address once for each interface.
    pub(super) fn heard(&self) -> Vec<Heard> {
        let mut all: Vec<Heard> = self.ports.values().flatten().cloned().collect();
        let unheard: Vec<Heard> =
            self.told.iter().filter(|told| all.iter().all(|h| h.address != told.address)).cloned().collect();
        all.extend(unheard);
        // A stable sort: what is alike stays in the order in which it was heard of.
        all.sort_by_key(|h| {
            (
                is_link_local(h.address),
                // An address that did not answer is one that may have gone.
                Reverse(h.confirmed),
                h.address.is_ipv6(),
                h.net,
            )
        });
        all
    }

    /// The addresses at which others can reach the guest, the most wanted first.
    pub(super) fn usable(&self) -> Vec<IpAddr> {
        let mut usable: Vec<IpAddr> = Vec::new();
        for heard in self.heard() {
            if !is_link_local(heard.address) && !usable.contains(&heard.address) {
                usable.push(heard.address);
            }
        }
        usable
    }
}

/// Whether an address means something on its own link only (RFC 3927, RFC 4291 section 2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(net: usize, address: &str, confirmed: bool) -> Heard {
        Heard {
            net,
            address: address.parse().unwrap(),
            source: Source::Dhcp,
            confirmed,
            since: jiff::Timestamp::UNIX_EPOCH,
            seen: jiff::Timestamp::UNIX_EPOCH,
            lease_ends: None,
        }
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_user_wants_comes_first() {
        let mut known = Addresses::default();
        known.port(1, vec![heard(1, "fe80::1", true), heard(1, "192.0.2.9", false)]);
        known.port(0, vec![heard(0, "2001:db8::7", true), heard(0, "192.0.2.7", true)]);
        assert_eq!(texts(&known.usable()), ["192.0.2.7", "2001:db8::7", "192.0.2.9"]);
        assert_eq!(known.heard().last().unwrap().address.to_string(), "fe80::1");
    }

    #[test]
    fn a_link_local_address_alone_is_none_that_others_can_use() {
        let mut known = Addresses::default();
        known.port(0, vec![heard(0, "fe80::1", true), heard(0, "169.254.1.1", true)]);
        assert_eq!(known.usable(), [] as [IpAddr; 0]);
        assert_eq!(known.heard().len(), 2);
    }

    #[test]
    fn a_port_hears_what_the_agent_only_tells() {
        let mut known = Addresses::default();
        let now = jiff::Timestamp::now();
        known.told(Source::Agent, 0, &["192.0.2.7".parse().unwrap(), "10.0.2.15".parse().unwrap()], now);
        known.port(1, vec![heard(1, "192.0.2.7", true)]);
        let all = known.heard();
        assert_eq!(
            all.iter().map(|h| (h.net, h.source)).collect::<Vec<_>>(),
            [(0, Source::Agent), (1, Source::Dhcp)]
        );
    }

    #[test]
    fn what_a_port_no_longer_knows_is_gone_and_the_age_of_the_rest_stays() {
        let mut known = Addresses::default();
        known.port(0, vec![heard(0, "192.0.2.7", true)]);
        known.port(0, vec![]);
        assert_eq!(known.usable(), [] as [IpAddr; 0]);
        let (early, late) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::now());
        known.told(Source::Agent, 0, &["10.0.2.15".parse().unwrap()], early);
        known.told(Source::Agent, 0, &["10.0.2.15".parse().unwrap()], late);
        assert_eq!((known.heard()[0].since, known.heard()[0].seen), (early, late));
    }
}
