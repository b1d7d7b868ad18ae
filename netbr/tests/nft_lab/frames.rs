//! Frames, built from scratch with all their checksums.

use std::net::{Ipv4Addr, Ipv6Addr};

pub type Ether = [u8; 6];

pub fn ether(to: Ether, from: Ether, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame: Vec<u8> = [&to[..], &from, &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Ethernet's address of a group (RFC 1112, 6.4; RFC 2464, 7).
pub fn group_ether6(group: Ipv6Addr) -> Ether {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

pub fn arp(operation: u16, sender: (Ether, Ipv4Addr), target: (Ether, Ipv4Addr)) -> Vec<u8> {
    let (sha, spa, tha, tpa) = (sender.0, sender.1.octets(), target.0, target.1.octets());
    [&[0, 1, 8, 0, 6, 4][..], &operation.to_be_bytes(), &sha, &spa, &tha, &tpa].concat()
}

fn sum(bytes: &[u8]) -> u32 {
    let pairs =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    pairs.sum()
}

fn checksum(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header =
        [&[0x45, 0][..], &length, &[0, 1, 0, 0, 64, protocol, 0, 0], &from.octets(), &to.octets()].concat();
    let checksum = checksum(sum(&header));
    header[10..12].copy_from_slice(&checksum);
    [header, payload.to_vec()].concat()
}

pub fn udp4(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(from, to, 17, &udp(&[from.octets(), to.octets()].concat(), port, payload))
}

pub fn udp6(from: Ipv6Addr, to: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    ipv6(from, to, 17, &udp(&[from.octets(), to.octets()].concat(), port, payload))
}

fn udp(addresses: &[u8], port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram =
        [&4444_u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat();
    let checksum = checksum(sum(addresses) + 17 + u32::from(length) + sum(&datagram));
    datagram[6..8].copy_from_slice(&checksum);
    datagram
}

/// An ICMP error of a type about a packet.
pub fn icmp_error(kind: u8, about: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 3, 0, 0, 0, 0, 0, 0][..], about].concat();
    let checksum = checksum(sum(&message));
    message[2..4].copy_from_slice(&checksum);
    message
}

pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 255], &from.octets(), &to.octets(), payload].concat()
}

/// A message of ICMPv6 with what follows its checksum.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    ipv6(from, to, 58, &icmpv6_message(from, to, kind, body))
}

fn icmpv6_message(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], body].concat();
    let addresses = [from.octets(), to.octets()].concat();
    let checksum = checksum(sum(&addresses) + 58 + u32::try_from(message.len()).unwrap() + sum(&message));
    message[2..4].copy_from_slice(&checksum);
    message
}

/// One of multicast listener discovery, which has a router alert before it (RFC 2711).
pub fn mld(from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    ipv6(from, to, 0, &[&alert[..], &icmpv6_message(from, to, kind, body)].concat())
}

/// An option of neighbour discovery with an Ethernet address.
pub fn link_layer(kind: u8, address: Ether) -> Vec<u8> {
    [&[kind, 1][..], &address].concat()
}

/// The group that solicitations for an address go to.
pub fn solicited(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// Whether an IPv4 packet's header and its TCP or UDP have the checksums that they must have.
pub fn checksums_hold(packet: &[u8]) -> bool {
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let (header, transport) = packet[..length].split_at(20);
    let covered =
        sum(&header[12..]) + u32::from(packet[9]) + u32::try_from(transport.len()).unwrap() + sum(transport);
    checksum(sum(header)) == [0, 0] && checksum(covered) == [0, 0]
}

/// An IPv4 packet whose sender leaves the checksum at an offset of the transport's header to the device: there is the sum of the
/// pseudo-header only.
pub fn partial(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, transport: &[u8], offset: usize) -> Vec<u8> {
    let addresses = [from.octets(), to.octets()].concat();
    let [a, b] = checksum(sum(&addresses) + u32::from(protocol) + u32::try_from(transport.len()).unwrap());
    let mut transport = transport.to_vec();
    transport[offset..offset + 2].copy_from_slice(&[!a, !b]);
    ipv4(from, to, protocol, &transport)
}
