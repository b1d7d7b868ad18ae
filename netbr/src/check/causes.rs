//! What keeps guests from the network.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Facts, FilterTable, Firewall};
use crate::link::{Address, Link, LinkKind};

/// Which network of guests is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A bridge that has the host's network at its other end.
    Bridge(&'a str),
    /// A network of the host's own behind the bridge of that name, whose packets the host passes on with its own address (NAT).
    Nat(&'a str),
}

/// Something that keeps guests from the network, or may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Which one.
    pub id: CauseId,
    /// How sure that is.
    pub certainty: Certainty,
    /// What is so, as a sentence.
    pub what: String,
    /// What to do about it, as a sentence.
    pub next_step: String,
}

/// How sure it is that a cause keeps guests from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// It does.
    Certain,
    /// It does unless a rule says otherwise, which is not looked at.
    Likely,
    /// Nothing else explains what is seen.
    Suspected,
}

/// A cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CauseId {
    /// There is no such bridge.
    NoBridge,
    /// The bridge is down.
    BridgeDown,
    /// The bridge leads to guests only.
    NoUplink,
    /// The bridge's way out has no carrier.
    UplinkWithoutCarrier,
    /// The host's way out is Wi-Fi, which carries no guests' frames.
    WifiUplink,
    /// A port has an address that belongs to its bridge.
    PortHasAddress,
    /// The spanning tree holds ports back.
    SpanningTree,
    /// Docker drops packets that are passed on.
    DockerForwardDrop,
    /// ufw drops packets that are passed on.
    UfwForwardDrop,
    /// firewalld rejects packets that are passed on.
    FirewalldForward,
    /// Some firewall drops packets that are passed on.
    ForwardDrop,
    /// Frames inside of bridges pass the firewall for packets.
    BridgeNetfilter,
    /// The host passes no packets on.
    NoForwarding,
    /// The host itself has no way out.
    NoDefaultRoute,
    /// The host drops packets that come from an interface which it would not answer by.
    ReversePathFilter,
    /// The switch may accept one MAC only.
    SwitchPortSecurity,
}

impl fmt::Display for CauseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBridge => "no-bridge",
            Self::BridgeDown => "bridge-down",
            Self::NoUplink => "no-uplink",
            Self::UplinkWithoutCarrier => "uplink-without-carrier",
            Self::WifiUplink => "wifi-uplink",
            Self::PortHasAddress => "port-has-address",
            Self::SpanningTree => "spanning-tree",
            Self::DockerForwardDrop => "docker-forward-drop",
            Self::UfwForwardDrop => "ufw-forward-drop",
            Self::FirewalldForward => "firewalld-forward",
            Self::ForwardDrop => "forward-drop",
            Self::BridgeNetfilter => "bridge-netfilter",
            Self::NoForwarding => "no-forwarding",
            Self::NoDefaultRoute => "no-default-route",
            Self::ReversePathFilter => "reverse-path-filter",
            Self::SwitchPortSecurity => "switch-port-security",
        })
    }
}

/// What keeps guests from the network, the most certain first.
///
/// `unanswered` says that guests were heard asking and no answer ever came, which alone can make one suspect the switch.
#[must_use]
pub fn causes(facts: &Facts, subject: Subject<'_>, unanswered: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    match subject {
        Subject::Bridge(name) => bridged(facts, name, unanswered, &mut causes),
        Subject::Nat(name) => nat(facts, name, &mut causes),
    }
    // A stable sort: those that are as certain stay in the order in which one would look at them.
    causes.sort_by_key(|cause| cause.certainty);
    causes
}

fn cause(id: CauseId, certainty: Certainty, what: String, next_step: String) -> Cause {
    Cause { id, certainty, what, next_step }
}

