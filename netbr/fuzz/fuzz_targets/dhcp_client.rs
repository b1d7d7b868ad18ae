//! The client's states under arbitrary frames and a clock.
//!
//! Input: steps of one byte that says what happens and as many further ones as that needs. The client must never hold an
//! address that is none, never wait without end for something, and never repeat itself without a pause.
#![no_main]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use netbr::Mac;
use netbr::dhcp::client::{Action, Event, Identity, Machine, Moment};
use netbr::dhcp::message::{Datagram, Kind, Message, Side};
use netbr::dhcp::options::{Options, code};
use netbr::dhcp::{Lease, probe};

fn take<'a>(data: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(length.min(data.len()));
    *data = rest;
    taken
}

fn byte(data: &mut &[u8]) -> u8 {
    take(data, 1).first().copied().unwrap_or(0)
}

fn long(data: &mut &[u8]) -> u32 {
    take(data, 4).try_into().map_or(0, u32::from_be_bytes)
}

/// A server's answer to what the client last sent, its parts chosen by the input.
fn answer(data: &mut &[u8], asked: &Message) -> Vec<u8> {
    let shape = byte(data);
    let kind = [Kind::Offer, Kind::Ack, Kind::Nak, Kind::Unknown(byte(data))][usize::from(shape & 3)];
    let server = Ipv4Addr::new(10, 77, 0, 1 + byte(data) % 2);
    let mut message = asked.answer(kind, server);
    message.yiaddr = if shape & 4 == 0 { Ipv4Addr::new(10, 77, 0, 9) } else { long(data).into() };
    message.options.set(code::LEASE_TIME, if shape & 8 == 0 { 3600 } else { long(data) }.to_be_bytes());
    if shape & 16 != 0 {
        message.options.set(code::RAPID_COMMIT, []);
    }
    if shape & 32 != 0 {
        message.options.set(code::RENEWAL, long(data).to_be_bytes());
        message.options.set(code::REBINDING, long(data).to_be_bytes());
    }
    if shape & 64 != 0 {
        let length = usize::from(byte(data));
        if let Ok(options) = Options::parse(take(data, length), &[], &[]) {
            for (code, value) in options.iter() {
                message.options.set(code, value);
            }
        }
    }
    let request = Datagram::to_everybody(asked.clone());
    request.answer((server, Mac::local([0, 0, 1])), message).encode(4000).0
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let traits = byte(&mut data);
    let mac = Mac::local([0xaa, 0, 1]);
    let who = Identity {
        mac,
        hostname: (traits & 1 != 0).then(|| "clone".to_owned()),
        client_id: (traits & 2 != 0).then(|| vec![1, 2, 3]),
        rapid_commit: traits & 4 != 0,
        reachable: traits & 8 != 0,
        check_as: (traits & 16 != 0).then_some(mac),
    };
    let begin = Instant::now();
    let mut elapsed = Duration::ZERO;
    let at = |elapsed| Moment {
        monotonic: begin + elapsed,
        wall: UNIX_EPOCH + Duration::from_secs(1_800_000_000) + elapsed,
    };
    let mut machine = Machine::new(who, at(elapsed), 7);
    let mut asked: Option<Message> = None;
    let mut kept: Option<Lease> = None;
    let mut active = false;
    while !data.is_empty() {
        let now = at(elapsed);
        let actions = match byte(&mut data) % 16 {
            0 if !active => {
                active = true;
                machine.start(now)
            }
            1 if !active => match kept.clone() {
                Some(lease) => {
                    active = true;
                    machine.resume(lease, now)
                }
                None => Vec::new(),
            },
            2 => {
                active = false;
                machine.release()
            }
            3 => machine.renew(now),
            4 => {
                let length = usize::from(byte(&mut data)) * 4;
                machine.frame(take(&mut data, length), now)
            }
            5 => {
                let rival = Mac::local([0xbb, 0, byte(&mut data)]);
                machine.frame(&probe::question(rival, Ipv4Addr::new(10, 77, 0, 9)), now)
            }
            6 => {
                elapsed += Duration::from_millis(long(&mut data).into());
                machine.timer(at(elapsed))
            }
            7..11 => match machine.deadline() {
                Some(deadline) => {
                    elapsed = elapsed.max(deadline - begin);
                    let actions = machine.timer(at(elapsed));
                    let next = machine.deadline();
                    assert!(next.is_none_or(|next| begin + elapsed < next), "no pause");
                    actions
                }
                None => Vec::new(),
            },
            _ => match &asked {
                Some(asked) => {
                    let frame = answer(&mut data, asked);
                    machine.frame(&frame, now)
                }
                None => Vec::new(),
            },
        };
        assert!(actions.len() <= 4, "{actions:?}");
        for action in actions {
            match action {
                Action::Send(frame) => {
                    if let Ok(sent) = Datagram::parse(&frame, Side::Server) {
                        assert_eq!((sent.message.chaddr, sent.ether_source), (mac, mac.bytes()));
                        asked = Some(sent.message);
                    } else {
                        assert!(traits & 16 != 0, "what was sent is neither DHCP nor a wanted probe");
                    }
                }
                Action::Tell(Event::Bound(lease) | Event::Renewed(lease)) => {
                    assert_eq!(machine.lease(), Some(&lease));
                    let address = lease.address;
                    assert!(!address.is_unspecified() && !address.is_broadcast() && !address.is_multicast());
                    assert!(lease.lasts > 0 && lease.renew_after > 0);
                    assert!(lease.renew_after <= lease.rebind_after && lease.rebind_after <= lease.lasts);
                    kept = Some(lease);
                }
                Action::Tell(_) => {}
            }
        }
        let endless = machine.lease().is_some_and(|lease| lease.ends().is_none());
        assert_eq!(machine.deadline().is_some(), active && !(endless && machine.deadline().is_none()));
    }
});
