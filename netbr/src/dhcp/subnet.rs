//! The network that a DHCP server answers for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Mac;

/// A subnet, written `10.77.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a subnet: write an IPv4 address and a prefix length, such as 10.77.0.0/24")]
pub struct SubnetError(String);

impl Subnet {
    /// The subnet in which an address lies; prefixes over 32 bits mean 32.
    #[must_use]
    pub const fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Self { base: Ipv4Addr::from_bits(address.to_bits() & bits(prefix)), prefix }
    }

    /// Its first address, which names it.
    #[must_use]
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    /// Bits that all of its addresses share.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The mask of these bits.
    #[must_use]
    pub const fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(bits(self.prefix))
    }

    /// The address of everybody in it; none in subnets of one or two addresses (RFC 3021).
    #[must_use]
    pub const fn broadcast(self) -> Option<Ipv4Addr> {
        if self.prefix > 30 { None } else { Some(self.last()) }
    }

    /// Whether an address lies in it.
    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & bits(self.prefix) == self.base.to_bits()
    }

    /// Whether an address lies in it and can be that of an interface.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address)
            && (self.prefix > 30 || (address != self.base && Some(address) != self.broadcast()))
    }

    const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | !bits(self.prefix))
    }
}

const fn bits(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some(Self::of(address.parse().ok()?, prefix))
        };
        parse().ok_or_else(|| SubnetError(text.to_owned()))
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

/// A route that clients are told of (RFC 3442).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub to: Subnet,
    /// Through whom; 0.0.0.0 means that it is on the same wire.
    pub via: Ipv4Addr,
}

/// What a DHCP server tells its clients, and which addresses it may give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The subnet of server and clients.
    pub subnet: Subnet,
    /// The server's address, by which clients know it.
    pub server: Ipv4Addr,
    /// The interface that answers come from.
    pub server_mac: Mac,
    /// The default gateway, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Name servers, the preferred one first.
    pub dns: Vec<Ipv4Addr>,
    /// The domain in which clients complete names.
    pub domain: Option<String>,
    /// The MTU that clients are told, in bytes; none says nothing, and Ethernet's 1500 hold.
    pub mtu: Option<u16>,
    /// Routes besides the default one.
    pub routes: Vec<Route>,
    /// How long a lease lasts, in whole seconds.
    pub lease_time: Duration,
    /// The addresses to choose from; none gives reserved ones only. The server's and the router's address are never chosen, nor
    /// is one that no interface can have.
    pub pool: Option<RangeInclusive<Ipv4Addr>>,
    /// Names that the owner gives to clients (option 12).
    pub names: BTreeMap<Mac, String>,
}

/// Why a network cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// An address lies elsewhere.
    #[error("{what} {address} is not a host's address in {subnet}: choose one from there")]
    Outside {
        /// What the address is for.
        what: &'static str,
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Subnet,
    },
    /// The range is empty.
    #[error("the pool {0}-{1} is empty: write its lower address first")]
    Pool(Ipv4Addr, Ipv4Addr),
    /// An MTU below IPv4's minimum (RFC 2132, 5.1).
    #[error("an MTU of {0} is too small: IPv4 needs at least 68 bytes")]
    Mtu(u16),
    /// Too short a lease.
    #[error("a lease must last at least 4 seconds, so that it can be renewed in time")]
    LeaseTime,
    /// A name that could not be told.
    #[error(
        "`{0}` is not a domain name: labels of 1 to 63 letters, digits and hyphens, 253 characters in all"
    )]
    Name(String),
}

impl Network {
    /// A network whose server is its router and name server, too, and that gives all other addresses for an hour.
    #[must_use]
    pub fn new(subnet: Subnet, server: Ipv4Addr, server_mac: Mac) -> Self {
        let (first, last) = if subnet.prefix > 30 {
            (subnet.base, subnet.last())
        } else {
            (Ipv4Addr::from_bits(subnet.base.to_bits() + 1), Ipv4Addr::from_bits(subnet.last().to_bits() - 1))
        };
        Self {
            subnet,
            server,
            server_mac,
            router: Some(server),
            dns: vec![server],
            domain: None,
            mtu: None,
            routes: Vec::new(),
            lease_time: Duration::from_secs(3600),
            pool: Some(first..=last),
            names: BTreeMap::new(),
        }
    }

