//! A clone's identity on its port, where its guest is not asked to change: what it believes to be, and who it is to all others.
//!
//! On midge's own network the outer address is the clone's own, kept for its outer MAC as for any VM's. The guest's DHCP never reaches the
//! network: it is answered on the port, by the identity that the guest believes in.

use std::net::IpAddr;

use netbr::Namespace;
use netbr::nft::Nft;
use netbr::veil::{self, Identity, Veil};
use serde::{Deserialize, Serialize};

use super::super::control::{Failure, FailureKind};
use crate::error::chain;
use crate::store::Heard;

/// Who a guest believes to be, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// What the guest believes to be.
    pub inner: Identity,
    /// Who it is to all others.
    pub outer: Identity,
}

impl Mask {
    /// Puts it on a port, before the guest's first frame.
    pub(super) fn put_on(&self, port: &str) -> Result<(), Failure> {
        let veil = Veil { port: port.to_owned(), inner: self.inner.clone(), outer: self.outer.clone() };
        let raised = Nft::open(&Namespace::current())
            .map_err(|e| chain(&e))
            .and_then(|mut nft| veil.raise(&mut nft).map_err(|e| chain(&e)));
        raised.map_err(|why| {
            Failure::new(FailureKind::HostUnfit, why)
                .hint("`--identity full` changes the guest itself and needs no nftables")
        })
    }

    /// What was heard inside, as it is known outside. An address that has no other one there is nobody's business.
    pub(super) fn outside(&self, heard: Vec<Heard>) -> Vec<Heard> {
        let outer = |heard: Heard| Some(Heard { address: self.outer_of(heard.address)?, ..heard });
        heard.into_iter().filter_map(outer).collect()
    }

    /// The other way round.
    pub(super) fn inside(&self, heard: &Heard) -> Heard {
        let swapped = Self { inner: self.outer.clone(), outer: self.inner.clone() };
        Heard { address: swapped.outer_of(heard.address).unwrap_or(heard.address), ..heard.clone() }
    }

    fn outer_of(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(v4) => self.outer.ipv4.filter(|_| self.inner.ipv4 == Some(v4)).map(IpAddr::V4),
            IpAddr::V6(v6) => {
                let mut bytes = v6.octets();
                if bytes[8..] != self.inner.interface_id() {
                    return None;
                }
                bytes[8..].copy_from_slice(&self.outer.interface_id());
                Some(IpAddr::V6(bytes.into()))
            }
        }
    }
}

/// Takes whatever mask there is off a port, which may have gone: Linux keeps the rules for the next interface of that name.
pub(super) fn take_off(port: &str) {
    let lowered = Nft::open(&Namespace::current())
        .map_err(|e| chain(&e))
        .and_then(|mut nft| veil::lower(&mut nft, port).map_err(|e| chain(&e)));
    if let Err(why) = lowered {
        tracing::debug!("no veil is taken off {port}: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Source;

    fn heard(address: &str) -> Heard {
        let now = jiff::Timestamp::UNIX_EPOCH;
        Heard {
            net: 0,
            address: address.parse().unwrap(),
            source: Source::Arp,
            confirmed: true,
            since: now,
            seen: now,
            lease_ends: None,
        }
    }

    #[test]
    fn addresses_are_told_as_they_are_outside() {
        let identity = |mac: &str, ip: &str| Identity {
            mac: mac.parse().unwrap(),
            ipv4: Some(ip.parse().unwrap()),
            ipv6: Vec::new(),
        };
        let mask = Mask {
            inner: identity("52:54:00:00:00:01", "10.77.0.2"),
            outer: identity("52:54:00:00:00:02", "10.77.0.3"),
        };
        let inner = ["10.77.0.2", "fe80::5054:ff:fe00:1", "fd00::99", "192.0.2.1"].map(heard);
        let told = mask.outside(inner.to_vec());
        assert_eq!(told, ["10.77.0.3", "fe80::5054:ff:fe00:2"].map(heard));
        assert_eq!(told.iter().map(|heard| mask.inside(heard)).collect::<Vec<_>>(), inner[..2]);
    }
}
