//! A lease as its holder knows it.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::super::message::Datagram;
use super::super::options::{Options, code};
use super::super::subnet::{Route, Subnet};
use super::super::unix_seconds;
use crate::Mac;

/// The lease time that never ends (RFC 2131, 3.3).
const FOR_EVER: u32 = u32::MAX;

/// A lease. It can be kept and given to another process, which then renews or releases it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
    /// The length of its subnet's prefix.
    pub prefix: u8,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// The interface that its answer came from: the server's, or that of the router before it.
    pub server_mac: Mac,
    /// Default gateways, the preferred one first.
    pub routers: Vec<Ipv4Addr>,
    /// Routes with prefixes (RFC 3442). Where there are any, `routers` does not count.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The domain in which names are completed.
    pub domain: Option<String>,
    /// The link's MTU in bytes.
    pub mtu: Option<u16>,
    /// When it was given or last renewed, in seconds since 1970.
    pub obtained: u64,
    /// Seconds that it lasts from then.
    pub lasts: u32,
    /// Seconds after which it is renewed, T1.
    pub renew_after: u32,
    /// Seconds after which any server is asked, T2.
    pub rebind_after: u32,
}

impl Lease {
    /// Reads what a server offers or gives; nothing where that is no lease.
    pub(super) fn read(answer: &Datagram, now: SystemTime) -> Option<Self> {
        let Datagram { message, ether_source, .. } = answer;
        let options = &message.options;
        let address = message.yiaddr;
        let unusable = address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
            || address.is_loopback();
        let lasts = options.long(code::LEASE_TIME).filter(|seconds| *seconds > 0)?;
        if unusable {
            return None;
        }
        let mask = options.address(code::SUBNET_MASK).unwrap_or(class_mask(address)).to_bits();
        // T1 < T2 < end, or else the usual parts of the whole (RFC 2131, 4.4.5).
        let times = options.long(code::RENEWAL).zip(options.long(code::REBINDING));
        let (renew_after, rebind_after) = times
            .filter(|(t1, t2)| 0 < *t1 && t1 < t2 && *t2 < lasts)
            .unwrap_or(((lasts / 2).max(1), lasts - lasts / 8));
        Some(Self {
            mac: message.chaddr,
            address,
            prefix: u8::try_from(mask.leading_ones()).unwrap_or(32),
            server: options.address(code::SERVER_IDENTIFIER)?,
            server_mac: Mac::try_from(*ether_source).ok()?,
            routers: options.addresses(code::ROUTER),
            routes: classless_routes(options),
            dns: options.addresses(code::DNS),
            domain: options.text(code::DOMAIN).map(str::to_owned),
            mtu: options.short(code::MTU).filter(|mtu| *mtu >= 68),
            obtained: unix_seconds(now),
            lasts,
            renew_after,
            rebind_after,
        })
    }

    /// When it ends; nothing for a lease that does not.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        let ends = self.obtained.checked_add(self.lasts.into())?;
        (self.lasts != FOR_EVER).then(|| UNIX_EPOCH.checked_add(Duration::from_secs(ends)))?
    }

    /// The three times, counted from when it was obtained; nothing for a lease that does not end.
    pub(super) fn times(&self) -> Option<[Duration; 3]> {
        let times = [self.renew_after, self.rebind_after, self.lasts];
        (self.lasts != FOR_EVER).then(|| times.map(|seconds| Duration::from_secs(seconds.into())))
    }
}

/// Option 121; nothing where it is malformed.
fn classless_routes(options: &Options) -> Vec<Route> {
    let mut rest = options.get(code::CLASSLESS_ROUTES).unwrap_or_default();
    let mut routes = Vec::new();
    while let Some((&prefix, more)) = rest.split_first() {
        let significant = usize::from(prefix).div_ceil(8);
        let Some((base, more)) = more.split_at_checked(significant).filter(|_| prefix <= 32) else {
            return Vec::new();
        };
        let Some((via, more)) = more.split_first_chunk::<4>() else { return Vec::new() };
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(base);
        routes.push(Route { to: Subnet::of(octets.into(), prefix), via: (*via).into() });
        rest = more;
    }
    routes
}

/// The mask of an address whose server tells none (RFC 791, 3.2).
const fn class_mask(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets()[0] {
        0..128 => Ipv4Addr::new(255, 0, 0, 0),
        128..192 => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}
