//! What it takes to put the host's uplink into a bridge, and back.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::Mac;
use crate::link::{ALIAS_PREFIX, Address, Link, LinkKind, Route, check_name};

/// The flags of an address that somebody chose; the others are the kernel's own notes (linux/if_addr.h).
const CHOSEN: u32 =
    libc::IFA_F_NOPREFIXROUTE | libc::IFA_F_MANAGETEMPADDR | libc::IFA_F_HOMEADDRESS | libc::IFA_F_NODAD;
/// RT_TABLE_LOCAL: the kernel's own, made with each address.
const LOCAL_TABLE: u32 = 255;
/// RTPROT_DHCP.
pub(super) const BY_DHCP: u8 = 16;

/// A bridge over an uplink: what is moved, and all that it takes to move it back.
///
/// It is plain data that can be kept in a file: whoever carries it out writes it down first, and who finds the file of one that was
/// killed in between calls [`restore`](super::restore) with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The bridge's name.
    pub bridge: String,
    /// The uplink's name.
    pub uplink: String,
    /// The uplink's number when the plan was made; routes speak of it.
    pub index: u32,
    /// The uplink's MAC, which the bridge gets as well, so that a DHCP server and the switch see who they saw before.
    pub mac: Mac,
    /// The uplink's MTU, which the bridge gets as well.
    pub mtu: u32,
    /// Whether the uplink was up.
    pub up: bool,
    /// The addresses that move.
    pub addresses: Vec<Address>,
    /// The routes that move, in the order in which they can be made.
    pub routes: Vec<Route>,
    /// The gateway that must answer through the bridge, IPv4's where there is one.
    pub gateway: Option<IpAddr>,
    /// Whether the host got its IPv4 address by DHCP.
    pub dhcp: bool,
}

/// Why an uplink cannot be put into a bridge, or not taken out of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No interface can have that name.
    #[error("`{0}` cannot be a bridge's name: 1 to 15 bytes, without spaces, `/`, `:` and `%`")]
    Name(String),
    /// There is no such interface.
    #[error("there is no interface {name}; this host has {others}")]
    NoUplink {
        /// The name that was given.
        name: String,
        /// Those that there are.
        others: String,
    },
    /// It is something that a bridge cannot have as its way out.
    #[error("{name} is {kind} and leads nowhere: name the host's wired interface")]
    NotAnUplink {
        /// Its name.
        name: String,
        /// What it is.
        kind: LinkKind,
    },
    /// It has no Ethernet address.
    #[error("{0} carries no Ethernet frames, so it cannot be a port of a bridge")]
    NotEthernet(String),
    /// It is the client of an access point.
    #[error(
        "{0} is a Wi-Fi client: its access point drops frames from any other MAC, so guests behind a bridge would get no answer; \
         connect the host by cable, or give guests a NAT network"
    )]
    Wifi(String),
    /// It is a port of something already.
    #[error(
        "{uplink} is a port of {master} already; name {master} as the bridge, or take {uplink} out of it first"
    )]
    PortOf {
        /// The uplink.
        uplink: String,
        /// What it is a port of.
        master: String,
    },
    /// It is in that bridge already, as we made it.
    #[error("{uplink} is in the bridge {bridge} already")]
    AlreadyUp {
        /// The uplink.
        uplink: String,
        /// The bridge.
        bridge: String,
    },
    /// Somebody else has an interface of that name.
    #[error(
        "there is {kind} of the name {name} that was not made here: name another bridge, or remove it first"
    )]
    NotOurs {
        /// Its name.
        name: String,
        /// What it is.
        kind: LinkKind,
    },
    /// A bridge of ours is there but has not this uplink.
    #[error("the bridge {0} is there but has another uplink or none: take it down first")]
    Unfinished(String),
    /// A route that could not be made again.
    #[error(
        "the route to {to} through {uplink} has {what}, which would be lost: remove it first, or make the bridge by hand"
    )]
    Route {
        /// Its network.
        to: String,
        /// The uplink.
        uplink: String,
        /// What about it.
        what: String,
    },
    /// There is no such bridge.
    #[error("there is no bridge {0}")]
    NoBridge(String),
    /// Guests are on the bridge.
    #[error(
        "the bridge {bridge} is in use by {ports}: stop those guests first, and take set-ups away (`midge net setup --remove`)"
    )]
    InUse {
        /// The bridge.
        bridge: String,
        /// Its other ports.
        ports: String,
    },
}

