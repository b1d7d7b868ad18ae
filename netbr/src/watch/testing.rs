//! Frames for tests.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::Mac;
use crate::packet::Direction;

/// Another station than the guest.
pub(super) const ROUTER: Mac = Mac::local([0, 0xff, 1]);

/// Frames as recorded, one a line: `>` from the guest, `<` to it, then hexadecimal digits.
pub(super) fn recorded(text: &str) -> Vec<(Direction, Vec<u8>)> {
    let line = |line: &str| {
        let (way, digits) = line.split_once(' ').unwrap();
        let direction = if way == ">" { Direction::FromGuest } else { Direction::ToGuest };
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (direction, (0..digits.len()).step_by(2).map(byte).collect())
    };
    text.lines().map(line).collect()
}

fn ethernet(source: Mac, destination: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend(source.bytes());
    frame.extend(ethertype.to_be_bytes());
    frame
}

pub(super) fn arp_frame(reply: bool, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(sender.0, [0xff; 6], 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1 + u8::from(reply)]);
    frame.extend(sender.0.bytes());
    frame.extend(sender.1.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// A DHCP message in a broadcast frame.
pub(super) fn dhcp_frame(source: Mac, message: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(source, [0xff; 6], 0x0800);
    let len = |extra: usize| u16::try_from(message.len() + extra).unwrap().to_be_bytes();
    let port = if message[0] == 1 { 67 } else { 68 };
    frame.extend([0x45, 0]);
    frame.extend(len(28));
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 135 - port, 0, port]);
    frame.extend(len(8));
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

/// A DHCP message with as little in it as can be: for `code` of option 53, and with what `options` adds.
pub(super) fn dhcp_message(
    code: u8,
    chaddr: Mac,
    ciaddr: Ipv4Addr,
    yiaddr: Ipv4Addr,
    options: &[u8],
) -> Vec<u8> {
    let reply = matches!(code, 2 | 5 | 6);
    let mut message = vec![1 + u8::from(reply), 1, 6, 0, 0, 0, 0, 7, 0, 0, 0, 0];
    message.extend(ciaddr.octets());
    message.extend(yiaddr.octets());
    message.extend([0; 8]);
    message.extend(chaddr.bytes());
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, code]);
    message.extend(options);
    message.push(255);
    let source = if reply { ROUTER } else { chaddr };
    dhcp_frame(source, &message)
}

/// An ACK of so many seconds.
pub(super) fn ack(chaddr: Mac, yiaddr: Ipv4Addr, secs: u32) -> Vec<u8> {
    let [a, b, c, d] = secs.to_be_bytes();
    dhcp_message(5, chaddr, Ipv4Addr::UNSPECIFIED, yiaddr, &[51, 4, a, b, c, d, 54, 4, 192, 168, 7, 1])
}

fn ipv6(frame: &mut Vec<u8>, next: u8, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) {
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend([next, 255]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
}

pub(super) fn ipv6_udp_frame(destination: [u8; 6], port: u16, message: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(ROUTER, destination, 0x86dd);
    let mut datagram = vec![2, 0x23];
    datagram.extend(port.to_be_bytes());
    datagram.extend(u16::try_from(8 + message.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(message);
    ipv6(&mut frame, 17, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, &datagram);
    frame
}

/// A neighbour solicitation (135) or advertisement (136).
pub(super) fn neighbor_frame(kind: u8, sender: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut frame = ethernet(sender, [0x33, 0x33, 0, 0, 0, 1], 0x86dd);
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if kind == 136 {
        message.extend([2, 1]);
        message.extend(sender.bytes());
    }
    ipv6(&mut frame, 58, source, "ff02::1".parse().unwrap(), &message);
    frame
}
