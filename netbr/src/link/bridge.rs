//! Bridges and their ports.

use nix::errno::Errno;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkUnspec};

use super::{BridgeState, Link, LinkError, Links, check_name, failed};
use crate::Mac;

/// A bridge with its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The bridge itself.
    pub link: Link,
    /// How it is set. One that was made by somebody else may speak STP: then a guest hears nothing for twice the forward delay
    /// after its port came up.
    pub state: BridgeState,
    /// The interfaces that are its ports.
    pub ports: Vec<Link>,
}

impl Links {
    /// Makes a bridge and sets it up: its MAC is given by us, so that it does not follow the lowest one of its ports
    /// (`br_stp_recalculate_bridge_id` in net/bridge/br_stp_if.c); it speaks no STP, and its ports pass frames on at once.
    pub async fn create_bridge(&self, name: &str, mac: Mac) -> Result<Link, LinkError> {
        check_name(name)?;
        let bridge = LinkBridge::new(name)
            .address(mac.bytes().to_vec())
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .build();
        let added = self.handle.link().add(bridge).execute().await;
        added.map_err(|error| failed("add the bridge", name, error))?;
        self.existing("look up the new bridge", name).await
    }

    /// Looks at a bridge that is there, and changes nothing about it.
    pub async fn adopt_bridge(&self, name: &str) -> Result<Bridge, LinkError> {
        let link = self.existing("use the bridge", name).await?;
        let Some(state) = link.bridge().copied() else {
            return Err(LinkError::NotBridge { name: link.name, kind: link.kind });
        };
        let mut ports = self.list().await?;
        ports.retain(|port| port.master == Some(link.index));
        Ok(Bridge { link, state, ports })
    }

    /// Makes an interface a port of a bridge. It takes at most 1023.
    pub async fn set_master(&self, index: u32, bridge: u32) -> Result<(), LinkError> {
        self.change("join a bridge with", index, |port| port.controller(bridge)).await
    }

    /// Takes an interface out of its bridge.
    pub async fn no_master(&self, index: u32) -> Result<(), LinkError> {
        self.change("take out of its bridge", index, rtnetlink::LinkMessageBuilder::nocontroller).await
    }

    /// Sets whether a port is isolated: isolated ports of one bridge do not reach each other, only the others and the host.
    pub async fn set_isolated(&self, index: u32, isolated: bool) -> Result<(), LinkError> {
        let port = LinkBridgePort::new(index).isolated(isolated).build();
        self.send_change("isolate the port", index, port).await
    }

    /// Makes a tap a working port of a bridge, in two messages: first it joins, while it is still down so that no frame passes
    /// before it is isolated, then it is isolated and set up. It gets no IPv6 address of its own, as the host speaks through the
    /// bridge; otherwise the guest would hear the host's router solicitations and MLD reports twice.
    pub async fn port_ready(&self, tap: u32, bridge: u32, isolated: bool) -> Result<(), LinkError> {
        const JOIN: &str = "join a bridge with";
        let join = LinkUnspec::new_with_index(tap).controller(bridge);
        let silent = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let silent = join.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![silent]));
        match self.send_change(JOIN, tap, silent.build()).await {
            // A kernel without IPv6 gives no address either.
            Err(error) if error.errno() == Some(Errno::EAFNOSUPPORT) => self.set_master(tap, bridge).await?,
            joined => joined?,
        }
        let ready: LinkMessage = if isolated {
            LinkBridgePort::new(tap).isolated(true).up().build()
        } else {
            LinkUnspec::new_with_index(tap).up().build()
        };
        self.send_change("set up the port", tap, ready).await
    }

    /// An interface that has to be there.
    pub(crate) async fn existing(&self, operation: &'static str, name: &str) -> Result<Link, LinkError> {
        let gone = || LinkError::failed(operation, name, Errno::ENODEV.into());
        self.get(name).await?.ok_or_else(gone)
    }
}
