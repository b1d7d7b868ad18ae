//! Veils on taps, whose frames carry virtio-net headers: the guest leaves checksums and the cutting of segments to its device, and the
//! veil comes in between.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod nft_lab;

use std::net::Ipv4Addr;

use netbr::Mac;
use netbr::link::{Tap, TapOptions};
use netbr::nft::Nft;
use netbr::veil::{Identity, Veil};
use nft_lab::frames::{checksums_hold, ether, partial};
use nft_lab::sys::{Packets, offloads};
use nft_lab::{Net, SOON, pattern};

const IPV4: u16 = 0x0800;
const INNER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 99);
const OUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
const LAN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// `struct virtio_net_hdr`, as long as taps have it by default.
const HEADER: usize = 10;
/// Ethernet's and IPv4's.
const HEADERS: usize = 14 + 20;

const fn mac(low: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, low]
}

struct Lab {
    _host: Net,
    lan: Net,
    guest: Packets,
}

impl Lab {
    fn new() -> Self {
        let (host, lan) = (Net::new("host"), Net::new("lan"));
        host.ip("link add br0 type bridge");
        host.ip("link set br0 up");
        host.veth("lan", &lan, "eth0");
        host.ip("link set lan master br0");
        lan.ip(&format!("link set eth0 address {}", Mac::local([0, 0, 2])));
        lan.ip(&format!("addr add {LAN}/24 dev eth0"));
        lan.ip(&format!("neigh add {OUTER} lladdr {} dev eth0", Mac::local([0, 0, 10])));
        // What the guest left undone is done here, behind the veil.
        offloads(&host, "lan", false);
        let options = TapOptions { name: "tap0".to_owned(), vnet_hdr: true, ..TapOptions::default() };
        let tap = Tap::create(&host.namespace, &options).unwrap();
        host.ip("link set tap0 master br0 up");
        let identity = |low, ip| Identity { mac: Mac::local([0, 0, low]), ipv4: Some(ip), ipv6: Vec::new() };
        let veil = Veil { port: "tap0".to_owned(), inner: identity(99, INNER), outer: identity(10, OUTER) };
        veil.raise(&mut Nft::open(&host.namespace).unwrap()).unwrap();
        let guest = Packets::of_tap(tap.into_fds().remove(0));
        Self { _host: host, lan, guest }
    }

    /// Sends a packet whose checksum lies at `offset` of the transport's header, to be cut into segments of `size` bytes unless 0.
    fn send(&self, protocol: u8, transport: &[u8], offset: u16, size: u16) {
        const NEEDS_CHECKSUM: u8 = 1;
        const TCP_OF_IPV4: u8 = 1;
        let headers = u16::try_from(HEADERS).unwrap();
        let segments = if size > 0 { TCP_OF_IPV4 } else { 0 };
        let mut frame = vec![NEEDS_CHECKSUM, segments];
        for number in [headers + 20, size, headers, offset] {
            frame.extend(number.to_ne_bytes());
        }
        let packet = partial(INNER, LAN, protocol, transport, offset.into());
        frame.extend(ether(mac(2), mac(99), IPV4, &packet));
        self.guest.send(&frame);
    }
}

#[test]
fn a_checksum_that_is_left_to_the_device_is_made_behind_the_veil() {
    let lab = Lab::new();
    let server = lab.lan.udp((LAN, 0).into());
    let port = server.local_addr().unwrap().port();
    let text = pattern(1001);
    let length = u16::try_from(8 + text.len()).unwrap();
    let datagram =
        [&7_u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], &text].concat();
    lab.send(17, &datagram, 6, 0);
    let mut buffer = [0; 2048];
    let (received, from) = server.recv_from(&mut buffer).unwrap();
    assert!(buffer[..received] == text);
    assert_eq!(from, (OUTER, 7).into());
    assert_eq!(lab.lan.checksum_errors(), 0);

    // The answer, which the kernel completes for a guest that did not offer to.
    server.send_to(&text, from).unwrap();
    let is_ours = |frame: &[u8]| frame.len() == HEADER + HEADERS + 8 + text.len();
    let frame = lab.guest.wait_for(is_ours, SOON).unwrap();
    let frame = &frame[HEADER..];
    assert_eq!((&frame[..6], &frame[30..34]), (&mac(99)[..], &INNER.octets()[..]));
    assert!(checksums_hold(&frame[14..]));
}

#[test]
fn segments_are_cut_behind_the_veil() {
    const SIZE: usize = 1000;
    const SEGMENTS: usize = 20;
    let lab = Lab::new();
    let wire = Packets::open(&lab.lan, "eth0");
    let text = pattern(SIZE * SEGMENTS);
    // From 7 to 9, with a header of 20 bytes, ACK and PSH.
    let header = [0, 7, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
    lab.send(6, &[&header[..], &text].concat(), 16, u16::try_from(SIZE).unwrap());
    let mut received: Vec<u8> = Vec::new();
    for _ in 0..SEGMENTS {
        let frame = wire.wait_for(|frame| frame.len() == HEADERS + 20 + SIZE, SOON).unwrap();
        assert_eq!((&frame[6..12], &frame[26..30]), (&mac(10)[..], &OUTER.octets()[..]));
        assert!(checksums_hold(&frame[14..]));
        received.extend(&frame[HEADERS + 20..]);
    }
    assert!(received == text);
}
