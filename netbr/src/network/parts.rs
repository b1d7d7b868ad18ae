//! Which addresses of a network are for whom.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::{DnsChoice, NatError};
use crate::dhcp::{self, Subnet};
use crate::link::{ALIAS_PREFIX, Link, Links};

/// The shortest subnet that is divided: below, there is hardly room for guests.
const DIVIDED: u8 = 27;

/// The addresses that guests are given by DHCP: the lower half of the subnet, or all of a small one.
pub(super) fn dynamic(subnet: Subnet) -> RangeInclusive<Ipv4Addr> {
    let (first, last) = ends(subnet);
    let last = if subnet.prefix() > DIVIDED { last } else { middle(subnet) - 1 };
    Ipv4Addr::from_bits(first)..=Ipv4Addr::from_bits(last)
}

/// The addresses that are tied to a port beforehand, so that whoever answers DHCP there needs to ask nobody: the upper half of the
/// subnet, which DHCP's books never choose from. A subnet of less than 32 addresses has none.
#[must_use]
pub fn fixed(subnet: Subnet) -> Option<RangeInclusive<Ipv4Addr>> {
    let (_, last) = ends(subnet);
    let range = Ipv4Addr::from_bits(middle(subnet))..=Ipv4Addr::from_bits(last);
    (subnet.prefix() <= DIVIDED).then_some(range)
}

/// The first and the last address that can be an interface's.
fn ends(subnet: Subnet) -> (u32, u32) {
    let base = subnet.base().to_bits();
    let last = base | !subnet.mask().to_bits();
    if subnet.prefix() > 30 { (base, last) } else { (base + 1, last - 1) }
}

fn middle(subnet: Subnet) -> u32 {
    let base = subnet.base().to_bits();
    base + (!subnet.mask().to_bits() >> 1) + 1
}

/// The alias of a network's bridge.
pub(super) fn alias(network: &str) -> String {
    format!("{ALIAS_PREFIX}network {network}")
}

/// A network that is up, as everybody sees it in the kernel, without privilege and without its files: its bridge, and what guests are to
/// be told by DHCP. Nothing when there is none of that name. No address is free to choose: give those of [`fixed`].
pub async fn seen(
    links: &Links,
    name: &str,
    dns: &DnsChoice,
) -> Result<Option<(Link, dhcp::Network)>, NatError> {
    let Some(bridge) = links.get(name).await? else { return Ok(None) };
    let Some(mac) = bridge.mac.filter(|_| bridge.bridge().is_some() && bridge.alias == Some(alias(name)))
    else {
        return Ok(None);
    };
    let own = links.addresses(bridge.index).await?.into_iter().find_map(|own| match own.address {
        IpAddr::V4(v4) => Some((v4, own.prefix)),
        IpAddr::V6(_) => None,
    });
    let Some((router, prefix)) = own else { return Ok(None) };
    let mut network = dhcp::Network::new(Subnet::of(router, prefix), router, mac);
    network.pool = None;
    network.dns = dns.servers(links.namespace())?;
    network.mtu = u16::try_from(bridge.mtu).ok().filter(|mtu| *mtu != 1500);
    Ok(Some((bridge, network)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(subnet: &str) -> (String, Option<String>) {
        let subnet = subnet.parse().unwrap();
        let text = |range: RangeInclusive<Ipv4Addr>| format!("{}-{}", range.start(), range.end());
        (text(dynamic(subnet)), fixed(subnet).map(text))
    }

    #[test]
    fn the_halves_of_a_subnet_do_not_overlap() {
        let upper = |text: &str| Some(text.to_owned());
        assert_eq!(
            parts("10.77.0.0/24"),
            ("10.77.0.1-10.77.0.127".to_owned(), upper("10.77.0.128-10.77.0.254"))
        );
        assert_eq!(
            parts("10.0.0.0/8"),
            ("10.0.0.1-10.127.255.255".to_owned(), upper("10.128.0.0-10.255.255.254"))
        );
        assert_eq!(parts("10.77.0.32/27").1, upper("10.77.0.48-10.77.0.62"));
    }

    #[test]
    fn a_small_subnet_is_not_divided() {
        assert_eq!(parts("10.77.0.8/29"), ("10.77.0.9-10.77.0.14".to_owned(), None));
        assert_eq!(parts("10.77.0.8/30"), ("10.77.0.9-10.77.0.10".to_owned(), None));
    }
}
