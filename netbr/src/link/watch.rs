//! A stream of what changes about interfaces.

use std::collections::VecDeque;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::{Link, LinkError};
use crate::Namespace;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface is new, or something about it is: a carrier, a name, a bridge that it joined or left.
    Changed(Link),
    /// The interface is gone; this is how it was.
    Removed(Link),
    /// So much happened that the kernel dropped some of it: look at everything again ([`Links::list`](super::Links::list)).
    Missed,
}

/// A stream of what changes about the interfaces of one network namespace. What happens while nobody reads is kept by the
/// kernel in the socket's buffer, which has a limit ([`LinkEvent::Missed`]).
pub struct LinkEvents {
    socket: TokioSocket,
    read: VecDeque<LinkEvent>,
}

impl std::fmt::Debug for LinkEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkEvents").field("read", &self.read).finish_non_exhaustive()
    }
}

impl LinkEvents {
    /// Starts the stream.
    pub fn open(namespace: &Namespace) -> Result<Self, LinkError> {
        Ok(Self { socket: listen(namespace, MulticastGroup::Link)?, read: VecDeque::new() })
    }

    /// Waits for the next change. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Result<LinkEvent, LinkError> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Ok(event);
            }
            match self.socket.recv_from_full().await {
                // Port 0 is the kernel.
                Ok((datagram, sender)) if sender.port_number() == 0 => self.read.extend(events(&datagram)),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    self.drain();
                    return Ok(LinkEvent::Missed);
                }
                Err(error) => return Err(LinkError::Socket(error)),
            }
        }
    }

    /// Empties the buffer: once it was full the kernel drops everything, and says so no second time, until it is empty
    /// (`netlink_overrun` and `netlink_rcv_wake` in net/netlink/af_netlink.c). What was in it is old, as everything is to be looked at again.
    fn drain(&self) {
        while self.socket.socket_ref().recv_from_full().is_ok() {}
    }
}

/// A socket that hears of a group's changes.
pub(super) fn listen(namespace: &Namespace, group: MulticastGroup) -> Result<TokioSocket, LinkError> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| LinkError::Closed)?;
    let socket = namespace.run(|| {
        let _entered = runtime.enter();
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        // Group N is bit N - 1 of the address (netlink(7)).
        socket.socket_mut().bind(&SocketAddr::new(0, 1 << (group as u32 - 1)))?;
        Ok(socket)
    })?;
    socket.map_err(LinkError::Socket)
}

/// The changes that a datagram tells.
fn events(datagram: &[u8]) -> Vec<LinkEvent> {
    let told = messages(datagram).into_iter().filter_map(|message| match message {
        Some(RouteNetlinkMessage::NewLink(link)) => {
            is_whole(&link).then(|| LinkEvent::Changed(Link::read(link)))
        }
        Some(RouteNetlinkMessage::DelLink(link)) => {
            is_whole(&link).then(|| LinkEvent::Removed(Link::read(link)))
        }
        Some(_) => None,
        None => Some(LinkEvent::Missed),
    });
    told.collect()
}

/// The messages in a datagram, which holds one or several; none for one that cannot be read, of a newer kernel perhaps, which
/// ends them: what it says is found by looking.
pub(super) fn messages(mut datagram: &[u8]) -> Vec<Option<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    while !datagram.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            messages.push(None);
            break;
        };
        // Each message begins at a multiple of four bytes.
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        let length = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        if let NetlinkPayload::InnerMessage(message) = message.payload {
            messages.push(Some(message));
        }
        datagram = datagram.get(length..).unwrap_or_default();
    }
    messages
}

/// A bridge speaks of its ports in messages of its own family: a removal there is a port that left the bridge, and is told by a
/// message about the interface as well.
fn is_whole(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic_or_hang(datagram in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = events(&datagram);
        }
    }
}
