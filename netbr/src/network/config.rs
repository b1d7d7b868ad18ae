//! What is asked for: names, subnets, forwarded ports.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::dns::DnsChoice;
use super::error::NatError;
use super::{Plan, User};
use crate::Mac;
use crate::dhcp::Subnet;
use crate::link::check_name;

/// How a network is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatConfig {
    /// Its name, which its bridge bears, too: a name of an interface.
    pub name: String,
    /// Its addresses, 4 at least; none for 256 that collide with nothing that the host knows.
    pub subnet: Option<Subnet>,
    /// The name servers that guests are told.
    pub dns: DnsChoice,
    /// The longest packet, in bytes; none for Ethernet's 1500.
    pub mtu: Option<u16>,
    /// The domain that guests are told.
    pub domain: Option<String>,
    /// Whether guests are kept from each other. It keeps routed packets and, with br_netfilter, bridged ones; whoever makes a
    /// guest's port must isolate that as well (`bridge link set … isolated on`).
    pub isolated: bool,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            name: "midge0".to_owned(),
            subnet: None,
            dns: DnsChoice::Host,
            mtu: None,
            domain: None,
            isolated: false,
        }
    }
}

impl NatConfig {
    pub(super) fn check(&self) -> Result<(), NatError> {
        check_name(&self.name)?;
        check_id(&self.name)?;
        // At most 30 bits: room for the router and a guest.
        match self.subnet.filter(|subnet| !(8..=30).contains(&subnet.prefix())) {
            Some(subnet) => Err(NatError::Size { subnet }),
            None => Ok(()),
        }
    }

    pub(super) fn plan(
        &self,
        subnet: Subnet,
        mac: Mac,
        switched_forwarding_on: bool,
        dns: Vec<Ipv4Addr>,
    ) -> Plan {
        Plan {
            name: self.name.clone(),
            subnet,
            router: Ipv4Addr::from_bits(subnet.base().to_bits() + 1),
            mac,
            dns,
            mtu: self.mtu,
            domain: self.domain.clone(),
            isolated: self.isolated,
            switched_forwarding_on,
        }
    }
}

/// A protocol whose ports can be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The address of the host that it is on; 0.0.0.0 for all, 127.0.0.1 for the host's own use only.
    pub host_addr: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The guest's address.
    pub guest_ip: Ipv4Addr,
    /// The guest's port.
    pub guest_port: u16,
}

impl Forward {
    /// The host's side.
    #[must_use]
    pub const fn host(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.host_addr, self.host_port)
    }

    /// The guest's side.
    #[must_use]
    pub const fn guest(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.guest_ip, self.guest_port)
    }

    /// Whether a packet could be meant for both.
    fn collides(&self, other: &Self) -> bool {
        let all = self.host_addr.is_unspecified() || other.host_addr.is_unspecified();
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (all || self.host_addr == other.host_addr)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.host(), self.guest())
    }
}

/// Names become names of files.
pub(super) fn check_id(id: &str) -> Result<(), NatError> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let begins = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && id.len() <= 64 && id.bytes().all(inside) { Ok(()) } else { Err(NatError::Id(id.to_owned())) }
}

/// Checks that no forwarded port of a user is another's, or twice its own. `everyone` is who uses which network, `user` among them or not.
pub(super) fn check_free(user: &User, everyone: &[(String, User)]) -> Result<(), NatError> {
    for (index, forward) in user.forwards.iter().enumerate() {
        if user.forwards[..index].iter().any(|earlier| earlier.collides(forward)) {
            return Err(NatError::Twice { forward: *forward });
        }
        for (network, other) in everyone.iter().filter(|(_, other)| other.id != user.id) {
            if other.forwards.iter().any(|theirs| theirs.collides(forward)) {
                let (user, network) = (other.id.clone(), network.clone());
                return Err(NatError::Forwarded { forward: *forward, user, network });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(host: &str) -> Forward {
        let host: SocketAddrV4 = host.parse().unwrap();
        Forward {
            protocol: Protocol::Tcp,
            host_addr: *host.ip(),
            host_port: host.port(),
            guest_ip: Ipv4Addr::new(10, 0, 0, 2),
            guest_port: 80,
        }
    }

    fn user(id: &str, hosts: &[&str]) -> User {
        User { id: id.to_owned(), forwards: hosts.iter().map(|host| forward(host)).collect() }
    }

    #[test]
    fn a_port_is_forwarded_to_one_user_only() {
        let others = [
            ("midge0".to_owned(), user("web", &["127.0.0.1:8080", "0.0.0.0:443"])),
            ("midge1".to_owned(), user("db", &["10.0.0.1:5432"])),
        ];
        assert!(check_free(&user("new", &["127.0.0.2:8080", "0.0.0.0:8081"]), &others).is_ok());
        assert!(check_free(&user("web", &["0.0.0.0:8080"]), &others).is_ok());
        for (wanted, holder) in [("0.0.0.0:8080", "web"), ("127.0.0.1:443", "web"), ("0.0.0.0:5432", "db")] {
            let error = check_free(&user("new", &[wanted]), &others).unwrap_err();
            assert!(matches!(&error, NatError::Forwarded { user, .. } if user == holder), "{error}");
        }
        assert!(matches!(
            check_free(&user("new", &["0.0.0.0:1", "127.0.0.1:1"]), &[]),
            Err(NatError::Twice { .. })
        ));
    }

    #[test]
    fn names_that_are_no_files_names_are_refused() {
        for id in ["", ".", "..", "a/b", "-a", "a b", &"a".repeat(65)] {
            assert!(check_id(id).is_err(), "{id}");
        }
        for id in ["a", "web-1", "5.x_y"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
    }
}
