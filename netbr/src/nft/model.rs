//! What a table is made of: chains, rules, sets and maps, in the words of nft(8).

use std::borrow::Cow;

use super::rule::Rule;

/// The kind of packets that a table is for (nft(8), "ADDRESS FAMILIES").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// ARP.
    Arp = 3,
    /// What goes into and out of single devices.
    Netdev = 5,
    /// What bridges pass.
    Bridge = 7,
    /// IPv6.
    Ip6 = 10,
}

impl Family {
    /// As nft(8) writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        }
    }

    pub(super) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Inet,
            2 => Self::Ip,
            3 => Self::Arp,
            5 => Self::Netdev,
            7 => Self::Bridge,
            10 => Self::Ip6,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A table with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What packets it is for.
    pub family: Family,
    /// Its name, unique among the tables of the family.
    pub name: String,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// Its chains. One that another jumps to may stand behind it.
    pub chains: Vec<Chain>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(family: Family, name: &str) -> Self {
        Self { family, name: name.to_owned(), sets: Vec::new(), chains: Vec::new() }
    }
}

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique in the table.
    pub name: Cow<'static, str>,
    /// Where the kernel calls it; without, it is called by rules only.
    pub base: Option<Base>,
    /// Tried in this order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that rules jump to.
    #[must_use]
    pub const fn regular(name: &'static str, rules: Vec<Rule>) -> Self {
        Self { name: Cow::Borrowed(name), base: None, rules }
    }

    /// A chain that the kernel calls. Packets that no rule decides about are accepted.
    #[must_use]
    pub const fn base(name: &'static str, base: Base, rules: Vec<Rule>) -> Self {
        Self { name: Cow::Borrowed(name), base: Some(base), rules }
    }
}

/// Where the kernel calls a chain. Its policy is to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What the chain may do.
    pub kind: Kind,
    /// On which way of the packets.
    pub hook: Hook,
    /// The lower, the earlier among the chains of a hook. See [`priority`] for the names of nft(8).
    pub priority: i32,
}

/// Priorities that nft(8) has names for.
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Where destinations are rewritten.
    pub const DSTNAT: i32 = -100;
    /// Where packets are let through or not.
    pub const FILTER: i32 = 0;
    /// Where sources are rewritten.
    pub const SRCNAT: i32 = 100;
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Let packets through or not, and write to them.
    Filter,
    /// Rewrite the addresses of a connection; called for its first packet only.
    Nat,
}

/// The ways of packets that chains are called on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// All that comes in, before it is routed.
    Prerouting,
    /// What is for this host.
    Input,
    /// What is for others.
    Forward,
    /// What this host sends.
    Output,
    /// All that goes out, after it was routed.
    Postrouting,
    /// What a device receives, before anything but packet sockets sees it. For the family `netdev`.
    Ingress(String),
    /// What a device is given to send (Linux 5.16). For the family `netdev`.
    Egress(String),
}

impl Hook {
    /// Its number: of `enum nf_inet_hooks` or of `enum nf_dev_hooks` (`linux/netfilter.h`).
    pub(super) const fn number(&self) -> u32 {
        match self {
            Self::Prerouting | Self::Ingress(_) => 0,
            Self::Input | Self::Egress(_) => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    /// The device that it is of.
    pub(super) fn device(&self) -> Option<&str> {
        match self {
            Self::Ingress(device) | Self::Egress(device) => Some(device),
            _ => None,
        }
    }
}

/// A set of keys, or a map from keys to values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name, unique in the table.
    pub name: &'static str,
    /// What its keys are.
    pub key: Type,
    /// What its values are; none for a set.
    pub value: Option<Type>,
    /// Keys and their values, as they stand in packets.
    pub elements: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Set {
    /// A set of keys.
    #[must_use]
    pub fn of(name: &'static str, key: Type, keys: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let elements = keys.into_iter().map(|key| (key, Vec::new())).collect();
        Self { name, key, value: None, elements }
    }

    /// A map.
    #[must_use]
    pub fn map(
        name: &'static str,
        key: Type,
        value: Type,
        elements: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Self {
        Self { name, key, value: Some(value), elements: elements.into_iter().collect() }
    }
}

/// What the keys and values of sets are: a length for the kernel, and a way to write them for nft(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// An Ethernet address, 6 bytes.
    Ether,
    /// An IPv4 address, 4 bytes.
    Ipv4,
    /// An IPv6 address, 16 bytes.
    Ipv6,
    /// The lower half of an IPv6 address, 8 bytes.
    InterfaceId,
    /// A type of ICMP messages, 1 byte.
    IcmpType,
    /// A type of ICMPv6 messages, 1 byte.
    Icmpv6Type,
}

impl Type {
    /// Its length in bytes.
    pub(super) const fn length(self) -> u32 {
        match self {
            Self::Ether => 6,
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
            Self::InterfaceId => 8,
            Self::IcmpType | Self::Icmpv6Type => 1,
        }
    }

    /// Its number with nft(8), which alone reads it (`enum datatypes` of nftables' `datatype.h`).
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::InterfaceId => 4, // an integer
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Ether => 9,
            Self::IcmpType => 14,
            Self::Icmpv6Type => 29,
        }
    }
}
