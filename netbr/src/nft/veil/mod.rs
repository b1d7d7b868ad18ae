//! Veils: guests with one identity on one bridge.
//!
//! Clones of a running guest go on with its MAC and its addresses. A veil on a clone's port gives it others without its knowing: what
//! the guest calls its *inner* identity is its *outer* one on the bridge. The rewriting keeps no state, so a connection neither ages nor
//! is it lost when the veil is replaced.
//!
//! The two identities are *exchanged*, in all frames and in both directions: inside, the name of what really has the inner identity
//! (the guest that was cloned, perhaps) is the outer one. So a clone and its original can talk, a frame for the original that the bridge
//! floods is not taken for the clone's own, and the guest never sees another machine with its own address, which it would take for
//! a conflict. Clones see each other by their outer addresses.
//!
//! ```text
//!           frames of the guest                      frames for the guest
//!   tap ──▶ packet sockets ──▶ ingress ──▶ bridge ──▶ egress ──▶ packet sockets ──▶ tap
//!                              drop DHCP              exchange
//!                              exchange
//! ```
//!
//! Packet sockets on the port see the guest's own, inner identity in both directions. What they send passes `egress`, also with
//! `PACKET_QDISC_BYPASS` (`packet_xmit` in net/packet/af_packet.c); a socket with [`MARK`] is let past it and speaks with the guest by
//! its inner identity.
//!
//! # What is rewritten
//!
//! - Ethernet: source and destination, of all frames.
//! - ARP and reverse ARP: sender and target, so announcements and probes as well.
//! - IPv4: source and destination, and those of the packet that an ICMP error is about.
//! - IPv6: source and destination, and those of the packet that an ICMPv6 error is about; the target and the link-layer address of
//!   neighbour solicitations and advertisements, the group that a solicitation is sent to (RFC 4291, 2.7.1); the link-layer address of
//!   router solicitations; the groups in MLD reports. Besides the addresses that are given, all whose interface identifier comes from
//!   the MAC (EUI-64; RFC 4291, appendix A): the link-local one and those that a router's prefix makes.
//! - Checksums of all those, also where they are left to the device, in frames that it is to cut (GSO), and in first fragments.
//!
//! A guest's DHCP and DHCPv6 requests (UDP ports 67 and 547) are dropped: the lease of the inner address is for whoever listens by
//! a packet socket on the port to renew.
//!
//! # What is not
//!
//! - Addresses inside of what applications say: mDNS answers, FTP, SIP. The checksums of DCCP, AH.
//! - IPv6 addresses that are neither given nor made from the MAC: temporary ones (RFC 8981) and those of RFC 7217. Clones that use such
//!   ones do not collide on the bridge only if their guests make new ones.
//! - The link-layer address in a router's redirects and behind other options of its advertisements; MLD reports' groups behind the
//!   eighth record or behind a record with sources. They matter to guests that are routers, or that join more groups than that.
//! - What lies within two VLAN tags or a tunnel: only Ethernet's addresses there.

mod identity;
mod rules;

use std::net::Ipv4Addr;

use super::{Family, Nft, NftError};

pub use identity::Identity;

/// What the tables' names begin with; the port's name follows. A table of its own for each port lets supervisors of guests raise and
/// lower theirs without knowing of each other.
const TABLE: &str = "midge-veil-";

/// The mark (`SO_MARK`, socket(7)) of sockets whose frames reach the guest as they are: "midg" in ASCII.
pub const MARK: u32 = 0x6d69_6467;

/// An exchange of identities on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veil {
    /// The name of the interface that the guest is behind: a tap.
    pub port: String,
    /// Who the guest takes itself for.
    pub inner: Identity,
    /// Who it is to all others. As many addresses of each kind as `inner` has, in the same order.
    pub outer: Identity,
}

/// Why a port has no veil.
#[derive(Debug, thiserror::Error)]
pub enum VeilError {
    /// One identity has an IPv4 address, the other has none.
    #[error(
        "the veil on {port} would give the IPv4 address {has} a counterpart, but there is none: name both or neither"
    )]
    Ipv4 {
        /// The port.
        port: String,
        /// The address that one of them has.
        has: Ipv4Addr,
    },
    /// The identities have different numbers of IPv6 addresses.
    #[error(
        "the veil on {port} has {inner} inner and {outer} outer IPv6 addresses: each inner one needs its outer one"
    )]
    Ipv6 {
        /// The port.
        port: String,
        /// How many the guest has.
        inner: usize,
        /// How many there are for them.
        outer: usize,
    },
    /// An address stands for two others.
    #[error("the veil on {port} names {address} twice: each address can stand for one other")]
    Twice {
        /// The port.
        port: String,
        /// The address.
        address: std::net::Ipv6Addr,
    },
    /// The kernel did not do it.
    #[error("no veil on {port}")]
    Kernel {
        /// The port.
        port: String,
        /// The reason.
        #[source]
        source: NftError,
    },
}

impl Veil {
    /// Puts the veil on its port, in place of the one that is there if any. No frame passes by neither.
    ///
    /// The port must exist; whether it is up and in a bridge does not matter, so it can be veiled before the guest's first frame.
    pub fn raise(&self, nft: &mut Nft) -> Result<(), VeilError> {
        let table = rules::table(self)?;
        nft.put(&table).map_err(|source| VeilError::Kernel { port: self.port.clone(), source })
    }

    /// Takes the veil off its port.
    pub fn lower(&self, nft: &mut Nft) -> Result<(), VeilError> {
        lower(nft, &self.port)
    }
}

/// Takes the veil off a port. It is no error when there is none, or no such port.
///
/// This is needed even after the port has gone: Linux keeps the chains, and since 6.16 they are called again for a new interface of that
/// name.
pub fn lower(nft: &mut Nft, port: &str) -> Result<(), VeilError> {
    nft.remove(Family::Netdev, &format!("{TABLE}{port}"))
        .map_err(|source| VeilError::Kernel { port: port.to_owned(), source })
}

/// The names of the ports with a veil, among them such as have gone: those veils are to be lowered.
pub fn ports(nft: &mut Nft) -> Result<Vec<String>, NftError> {
    let tables = nft.tables(Family::Netdev)?;
    Ok(tables.iter().filter_map(|table| table.name.strip_prefix(TABLE)).map(str::to_owned).collect())
}
