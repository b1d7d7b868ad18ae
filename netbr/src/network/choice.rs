//! A subnet that nobody uses.

use std::net::{IpAddr, Ipv4Addr};

use super::error::NatError;
use crate::Mac;
use crate::dhcp::Subnet;
use crate::link::Links;

/// What is tried, in this order: private subnets (RFC 1918) away from those that routers at home, Docker, libvirt, Kubernetes and the
/// like begin with, from each of the three ranges, as a VPN may take a whole one.
fn candidates() -> impl Iterator<Item = Subnet> {
    let low = (0..16).map(|n| Ipv4Addr::new(10, 77, n, 0));
    let middle = (0..16).map(|n| Ipv4Addr::new(172, 30, 77 + n, 0));
    let high = (0..16).map(|n| Ipv4Addr::new(192, 168, 177 + n, 0));
    low.chain(middle).chain(high).map(|base| Subnet::of(base, 24))
}

/// A network that the host knows, and what it is to the host.
#[derive(Debug)]
struct Known {
    subnet: Subnet,
    as_what: String,
}

/// The wanted subnet, else the preferred one, else the first one that collides with nothing on the host. What the bridge with `own`
/// for its MAC has does not count.
pub(super) async fn subnet(
    links: &Links,
    own: Mac,
    wanted: Option<Subnet>,
    preferred: Option<Subnet>,
) -> Result<Subnet, NatError> {
    let interfaces = links.list().await?;
    let own = interfaces.iter().find(|link| link.mac == Some(own)).map(|link| link.index);
    let name = |index| {
        let found = interfaces.iter().find(|link| link.index == index);
        found.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    };
    let mut known = Vec::new();
    for (index, address) in links.all_addresses().await? {
        if let IpAddr::V4(v4) = address.address
            && Some(index) != own
        {
            let as_what = format!("the address {v4}/{} of {}", address.prefix, name(index));
            known.push(Known { subnet: Subnet::of(v4, address.prefix), as_what });
        }
    }
    for route in links.routes().await? {
        if let IpAddr::V4(v4) = route.destination
            && route.prefix > 0
            && Some(route.index) != own
        {
            let as_what = format!("the route to {v4}/{} by {}", route.prefix, name(route.index));
            known.push(Known { subnet: Subnet::of(v4, route.prefix), as_what });
        }
    }
    choose(&known, wanted, preferred)
}

fn choose(known: &[Known], wanted: Option<Subnet>, preferred: Option<Subnet>) -> Result<Subnet, NatError> {
    let collision = |subnet: Subnet| known.iter().find(|known| overlap(known.subnet, subnet));
    if let Some(subnet) = wanted {
        return match collision(subnet) {
            None => Ok(subnet),
            Some(known) => Err(NatError::Collides { subnet, with: known.as_what.clone() }),
        };
    }
    let mut last = None;
    for subnet in preferred.into_iter().chain(candidates()) {
        match collision(subnet) {
            None => return Ok(subnet),
            Some(known) => last = Some(known),
        }
    }
    Err(NatError::NoSubnet { with: last.map(|known| known.as_what.clone()).unwrap_or_default() })
}

fn overlap(one: Subnet, other: Subnet) -> bool {
    one.contains(other.base()) || other.contains(one.base())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(subnets: &[&str]) -> Vec<Known> {
        let known = |s: &&str| Known { subnet: s.parse().unwrap(), as_what: format!("the route to {s}") };
        subnets.iter().map(known).collect()
    }

    fn chosen(subnets: &[&str]) -> Option<String> {
        choose(&known(subnets), None, None).ok().map(|subnet| subnet.to_string())
    }

    #[test]
    fn the_first_free_one_is_chosen() {
        assert_eq!(chosen(&[]).as_deref(), Some("10.77.0.0/24"));
        assert_eq!(chosen(&["10.77.0.128/25", "10.77.1.7/32"]).as_deref(), Some("10.77.2.0/24"));
        assert_eq!(chosen(&["10.0.0.0/8"]).as_deref(), Some("172.30.77.0/24"));
        assert_eq!(chosen(&["10.0.0.0/8", "172.16.0.0/12"]).as_deref(), Some("192.168.177.0/24"));
        assert_eq!(chosen(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]), None);
    }

    #[test]
    fn what_is_wanted_must_be_free_and_what_is_preferred_should() {
        let taken = known(&["10.1.0.0/16"]);
        let subnet = |s: &str| Some(s.parse::<Subnet>().unwrap());
        let error = choose(&taken, subnet("10.1.2.0/24"), None).unwrap_err();
        assert!(error.to_string().contains("10.1.2.0/24 collides with the route to 10.1.0.0/16"), "{error}");
        assert_eq!(choose(&taken, subnet("10.2.0.0/24"), None).unwrap(), subnet("10.2.0.0/24").unwrap());
        assert_eq!(choose(&taken, None, subnet("10.2.0.0/24")).unwrap(), subnet("10.2.0.0/24").unwrap());
        assert_eq!(choose(&taken, None, subnet("10.1.3.0/24")).unwrap(), subnet("10.77.0.0/24").unwrap());
    }
}