fn bridged(facts: &Facts, name: &str, unanswered: bool, causes: &mut Vec<Cause>) {
    use Certainty::{Certain, Likely, Suspected};
    let Some(bridge) = facts.link(name).filter(|link| link.bridge().is_some()) else {
        let what = format!("there is no bridge {name} on this host");
        let next = format!(
            "make it over the host's wired interface, or give guests a NAT network instead of {name}"
        );
        causes.push(cause(CauseId::NoBridge, Certain, what, next));
        wifi(facts, None, causes);
        return;
    };
    if !bridge.up {
        let what = format!("the bridge {name} is down");
        causes.push(cause(CauseId::BridgeDown, Certain, what, format!("ip link set {name} up")));
    }
    let uplinks: Vec<&Link> = facts.uplinks(bridge.index).collect();
    let names = uplinks.iter().map(|link| &*link.name).collect::<Vec<_>>().join(" and ");
    if uplinks.is_empty() {
        let what = format!(
            "the bridge {name} has no port that leads out of this host, so guests reach only the host and each other"
        );
        let next = format!("put the host's wired interface into {name}, or give guests a NAT network");
        causes.push(cause(CauseId::NoUplink, Certain, what, next));
    } else if !uplinks.iter().any(|link| link.carrier && link.up) {
        let what = format!("{names}, the way out of the bridge {name}, has no carrier");
        let next = "plug the cable in, or set the interface up".to_owned();
        causes.push(cause(CauseId::UplinkWithoutCarrier, Certain, what, next));
    }
    wifi(facts, Some((bridge, &uplinks)), causes);
    for port in &uplinks {
        if let Some(address) = facts.addresses_of(port.index).find(|a| a.scope == 0 && !a.is_link_local()) {
            let what = format!(
                "{} has the address {}/{} though it is a port of {name}: what comes for it arrives at {name}",
                port.name, address.address, address.prefix
            );
            let next = format!("move the address and the routes from {} to {name}", port.name);
            causes.push(cause(CauseId::PortHasAddress, Likely, what, next));
        }
    }
    if let Some(state) = bridge.bridge().filter(|state| state.stp && state.forward_delay > 0) {
        // Listening, then learning, for the delay each (IEEE 802.1D, 8.4).
        let seconds = state.forward_delay / 50;
        let what = format!(
            "the bridge {name} speaks STP: a guest hears and says nothing for the first {seconds} s, longer than many wait for DHCP"
        );
        let next = format!("unless {name} can close a loop: ip link set {name} type bridge stp_state 0");
        causes.push(cause(CauseId::SpanningTree, Likely, what, next));
    }
    if facts.sysctls.bridge_nf_call_iptables == Some(true) {
        let before = causes.len();
        for table in filters(facts).filter(|table| table.sees_ipv4()) {
            firewall(table, name, causes);
        }
        let sees = filters(facts).any(|table| table.sees_ipv4() && !table.forward.is_empty());
        if sees || facts.filters.is_none() {
            let what = format!(
                "net.bridge.bridge-nf-call-iptables is 1: frames between {name}'s ports pass the host's firewall as if it routed them"
            );
            let next = "sysctl -w net.bridge.bridge-nf-call-iptables=0, unless Kubernetes or a container network needs it".to_owned();
            let certainty = if causes.len() > before { Likely } else { Suspected };
            causes.push(cause(CauseId::BridgeNetfilter, certainty, what, next));
        }
    }
    for table in filters(facts).filter(|table| table.family == "bridge") {
        firewall(table, name, causes);
    }
    reverse_path(facts, bridge, causes);
    let explained = causes.iter().any(|cause| cause.certainty < Suspected);
    if unanswered && !explained && !uplinks.is_empty() {
        let what = format!(
            "guests ask through {names} and nobody answers, and nothing on this host explains it: perhaps the switch, or the host's own \
             hypervisor where this host is a virtual machine, accepts one MAC address only on this port (port security, \
             \"forged transmits\")"
        );
        let next = format!(
            "watch with `tcpdump -eni {}` whether requests leave and nothing comes back; then allow several MACs on the port, or \
             give guests a NAT network",
            uplinks.first().map_or("", |link| &*link.name)
        );
        causes.push(cause(CauseId::SwitchPortSecurity, Suspected, what, next));
    }
}

fn nat(facts: &Facts, name: &str, causes: &mut Vec<Cause>) {
    use Certainty::Certain;
    if facts.sysctls.ip_forward == Some(false) {
        let what = "net.ipv4.ip_forward is 0: this host passes no packets on".to_owned();
        causes.push(cause(
            CauseId::NoForwarding,
            Certain,
            what,
            "sysctl -w net.ipv4.ip_forward=1".to_owned(),
        ));
    }
    if facts.default_routes(false).is_empty() {
        let what = "this host has no default route for IPv4, so its guests have none".to_owned();
        let next = "connect the host first; `ip route show default` must show a route".to_owned();
        causes.push(cause(CauseId::NoDefaultRoute, Certain, what, next));
    }
    for table in filters(facts).filter(|table| table.sees_ipv4()) {
        firewall(table, name, causes);
    }
}

fn filters(facts: &Facts) -> impl Iterator<Item = &FilterTable> {
    facts.filters.iter().flatten()
}

