//! The table of a veil.

use super::identity::{Ipv6Exchange, group_ether, low, solicited_group};
use super::{MARK, TABLE, Veil, VeilError};
use crate::nft::field::{
    ARP_ETHERNET_IPV4, ARP_SENDER_ETHER, ARP_SENDER_IP, ARP_TARGET_ETHER, ARP_TARGET_IP, ARP_TYPES,
    DESTINATION_PORT, ETHER_DESTINATION, ETHER_DESTINATION_VENDOR, ETHER_SOURCE, ICMP_ABOUT_DESTINATION,
    ICMP_ABOUT_SOURCE, ICMP_TYPE, IPV4_DESTINATION, IPV4_SOURCE, IPV6_DESTINATION, IPV6_DESTINATION_GROUP,
    IPV6_SOURCE, icmpv6,
};
use crate::nft::{
    Base, Chain, EtherType, Family, Field, Hook, Kind, Rule, Set, Table, Transport, Type, Verdict, priority,
};

/// Maps of addresses to addresses.
const ETHERS: &str = "ethers";
const IPV4S: &str = "ipv4s";
const IDS: &str = "interface-ids";
const IPV6S: &str = "ipv6s";
/// Maps of solicited targets to groups and their Ethernet addresses.
const ID_GROUPS: &str = "interface-id-groups";
const ID_GROUP_ETHERS: &str = "interface-id-group-ethers";
const IPV6_GROUPS: &str = "ipv6-groups";
const IPV6_GROUP_ETHERS: &str = "ipv6-group-ethers";
/// Maps of groups to groups.
const GROUPS: &str = "groups";
const GROUP_ETHERS: &str = "group-ethers";
/// Sets of message types.
const ICMP_ERRORS: &str = "icmp-errors";
const ICMPV6_ERRORS: &str = "icmpv6-errors";
const NEIGHBOUR: &str = "neighbour-discovery";
const LISTENER: &str = "listener-discovery";

/// Chains. `ip` and `arp` are words of nft(8) and would not be read back by it.
const FROM_IPV4: &str = "from-guest-ipv4";
const FROM_IPV6: &str = "from-guest-ipv6";
const TO_IPV4: &str = "to-guest-ipv4";
const TO_IPV6: &str = "to-guest-ipv6";
const IN_ARP: &str = "in-arp";
const IN_ICMP: &str = "in-icmp";
const IN_ICMPV6: &str = "in-icmpv6";
const IN_NEIGHBOUR: &str = "in-neighbour-discovery";
const IN_LISTENER: &str = "in-listener-discovery";

/// DHCP's and DHCPv6's servers.
const DHCP: u16 = 67;
const DHCPV6: u16 = 547;

/// Types of ICMPv6 messages (RFC 4861, RFC 2710, RFC 3810).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REPORT_V2: u8 = 143;

/// The target of a neighbour solicitation or advertisement.
const TARGET: Field = icmpv6(8, 16);
/// What the addresses of solicited-node groups begin with, and their Ethernet addresses.
const GROUP_PREFIX: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
const GROUP_ETHER_PREFIX: [u8; 3] = [0x33, 0x33, 0xff];
/// How many records of an MLD report are looked at. Guests join a group for each address, and few others.
const RECORDS: u32 = 8;

