//! Networks in words, as on the command line: `bridge=br0,mac=52:54:00:12:34:56`, `bridge=br0,ip=192.168.1.50/24`, `nat,ip=10.77.0.9`,
//! `user`, `none`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{InterfaceAddress, InterfaceAddressError, Mac, Net};

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// No such kind.
    #[error("`{0}` is no network: write bridge=NAME, nat, user or none")]
    Kind(String),
    /// A bridge needs a name.
    #[error("which bridge? write bridge=NAME, such as bridge=br0 (`midge net ls` lists those of this host)")]
    Nameless,
    /// The kernel would not take this name.
    #[error("`{0}` is no name of an interface: 1 to 15 characters, no space, `/` or `:`")]
    Name(String),
    /// No such setting.
    #[error(
        "`{0}` is no setting of this network: known are mac=ADDRESS; with nat ip=ADDRESS; with a bridge ip=ADDRESS/PREFIX, \
         gateway=ADDRESS and dns=ADDRESS"
    )]
    Setting(String),
    /// A MAC that is none.
    #[error(transparent)]
    Mac(#[from] netbr::MacError),
    /// An IPv4 address that is none.
    #[error("`{0}` is not an IPv4 address")]
    Address(String),
    /// An address of an interface that is none.
    #[error(transparent)]
    InterfaceAddress(#[from] InterfaceAddressError),
    /// What only a guest with a fixed address is told.
    #[error("{0}= goes with ip=: without a fixed address the network's DHCP server tells the guest")]
    WithoutAddress(&'static str),
    /// A router that the guest could not reach.
    #[error("the gateway {gateway} is not a host's address in the network of {ip}, or it is the guest's own")]
    Gateway {
        /// The router.
        gateway: Ipv4Addr,
        /// The guest's address.
        ip: InterfaceAddress,
    },
}

/// Whether a guest can have these on one interface; else which of the three is wrong and why.
pub(super) fn check_address(
    ip: Option<InterfaceAddress>,
    gateway: Option<Ipv4Addr>,
    dns: &[Ipv4Addr],
) -> Result<(), (&'static str, NetError)> {
    let unusable = |server: &&Ipv4Addr| server.is_unspecified() || server.is_multicast();
    if let Some(server) = dns.iter().find(unusable) {
        return Err(("dns", NetError::Address(server.to_string())));
    }
    match (ip, gateway) {
        (None, Some(_)) => Err(("gateway", NetError::WithoutAddress("gateway"))),
        (None, None) if !dns.is_empty() => Err(("dns", NetError::WithoutAddress("dns"))),
        (Some(ip), Some(gateway)) if !ip.subnet().is_host(gateway) || gateway == ip.address() => {
            Err(("gateway", NetError::Gateway { gateway, ip }))
        }
        _ => Ok(()),
    }
}

/// Whether Linux takes this as the name of an interface (`dev_valid_name`, net/core/dev.c).
pub(super) fn check_interface(name: &str) -> Result<(), NetError> {
    // A comma would not survive the command line.
    let fine = netbr::link::check_name(name).is_ok() && !name.contains(|c: char| c == ',' || c.is_control());
    if fine { Ok(()) } else { Err(NetError::Name(name.to_owned())) }
}

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let mut words = text.split(',');
        let word = words.next().unwrap_or_default();
        let (kind, name) = word.split_once('=').unwrap_or((word, ""));
        if !["bridge", "nat", "user", "none"].contains(&kind) {
            return Err(NetError::Kind(word.to_owned()));
        }
        let (mut mac, mut ip, mut fixed, mut gateway, mut dns) = (None, None, None, None, Vec::new());
        for word in words {
            match (kind, word.split_once('=')) {
                (_, Some(("mac", value))) => mac = Some(value.parse::<Mac>()?),
                ("nat", Some(("ip", value))) => ip = Some(ipv4(value)?),
                ("bridge", Some(("ip", value))) => fixed = Some(value.parse::<InterfaceAddress>()?),
                ("bridge", Some(("gateway", value))) => gateway = Some(ipv4(value)?),
                ("bridge", Some(("dns", value))) => dns.push(ipv4(value)?),
                _ => return Err(NetError::Setting(word.to_owned())),
            }
        }
        match (kind, name) {
            ("bridge", "") => Err(NetError::Nameless),
            ("bridge", bridge) => {
                check_interface(bridge)?;
                check_address(fixed, gateway, &dns).map_err(|(_, problem)| problem)?;
                Ok(Self::Bridge { bridge: bridge.to_owned(), mac, ip: fixed, gateway, dns })
            }
            ("nat", "") => Ok(Self::Nat { forwards: Vec::new(), mac, ip }),
            ("user", "") => Ok(Self::User { forwards: Vec::new(), mac }),
            ("none", "") => Ok(Self::None { mac }),
            _ => Err(NetError::Kind(word.to_owned())),
        }
    }
}

