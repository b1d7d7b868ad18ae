//! Why a network cannot be made or used.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::Forward;
use crate::dhcp::Subnet;
use crate::link::LinkError;
use crate::nft::NftError;
use crate::ns::NamespaceError;

/// Why a network cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The network namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Something about an interface failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Something about nftables failed.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A file cannot be read or written.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was to be done, as in "cannot … /run/x".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A file has something else in it than was written.
    #[error("{} does not say what a network is: remove it, and the network is made anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// No name.
    #[error(
        "`{0}` cannot be a name here: write 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or a digit"
    )]
    Id(String),
    /// The interface of that name is someone else's.
    #[error(
        "there is an interface {name} that is not this network's: choose another name for the network, or remove it (`ip link del {name}`)"
    )]
    Taken {
        /// The name.
        name: String,
    },
    /// A subnet without room, or too large.
    #[error("{subnet} cannot be a network's subnet: choose a prefix length from 8 to 30, 24 as a rule")]
    Size {
        /// The subnet.
        subnet: Subnet,
    },
    /// The host uses the subnet.
    #[error("{subnet} collides with {with}: choose another subnet, or none so that a free one is found")]
    Collides {
        /// The subnet.
        subnet: Subnet,
        /// What the host has there.
        with: String,
    },
    /// The host uses all that could be.
    #[error(
        "the host has routes to all private subnets that are tried, the last one collides with {with}: name a subnet that is free"
    )]
    NoSubnet {
        /// What the host has there.
        with: String,
    },
    /// The network has another subnet and is used.
    #[error(
        "the network {name} has the subnet {subnet} and cannot get {wanted} while it is used by {users}: stop them first, or give the new network another name"
    )]
    InUse {
        /// The network.
        name: String,
        /// What it has.
        subnet: Subnet,
        /// What was asked for.
        wanted: Subnet,
        /// Who uses it.
        users: String,
    },
    /// The guest's side of a forwarded port is not in the network.
    #[error("the port cannot be forwarded ({forward}): {} is no guest's address in {subnet}", forward.guest_ip)]
    Outside {
        /// The port.
        forward: Forward,
        /// The network's addresses.
        subnet: Subnet,
    },
    /// A user asks for a port twice.
    #[error("the port is to be forwarded twice ({forward}): leave one of them out")]
    Twice {
        /// The port.
        forward: Forward,
    },
    /// The port is forwarded to another user.
    #[error(
        "the port cannot be forwarded ({forward}): it leads to {user} on {network} already; choose another port"
    )]
    Forwarded {
        /// The port.
        forward: Forward,
        /// Who has it.
        user: String,
        /// On which network.
        network: String,
    },
    /// A program on the host listens on the port.
    #[error(
        "the port cannot be forwarded ({forward}): a program on this host listens there (`ss -lnp` says which); stop it or choose another port"
    )]
    Listening {
        /// The port.
        forward: Forward,
    },
    /// The address is not the host's.
    #[error(
        "the port cannot be forwarded ({forward}): {address} is not an address of this host; 0.0.0.0 means all that are"
    )]
    NotHere {
        /// The port.
        forward: Forward,
        /// The address.
        address: Ipv4Addr,
    },
    /// Whether the port is free cannot be found out.
    #[error("the port cannot be forwarded ({forward})")]
    Port {
        /// The port.
        forward: Forward,
        /// The reason.
        #[source]
        source: io::Error,
    },
}