/// The table that exchanges the identities of a veil.
///
/// Both directions have chains of their own for what nearly all frames have, which pass as few expressions as possible. There, what
/// cannot come is not exchanged back: the guest does not send under its outer identity, nor to its inner one, and what is sent to it does
/// not come from its outer one. That leaves one place where both addresses must be looked for, the destination of what comes to it.
pub(super) fn table(veil: &Veil) -> Result<Table, VeilError> {
    let mut table = Table::new(Family::Netdev, &format!("{TABLE}{}", veil.port));
    let (inner, outer) = (&veil.inner, &veil.outer);
    let (mut from, mut to) = (Vec::new(), vec![Rule::new().mark(MARK).accept()]);

    let ethers = inner.mac != outer.mac;
    if ethers {
        let (inner, outer) = (inner.mac.bytes(), outer.mac.bytes());
        table.sets.push(both_ways(ETHERS, Type::Ether, &inner, &outer));
        from.push(Rule::new().replace(ETHER_SOURCE, &inner, &outer));
        from.push(Rule::new().replace(ETHER_DESTINATION, &outer, &inner));
        to.push(Rule::new().rewrite(ETHER_DESTINATION, ETHERS));
        to.push(Rule::new().replace(ETHER_SOURCE, &inner, &outer));
    }
    let ipv4s = match (inner.ipv4, outer.ipv4) {
        (Some(inner), Some(outer)) => (inner != outer).then(|| (inner.octets(), outer.octets())),
        (None, None) => None,
        (Some(has), None) | (None, Some(has)) => {
            return Err(VeilError::Ipv4 { port: veil.port.clone(), has });
        }
    };
    if let Some((inner, outer)) = &ipv4s {
        table.sets.push(both_ways(IPV4S, Type::Ipv4, inner, outer));
    }
    ipv4(&mut table, ipv4s);
    ipv6(&mut table, &Ipv6Exchange::of(veil)?, ethers);
    table.chains.push(Chain::regular(IN_ARP, arp(ethers, ipv4s.is_some())));
    for (rules, ipv4, ipv6) in [(&mut from, FROM_IPV4, FROM_IPV6), (&mut to, TO_IPV4, TO_IPV6)] {
        let goto = |ether_type, chain| Rule::new().ether_type(ether_type).verdict(Verdict::Goto(chain));
        rules.push(goto(EtherType::Ipv4, ipv4));
        rules.push(goto(EtherType::Ipv6, ipv6));
        rules.push(goto(EtherType::Arp, IN_ARP));
        // The same frame by another number: QEMU tells the bridge by it where a guest is that it has just loaded.
        rules.push(goto(EtherType::Rarp, IN_ARP));
    }

    let base = |hook| Base { kind: Kind::Filter, hook, priority: priority::FILTER };
    table.chains.push(Chain::base("from-guest", base(Hook::Ingress(veil.port.clone())), from));
    table.chains.push(Chain::base("to-guest", base(Hook::Egress(veil.port.clone())), to));
    Ok(table)
}

/// A map that exchanges two addresses.
fn both_ways(name: &'static str, kind: Type, one: &[u8], other: &[u8]) -> Set {
    Set::map(name, kind, kind, [(one.to_vec(), other.to_vec()), (other.to_vec(), one.to_vec())])
}

/// Ends the way of most packets, and that of requests for an address, which are for whoever listens by a packet socket.
fn tcp_and_dhcp(port: u16) -> [Rule; 2] {
    [
        Rule::new().transport(Transport::Tcp).accept(),
        Rule::new().transport(Transport::Udp).is(DESTINATION_PORT, &port.to_be_bytes()).drop(),
    ]
}

fn arp(ethers: bool, ipv4s: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rewrite =
        |field, map| rules.push(Rule::new().is(ARP_TYPES, &ARP_ETHERNET_IPV4).rewrite(field, map));
    if ethers {
        rewrite(ARP_SENDER_ETHER, ETHERS);
        rewrite(ARP_TARGET_ETHER, ETHERS);
    }
    if ipv4s {
        rewrite(ARP_SENDER_IP, IPV4S);
        rewrite(ARP_TARGET_IP, IPV4S);
    }
    rules
}

fn ipv4(table: &mut Table, addresses: Option<([u8; 4], [u8; 4])>) {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let icmp = || Rule::new().transport(Transport::Icmp).verdict(Verdict::Goto(IN_ICMP));
    if let Some((inner, outer)) = addresses {
        from.push(Rule::new().replace(IPV4_SOURCE, &inner, &outer));
        from.push(Rule::new().replace(IPV4_DESTINATION, &outer, &inner));
        to.push(Rule::new().rewrite(IPV4_DESTINATION, IPV4S));
        to.push(Rule::new().replace(IPV4_SOURCE, &inner, &outer));
    }
    from.extend(tcp_and_dhcp(DHCP));
    if addresses.is_some() {
        from.push(icmp());
        to.push(icmp());
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
        table.sets.push(Set::of(ICMP_ERRORS, Type::IcmpType, [3, 4, 5, 11, 12].map(|t| vec![t])));
        let error = || Rule::new().is_in(ICMP_TYPE, ICMP_ERRORS);
        table.chains.push(Chain::regular(
            IN_ICMP,
            vec![error().rewrite(ICMP_ABOUT_SOURCE, IPV4S), error().rewrite(ICMP_ABOUT_DESTINATION, IPV4S)],
        ));
    }
    table.chains.push(Chain::regular(FROM_IPV4, from));
    table.chains.push(Chain::regular(TO_IPV4, to));
}