fn ipv4(text: &str) -> Result<Ipv4Addr, NetError> {
    text.parse().map_err(|_| NetError::Address(text.to_owned()))
}

impl fmt::Display for Net {
    /// As [`FromStr`] reads it; forwarded ports are not part of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { .. } => f.write_str("user")?,
            Self::Bridge { bridge, .. } => write!(f, "bridge={bridge}")?,
            Self::Nat { .. } => f.write_str("nat")?,
            Self::None { .. } => f.write_str("none")?,
        }
        if let Some(mac) = self.mac() {
            write!(f, ",mac={mac}")?;
        }
        match self {
            Self::Nat { ip: Some(ip), .. } => write!(f, ",ip={ip}"),
            Self::Bridge { ip: Some(ip), gateway, dns, .. } => {
                write!(f, ",ip={ip}")?;
                gateway.iter().try_for_each(|gateway| write!(f, ",gateway={gateway}"))?;
                dns.iter().try_for_each(|server| write!(f, ",dns={server}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_is_read_and_written() {
        for text in [
            "user",
            "none",
            "nat",
            "bridge=br0",
            "bridge=br-lan.7,mac=52:54:00:12:34:56",
            "nat,mac=52:54:00:12:34:56,ip=10.77.0.9",
            "bridge=br0,ip=192.168.1.50/24",
            "bridge=br0,mac=52:54:00:12:34:56,ip=192.168.1.50/24,gateway=192.168.1.1,dns=192.168.1.1,dns=9.9.9.9",
        ] {
            assert_eq!(text.parse::<Net>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text: &str| text.parse::<Net>().unwrap_err();
        assert_eq!(wrong("usr"), NetError::Kind("usr".to_owned()));
        assert_eq!(wrong("nat=x"), NetError::Kind("nat=x".to_owned()));
        assert_eq!(wrong("bridge"), NetError::Nameless);
        assert_eq!(wrong("bridge="), NetError::Nameless);
        assert_eq!(wrong("bridge=a/b"), NetError::Name("a/b".to_owned()));
        assert_eq!(wrong("bridge=sixteen-letters-"), NetError::Name("sixteen-letters-".to_owned()));
        assert_eq!(wrong("user,mtu=9"), NetError::Setting("mtu=9".to_owned()));
        assert_eq!(wrong("nat,ip=10.0.0"), NetError::Address("10.0.0".to_owned()));
        assert_eq!(wrong("user,ip=10.0.2.9/24"), NetError::Setting("ip=10.0.2.9/24".to_owned()));
        assert!(matches!(wrong("bridge=br0,ip=10.0.0.1"), NetError::InterfaceAddress(_)));
        assert_eq!(wrong("bridge=br0,gateway=10.0.0.1"), NetError::WithoutAddress("gateway"));
        assert_eq!(wrong("bridge=br0,dns=10.0.0.1"), NetError::WithoutAddress("dns"));
        for gateway in ["10.0.1.1", "10.0.0.1", "10.0.0.255"] {
            let error = wrong(&format!("bridge=br0,ip=10.0.0.1/24,gateway={gateway}"));
            assert!(matches!(error, NetError::Gateway { .. }), "{error}");
        }
        assert_eq!(wrong("bridge=br0,ip=10.0.0.1/24,dns=0.0.0.0"), NetError::Address("0.0.0.0".to_owned()));
        assert!(matches!(wrong("user,mac=01:00:5e:00:00:01"), NetError::Mac(_)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = text.parse::<Net>();
        }
    }
}
