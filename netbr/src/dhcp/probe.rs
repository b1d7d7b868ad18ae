//! Asks by ARP whether an address is in use (RFC 5227, 2.1.1).

use std::net::Ipv4Addr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};

use super::message::single;
use crate::Mac;

/// The frame that asks everybody who uses `address`, from an interface that has no claim to it itself: an ARP probe names no
/// sender's address, so it cannot spoil anybody's table.
#[must_use]
pub fn question(from: Mac, address: Ipv4Addr) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(from.bytes()),
        source_protocol_addr: Ipv4Addr::UNSPECIFIED,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(from.bytes()),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut frame = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut at = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.emit(&mut at);
    arp.emit(&mut ArpPacket::new_unchecked(at.payload_mut()));
    frame
}

/// Who says in this frame that it uses `address`, or is about to: by an answer, an announcement, or a probe of its own
/// (RFC 5227, 2.1.1 counts both).
#[must_use]
pub fn claim(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(ethernet.payload()).ok()?).ok()?
    else {
        return None;
    };
    let probes = operation == ArpOperation::Request
        && source_protocol_addr.is_unspecified()
        && target_protocol_addr == address;
    (source_protocol_addr == address || probes).then(|| single(source_hardware_addr.0)).flatten()
}
