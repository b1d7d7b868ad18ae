//! Addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use serde::{Deserialize, Serialize};

use super::{LinkError, Links, failed, unless};

/// For ever, in `ifa_cacheinfo` of linux/if_addr.h.
const FOR_EVER: u32 = u32::MAX;

/// An address that an interface has or is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// How many bits of it name the network.
    pub prefix: u8,
    /// The other end of a point-to-point link, whose network the prefix then speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// The broadcast address, IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<Ipv4Addr>,
    /// How far it means something: 0 everywhere, 253 on this link, 254 on this host (`rtnetlink(7)`, RT_SCOPE_…).
    pub scope: u8,
    /// IFA_F_… of linux/if_addr.h.
    pub flags: u32,
    /// How long it holds; none for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Lifetime>,
}

/// How long an address still holds, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// Until the kernel removes it.
    pub valid: u32,
    /// Until new connections avoid it.
    pub preferred: u32,
}

impl Address {
    /// An address for ever, with the usual broadcast address where there is one.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let broadcast = match address {
            // RFC 3021: two addresses have no room for one.
            IpAddr::V4(v4) if prefix < 31 => Some(Ipv4Addr::from(u32::from(v4) | (u32::MAX >> prefix))),
            _ => None,
        };
        Self { address, prefix, peer: None, broadcast, scope: 0, flags: 0, lifetime: None }
    }

    /// Whether the kernel gives it by itself to an interface that comes up (RFC 4862, 5.3).
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        match self.address {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
    }

    fn read(message: AddressMessage) -> Option<(u32, Self)> {
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        let (mut local, mut remote, mut broadcast, mut lifetime) = (None, None, None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(address),
                AddressAttribute::Address(address) => remote = Some(address),
                AddressAttribute::Broadcast(address) => broadcast = Some(address),
                AddressAttribute::Flags(all) => flags = all,
                AddressAttribute::CacheInfo(times) if times.ifa_valid != FOR_EVER => {
                    lifetime = Some(Lifetime { valid: times.ifa_valid, preferred: times.ifa_preferred });
                }
                _ => {}
            }
        }
        // IPv4 always has both and they differ on a point-to-point link; IPv6 has a local one only there.
        let address = local.or(remote)?;
        Some((
            message.header.index,
            Self {
                address,
                prefix: message.header.prefix_len,
                peer: remote.filter(|remote| *remote != address),
                broadcast,
                scope: message.header.scope.into(),
                flags: flags.bits(),
                lifetime,
            },
        ))
    }

    fn message(&self, index: u32) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = self.prefix;
        message.header.scope = AddressScope::from(self.scope);
        message.header.family = match self.address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.attributes.push(AddressAttribute::Local(self.address));
        message.attributes.push(AddressAttribute::Address(self.peer.unwrap_or(self.address)));
        message.attributes.extend(self.broadcast.map(AddressAttribute::Broadcast));
        message
    }
}

impl Links {
    /// The addresses of an interface.
    pub async fn addresses(&self, index: u32) -> Result<Vec<Address>, LinkError> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let messages: Result<Vec<_>, _> = request.execute().try_collect().await;
        let messages = self.named("list the addresses of", index, messages).await?;
        Ok(messages.into_iter().filter_map(Address::read).map(|(_, address)| address).collect())
    }

    /// All addresses, each with the number of its interface.
    pub async fn all_addresses(&self) -> Result<Vec<(u32, Address)>, LinkError> {
        let messages = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let messages = messages.map_err(|error| failed("list", "all addresses", error))?;
        Ok(messages.into_iter().filter_map(Address::read).collect())
    }

    /// Gives an interface an address; one that it has already gets the new lifetime and flags.
    pub async fn add_address(&self, index: u32, address: &Address) -> Result<(), LinkError> {
        let mut message = address.message(index);
        message.attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(address.flags)));
        if let Some(Lifetime { valid, preferred }) = address.lifetime {
            let mut times = CacheInfo::default();
            (times.ifa_valid, times.ifa_preferred) = (valid, preferred);
            message.attributes.push(AddressAttribute::CacheInfo(times));
        }
        let mut request = self.handle.address().add(index, address.address, address.prefix).replace();
        *request.message_mut() = message;
        self.named("add an address to", index, request.execute().await).await
    }

    /// Takes an address from an interface; it is fine when it has it no longer.
    pub async fn remove_address(&self, index: u32, address: &Address) -> Result<(), LinkError> {
        let request = self.handle.address().del(address.message(index));
        let done = self.named("remove an address from", index, request.execute().await).await;
        unless(done, &[Errno::EADDRNOTAVAIL])
    }
}
