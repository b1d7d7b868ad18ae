//! What the kernel says about an interface.

use std::fmt;

use netlink_packet_core::Nla;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoTun, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage, State,
};
use serde::{Deserialize, Serialize};

use crate::Mac;

/// An interface as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its number, which stays while the interface is there, also when it is renamed.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; none where it has another kind of address or, as the loopback, an empty one.
    pub mac: Option<Mac>,
    /// Whether it was set up (IFF_UP).
    pub up: bool,
    /// Whether it has a carrier: a cable with someone at the other end; for a tap, that somebody has it open.
    pub carrier: bool,
    /// Whether the kernel has finished what a new carrier takes, such as giving it a queue: before, packets to it are dropped
    /// (RFC 2863, ifOperStatus: up, or unknown where a driver does not say; `linkwatch_do_dev` in net/core/link_watch.c).
    #[serde(default)]
    pub operational: bool,
    /// The longest packet, in bytes.
    pub mtu: u32,
    /// What it is.
    pub kind: LinkKind,
    /// The bridge (or bond) that it is a port of.
    pub master: Option<u32>,
    /// Whether it is an isolated port: such ports do not hear each other (bridge(8), `isolated`).
    pub isolated: bool,
    /// A text for people or programs that somebody gave it.
    pub alias: Option<String>,
}

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// The loopback.
    Loopback,
    /// A device of the machine: netlink tells neither wired from wireless ones nor real from emulated ones.
    Device,
    /// A bridge.
    Bridge(BridgeState),
    /// A tap: its frames go to and come from a program.
    Tap(TapState),
    /// Half of a pair of interfaces.
    Veth,
    /// Anything else, by the kernel's name for it, such as `vlan`, `bond`, `tun` or `wireguard`.
    Other(String),
}

/// How a bridge is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeState {
    /// Whether it speaks the spanning tree protocol.
    pub stp: bool,
    /// With STP, how long a port listens, and then again how long it learns, before it passes frames on, in 1/100 s
    /// (`br_make_forwarding` in net/bridge/br_stp.c).
    pub forward_delay: u32,
    /// Whether it sorts frames by VLAN.
    pub vlan_filtering: bool,
}

/// How a tap is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapState {
    /// Whether it stays when nobody has it open.
    pub persistent: bool,
    /// Whether somebody has it open. A tap's carrier is on from the moment that a program attaches until the last one has
    /// let go (`tun_attach` and `__tun_detach` in drivers/net/tun.c), unless that program switched it off itself, which
    /// QEMU does not.
    pub open: bool,
    /// Who may open it without CAP_NET_ADMIN.
    pub owner: Option<u32>,
    /// Which group may; with an owner, both must match.
    pub group: Option<u32>,
    /// Whether it takes several queues.
    pub multi_queue: bool,
    /// Whether each frame is preceded by a virtio-net header.
    pub vnet_hdr: bool,
}

impl Link {
    /// The tap's state, where it is a tap.
    #[must_use]
    pub const fn tap(&self) -> Option<&TapState> {
        match &self.kind {
            LinkKind::Tap(tap) => Some(tap),
            _ => None,
        }
    }

    /// The bridge's state, where it is a bridge.
    #[must_use]
    pub const fn bridge(&self) -> Option<&BridgeState> {
        match &self.kind {
            LinkKind::Bridge(bridge) => Some(bridge),
            _ => None,
        }
    }

    pub(super) fn read(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            operational: false,
            mtu: 0,
            kind: match message.header.link_layer_type {
                LinkLayerType::Loopback => LinkKind::Loopback,
                _ => LinkKind::Device,
            },
            master: None,
            isolated: false,
            alias: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = mac(&bytes),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(master) => link.master = Some(master).filter(|index| *index != 0),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias).filter(|alias| !alias.is_empty()),
                // Unlike the flag, it also shows the carrier of an interface that is down.
                LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
                LinkAttribute::OperState(state) => {
                    link.operational = matches!(state, State::Up | State::Unknown);
                }
                LinkAttribute::LinkInfo(infos) => link.read_info(infos),
                _ => {}
            }
        }
        let carrier = link.carrier;
        if let LinkKind::Tap(tap) = &mut link.kind {
            tap.open = carrier;
        }
        link
    }

    fn read_info(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(InfoKind::Bridge) => self.kind = LinkKind::Bridge(BridgeState::default()),
                LinkInfo::Kind(InfoKind::Veth) => self.kind = LinkKind::Veth,
                LinkInfo::Kind(kind) => self.kind = LinkKind::Other(kind.to_string()),
                LinkInfo::Data(InfoData::Bridge(data)) => self.kind = LinkKind::Bridge(bridge(&data)),
                LinkInfo::Data(InfoData::Tun(data)) => {
                    if let Some(tap) = tap(&data) {
                        self.kind = LinkKind::Tap(tap);
                    }
                }
                LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                    self.isolated = port.iter().any(|p| matches!(p, InfoBridgePort::Isolated(true)));
                }
                _ => {}
            }
        }
    }
}

fn bridge(data: &[InfoBridge]) -> BridgeState {
    let mut state = BridgeState::default();
    for info in data {
        match info {
            InfoBridge::StpState(stp) => state.stp = u32::from(*stp) != 0,
            InfoBridge::ForwardDelay(delay) => state.forward_delay = *delay,
            InfoBridge::VlanFiltering(on) => state.vlan_filtering = *on,
            _ => {}
        }
    }
    state
}

/// The attributes of linux/if_link.h, IFLA_TUN_*; none for a tun, which has no Ethernet frames.
fn tap(data: &[InfoTun]) -> Option<TapState> {
    const OWNER: u16 = 1;
    const GROUP: u16 = 2;
    const TYPE: u16 = 3;
    const VNET_HDR: u16 = 5;
    const PERSIST: u16 = 6;
    const MULTI_QUEUE: u16 = 7;
    /// IFF_TAP of linux/if_tun.h.
    const TYPE_TAP: u32 = 2;

    let mut state = TapState::default();
    let mut is_tap = false;
    for nla in data {
        let mut bytes = [0; 4];
        let len = nla.value_len();
        if len > bytes.len() {
            continue;
        }
        nla.emit_value(&mut bytes[..len]);
        // One byte or four, in the machine's order.
        let value = if len == 1 { u32::from(bytes[0]) } else { u32::from_ne_bytes(bytes) };
        match nla.kind() {
            OWNER => state.owner = Some(value),
            GROUP => state.group = Some(value),
            TYPE => is_tap = value == TYPE_TAP,
            VNET_HDR => state.vnet_hdr = value != 0,
            PERSIST => state.persistent = value != 0,
            MULTI_QUEUE => state.multi_queue = value != 0,
            _ => {}
        }
    }
    is_tap.then_some(state)
}

/// An address of six bytes that is a unicast one.
fn mac(bytes: &[u8]) -> Option<Mac> {
    <[u8; 6]>::try_from(bytes).ok()?.try_into().ok()
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("the loopback"),
            Self::Device => f.write_str("a network device"),
            Self::Bridge(_) => f.write_str("a bridge"),
            Self::Tap(_) => f.write_str("a tap"),
            Self::Veth => f.write_str("a veth"),
            Self::Other(kind) => write!(f, "an interface of the kind `{kind}`"),
        }
    }
}
