//! Why somebody gets no address, or not the one that was meant.

use std::net::Ipv4Addr;

use super::super::subnet::Subnet;
use crate::Mac;

/// Why a MAC gets no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Every address is taken.
    #[error(
        "the pool {first}-{last} has {size} addresses and none left: {leased} leased or offered, {reserved} reserved, {avoided} in use \
         by something else; widen the pool, remove guests, or wait for a lease to end"
    )]
    Exhausted {
        /// The pool's lower end.
        first: Ipv4Addr,
        /// The pool's upper end.
        last: Ipv4Addr,
        /// Addresses that it has.
        size: u64,
        /// Of these, leased or held for an offer.
        leased: usize,
        /// Of these, reserved and not leased.
        reserved: usize,
        /// Of these, avoided.
        avoided: usize,
    },
    /// There is no pool, and none is reserved.
    #[error(
        "the network has no pool and no address reserved for {0}: reserve one, or give the network a pool"
    )]
    NoPool(Mac),
    /// The reserved one is used by something else.
    #[error("{address} is reserved for {mac}, but something else uses it: find that, or reserve another one")]
    ReservedInUse {
        /// The address.
        address: Ipv4Addr,
        /// For whom it is reserved.
        mac: Mac,
    },
    /// The reserved one cannot be a guest's in this network (any more).
    #[error(
        "{address} is reserved for {mac}, but cannot be a guest's address in {network}: reserve another one"
    )]
    ReservedOutside {
        /// The address.
        address: Ipv4Addr,
        /// For whom it is reserved.
        mac: Mac,
        /// The subnet.
        network: Subnet,
    },
}

/// Why an address cannot be reserved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// It cannot be a guest's in this network.
    #[error(
        "{address} cannot be a guest's address in {network}: choose one of its hosts' that is not the server's or the router's"
    )]
    Outside {
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        network: Subnet,
    },
    /// It is another one's already.
    #[error("{address} is reserved for {mac} already: choose another one, or end that reservation")]
    Reserved {
        /// The address.
        address: Ipv4Addr,
        /// Whose it is.
        mac: Mac,
    },
    /// It is leased.
    #[error(
        "{address} is leased to {mac} for {left} more seconds: choose another one, or stop that guest and forget its lease"
    )]
    Leased {
        /// The address.
        address: Ipv4Addr,
        /// Whose it is.
        mac: Mac,
        /// Seconds that are left.
        left: u64,
    },
}
