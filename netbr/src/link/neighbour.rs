//! Whether somebody is there, by the kernel's own neighbour table (arp(7)).

use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocketExt;

use super::watch::{listen, messages};
use super::{LinkError, Links, unless};

/// How long the kernel is left alone after it gave up asking, so that an interface without a carrier is no busy loop.
const PAUSE: Duration = Duration::from_millis(500);

impl Links {
    /// Whether `address` answers on the interface: asked anew by ARP or, for IPv6, a neighbour solicitation, which the kernel repeats
    /// each second. True at the answer; false when none came for as long as `patience`.
    pub async fn answers(&self, index: u32, address: IpAddr, patience: Duration) -> Result<bool, LinkError> {
        match tokio::time::timeout(patience, self.answer(index, address)).await {
            Ok(answered) => answered.map(|()| true),
            Err(_elapsed) => Ok(false),
        }
    }

    async fn answer(&self, index: u32, address: IpAddr) -> Result<(), LinkError> {
        let socket = listen(&self.namespace, MulticastGroup::Neigh)?;
        // What was known before proves nothing.
        let mut old = NeighbourMessage::default();
        old.header.ifindex = index;
        old.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        old.attributes.push(NeighbourAttribute::Destination(destination(address)));
        let forgotten = self.handle.neighbours().del(old).execute().await;
        unless(self.named("forget a neighbour on", index, forgotten).await, &[Errno::ENOENT])?;
        self.ask(index, address).await?;
        loop {
            let (datagram, _kernel) = match socket.recv_from_full().await {
                Ok(datagram) => datagram,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    self.ask(index, address).await?;
                    continue;
                }
                Err(error) => return Err(LinkError::Socket(error)),
            };
            for message in messages(&datagram) {
                let Some(RouteNetlinkMessage::NewNeighbour(neighbour)) = message else { continue };
                let about = NeighbourAttribute::Destination(destination(address));
                if neighbour.header.ifindex != index || !neighbour.attributes.contains(&about) {
                    continue;
                }
                match neighbour.header.state {
                    NeighbourState::Reachable => return Ok(()),
                    NeighbourState::Failed => {
                        tokio::time::sleep(PAUSE).await;
                        self.ask(index, address).await?;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Makes the kernel ask (NTF_USE of rtnetlink(7): as if a packet had to go there).
    async fn ask(&self, index: u32, address: IpAddr) -> Result<(), LinkError> {
        let request = self.handle.neighbours().add(index, address);
        let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        self.named("look for a neighbour on", index, request.execute().await).await
    }
}

fn destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}
