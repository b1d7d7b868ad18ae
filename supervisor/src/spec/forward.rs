//! Ports of the host that lead into a guest.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One forwarded TCP port, written `HOST:GUEST` or `ADDRESS:HOST:GUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Address of the host to listen on; only its own processes reach the default, 127.0.0.1.
    #[serde(default = "localhost")]
    pub address: Ipv4Addr,
    /// Port on the host, 1 to 65535.
    pub host: u16,
    /// Port in the guest, 1 to 65535.
    pub guest: u16,
}

/// Why a text is no forwarded port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Not two or three parts.
    #[error(
        "`{0}` is not a forwarded port: write HOST:GUEST or ADDRESS:HOST:GUEST, such as 8080:80 or 0.0.0.0:8080:80"
    )]
    Form(String),
    /// The address is none.
    #[error(
        "`{0}` is not an IPv4 address: write it as in 127.0.0.1 (this host only) or 0.0.0.0 (every address of it)"
    )]
    Address(String),
    /// A port is none.
    #[error("`{0}` is not a TCP port: write a number from 1 to 65535")]
    Port(String),
}

/// Loopback: what is not asked for is not offered to the network.
pub(super) const fn localhost() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

impl Forward {
    /// Whether the two cannot listen at the same time.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        self.host == other.host
            && (self.address == other.address
                || self.address.is_unspecified()
                || other.address.is_unspecified())
    }
}

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (address, host, guest) = match parts[..] {
            [host, guest] => (localhost(), host, guest),
            [address, host, guest] => {
                (address.parse().map_err(|_| ForwardError::Address(address.to_owned()))?, host, guest)
            }
            _ => return Err(ForwardError::Form(text.to_owned())),
        };
        Ok(Self { address, host: port(host)?, guest: port(guest)? })
    }
}

fn port(text: &str) -> Result<u16, ForwardError> {
    match text.parse() {
        // `parse` would take a sign.
        Ok(port) if port != 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(ForwardError::Port(text.to_owned())),
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address != localhost() {
            write!(f, "{}:", self.address)?;
        }
        write!(f, "{}:{}", self.host, self.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forward(text: &str) -> Forward {
        text.parse().unwrap()
    }

    #[test]
    fn the_default_address_is_loopback() {
        assert_eq!(forward("8080:80"), Forward { address: Ipv4Addr::LOCALHOST, host: 8080, guest: 80 });
        assert_eq!(forward("0.0.0.0:8080:80").address, Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn each_wrong_part_has_its_own_words() {
        assert_eq!("8080".parse::<Forward>(), Err(ForwardError::Form("8080".into())));
        assert_eq!("a:b:c:d".parse::<Forward>(), Err(ForwardError::Form("a:b:c:d".into())));
        assert_eq!("localhost:1:2".parse::<Forward>(), Err(ForwardError::Address("localhost".into())));
        for port in ["0", "65536", "+80", "", "http"] {
            assert_eq!(format!("{port}:80").parse::<Forward>(), Err(ForwardError::Port(port.into())));
        }
    }

    #[test]
    fn one_host_port_serves_one_forward() {
        assert!(forward("8080:80").collides(&forward("8080:81")));
        assert!(forward("0.0.0.0:8080:80").collides(&forward("8080:81")));
        assert!(!forward("127.0.0.2:8080:80").collides(&forward("8080:80")));
        assert!(!forward("8081:80").collides(&forward("8080:80")));
    }

    proptest! {
        #[test]
        fn text_round_trips(address: Ipv4Addr, host in 1u16.., guest in 1u16..) {
            let forward = Forward { address, host, guest };
            prop_assert_eq!(forward.to_string().parse(), Ok(forward));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.:a+ ]{0,24}") {
            let _ = text.parse::<Forward>();
        }
    }
}