/// Which of an exchange's maps have entries: rules are made for those only.
#[derive(Clone, Copy)]
struct Used {
    ethers: bool,
    ids: bool,
    second: bool,
    becomes: bool,
    groups: bool,
}

impl Used {
    /// Rules that exchange an address, each beginning as `begin` does.
    fn exchange(self, address: Field, begin: impl Fn() -> Rule) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.ids {
            rules.push(begin().rewrite(address.interface_id(), IDS));
        }
        if self.second {
            rules.push(begin().rewrite(address, IPV6S));
        }
        rules
    }
}

fn ipv6(table: &mut Table, exchange: &Ipv6Exchange, ethers: bool) {
    let used = Used {
        ethers,
        ids: !exchange.ids.is_empty(),
        second: !exchange.second.is_empty(),
        becomes: !exchange.becomes.is_empty(),
        groups: !exchange.groups.is_empty(),
    };
    // One of the two interface identifiers in one place, then whole addresses.
    let one_way = |field: Field, outwards: bool| {
        let mut rules = Vec::new();
        if let Some((inner, outer)) = &exchange.id {
            let (old, new) = if outwards { (inner, outer) } else { (outer, inner) };
            rules.push(Rule::new().replace(field.interface_id(), old, new));
        }
        if let Some((inner, outer)) = &exchange.pair {
            let (old, new) = if outwards { (inner, outer) } else { (outer, inner) };
            rules.push(Rule::new().replace(field, old, new));
        } else if used.second {
            rules.push(Rule::new().rewrite(field, IPV6S));
        }
        rules
    };
    let icmpv6_rule = Rule::new().transport(Transport::Icmpv6).verdict(Verdict::Goto(IN_ICMPV6));
    let mut from = one_way(IPV6_SOURCE, true);
    from.extend(one_way(IPV6_DESTINATION, false));
    from.extend(tcp_and_dhcp(DHCPV6));
    from.push(icmpv6_rule.clone());
    let mut to = used.exchange(IPV6_DESTINATION, Rule::new);
    to.extend(one_way(IPV6_SOURCE, true));
    to.push(icmpv6_rule);
    table.chains.push(Chain::regular(FROM_IPV6, from));
    table.chains.push(Chain::regular(TO_IPV6, to));

    let types = |name, types: &[u8]| Set::of(name, Type::Icmpv6Type, types.iter().map(|t| vec![*t]));
    table.sets.extend([
        // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
        types(ICMPV6_ERRORS, &[1, 2, 3, 4]),
        types(NEIGHBOUR, &[NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT]),
        // Query, report, done (RFC 2710), report of version 2 (RFC 3810).
        types(LISTENER, &[130, 131, 132, REPORT_V2]),
    ]);
    table.sets.extend(maps(exchange, used));

    let mut in_icmpv6 = vec![
        Rule::new().is_in(ICMP_TYPE, NEIGHBOUR).verdict(Verdict::Goto(IN_NEIGHBOUR)),
        Rule::new().is_in(ICMP_TYPE, LISTENER).verdict(Verdict::Goto(IN_LISTENER)),
    ];
    if ethers {
        // The source link-layer address, where it is the first option (RFC 4861, 4.1, 4.2 and 4.6.1).
        for (kind, options) in [(ROUTER_SOLICITATION, 8), (ROUTER_ADVERTISEMENT, 16)] {
            in_icmpv6.push(link_layer_address(Rule::new().is(ICMP_TYPE, &[kind]), options, 1));
        }
    }
    let error = || Rule::new().is_in(ICMP_TYPE, ICMPV6_ERRORS);
    in_icmpv6.extend(used.exchange(icmpv6(8 + 8, 16), error));
    in_icmpv6.extend(used.exchange(icmpv6(8 + 24, 16), error));
    table.chains.push(Chain::regular(IN_ICMPV6, in_icmpv6));
    table.chains.push(Chain::regular(IN_NEIGHBOUR, neighbour(used)));
    table.chains.push(Chain::regular(IN_LISTENER, listener(used)));
}

/// An option of neighbour discovery that holds an Ethernet address: `kind` 1 is the source's, 2 the target's (RFC 4861, 4.6.1).
fn link_layer_address(begin: Rule, options: u32, kind: u8) -> Rule {
    begin.is(icmpv6(options, 2), &[kind, 1]).rewrite(icmpv6(options + 2, 6), ETHERS)
}