/// A step of a plan, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step(String);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Plan {
    /// What it takes to make the bridge and put the uplink into it.
    pub fn up(facts: &Facts, bridge: &str, uplink: &str) -> Result<Self, Refusal> {
        check_name(bridge).map_err(|_| Refusal::Name(bridge.to_owned()))?;
        let Some(link) = facts.link(uplink) else {
            let others: Vec<_> =
                facts.links.iter().filter(|link| is_uplink(link)).map(|link| &*link.name).collect();
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            return Err(Refusal::NoUplink { name: uplink.to_owned(), others });
        };
        if !is_uplink(link) {
            return Err(Refusal::NotAnUplink { name: link.name.clone(), kind: link.kind.clone() });
        }
        let mac = link.mac.ok_or_else(|| Refusal::NotEthernet(link.name.clone()))?;
        if facts.is_station(link.index) {
            return Err(Refusal::Wifi(link.name.clone()));
        }
        let there = facts.link(bridge);
        if let Some(master) = link.master {
            let master =
                facts.by_index(master).map_or_else(|| format!("interface {master}"), |m| m.name.clone());
            let ours = there.is_some_and(is_ours) && master == bridge;
            let uplink = link.name.clone();
            return Err(if ours {
                Refusal::AlreadyUp { uplink, bridge: master }
            } else {
                Refusal::PortOf { uplink, master }
            });
        }
        match there {
            Some(other) if is_ours(other) => return Err(Refusal::Unfinished(bridge.to_owned())),
            Some(other) => {
                return Err(Refusal::NotOurs { name: other.name.clone(), kind: other.kind.clone() });
            }
            None => {}
        }
        Self::moving(facts, link, link, bridge, mac)
    }

    /// What it takes to move everything from the bridge back to its uplink and remove it; `guests` says that ports of guests do not
    /// matter, who lose their network then.
    pub fn down(facts: &Facts, bridge: &str, guests: bool) -> Result<Self, Refusal> {
        let link = facts.link(bridge).ok_or_else(|| Refusal::NoBridge(bridge.to_owned()))?;
        if !is_ours(link) {
            return Err(Refusal::NotOurs { name: link.name.clone(), kind: link.kind.clone() });
        }
        let uplinks: Vec<&Link> = facts.uplinks(link.index).collect();
        let [uplink] = uplinks[..] else { return Err(Refusal::Unfinished(bridge.to_owned())) };
        let ports =
            facts.links.iter().filter(|port| port.master == Some(link.index) && port.index != uplink.index);
        let ports: Vec<&str> = ports.map(|port| &*port.name).collect();
        if !guests && !ports.is_empty() {
            return Err(Refusal::InUse { bridge: bridge.to_owned(), ports: ports.join(", ") });
        }
        let mac = uplink.mac.ok_or_else(|| Refusal::NotEthernet(uplink.name.clone()))?;
        Self::moving(facts, link, uplink, bridge, mac)
    }

    /// What is to be moved, as it is now on `from`.
    fn moving(facts: &Facts, from: &Link, uplink: &Link, bridge: &str, mac: Mac) -> Result<Self, Refusal> {
        let addresses: Vec<Address> =
            facts.addresses_of(from.index).filter(|a| !a.is_link_local()).map(as_chosen).collect();
        let mut routes = Vec::new();
        for route in facts.routes.iter().filter(|route| route.index == from.index && moves(route, &addresses))
        {
            if let Some(what) = &route.beyond {
                let to = format!("{}/{}", route.destination, route.prefix);
                return Err(Refusal::Route { to, uplink: from.name.clone(), what: what.clone() });
            }
            routes.push(Route { index: uplink.index, ..route.clone() });
        }
        // Gateways are found by routes to their networks, so those come first.
        routes.sort_by_key(|route| (route.gateway.is_some(), route.prefix == 0));
        let gateways = [false, true].map(|v6| {
            let mut own = facts.default_routes(v6).into_iter().filter(|route| route.index == from.index);
            own.find_map(|route| route.gateway)
        });
        let dhcp = routes.iter().any(|route| route.destination.is_ipv4() && route.protocol == BY_DHCP)
            || addresses.iter().any(|address| address.address.is_ipv4() && address.lifetime.is_some());
        Ok(Self {
            bridge: bridge.to_owned(),
            uplink: uplink.name.clone(),
            index: uplink.index,
            mac,
            mtu: uplink.mtu,
            up: uplink.up,
            addresses,
            routes,
            gateway: gateways[0].or(gateways[1]),
            dhcp,
        })
    }

    /// The alias by which the bridge is known as ours.
    #[must_use]
    pub fn alias(&self) -> String {
        format!("{ALIAS_PREFIX}bridge over {}", self.uplink)
    }

    /// The steps of carrying it out, for people to agree to.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let Self { bridge, uplink, mac, mtu, .. } = self;
        let mut steps = vec![
            format!("make the bridge {bridge} with {uplink}'s MAC {mac} and MTU {mtu}"),
            format!("make {uplink} a port of {bridge}"),
        ];
        let name = |address: &Address| format!("move {}/{} to {bridge}", address.address, address.prefix);
        steps.extend(self.addresses.iter().map(name));
        for route in &self.routes {
            let to = match route.prefix {
                0 => "the default route".to_owned(),
                _ => format!("the route to {}/{}", route.destination, route.prefix),
            };
            let by = route.gateway.map_or_else(String::new, |gateway| format!(" by {gateway}"));
            steps.push(format!("move {to}{by} to {bridge}"));
        }
        steps.push(match self.gateway {
            Some(gateway) => {
                format!("look for the gateway {gateway} through {bridge}; without an answer, undo everything")
            }
            None => format!("{uplink} leads to no gateway, so there is none to look for"),
        });
        steps.into_iter().map(Step).collect()
    }
}

