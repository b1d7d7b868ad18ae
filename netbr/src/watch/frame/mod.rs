//! What a frame tells of addresses: ARP, DHCPv4, neighbour discovery and DHCPv6, read by smoltcp's `wire`.
//!
//! Pure, and safe on whatever a guest sends: what is short, lies about its length or is no message of these protocols is
//! nothing. Checksums are not looked at, as those of a frame from this very host may not be filled in yet.

mod dhcpv6;

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpOpCode, DhcpPacket, EthernetFrame,
    EthernetProtocol, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, NdiscRepr, RawHardwareAddress,
    UdpPacket,
};

use crate::Mac;

/// A frame that tells something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Who sent it on this link.
    pub source: Mac,
    /// Whom it is for; a group's address too.
    pub destination: [u8; 6],
    /// What it tells.
    pub observation: Observation,
}

/// What a frame tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// ARP (RFC 826).
    Arp(Arp),
    /// DHCP for IPv4 (RFC 2131).
    Dhcp(Dhcp),
    /// Neighbour discovery (RFC 4861).
    Neighbor(Neighbor),
    /// DHCP for IPv6 (RFC 8415).
    Dhcpv6(Dhcpv6),
}

/// An ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// A reply, else a request.
    pub reply: bool,
    /// The sender's MAC, as the packet says.
    pub sender_mac: Mac,
    /// The sender's address; 0.0.0.0 in a probe (RFC 5227, 1.1).
    pub sender: Ipv4Addr,
    /// The address asked for, or the reply's receiver.
    pub target: Ipv4Addr,
}

/// What is asked or answered by DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpKind {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPOFFER.
    Offer,
    /// DHCPREQUEST.
    Request,
    /// DHCPDECLINE.
    Decline,
    /// DHCPACK.
    Ack,
    /// DHCPNAK.
    Nak,
    /// DHCPRELEASE.
    Release,
    /// DHCPINFORM.
    Inform,
}

/// A DHCP message, as far as it tells who has which address. Options in the `sname` and `file` fields (RFC 2132, 9.3) are
/// not read: servers put what does not fit there, and these here come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dhcp {
    /// What kind it is (option 53).
    pub kind: DhcpKind,
    /// The transaction.
    pub xid: u32,
    /// The client's MAC, whatever its client identifier is.
    pub chaddr: Mac,
    /// The address that the client has and answers for, or 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The address that it is given, or 0.0.0.0.
    pub yiaddr: Ipv4Addr,
    /// The address that it asks for or declines (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The server (option 54).
    pub server: Option<Ipv4Addr>,
    /// Seconds that it may keep the address (option 51); the largest number means for ever.
    pub lease_secs: Option<u32>,
}

/// A message of neighbour discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbor {
    /// Who has this address? From `::` it is a probe for one's own (RFC 4862, 5.4.2).
    Solicitation {
        /// The asker's address, or `::`.
        source: Ipv6Addr,
        /// The address asked for.
        target: Ipv6Addr,
    },
    /// This address is mine.
    Advertisement {
        /// The address.
        target: Ipv6Addr,
        /// Its holder's MAC, where the message says it.
        mac: Option<Mac>,
    },
    /// Is there a router?
    RouterSolicitation {
        /// The asker's address, or `::`.
        source: Ipv6Addr,
    },
}

/// A DHCPv6 message, as far as it tells who has which address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcpv6 {
    /// The message type (RFC 8415, 7.3).
    pub kind: u8,
    /// The transaction, of 24 bits.
    pub xid: u32,
    /// The addresses in it and for how many seconds each is valid.
    pub addresses: Vec<(Ipv6Addr, u32)>,
}

impl Dhcpv6 {
    /// REPLY, the message that gives addresses.
    pub const REPLY: u8 = 7;
    /// RELEASE.
    pub const RELEASE: u8 = 8;
    /// DECLINE.
    pub const DECLINE: u8 = 9;
}

/// Reads an Ethernet frame; nothing if it tells nothing of addresses.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Frame> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let observation = match ethernet.ethertype() {
        EthernetProtocol::Arp => Observation::Arp(arp(ethernet.payload())?),
        EthernetProtocol::Ipv4 => Observation::Dhcp(ipv4(ethernet.payload())?),
        EthernetProtocol::Ipv6 => ipv6(ethernet.payload())?,
        EthernetProtocol::Unknown(_) => return None,
    };
    let source = Mac::try_from(ethernet.src_addr().0).ok()?;
    Some(Frame { source, destination: ethernet.dst_addr().0, observation })
}

