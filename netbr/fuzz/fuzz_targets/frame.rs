//! The parser of frames on arbitrary bytes.
//!
//! Input: the first byte says where the rest stands: it is the whole frame, or what lies behind headers that are right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netbr::watch::frame::{Observation, parse};

const ETHERNET: [u8; 12] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1];

fn ipv4_udp(message: &[u8]) -> Vec<u8> {
    let len = |extra| u16::try_from(message.len() + extra).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = ETHERNET.to_vec();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(len(28));
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67]);
    frame.extend(len(8));
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ETHERNET.to_vec();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([next, 255]);
    frame.extend([0xfe; 32]);
    frame.extend(payload);
    frame
}

fn framed(kind: u8, rest: &[u8]) -> Vec<u8> {
    match kind % 6 {
        0 => rest.to_vec(),
        1 => [&ETHERNET[..], &[8, 6], rest].concat(),
        2 => ipv4_udp(rest),
        3 => {
            // Behind the fixed part of a DHCP message, which takes its first bytes from the input, too.
            let mut message = vec![1 + (kind / 6 & 1), 1, 6];
            message.extend(rest.iter().take(25));
            message.resize(28, 0);
            message.extend([0x52, 0x54, 0, 0, 0, 1]);
            message.resize(236, 0);
            message.extend([0x63, 0x82, 0x53, 0x63]);
            message.extend(rest.iter().skip(25));
            ipv4_udp(&message)
        }
        4 => ipv6(58, rest),
        _ => {
            let mut datagram = vec![2, 35, 2, 34];
            datagram.extend(u16::try_from(8 + rest.len()).unwrap_or(u16::MAX).to_be_bytes());
            datagram.extend([0, 0]);
            datagram.extend(rest);
            ipv6(17, &datagram)
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let bytes = framed(*kind, rest);
    let Some(frame) = parse(&bytes) else { return };
    assert_eq!(frame.source.bytes()[0] & 1, 0, "a group sent it");
    assert_eq!(frame.destination[..], bytes[..6]);
    if let Observation::Dhcpv6(message) = &frame.observation {
        assert!(message.addresses.len() <= 16);
    }
    // What follows a packet in its frame is padding and changes nothing.
    let padded = [&bytes[..], &[0xff; 8]].concat();
    assert_eq!(parse(&padded), Some(frame));
});
