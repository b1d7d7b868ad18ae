//! Asks by ARP whether an address is in use (RFC 5227, 2.1.1).

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};
use tokio::time::{Instant, timeout_at};

use crate::Mac;
use crate::packet::{FRAME_ROOM, PacketError, PacketSocket};

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
    (source_protocol_addr == address || probes).then(|| Mac::try_from(source_hardware_addr.0).ok()).flatten()
}

/// The time that an answer gets, by default: guests on one bridge answer within a millisecond or, emulated, within some tens.
pub const WAIT: Duration = Duration::from_millis(200);

/// Asks twice within `wait` who uses `address`, on a socket of its own that lets ARP pass. Claims of `from` and of `client`, for
/// which the address is meant, do not count.
pub async fn ask(
    wire: &PacketSocket,
    from: Mac,
    client: Mac,
    address: Ipv4Addr,
    wait: Duration,
) -> Result<Option<Mac>, PacketError> {
    let mut buffer = vec![0; FRAME_ROOM];
    let begin = Instant::now();
    for end in [begin + wait / 2, begin + wait] {
        wire.send(&question(from, address)).await?;
        while let Ok(received) = timeout_at(end, wire.recv(&mut buffer)).await {
            let claimed = claim(&buffer[..received?.len], address);
            if let Some(holder) = claimed.filter(|holder| ![from, client].contains(holder)) {
                return Ok(Some(holder));
            }
        }
    }
    Ok(None)
}