fn arp(bytes: &[u8]) -> Option<Arp> {
    let packet = ArpPacket::new_checked(bytes).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let reply = match operation {
        ArpOperation::Request => false,
        ArpOperation::Reply => true,
        ArpOperation::Unknown(_) => return None,
    };
    let sender_mac = Mac::try_from(source_hardware_addr.0).ok()?;
    Some(Arp { reply, sender_mac, sender: source_protocol_addr, target: target_protocol_addr })
}

fn ipv4(bytes: &[u8]) -> Option<Dhcp> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let whole = packet.version() == 4 && !packet.more_frags() && packet.frag_offset() == 0;
    if !whole || packet.next_header() != IpProtocol::Udp {
        return None;
    }
    let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
    matches!(datagram.dst_port(), 67 | 68).then(|| dhcp(datagram.payload()))?
}

/// Reads a DHCP message, what a UDP datagram carries.
///
/// Not by smoltcp's `DhcpRepr`, which refuses client identifiers of seven bytes that are no MAC.
fn dhcp(bytes: &[u8]) -> Option<Dhcp> {
    /// RFC 2131, 3.
    const MAGIC: u32 = 0x6382_5363;
    let message = DhcpPacket::new_checked(bytes).ok()?;
    let ethernet =
        message.hardware_type() == smoltcp::wire::ArpHardware::Ethernet && message.hardware_len() == 6;
    if !ethernet || message.magic_number() != MAGIC {
        return None;
    }
    let (mut kind, mut requested, mut server, mut lease_secs) = (None, None, None, None);
    for option in message.options() {
        let word = <[u8; 4]>::try_from(option.data).ok();
        match option.kind {
            50 => requested = word.map(Ipv4Addr::from),
            51 => lease_secs = word.map(u32::from_be_bytes),
            53 => kind = option.data.first().map(|byte| DhcpMessageType::from(*byte)),
            54 => server = word.map(Ipv4Addr::from),
            _ => {}
        }
    }
    let (kind, code) = match kind? {
        DhcpMessageType::Discover => (DhcpKind::Discover, DhcpOpCode::Request),
        DhcpMessageType::Request => (DhcpKind::Request, DhcpOpCode::Request),
        DhcpMessageType::Decline => (DhcpKind::Decline, DhcpOpCode::Request),
        DhcpMessageType::Release => (DhcpKind::Release, DhcpOpCode::Request),
        DhcpMessageType::Inform => (DhcpKind::Inform, DhcpOpCode::Request),
        DhcpMessageType::Offer => (DhcpKind::Offer, DhcpOpCode::Reply),
        DhcpMessageType::Ack => (DhcpKind::Ack, DhcpOpCode::Reply),
        DhcpMessageType::Nak => (DhcpKind::Nak, DhcpOpCode::Reply),
        DhcpMessageType::Unknown(_) => return None,
    };
    if message.opcode() != code {
        return None;
    }
    Some(Dhcp {
        kind,
        xid: message.transaction_id(),
        chaddr: Mac::try_from(message.client_hardware_address().0).ok()?,
        ciaddr: message.client_ip(),
        yiaddr: message.your_ip(),
        requested,
        server,
        lease_secs,
    })
}

fn ipv6(bytes: &[u8]) -> Option<Observation> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    if packet.version() != 6 {
        return None;
    }
    match packet.next_header() {
        // A router does not forward these: what has another hop limit came from afar (RFC 4861, 6.1 and 7.1).
        IpProtocol::Icmpv6 if packet.hop_limit() == 255 => {
            neighbor(packet.src_addr(), packet.payload()).map(Observation::Neighbor)
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
            let ours = matches!(datagram.dst_port(), 546 | 547);
            ours.then(|| dhcpv6::parse(datagram.payload()).map(Observation::Dhcpv6))?
        }
        _ => None,
    }
}

fn neighbor(source: Ipv6Addr, bytes: &[u8]) -> Option<Neighbor> {
    let packet = Icmpv6Packet::new_checked(bytes).ok()?;
    if packet.msg_code() != 0 || !packet.msg_type().is_ndisc() {
        return None;
    }
    match NdiscRepr::parse(&packet).ok()? {
        NdiscRepr::NeighborSolicit { target_addr, .. } => {
            Some(Neighbor::Solicitation { source, target: target_addr })
        }
        NdiscRepr::NeighborAdvert { target_addr, lladdr, .. } => {
            Some(Neighbor::Advertisement { target: target_addr, mac: lladdr.and_then(mac) })
        }
        NdiscRepr::RouterSolicit { .. } => Some(Neighbor::RouterSolicitation { source }),
        NdiscRepr::RouterAdvert { .. } | NdiscRepr::Redirect { .. } => None,
    }
}

fn mac(address: RawHardwareAddress) -> Option<Mac> {
    <[u8; 6]>::try_from(address.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
