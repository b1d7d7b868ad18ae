//! What is so on this host.

use std::collections::BTreeMap;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{FilterTable, Wireless, WirelessMode, netfilter, wireless};
use crate::link::{Address, Link, LinkError, LinkKind, Links, Route};

/// What is so in one network namespace. It can be recorded as JSON, to be looked at elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// All interfaces.
    pub links: Vec<Link>,
    /// All addresses, each with the number of its interface.
    pub addresses: Vec<(u32, Address)>,
    /// All unicast routes.
    pub routes: Vec<Route>,
    /// Which interfaces are Wi-Fi.
    #[serde(default)]
    pub wireless: Vec<Wireless>,
    /// The firewalls' tables; none where one may not see them.
    #[serde(default)]
    pub filters: Option<Vec<FilterTable>>,
    /// The kernel's settings.
    #[serde(default)]
    pub sysctls: Sysctls,
}

/// Settings of the kernel (Documentation/networking/ip-sysctl.rst); none where it lacks the part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctls {
    /// `net.ipv4.ip_forward`: whether IPv4 packets are passed on.
    #[serde(default)]
    pub ip_forward: Option<bool>,
    /// `net.bridge.bridge-nf-call-iptables`: whether frames inside of a bridge pass the firewall for IPv4 packets.
    #[serde(default)]
    pub bridge_nf_call_iptables: Option<bool>,
    /// `net.ipv4.conf.NAME.rp_filter` as it counts, the greater of `all` and the interface's own: 1 drops what comes from another
    /// interface than the one that an answer would leave by.
    #[serde(default)]
    pub rp_filter: BTreeMap<String, u8>,
}

/// A firewall that is known by the names that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firewall {
    /// Docker's rules.
    Docker,
    /// ufw(8).
    Ufw,
    /// firewalld(1).
    Firewalld,
}

/// Why the facts cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// Something about interfaces.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The firewalls' tables cannot be listed.
    #[error("cannot list the firewalls' tables by netlink")]
    Filters(#[source] io::Error),
    /// The Wi-Fi interfaces cannot be listed.
    #[error("cannot list the Wi-Fi interfaces by netlink")]
    Wireless(#[source] io::Error),
}

impl Facts {
    /// Looks at everything. Without CAP_NET_ADMIN the firewalls stay unknown.
    pub async fn collect(links: &Links) -> Result<Self, FactsError> {
        let mut facts = Self {
            links: links.list().await?,
            addresses: links.all_addresses().await?,
            routes: links.routes().await?,
            ..Self::default()
        };
        let names: Vec<&str> = facts.links.iter().map(|link| &*link.name).collect();
        let (filters, wireless, sysctls) = links
            .namespace()
            .run(|| (netfilter::tables(), wireless::interfaces(), Sysctls::read(&names)))
            .map_err(LinkError::from)?;
        facts.filters = filters.map_err(FactsError::Filters)?;
        facts.wireless = wireless.map_err(FactsError::Wireless)?;
        facts.sysctls = sysctls;
        Ok(facts)
    }

    /// The interface of that name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The interface of that number.
    #[must_use]
    pub fn by_index(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Whether an interface is a client of an access point, which drops frames from other senders than its client's own MAC
    /// (IEEE 802.11, 9.3.2: a frame to it has three addresses, so the sender is the transmitter).
    #[must_use]
    pub fn is_station(&self, index: u32) -> bool {
        let station = |w: &&Wireless| w.index == index && w.mode == WirelessMode::Station;
        self.wireless.iter().find(station).is_some_and(|wireless| !wireless.four_addresses)
    }

    /// The ports of a bridge that do not lead to guests.
    pub fn uplinks(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        let port = move |link: &&Link| link.master == Some(bridge) && !matches!(link.kind, LinkKind::Tap(_));
        self.links.iter().filter(port)
    }

    /// The addresses of an interface.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |(of, _)| *of == index).map(|(_, address)| address)
    }

    /// The default routes of one address family, those that are taken first.
    #[must_use]
    pub fn default_routes(&self, v6: bool) -> Vec<&Route> {
        let wanted = |route: &&Route| route.is_default() && route.destination.is_ipv6() == v6;
        let mut routes: Vec<_> = self.routes.iter().filter(wanted).collect();
        routes.sort_by_key(|route| route.metric);
        routes
    }
}

impl FilterTable {
    /// Whose it is, by the names of its chains.
    #[must_use]
    pub fn firewall(&self) -> Option<Firewall> {
        let has = |begin: &str| self.others.iter().any(|chain| chain.starts_with(begin));
        if self.name == "firewalld" {
            Some(Firewall::Firewalld)
        } else if has("ufw-") {
            // Before Docker: where both are there it is ufw that its user knows how to talk to.
            Some(Firewall::Ufw)
        } else if has("DOCKER") || self.name.starts_with("docker-bridges") {
            Some(Firewall::Docker)
        } else {
            None
        }
    }

    /// Whether it sees IPv4 packets.
    #[must_use]
    pub fn sees_ipv4(&self) -> bool {
        matches!(&*self.family, "ip" | "inet")
    }
}

impl Sysctls {
    /// Reads them for the network namespace of the calling thread, which is the one that files below `/proc/sys/net` speak of.
    fn read(names: &[&str]) -> Self {
        let number = |path: &str| {
            let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
            text.trim().parse::<u8>().ok()
        };
        let all = number("ipv4/conf/all/rp_filter").unwrap_or_default();
        let own = |name: &&str| {
            // A dot in a name is no separator in a path.
            Some(((*name).to_owned(), number(&format!("ipv4/conf/{name}/rp_filter"))?.max(all)))
        };
        Self {
            ip_forward: number("ipv4/ip_forward").map(|on| on != 0),
            bridge_nf_call_iptables: number("bridge/bridge-nf-call-iptables").map(|on| on != 0),
            rp_filter: names.iter().filter_map(own).collect(),
        }
    }
}
