//! Where packets go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RoutePreference,
    RouteProtocol, RouteScope, RouteType,
};
use serde::{Deserialize, Serialize};

use super::{LinkError, Links, failed, unless};

/// The table that `ip route` shows (rtnetlink(7), RT_TABLE_MAIN).
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route through one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The interface's number.
    pub index: u32,
    /// The network; the unspecified address with the prefix 0 is the default route.
    pub destination: IpAddr,
    /// How many bits of the destination name the network.
    pub prefix: u8,
    /// The next hop; none where the network is on the link itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The address that packets of one's own leave with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Of several routes to one network, the one with the lowest metric is taken.
    #[serde(default)]
    pub metric: u32,
    /// The table, 254 for the main one.
    pub table: u32,
    /// Who made it: 2 the kernel, 3 boot, 4 a static route, 9 router advertisements, 16 DHCP (linux/rtnetlink.h, RTPROT_…).
    pub protocol: u8,
    /// How far it is to the destination (RT_SCOPE_…).
    pub scope: u8,
    /// Whether the gateway counts as on the link though no network there holds it.
    #[serde(default)]
    pub onlink: bool,
    /// The longest packet on the way, where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// How a router wants to be preferred (RFC 4191), IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<u8>,
    /// How many seconds it still holds, where a router said so; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u32>,
    /// What cannot be said by the fields above, such as several next hops or an encapsulation: such a route can be shown, not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond: Option<String>,
}

impl Route {
    /// The default route by a gateway.
    #[must_use]
    pub const fn default_by(gateway: IpAddr, index: u32) -> Self {
        let destination = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            index,
            destination,
            prefix: 0,
            gateway: Some(gateway),
            source: None,
            metric: 0,
            table: MAIN_TABLE,
            // RTPROT_STATIC
            protocol: 4,
            scope: 0,
            onlink: false,
            mtu: None,
            preference: None,
            expires: None,
            beyond: None,
        }
    }

    /// Whether it is a default route of the main table.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.prefix == 0 && self.table == MAIN_TABLE
    }

    /// Whether the kernel made it by itself for an address of the interface.
    #[must_use]
    pub const fn is_kernel(&self) -> bool {
        self.protocol == 2
    }

    /// A unicast route; none for those of other kinds and for cached ones.
    fn read(message: RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let unspecified = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut route = Self {
            index: 0,
            destination: unspecified,
            prefix: header.destination_prefix_length,
            gateway: None,
            source: None,
            metric: 0,
            table: u32::from(header.table),
            protocol: header.protocol.into(),
            scope: header.scope.into(),
            onlink: header.flags.contains(RouteFlags::Onlink),
            mtu: None,
            preference: None,
            expires: None,
            beyond: None,
        };
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.index = index,
                RouteAttribute::Destination(address) => route.destination = ip(&address)?,
                RouteAttribute::Gateway(address) => route.gateway = ip(&address),
                RouteAttribute::PrefSource(address) => route.source = ip(&address),
                RouteAttribute::Priority(metric) => route.metric = metric,
                RouteAttribute::Table(table) => route.table = table,
                RouteAttribute::Preference(preference) => route.preference = Some(preference.into()),
                // In 1/100 s, zero for ever.
                RouteAttribute::CacheInfo(info) if info.expires > 0 => {
                    route.expires = Some(info.expires / 100);
                }
                RouteAttribute::Metrics(metrics) => route.read_metrics(&metrics),
                RouteAttribute::MultiPath(hops) => {
                    route.index = hops.first().map_or(0, |hop| hop.interface_index);
                    route.beyond = Some("several next hops".to_owned());
                }
                RouteAttribute::Encap(_) => route.beyond = Some("an encapsulation".to_owned()),
                RouteAttribute::NhId(id) => route.beyond = Some(format!("the next hop object {id}")),
                RouteAttribute::Via(_) => {
                    route.beyond = Some("a next hop of another address family".to_owned());
                }
                RouteAttribute::Source(_) => {
                    route.beyond = Some("a condition on the sender's address".to_owned());
                }
                _ => {}
            }
        }
        Some(route)
    }

    fn read_metrics(&mut self, metrics: &[RouteMetric]) {
        for metric in metrics {
            match metric {
                RouteMetric::Mtu(mtu) => self.mtu = Some(*mtu),
                // The kernel's own default for each IPv6 route.
                RouteMetric::Hoplimit(_) if self.destination.is_ipv6() => {}
                _ => self.beyond = Some("TCP settings".to_owned()),
            }
        }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = match self.destination {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        header.destination_prefix_length = self.prefix;
        header.protocol = RouteProtocol::from(self.protocol);
        header.scope = RouteScope::from(self.scope);
        header.kind = RouteType::Unicast;
        if self.onlink {
            header.flags.insert(RouteFlags::Onlink);
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        attributes.push(RouteAttribute::Oif(self.index));
        if self.prefix > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.into()));
        }
        attributes.extend(self.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        if self.metric > 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        attributes.extend(self.expires.map(RouteAttribute::Expires));
        attributes.extend(self.preference.map(RoutePreference::from).map(RouteAttribute::Preference));
        message
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

impl Links {
    /// All unicast routes of all tables but the kernel's own `local` one, IPv4's first.
    pub async fn routes(&self) -> Result<Vec<Route>, LinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let found = self.handle.route().get(message).execute().try_collect::<Vec<_>>().await;
            let found = found.map_err(|error| failed("list", "the routes", error))?;
            routes.extend(found.into_iter().filter_map(Route::read));
        }
        Ok(routes)
    }

    /// The default routes of the main table, those that are preferred first; of both families.
    pub async fn default_gateways(&self) -> Result<Vec<Route>, LinkError> {
        let mut routes = self.routes().await?;
        routes.retain(Route::is_default);
        routes.sort_by_key(|route| route.metric);
        Ok(routes)
    }

    /// Adds a route, or replaces the one to the same network with the same metric.
    pub async fn add_route(&self, route: &Route) -> Result<(), LinkError> {
        let request = self.handle.route().add(route.message()).replace();
        self.named("add a route through", route.index, request.execute().await).await
    }

    /// Removes a route; it is fine when it is gone already.
    pub async fn remove_route(&self, route: &Route) -> Result<(), LinkError> {
        let request = self.handle.route().del(route.message());
        let done = self.named("remove a route through", route.index, request.execute().await).await;
        unless(done, &[Errno::ESRCH])
    }
}
