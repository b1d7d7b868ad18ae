//! Identities and what follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Veil, VeilError};
use crate::Mac;

/// The addresses that a guest is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its interface's.
    pub mac: Mac,
    /// Its IPv4 address, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 addresses. Those that are made from the MAC need not be named.
    #[serde(default)]
    pub ipv6: Vec<Ipv6Addr>,
}

impl Identity {
    /// The lower half of the IPv6 addresses that are made from the MAC (RFC 4291, appendix A).
    #[must_use]
    pub fn interface_id(&self) -> [u8; 8] {
        let mac = self.mac.bytes();
        // The bit that says who gives the address out is turned round.
        [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]]
    }
}

/// The group that neighbour solicitations for an address go to (RFC 4291, 2.7.1).
pub(super) fn solicited_group(low: [u8; 3]) -> [u8; 16] {
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&low);
    group
}

/// A solicited-node group's Ethernet address (RFC 2464, 7).
pub(super) fn group_ether(low: [u8; 3]) -> [u8; 6] {
    let [a, b, c] = low;
    [0x33, 0x33, 0xff, a, b, c]
}

/// The last three bytes of an address or an interface identifier.
pub(super) fn low(bytes: &[u8]) -> [u8; 3] {
    bytes.last_chunk().copied().unwrap_or_default()
}

/// Which IPv6 addresses are exchanged.
///
/// The rules first exchange interface identifiers, then whole addresses, each by a map. So the second map is asked for what the
/// first one made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ipv6Exchange {
    /// The inner and the outer interface identifier, when they differ.
    pub(super) id: Option<([u8; 8], [u8; 8])>,
    /// Both ways.
    pub(super) ids: BTreeMap<[u8; 8], [u8; 8]>,
    /// The inner and the outer address, when the second map exchanges these two and no others.
    pub(super) pair: Option<([u8; 16], [u8; 16])>,
    /// What to make of an address, by what the first map made of it.
    pub(super) second: BTreeMap<[u8; 16], [u8; 16]>,
    /// The last bytes of what becomes of an address, by the address as it stood in the packet, where the first map is not all.
    pub(super) becomes: BTreeMap<[u8; 16], [u8; 3]>,
    /// The last bytes of groups that are exchanged as such, in reports of membership.
    pub(super) groups: BTreeMap<[u8; 3], [u8; 3]>,
}

impl Ipv6Exchange {
    pub(super) fn of(veil: &Veil) -> Result<Self, VeilError> {
        let (inner, outer) = (&veil.inner, &veil.outer);
        if inner.ipv6.len() != outer.ipv6.len() {
            return Err(VeilError::Ipv6 {
                port: veil.port.clone(),
                inner: inner.ipv6.len(),
                outer: outer.ipv6.len(),
            });
        }
        let (inner_id, outer_id) = (inner.interface_id(), outer.interface_id());
        let id = (inner_id != outer_id).then_some((inner_id, outer_id));
        let ids: BTreeMap<_, _> = id.into_iter().flat_map(|(i, o)| [(i, o), (o, i)]).collect();
        let first = |address: [u8; 16]| {
            let mut made = address;
            if let Some(id) = low_half(&address).and_then(|id| ids.get(&id)) {
                made[8..].copy_from_slice(id);
            }
            made
        };

        let mut wanted = BTreeMap::new();
        let mut named = BTreeSet::new();
        for (one, other) in inner.ipv6.iter().zip(&outer.ipv6) {
            for address in BTreeSet::from([one, other]) {
                if !named.insert(*address) {
                    return Err(VeilError::Twice { port: veil.port.clone(), address: *address });
                }
            }
            wanted.insert(one.octets(), other.octets());
            wanted.insert(other.octets(), one.octets());
        }
        // An address that the first map would make of a named one has lost its counterpart and stays what it is.
        for address in wanted.keys().copied().collect::<Vec<_>>() {
            let made = first(address);
            wanted.entry(made).or_insert(made);
        }
        let second: BTreeMap<_, _> =
            wanted.iter().map(|(&from, &to)| (first(from), to)).filter(|(from, to)| from != to).collect();
        let pair = match (&inner.ipv6[..], &outer.ipv6[..]) {
            ([inner], [outer]) => Some((inner.octets(), outer.octets())),
            _ => None,
        };
        let pair = pair.filter(|(i, o)| second == BTreeMap::from([(*i, *o), (*o, *i)]));
        let becomes = wanted
            .iter()
            .filter(|(from, to)| first(**from) != **to)
            .map(|(&from, to)| (from, low(to)))
            .collect();

        let mut groups = BTreeMap::new();
        let pairs = inner.ipv6.iter().zip(&outer.ipv6).map(|(i, o)| (low(&i.octets()), low(&o.octets())));
        for (one, other) in pairs.chain([(low(&inner_id), low(&outer_id))]) {
            if one != other && !groups.contains_key(&one) && !groups.contains_key(&other) {
                groups.insert(one, other);
                groups.insert(other, one);
            }
        }
        Ok(Self { id, ids, pair, second, becomes, groups })
    }
}