fn neighbour(used: Used) -> Vec<Rule> {
    let mut rules = Vec::new();
    // The group that a solicitation goes to is that of its target, which therefore is rewritten behind it.
    let group = |key, map| {
        let solicits = Rule::new().is(ICMP_TYPE, &[NEIGHBOUR_SOLICITATION]);
        solicits.is(IPV6_DESTINATION_GROUP, &GROUP_PREFIX).write(IPV6_DESTINATION, key, map)
    };
    let group_ether = |key, map| {
        let solicits = Rule::new().is(ICMP_TYPE, &[NEIGHBOUR_SOLICITATION]);
        solicits.is(ETHER_DESTINATION_VENDOR, &GROUP_ETHER_PREFIX).write(ETHER_DESTINATION, key, map)
    };
    if used.ids {
        rules.push(group(TARGET.interface_id(), ID_GROUPS));
        rules.push(group_ether(TARGET.interface_id(), ID_GROUP_ETHERS));
    }
    if used.becomes {
        rules.push(group(TARGET, IPV6_GROUPS));
        rules.push(group_ether(TARGET, IPV6_GROUP_ETHERS));
    }
    rules.extend(used.exchange(TARGET, Rule::new));
    if used.ethers {
        rules.push(link_layer_address(Rule::new(), 24, 1));
        rules.push(link_layer_address(Rule::new(), 24, 2));
    }
    rules
}

fn listener(used: Used) -> Vec<Rule> {
    if !used.groups {
        return Vec::new();
    }
    let report = || Rule::new().is(ICMP_TYPE, &[REPORT_V2]);
    let mut rules: Vec<_> =
        // Records of 20 bytes without sources, the group at the fifth (RFC 3810, 5.2).
        (0..RECORDS).map(|record| report().rewrite(icmpv6(8 + 20 * record + 4, 16), GROUPS)).collect();
    // Those of version 1 go to the group itself.
    rules.push(Rule::new().is_not(ICMP_TYPE, &[REPORT_V2]).rewrite(icmpv6(8, 16), GROUPS));
    rules.push(Rule::new().rewrite(IPV6_DESTINATION, GROUPS));
    rules.push(Rule::new().rewrite(ETHER_DESTINATION, GROUP_ETHERS));
    rules
}

fn maps(exchange: &Ipv6Exchange, used: Used) -> Vec<Set> {
    let mut maps = Vec::new();
    if used.ids {
        let ids = || exchange.ids.iter().map(|(from, to)| (from.to_vec(), *to));
        maps.push(Set::map(IDS, Type::InterfaceId, Type::InterfaceId, ids().map(|(f, t)| (f, t.to_vec()))));
        let groups = ids().map(|(from, to)| (from, solicited_group(low(&to)).to_vec()));
        maps.push(Set::map(ID_GROUPS, Type::InterfaceId, Type::Ipv6, groups));
        let ethers = ids().map(|(from, to)| (from, group_ether(low(&to)).to_vec()));
        maps.push(Set::map(ID_GROUP_ETHERS, Type::InterfaceId, Type::Ether, ethers));
    }
    if used.second {
        let second = exchange.second.iter().map(|(from, to)| (from.to_vec(), to.to_vec()));
        maps.push(Set::map(IPV6S, Type::Ipv6, Type::Ipv6, second));
    }
    if used.becomes {
        let becomes = || exchange.becomes.iter().map(|(from, low)| (from.to_vec(), *low));
        let groups = becomes().map(|(from, low)| (from, solicited_group(low).to_vec()));
        maps.push(Set::map(IPV6_GROUPS, Type::Ipv6, Type::Ipv6, groups));
        let ethers = becomes().map(|(from, low)| (from, group_ether(low).to_vec()));
        maps.push(Set::map(IPV6_GROUP_ETHERS, Type::Ipv6, Type::Ether, ethers));
    }
    if used.groups {
        let groups = exchange.groups.iter();
        let ipv6s =
            groups.clone().map(|(from, to)| (solicited_group(*from).to_vec(), solicited_group(*to).to_vec()));
        maps.push(Set::map(GROUPS, Type::Ipv6, Type::Ipv6, ipv6s));
        let ethers = groups.map(|(from, to)| (group_ether(*from).to_vec(), group_ether(*to).to_vec()));
        maps.push(Set::map(GROUP_ETHERS, Type::Ether, Type::Ether, ethers));
    }
    maps
}
