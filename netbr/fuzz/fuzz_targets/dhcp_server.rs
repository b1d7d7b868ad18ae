//! A server under an arbitrary history of requests, probes, reservations and clocks.
//!
//! Input: steps of one byte that says what happens and as many further ones as that needs. No two guests may ever hold one
//! address, none may get one that is neither in the pool nor reserved for it, and none that was not probed for it.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use netbr::Mac;
use netbr::dhcp::message::{Datagram, Kind, Message, Side};
use netbr::dhcp::options::{Options, code};
use netbr::dhcp::server::{Event, handle};
use netbr::dhcp::{Leases, Network};

const GUESTS: u8 = 6;

fn mac(number: u8) -> Mac {
    Mac::local([0xaa, 0, number % GUESTS])
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(length.min(data.len()));
    *data = rest;
    taken
}

fn byte(data: &mut &[u8]) -> u8 {
    take(data, 1).first().copied().unwrap_or(0)
}

/// A request of which each part is chosen by the input; what it leaves open looks like a client's.
fn request(data: &mut &[u8]) -> Datagram {
    let (kind, shape) = (byte(data), byte(data));
    let mut message = Message::request(Kind::from(kind % 10), mac(byte(data)), 7);
    if shape & 1 != 0 {
        let length = usize::from(byte(data));
        if let Ok(options) = Options::parse(take(data, length), &[], &[]) {
            for (code, value) in options.iter() {
                message.options.set(code, value);
            }
        }
    }
    if shape & 2 != 0 {
        message.options.set(code::REQUESTED_ADDRESS, ip(byte(data) % 18).octets());
    }
    if shape & 4 != 0 {
        message.options.set(code::SERVER_IDENTIFIER, ip(1 + byte(data) % 2).octets());
    }
    if shape & 8 != 0 {
        message.ciaddr = ip(byte(data) % 18);
    }
    if shape & 16 != 0 {
        message.giaddr = ip(byte(data) % 2);
    }
    message.broadcast = shape & 32 != 0;
    let mut request = Datagram::to_everybody(message);
    if shape & 64 != 0 {
        request.destination = ip(byte(data) % 4);
    }
    request
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let mut network = Network::new("10.77.0.0/24".parse().unwrap(), ip(1), Mac::local([0, 0, 1]));
    network.pool = Some(ip(10)..=ip(13));
    network.routes = vec![netbr::dhcp::subnet::Route { to: network.subnet, via: ip(3) }];
    let mut leases = Leases::default();
    let mut now = 1_000_000;
    let mut asked = None;
    let mut told: BTreeMap<Mac, (Ipv4Addr, u64)> = BTreeMap::new();
    while !data.is_empty() {
        match byte(&mut data) % 16 {
            0..8 => {
                let request = request(&mut data);
                // As it comes from the wire.
                let (frame, _) = request.encode(4000);
                let request = Datagram::parse(&frame, Side::Server).expect("what was written is read");
                let who = request.message.chaddr;
                let before = leases.clone();
                let outcome = handle(&network, &mut leases, at(now), &request);
                if let Some(address) = outcome.probe {
                    assert!(outcome.reply.is_none());
                    asked = Some((who, address));
                }
                let gave_up = outcome.events.iter().any(|event| {
                    matches!(event, Event::Released { .. } | Event::Declined { .. } | Event::Refused { .. })
                });
                let elsewhere = request.message.options.address(code::SERVER_IDENTIFIER);
                if gave_up || elsewhere.is_some_and(|server| server != ip(1)) {
                    told.remove(&who);
                }
                let Some(reply) = outcome.reply else {
                    check(&leases);
                    continue;
                };
                assert!(reply.len() <= 1514);
                let reply = Datagram::parse(&reply, Side::Client).expect("a reply is readable");
                assert_eq!((reply.message.chaddr, reply.message.xid), (who, 7));
                let address = reply.message.yiaddr;
                if address.is_unspecified() {
                    let lasts = reply.message.options.long(code::LEASE_TIME);
                    assert!(lasts.is_none());
                } else {
                    assert!(network.in_pool(address) || leases.reservation(who) == Some(address));
                    let record = leases.get(who).expect("a record of what was given");
                    assert!(record.address == address && record.probed);
                    let reserved = before.reservation(who) == Some(address);
                    let had =
                        before.get(who).is_some_and(|record| record.address == address && record.probed);
                    let uses = request.message.ciaddr == address;
                    assert!(reserved || had || uses, "given without a probe");
                }
                if reply.message.kind() == Some(Kind::Ack) && !address.is_unspecified() {
                    let holder =
                        told.iter().find(|(mac, (a, until))| **mac != who && *a == address && now < *until);
                    assert_eq!(holder, None, "{address} is another one's");
                    let lasts = reply.message.options.long(code::LEASE_TIME).expect("a time");
                    told.insert(who, (address, now + u64::from(lasts)));
                }
            }
            8..12 => {
                let answer = byte(&mut data);
                if let Some((who, address)) = asked.take() {
                    let holder = (answer & 3 == 0).then(|| mac(answer >> 2));
                    leases.probed(at(now), who, address, holder);
                }
            }
            12 => {
                let _ = leases.reserve(&network, at(now), mac(byte(&mut data)), ip(byte(&mut data) % 18));
            }
            13 => leases.unreserve(mac(byte(&mut data))),
            14 => {
                let who = mac(byte(&mut data));
                leases.forget(who);
                told.remove(&who);
            }
            _ => now += u64::from(byte(&mut data)) * 30,
        }
        check(&leases);
    }
});

fn check(leases: &Leases) {
    let held: Vec<Ipv4Addr> =
        (0..GUESTS).filter_map(|n| leases.get(mac(n))).map(|record| record.address).collect();
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len(), "two hold one address");
}