    /// Checks that clients can live with it.
    pub fn check(&self) -> Result<(), NetworkError> {
        let subnet = self.subnet;
        let inside = |what, address| {
            let outside = NetworkError::Outside { what, address, subnet };
            if subnet.is_host(address) { Ok(()) } else { Err(outside) }
        };
        inside("the DHCP server's address", self.server)?;
        if let Some(router) = self.router {
            inside("the router's address", router)?;
        }
        if let Some(pool) = &self.pool {
            inside("the pool's first address", *pool.start())?;
            inside("the pool's last address", *pool.end())?;
            if pool.is_empty() {
                return Err(NetworkError::Pool(*pool.start(), *pool.end()));
            }
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < 68) {
            return Err(NetworkError::Mtu(mtu));
        }
        if self.lease_time.as_secs() < 4 {
            return Err(NetworkError::LeaseTime);
        }
        let mut names = self.names.values().chain(&self.domain);
        match names.find(|name| !is_name(name)) {
            Some(name) => Err(NetworkError::Name(name.clone())),
            None => Ok(()),
        }
    }

    /// Whether an address may be given to somebody at all.
    #[must_use]
    pub fn may_give(&self, address: Ipv4Addr) -> bool {
        self.subnet.is_host(address) && address != self.server && Some(address) != self.router
    }

    /// Whether the server may choose an address by itself.
    #[must_use]
    pub fn in_pool(&self, address: Ipv4Addr) -> bool {
        self.may_give(address) && self.pool.as_ref().is_some_and(|pool| pool.contains(&address))
    }

    /// How many addresses the server may choose from.
    #[must_use]
    pub fn pool_size(&self) -> u64 {
        let Some(pool) = self.pool.as_ref().filter(|pool| !pool.is_empty()) else { return 0 };
        let last = u64::from(pool.end().to_bits().min(self.subnet.last().to_bits()));
        let first = u64::from(pool.start().to_bits().max(self.subnet.base.to_bits()));
        let mut taken = vec![self.subnet.base, self.subnet.last(), self.server];
        taken.extend(self.router);
        taken.sort_unstable();
        taken.dedup();
        taken.retain(|address| {
            pool.contains(address) && self.subnet.contains(*address) && !self.may_give(*address)
        });
        (last + 1).saturating_sub(first).saturating_sub(taken.len() as u64)
    }
}

/// Whether a text can be told as a host's or a domain's name (RFC 1123, 2.1), underscores let pass: hosts are named so.
pub(super) fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(subnet: &str) -> Network {
        let subnet: Subnet = subnet.parse().unwrap();
        let server = Ipv4Addr::from_bits(subnet.base().to_bits() + 1);
        Network::new(subnet, server, Mac::local([0, 0, 1]))
    }

    #[test]
    fn a_subnet_knows_its_bounds() {
        let subnet: Subnet = "10.77.3.9/22".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.77.0.0/22");
        assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 252, 0));
        assert_eq!(subnet.broadcast(), Some(Ipv4Addr::new(10, 77, 3, 255)));
        assert!(subnet.is_host(Ipv4Addr::new(10, 77, 3, 254)));
        for address in [[10, 77, 0, 0], [10, 77, 3, 255], [10, 77, 4, 1]] {
            assert!(!subnet.is_host(address.into()));
        }
        for text in ["", "10.77.0.0", "10.77.0.0/33", "10.77.0/24", "10.77.0.0/-1"] {
            assert_eq!(text.parse::<Subnet>(), Err(SubnetError(text.to_owned())));
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let good = network("10.77.0.0/24");
        assert_eq!(good.check(), Ok(()));
        let outside = Ipv4Addr::new(10, 78, 0, 1);
        let bad = [
            Network { server: outside, ..good.clone() },
            Network { router: Some(outside), ..good.clone() },
            Network { pool: Some(good.server..=outside), ..good.clone() },
            Network { pool: Some(Ipv4Addr::new(10, 77, 0, 9)..=Ipv4Addr::new(10, 77, 0, 8)), ..good.clone() },
            Network { mtu: Some(67), ..good.clone() },
            Network { lease_time: Duration::from_millis(3999), ..good.clone() },
            Network { domain: Some("a..b".to_owned()), ..good.clone() },
            Network { names: [(good.server_mac, "-a".to_owned())].into(), ..good.clone() },
        ];
        for bad in bad {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn the_pool_is_as_large_as_what_is_in_it(
            prefix in 20..=32_u8, from in 0..5000_u32, to in 0..5000_u32, server in 0..5000_u32, router: Option<u16>,
        ) {
            let base = Ipv4Addr::new(10, 77, 0, 0);
            let at = |offset: u32| Ipv4Addr::from_bits(base.to_bits() + offset);
            let mut network = network("10.77.0.0/24");
            network.subnet = Subnet::of(base, prefix);
            network.server = at(server);
            network.router = router.map(|offset| at(offset.into()));
            network.pool = Some(at(from)..=at(to));
            let counted = (0..5000).filter(|offset| network.in_pool(at(*offset))).count();
            prop_assert_eq!(network.pool_size(), counted as u64);
        }
    }
}