/// A table that does not let through what is passed on. A verdict to drop is final in whichever table it falls
/// (nft(8), "verdict statements"), so no rule of another table helps.
fn firewall(table: &FilterTable, name: &str, causes: &mut Vec<Cause>) {
    let drops = table.forward.iter().find(|chain| chain.drops);
    let owner = table.firewall();
    // firewalld's chain accepts by policy, and its last rule rejects.
    let rejects = owner == Some(Firewall::Firewalld) && !table.forward.is_empty();
    if drops.is_none() && !rejects {
        return;
    }
    let tool = if table.legacy { "iptables-legacy" } else { "iptables" };
    let place = format!("{} {}", table.family, table.name);
    let (id, what, next) = match (owner, drops) {
        (Some(Firewall::Docker), _) => (
            CauseId::DockerForwardDrop,
            format!(
                "Docker has set the host's firewall to drop what is passed on (the policy of FORWARD in `{place}`)"
            ),
            format!("{tool} -I DOCKER-USER -i {name} -j ACCEPT && {tool} -I DOCKER-USER -o {name} -j ACCEPT"),
        ),
        (Some(Firewall::Ufw), _) => (
            CauseId::UfwForwardDrop,
            format!("ufw drops what is passed on (the policy of FORWARD in `{place}`)"),
            format!("ufw route allow in on {name} && ufw route allow out on {name}"),
        ),
        (Some(Firewall::Firewalld), _) => (
            CauseId::FirewalldForward,
            "firewalld rejects what is passed on between interfaces that it was not told of".to_owned(),
            format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={name} && firewall-cmd --reload"
            ),
        ),
        (None, chain) => (
            CauseId::ForwardDrop,
            format!(
                "a firewall drops what is passed on (the policy of the chain {} in `{place}`)",
                chain.map_or("", |chain| &*chain.name)
            ),
            if table.legacy {
                format!("{tool} -I FORWARD -i {name} -j ACCEPT && {tool} -I FORWARD -o {name} -j ACCEPT")
            } else {
                let chain = chain.map_or("", |chain| &*chain.name);
                ["iifname", "oifname"]
                    .map(|side| format!("nft insert rule {place} {chain} {side} {name} accept"))
                    .join(" && ")
            },
        ),
    };
    if !causes.iter().any(|cause| cause.id == id) {
        causes.push(cause(id, Certainty::Likely, what, next));
    }
}

/// A way out by Wi-Fi: a port of the bridge, or the host's default route where the bridge has no way out at all.
fn wifi(facts: &Facts, bridge: Option<(&Link, &[&Link])>, causes: &mut Vec<Cause>) {
    let station = match bridge {
        Some((_, uplinks)) if !uplinks.is_empty() => {
            uplinks.iter().copied().find(|link| facts.is_station(link.index))
        }
        _ => {
            let ways = facts.default_routes(false).into_iter().chain(facts.default_routes(true));
            ways.filter_map(|route| facts.by_index(route.index)).find(|link| facts.is_station(link.index))
        }
    };
    if let Some(station) = station {
        let what = format!(
            "this host's way out is Wi-Fi ({}): an access point drops frames whose sender is not the client that sends them, \
             so guests cannot be on its network with MACs of their own",
            station.name
        );
        let next = "give guests a NAT network, or connect the host by cable".to_owned();
        causes.push(cause(CauseId::WifiUplink, Certainty::Certain, what, next));
    }
}

/// Two interfaces in one network: answers leave by one of them, and what comes in by the other is dropped where the host is strict.
fn reverse_path(facts: &Facts, bridge: &Link, causes: &mut Vec<Cause>) {
    if facts.sysctls.rp_filter.get(&bridge.name) != Some(&1) {
        return;
    }
    let twin = facts.links.iter().find(|link| {
        let apart = link.index != bridge.index && !matches!(link.kind, LinkKind::Loopback);
        let own: Vec<&Address> = facts.addresses_of(bridge.index).collect();
        apart && facts.addresses_of(link.index).any(|there| own.iter().any(|here| same_network(here, there)))
    });
    if let Some(twin) = twin {
        let what = format!(
            "{} and {} have addresses in one network, and net.ipv4.conf.{}.rp_filter is 1: packets that come by the one and would be \
             answered by the other are dropped",
            bridge.name, twin.name, bridge.name
        );
        let next = format!(
            "take the address from {}, or: sysctl -w net.ipv4.conf.{}.rp_filter=2",
            twin.name, bridge.name
        );
        causes.push(cause(CauseId::ReversePathFilter, Certainty::Likely, what, next));
    }
}

fn same_network(one: &Address, other: &Address) -> bool {
    let (IpAddr::V4(a), IpAddr::V4(b)) = (one.address, other.address) else { return false };
    let mask = u32::MAX.checked_shl(32 - u32::from(one.prefix.min(32))).unwrap_or(0);
    one.prefix == other.prefix && u32::from(a) & mask == u32::from(b) & mask
}
