//! What the tests of DHCP share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netbr::Mac;
use netbr::dhcp::message::{Datagram, Kind, Message, Request, Side};
use netbr::dhcp::options::code;
use netbr::dhcp::server::{self, Outcome};
use netbr::dhcp::{Leases, Network};

pub mod world;

/// 10.77.0.1 serves 10.77.0.10 to 10.77.0.(9 + size).
pub fn network(size: u8) -> Network {
    let mut network = Network::new("10.77.0.0/24".parse().unwrap(), ip(1), Mac::local([0, 0, 1]));
    network.pool = Some(ip(10)..=ip(9 + size));
    network.dns = vec![Ipv4Addr::new(9, 9, 9, 9), ip(1)];
    network.domain = Some("guests.test".to_owned());
    network.mtu = Some(1400);
    network
}

pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

pub fn mac(last: u8) -> Mac {
    Mac::local([0xaa, 0, last])
}

pub fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// A client's message to everybody.
pub fn message(kind: Kind, mac: Mac) -> Message {
    Message::request(kind, mac, 0x1234_5678)
}

pub fn with(mut message: Message, code: u8, value: impl Into<Vec<u8>>) -> Message {
    message.options.set(code, value);
    message
}

pub fn wishing(message: Message, address: Ipv4Addr) -> Message {
    with(message, code::REQUESTED_ADDRESS, address.octets())
}

pub fn to_server(message: Message, server: Ipv4Addr) -> Message {
    with(message, code::SERVER_IDENTIFIER, server.octets())
}

pub fn everybody(message: Message) -> Request {
    Datagram::to_everybody(message)
}

/// A client that uses its address speaks to the server alone.
pub fn from_its_address(mut message: Message, address: Ipv4Addr, to: Ipv4Addr) -> Request {
    message.ciaddr = address;
    Datagram { source: address, destination: to, ..Datagram::to_everybody(message) }
}

pub fn reply(outcome: &Outcome) -> Option<Datagram> {
    outcome.reply.as_ref().map(|frame| Datagram::parse(frame, Side::Client).unwrap())
}

/// Handles a request as a responder does on a network where nobody else uses any address.
pub fn handle(network: &Network, leases: &mut Leases, now: SystemTime, request: &Request) -> Outcome {
    let mac = request.message.chaddr;
    loop {
        let outcome = server::handle(network, leases, now, request);
        let Some(address) = outcome.probe else { return outcome };
        assert_eq!(outcome.reply, None, "answered before the probe");
        assert!(!leases.probed(now, mac, address, None));
    }
}

/// A client's way to a lease, without rapid commit.
pub fn obtain(network: &Network, leases: &mut Leases, now: SystemTime, mac: Mac) -> Ipv4Addr {
    let offer =
        reply(&handle(network, leases, now, &everybody(message(Kind::Discover, mac)))).expect("an offer");
    assert_eq!(offer.message.kind(), Some(Kind::Offer));
    let address = offer.message.yiaddr;
    let request = to_server(wishing(message(Kind::Request, mac), address), network.server);
    let ack = reply(&handle(network, leases, now, &everybody(request))).expect("an acknowledgement");
    assert_eq!((ack.message.kind(), ack.message.yiaddr), (Some(Kind::Ack), address));
    address
}
