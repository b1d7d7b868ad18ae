//! What a server tells its owner.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use super::super::leases::Refusal;
use crate::Mac;

/// What a server did or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An address was offered.
    Offered {
        /// The client.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// A lease was given or made longer.
    Bound {
        /// The client.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
        /// When it ends.
        until: SystemTime,
        /// On which occasion.
        occasion: Occasion,
    },
    /// A client was told to begin anew.
    Refused {
        /// The client.
        mac: Mac,
        /// What it wanted.
        address: Ipv4Addr,
        /// Why not.
        why: &'static str,
    },
    /// A client found that something else uses its address.
    Declined {
        /// The client.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// A probe found that something else uses an address.
    Conflict {
        /// The client that was to have it.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
        /// Who answered for it.
        holder: Mac,
    },
    /// A lease was given back.
    Released {
        /// The client.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// A client with an address of its own was told the rest.
    Informed {
        /// The client.
        mac: Mac,
        /// Its address.
        address: Ipv4Addr,
    },
    /// There is no address for a client.
    NoAddress {
        /// The client.
        mac: Mac,
        /// Why, and what to do.
        why: Refusal,
    },
    /// The reply was too long for what the client takes.
    LeftOut {
        /// The client.
        mac: Mac,
        /// The options' codes.
        codes: Vec<u8>,
    },
    /// A message was not answered.
    Ignored {
        /// The client.
        mac: Mac,
        /// Why not.
        why: Ignored,
    },
}

/// On which occasion a lease was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Asked for in the first message.
    RapidCommit,
    /// An offer was taken.
    Selecting,
    /// A client came back with the address that it had.
    Reboot,
    /// A lease was made longer by its server.
    Renewing,
    /// A lease was made longer by whoever answered.
    Rebinding,
    /// A client went on with an address of which nothing was known any more.
    Adopted,
}

/// Why a message was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It came through a relay.
    Relayed(Ipv4Addr),
    /// It has no message type.
    Bootp,
    /// It is no client's message.
    Kind(u8),
    /// Another server is meant.
    OtherServer(Ipv4Addr),
    /// It lacks what its kind must have.
    Incomplete,
    /// A client remembers a lease of which nothing is known here (RFC 2131, 4.3.2: stay silent).
    Unknown(Ipv4Addr),
    /// It speaks of an address that is not the client's.
    NotItsAddress(Ipv4Addr),
    /// The client is not served here.
    Stranger,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offered { mac, address } => write!(f, "offered {address} to {mac}"),
            Self::Bound { mac, address, occasion, .. } => write!(f, "{mac} has {address} ({occasion})"),
            Self::Refused { mac, address, why } => write!(f, "refused {mac} {address}: {why}"),
            Self::Declined { mac, address } => write!(f, "{mac} found {address} in use"),
            Self::Conflict { mac, address, holder } => {
                write!(f, "{holder} uses {address}, which was meant for {mac}")
            }
            Self::Released { mac, address } => write!(f, "{mac} gave {address} back"),
            Self::Informed { mac, address } => write!(f, "told {mac} at {address} the network's parameters"),
            Self::NoAddress { mac, why } => write!(f, "no address for {mac}: {why}"),
            Self::LeftOut { mac, codes } => {
                write!(f, "options {codes:?} found no room in what {mac} takes")
            }
            Self::Ignored { mac, why } => write!(f, "ignored {mac}: {why}"),
        }
    }
}

impl fmt::Display for Occasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RapidCommit => "rapid commit",
            Self::Selecting => "new",
            Self::Reboot => "came back",
            Self::Renewing => "renewed",
            Self::Rebinding => "renewed by asking everybody",
            Self::Adopted => "went on with it, its lease was unknown",
        })
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relayed(relay) => write!(f, "its message came through the relay {relay}"),
            Self::Bootp => f.write_str("its message is BOOTP without a DHCP message type"),
            Self::Kind(kind) => write!(f, "a client sends no message of type {kind}"),
            Self::OtherServer(server) => write!(f, "it speaks to the server {server}"),
            Self::Incomplete => f.write_str("its message lacks an address"),
            Self::Unknown(address) => write!(f, "it remembers {address}, of which nothing is known here"),
            Self::NotItsAddress(address) => write!(f, "it speaks of {address}, which is not its own"),
            Self::Stranger => f.write_str("it is not the guest of this port"),
        }
    }
}
