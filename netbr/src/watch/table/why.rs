//! Why a guest has no address.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::entry::Standing;
use super::{Address, Table};
use crate::Mac;

/// What the owner of a port knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Whether the guest runs.
    pub running: bool,
    /// Whether the port's link is up: for a tap, whether a machine has it open.
    pub link_up: bool,
}

/// What kind of address is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Want {
    /// Any.
    #[default]
    Any,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Want {
    /// Whether an address is of the kind.
    #[must_use]
    pub const fn fits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

/// Why there is no address that can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum NoAddress {
    /// The guest does not run.
    NotRunning,
    /// Its network interface is not connected to the port.
    NoLink,
    /// It has not asked for an address.
    NoDhcpRequest {
        /// Whether it has sent anything else that tells of a network: it may use a fixed address, or just have come up.
        heard: bool,
    },
    /// It has asked, and got none.
    NoDhcpAnswer {
        /// How often it asked since the last answer.
        requests: u32,
        /// A server offered an address and did not give it then.
        offered: bool,
        /// A server refused the address that it wanted.
        refused: bool,
    },
    /// Another station has the address that it was to have.
    AddressConflict {
        /// The address.
        address: IpAddr,
        /// The other station, if it was seen.
        other: Option<Mac>,
    },
    /// It was given an address, or had one, and does not answer for it.
    Unreachable {
        /// The address.
        address: IpAddr,
    },
}

/// What is likely behind it, for a check of the host to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LikelyCause {
    /// The guest is still booting.
    Booting,
    /// The guest has no driver for its network interface, or does not use it.
    NoDriver,
    /// The guest has a static address and is silent: ask it.
    StaticAddress,
    /// Docker sets the policy of the FORWARD chain to DROP.
    DockerForwardDrop,
    /// Bridged frames go through iptables (`br_netfilter`).
    BridgeNetfilter,
    /// The bridge's uplink is Wi-Fi, whose access point drops frames with the guest's MAC.
    WifiUplink,
    /// The switch lets only so many MACs through a port.
    PortSecurity,
    /// Nobody on the network answers DHCP.
    NoServer,
    /// The server has no address left, or none for this MAC.
    PoolExhausted,
    /// Two machines were cloned with one MAC.
    DuplicateMac,
    /// Two machines have one static address, or one of them lies within the server's pool.
    DuplicateAddress,
    /// The guest's firewall, or the guest hangs.
    GuestSilent,
}

impl NoAddress {
    /// Its name: what a program tells it by.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::NoLink => "no-link",
            Self::NoDhcpRequest { .. } => "no-dhcp-request",
            Self::NoDhcpAnswer { .. } => "no-dhcp-answer",
            Self::AddressConflict { .. } => "address-conflict",
            Self::Unreachable { .. } => "unreachable",
        }
    }

    /// What may be behind it, the likeliest first.
    #[must_use]
    pub const fn likely(&self) -> &'static [LikelyCause] {
        use LikelyCause as L;
        match self {
            Self::NotRunning => &[],
            Self::NoLink => &[L::Booting],
            Self::NoDhcpRequest { heard: false } => &[L::Booting, L::NoDriver, L::StaticAddress],
            Self::NoDhcpRequest { heard: true } => &[L::StaticAddress, L::Booting],
            Self::NoDhcpAnswer { refused: true, .. } | Self::NoDhcpAnswer { offered: true, .. } => {
                &[L::PoolExhausted]
            }
            Self::NoDhcpAnswer { .. } => {
                &[L::DockerForwardDrop, L::BridgeNetfilter, L::WifiUplink, L::PortSecurity, L::NoServer]
            }
            Self::AddressConflict { .. } => &[L::DuplicateMac, L::DuplicateAddress],
            Self::Unreachable { .. } => &[L::GuestSilent, L::Booting],
        }
    }
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => f.write_str("the guest is not running"),
            Self::NoLink => f.write_str("the guest's network interface is not connected"),
            Self::NoDhcpRequest { heard: false } => {
                f.write_str("the guest has not asked for an address by DHCP, nor sent anything else yet")
            }
            Self::NoDhcpRequest { heard: true } => {
                f.write_str("the guest is on the network, but has not asked for an address by DHCP")
            }
            Self::NoDhcpAnswer { refused: true, .. } => {
                f.write_str("a DHCP server refused the address that the guest wanted, and gave no other")
            }
            Self::NoDhcpAnswer { offered: true, .. } => {
                f.write_str("a DHCP server offered the guest an address, but did not give it")
            }
            Self::NoDhcpAnswer { requests: 1, .. } => {
                f.write_str("the guest asked for an address by DHCP, and nobody answered")
            }
            Self::NoDhcpAnswer { requests, .. } => {
                write!(f, "the guest asked {requests} times for an address by DHCP, and nobody answered")
            }
            Self::AddressConflict { address, other: Some(other) } => {
                write!(f, "another machine, {other}, uses the guest's address {address}")
            }
            Self::AddressConflict { address, other: None } => {
                write!(f, "the guest found its address {address} in use by another machine")
            }
            Self::Unreachable { address } => {
                write!(f, "the guest should have the address {address}, but does not answer for it")
            }
        }
    }
}

impl Table {
    /// Why there is no address of a kind that is confirmed and means something beyond the link; nothing if there is one.
    #[must_use]
    pub fn why(&self, port: Port, want: Want) -> Option<NoAddress> {
        let fits = |address: &Address| want.fits(address.address) && !address.is_link_local();
        if !port.running {
            return Some(NoAddress::NotRunning);
        }
        let held = self.addresses();
        if held.iter().any(|address| fits(address) && address.confirmed) {
            return None;
        }
        if !port.link_up {
            return Some(NoAddress::NoLink);
        }
        let disputed = self.entries.iter().find_map(|entry| match entry.standing {
            Standing::Disputed { other, .. } => Some((entry.known.address, Some(other))),
            Standing::Tentative { .. } | Standing::Held => None,
        });
        if let Some((address, other)) = disputed.or(self.disputed).filter(|(address, _)| want.fits(*address))
        {
            return Some(NoAddress::AddressConflict { address, other });
        }
        if let Some(address) = held.iter().find(|address| fits(address)) {
            return Some(NoAddress::Unreachable { address: address.address });
        }
        let dhcp = self.dhcp;
        if dhcp.requests > 0 || dhcp.offered || dhcp.refused {
            let (offered, refused) = (dhcp.offered, dhcp.refused);
            return Some(NoAddress::NoDhcpAnswer { requests: dhcp.requests, offered, refused });
        }
        Some(NoAddress::NoDhcpRequest { heard: self.heard.is_some() })
    }
}
