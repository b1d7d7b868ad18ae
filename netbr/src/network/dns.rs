//! Which name servers guests are told.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::NatError;
use crate::Namespace;

/// The resolver's file (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The servers that systemd-resolved asks, where the other file names its stub only (systemd-resolved.service(8), "/etc/resolv.conf").
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Which name servers guests are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsChoice {
    /// Those that the host asks itself, when the network is made or made sure.
    #[default]
    Host,
    /// These.
    Servers(Vec<Ipv4Addr>),
    /// None.
    None,
}

impl DnsChoice {
    pub(super) fn servers(&self, namespace: &Namespace) -> Result<Vec<Ipv4Addr>, NatError> {
        let read = |path: &'static str| match namespace.run(|| fs::read_to_string(Path::new(path)))? {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(NatError::File { operation: "read", path: path.into(), source }),
        };
        match self {
            Self::Host => {
                let servers = resolvers(&read(RESOLV_CONF)?, || read(BEHIND_STUB))?;
                if servers.is_empty() {
                    tracing::warn!(
                        "the host names no name server that guests could reach, so they are told none"
                    );
                }
                Ok(servers)
            }
            Self::Servers(servers) => Ok(servers.clone()),
            Self::None => Ok(Vec::new()),
        }
    }
}

/// The name servers of a resolv.conf(5) that guests can reach by IPv4, in their order.
///
/// Loopback addresses mean the host itself: when there are no others, as with systemd-resolved's stub, the servers in the text that
/// `behind_stub` gives are taken.
pub fn resolvers<E>(
    resolv_conf: &str,
    behind_stub: impl FnOnce() -> Result<String, E>,
) -> Result<Vec<Ipv4Addr>, E> {
    let servers = |text: &str| -> Vec<Ipv4Addr> {
        let lines = text.lines().map(str::split_whitespace);
        let values = lines
            .filter_map(|mut words| (words.next() == Some("nameserver")).then(|| words.next()).flatten());
        let addresses = values.filter_map(|value| value.parse::<IpAddr>().ok());
        addresses
            .filter_map(|address| match address {
                IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_unspecified() => Some(v4),
                _ => None,
            })
            .collect()
    };
    let direct = servers(resolv_conf);
    if direct.is_empty() { Ok(servers(&behind_stub()?)) } else { Ok(direct) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(resolv_conf: &str, behind: &str) -> Vec<String> {
        let servers = resolvers(resolv_conf, || Ok::<_, ()>(behind.to_owned())).unwrap();
        servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_are_taken_in_order() {
        let text = "# a comment\nsearch home\nnameserver 192.168.1.1\nnameserver fe80::1%eth0\n nameserver\t9.9.9.9 \nnameserver\n";
        assert_eq!(found(text, "nameserver 1.1.1.1"), ["192.168.1.1", "9.9.9.9"]);
    }

    #[test]
    fn a_stub_is_replaced_by_what_is_behind_it() {
        assert_eq!(
            found("nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.168.1.1\n"),
            ["192.168.1.1"]
        );
        assert_eq!(found("nameserver 127.0.0.1\nnameserver 9.9.9.9\n", "nameserver 1.1.1.1\n"), ["9.9.9.9"]);
        assert!(found("nameserver 127.0.0.53\n", "").is_empty());
        assert!(found("", "").is_empty());
    }
}