/// Whether it can be a bridge's way out as far as its kind says.
fn is_uplink(link: &Link) -> bool {
    !matches!(link.kind, LinkKind::Loopback | LinkKind::Bridge(_) | LinkKind::Tap(_))
}

/// Whether a bridge was made by carrying out a plan.
fn is_ours(link: &Link) -> bool {
    let begin = format!("{ALIAS_PREFIX}bridge over ");
    link.bridge().is_some() && link.alias.as_ref().is_some_and(|alias| alias.starts_with(&begin))
}

fn as_chosen(address: &Address) -> Address {
    Address { flags: address.flags & CHOSEN, ..address.clone() }
}

/// Whether a route has to be moved: all but those that the kernel makes by itself with an address.
fn moves(route: &Route, addresses: &[Address]) -> bool {
    let multicast = route.destination.is_multicast();
    if route.table == LOCAL_TABLE || multicast || is_link_local(route) {
        return false;
    }
    let made_with = |address: &Address| {
        address.flags & libc::IFA_F_NOPREFIXROUTE == 0
            && address.prefix == route.prefix
            && network(address.peer.unwrap_or(address.address), address.prefix) == route.destination
    };
    !(route.is_kernel() && route.gateway.is_none() && addresses.iter().any(made_with))
}

fn is_link_local(route: &Route) -> bool {
    match route.destination {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => route.is_kernel() && v6.is_unicast_link_local(),
    }
}

/// The network that an address is in.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}