fn low_half(address: &[u8; 16]) -> Option<[u8; 8]> {
    address.last_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn veil(inner: &[Ipv6Addr], outer: &[Ipv6Addr]) -> Veil {
        let identity = |low, ipv6: &[Ipv6Addr]| Identity {
            mac: Mac::local([0, 0, low]),
            ipv4: None,
            ipv6: ipv6.to_vec(),
        };
        Veil { port: "tap0".to_owned(), inner: identity(9, inner), outer: identity(1, outer) }
    }

    impl Ipv6Exchange {
        /// What the rules make of an address.
        fn applied(&self, address: Ipv6Addr) -> Ipv6Addr {
            let mut made = address.octets();
            if let Some(id) = self.ids.get(&low_half(&made).unwrap()) {
                made[8..].copy_from_slice(id);
            }
            self.second.get(&made).copied().unwrap_or(made).into()
        }

        /// The last bytes of the group that a solicitation for an address goes to.
        fn group(&self, target: Ipv6Addr) -> [u8; 3] {
            let target = target.octets();
            let by_id = self.ids.get(&low_half(&target).unwrap()).map(|id| low(id));
            self.becomes.get(&target).copied().or(by_id).unwrap_or(low(&target))
        }
    }

    #[test]
    fn an_address_made_from_the_mac_needs_no_entry() {
        let made = |low: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0x5054, 0x00ff, 0xfe00, low);
        let exchange = Ipv6Exchange::of(&veil(&[made(9)], &[made(1)])).unwrap();
        assert_eq!(exchange.ids.len(), 2);
        assert!(exchange.second.is_empty());
        assert!(exchange.becomes.is_empty());
        assert_eq!(exchange.groups, BTreeMap::from([([0, 0, 1], [0, 0, 9]), ([0, 0, 9], [0, 0, 1])]));
    }

    #[test]
    fn an_address_without_counterpart_or_with_two_is_refused() {
        let [one, two, three] = [1, 2, 3].map(|low| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low));
        assert!(matches!(
            Ipv6Exchange::of(&veil(&[one], &[])),
            Err(VeilError::Ipv6 { inner: 1, outer: 0, .. })
        ));
        assert!(matches!(
            Ipv6Exchange::of(&veil(&[one, two], &[three, three])),
            Err(VeilError::Twice { address, .. }) if address == three
        ));
        assert!(Ipv6Exchange::of(&veil(&[one], &[one])).is_ok());
    }

    proptest! {
        /// Named pairs are exchanged whether or not some of them are made from a MAC, and the whole undoes itself.
        #[test]
        fn it_is_an_exchange(pool in proptest::collection::hash_set((0_u16..3, prop_oneof![Just(1_u16), Just(9), 2_u16..6], any::<bool>()), 2..9)) {
            let pool: Vec<_> = pool.into_iter().map(|(net, low, from_mac)| {
                let (a, b, c) = if from_mac { (0x5054, 0x00ff, 0xfe00) } else { (0, 0, 0) };
                Ipv6Addr::new(0xfd00, 0, 0, net, a, b, c, low)
            }).collect();
            let (inner, outer) = pool.split_at(pool.len() / 2);
            let outer = &outer[..inner.len()];
            let exchange = Ipv6Exchange::of(&veil(inner, outer)).unwrap();
            for (one, other) in inner.iter().zip(outer) {
                prop_assert_eq!(exchange.applied(*one), *other);
                prop_assert_eq!(exchange.applied(*other), *one);
            }
            for address in &pool {
                let made = exchange.applied(*address);
                prop_assert_eq!(exchange.applied(made), *address);
                prop_assert_eq!(exchange.group(*address), low(&made.octets()));
            }
        }
    }
}
