//! Networks in words, as on the command line: `bridge=br0,mac=52:54:00:12:34:56`, `nat,ip=10.77.0.9`, `user`, `none`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{Mac, Net};

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
    #[error("`{0}` is no setting of a network: known are mac=ADDRESS and, with nat, ip=ADDRESS")]
    Setting(String),
    /// A MAC that is none.
    #[error(transparent)]
    Mac(#[from] netbr::MacError),
    /// An IPv4 address that is none.
    #[error("`{0}` is not an IPv4 address")]
    Address(String),
    /// Only midge's own networks give addresses.
    #[error(
        "ip= works with nat only: on other networks their own DHCP server gives the addresses; reserve one for the MAC there"
    )]
    ForeignAddress,
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
        let kind = words.next().unwrap_or_default();
        let (mut mac, mut ip) = (None, None);
        for word in words {
            match word.split_once('=') {
                Some(("mac", value)) => mac = Some(value.parse::<Mac>()?),
                Some(("ip", value)) => {
                    ip = Some(value.parse::<Ipv4Addr>().map_err(|_| NetError::Address(value.to_owned()))?);
                }
                _ => return Err(NetError::Setting(word.to_owned())),
            }
        }
        if ip.is_some() && kind != "nat" {
            return Err(NetError::ForeignAddress);
        }
        match kind.split_once('=').unwrap_or((kind, "")) {
            ("bridge", "") => Err(NetError::Nameless),
            ("bridge", bridge) => {
                check_interface(bridge)?;
                Ok(Self::Bridge { bridge: bridge.to_owned(), mac })
            }
            ("nat", "") => Ok(Self::Nat { forwards: Vec::new(), mac, ip }),
            ("user", "") => Ok(Self::User { forwards: Vec::new(), mac }),
            ("none", "") => Ok(Self::None { mac }),
            _ => Err(NetError::Kind(kind.to_owned())),
        }
    }
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
        if let Self::Nat { ip: Some(ip), .. } = self {
            write!(f, ",ip={ip}")?;
        }
        Ok(())
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
        assert_eq!(wrong("bridge=br0,ip=10.0.0.1"), NetError::ForeignAddress);
        assert!(matches!(wrong("user,mac=01:00:5e:00:00:01"), NetError::Mac(_)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = text.parse::<Net>();
        }
    }
}
