//! An interface's own IPv4 address, in words: `192.168.1.50/24`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use netbr::dhcp::Subnet;
use serde::{Deserialize, Serialize};

/// An IPv4 address that a guest gives to an interface of its own, and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InterfaceAddress {
    address: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address of an interface: write an IPv4 address and the length of its network's prefix, such as \
     192.168.1.50/24"
)]
pub struct InterfaceAddressError(String);

impl InterfaceAddress {
    /// The address alone.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The network that it lies in.
    #[must_use]
    pub const fn subnet(self) -> Subnet {
        Subnet::of(self.address, self.prefix)
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for InterfaceAddress {
    type Err = InterfaceAddressError;

    fn from_str(text: &str) -> Result<Self, InterfaceAddressError> {
        let parse = || {
            let (address, _) = text.split_once('/')?;
            let (address, subnet) = (address.parse::<Ipv4Addr>().ok()?, text.parse::<Subnet>().ok()?);
            // Addresses of everybody, of nobody and of this machine itself are those of no interface.
            let usable = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
            let usable = usable && subnet.prefix() > 0 && subnet.is_host(address);
            usable.then(|| Self { address, prefix: subnet.prefix() })
        };
        parse().ok_or_else(|| InterfaceAddressError(text.to_owned()))
    }
}

impl From<InterfaceAddress> for String {
    fn from(address: InterfaceAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for InterfaceAddress {
    type Error = InterfaceAddressError;

    fn try_from(text: String) -> Result<Self, InterfaceAddressError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_an_interface_can_have() {
        for text in ["192.168.1.50/24", "10.0.0.1/8", "10.0.0.0/31", "10.0.0.7/32"] {
            let address: InterfaceAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(serde_json::to_value(address).unwrap(), text);
        }
        let wrong = [
            "",
            "192.168.1.50",
            "192.168.1.0/24",
            "192.168.1.255/24",
            "192.168.1.50/33",
            "192.168.1.50/0",
            "192.168.1.50/-1",
            "224.0.0.1/4",
            "127.0.0.1/8",
            "0.0.0.0/32",
            "::1/64",
            "192.168.1.50/24/24",
        ];
        for text in wrong {
            assert_eq!(text.parse::<InterfaceAddress>(), Err(InterfaceAddressError(text.to_owned())));
        }
    }
}
