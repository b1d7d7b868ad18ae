//! A responder between a port and the shared leases, without sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dhcp_support;

use std::net::Ipv4Addr;
use std::path::Path;

use dhcp_support::*;
use netbr::Mac;
use netbr::dhcp::leases::ReserveError;
use netbr::dhcp::message::{Datagram, Kind, Message, Request, Side};
use netbr::dhcp::options::code;
use netbr::dhcp::responder::{Answer, Probe};
use netbr::dhcp::server::{Event, Ignored};
use netbr::dhcp::{LeaseFile, Network, Responder};

fn responder(folder: &Path, network: &Network, served: Mac) -> Responder {
    let file = LeaseFile::open(&folder.join("leases.json")).unwrap();
    Responder::new(network.clone(), file, [served])
}

fn ask(responder: &mut Responder, request: &Request) -> Answer {
    responder.on_frame(&request.encode(0).0).unwrap()
}

/// What the guest gets where nobody else uses any address.
fn told(responder: &mut Responder, request: &Request) -> Option<Message> {
    let mut answer = ask(responder, request);
    while let Some(probe) = answer.probe {
        answer = responder.on_probe(probe, None).unwrap();
    }
    answer.frame.map(|frame| Datagram::parse(&frame, Side::Client).unwrap().message)
}

fn rapid(mac: Mac) -> Request {
    everybody(with(message(Kind::Discover, mac), code::RAPID_COMMIT, []))
}

#[test]
fn each_port_has_its_own_responder_and_all_share_the_leases() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(40);
    let mut given: Vec<Ipv4Addr> = (0..40)
        .map(|n| told(&mut responder(folder.path(), &network, mac(n)), &rapid(mac(n))).unwrap().yiaddr)
        .collect();
    let again = told(&mut responder(folder.path(), &network, mac(3)), &rapid(mac(3))).unwrap().yiaddr;
    assert_eq!(again, given[3], "after a restart");
    given.sort_unstable();
    assert_eq!(given, (10..50).map(ip).collect::<Vec<_>>());
}

#[test]
fn a_guest_is_answered_as_itself_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut responder = responder(folder.path(), &network(20), mac(1));
    let answer = ask(&mut responder, &rapid(mac(2)));
    let ignored = Event::Ignored { mac: mac(2), why: Ignored::Stranger };
    assert_eq!(answer, Answer { events: vec![ignored], ..Answer::default() });
    assert_eq!(responder.on_frame(b"something else").unwrap(), Answer::default());
}

#[test]
fn a_request_waits_for_the_probe_and_moves_on_when_the_address_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut responder = responder(folder.path(), &network(20), mac(1));
    let first = ask(&mut responder, &rapid(mac(1)));
    let probe = first.probe.unwrap();
    assert_eq!((first.frame, probe.mac), (None, mac(1)));
    let second = responder.on_probe(probe, Some(mac(9))).unwrap();
    let conflict = Event::Conflict { mac: mac(1), address: probe.address, holder: mac(9) };
    assert_eq!(second.events, [conflict]);
    let next = second.probe.unwrap();
    assert_ne!(next.address, probe.address);
    let third = responder.on_probe(next, None).unwrap();
    let ack = Datagram::parse(&third.frame.unwrap(), Side::Client).unwrap();
    assert_eq!((ack.message.kind(), ack.message.yiaddr), (Some(Kind::Ack), next.address));
    // A late answer to a question that is no longer open changes nothing.
    assert_eq!(responder.on_probe(next, None).unwrap(), Answer::default());
    assert_eq!(responder.on_probe(Probe { address: ip(49), ..next }, Some(mac(9))).unwrap().frame, None);
    assert_eq!(told(&mut responder, &rapid(mac(1))).unwrap().yiaddr, next.address);
}

#[test]
fn a_preselected_address_is_offered_without_a_probe() {
    let folder = tempfile::tempdir().unwrap();
    let mut responder = responder(folder.path(), &network(20), mac(1));
    let choice = responder.preselect(mac(1)).unwrap().unwrap();
    assert!(choice.probe);
    responder.on_probe(Probe { mac: mac(1), address: choice.address }, None).unwrap();
    let answer = ask(&mut responder, &everybody(message(Kind::Discover, mac(1))));
    assert_eq!(answer.events, [Event::Offered { mac: mac(1), address: choice.address }]);
    assert!(answer.frame.is_some());
}

/// 192.168.1.23 in a home network, whose router gave it.
fn veiled() -> (Network, Ipv4Addr) {
    let address = |last| Ipv4Addr::new(192, 168, 1, last);
    let network = Network::new("192.168.1.0/24".parse().unwrap(), address(1), mac(200));
    (network, address(23))
}

#[test]
fn a_veiled_guest_is_told_what_it_believes_and_never_anything_else() {
    let (network, inner) = veiled();
    let server = network.server;
    let mut responder = Responder::fixed(network, mac(1), inner).unwrap();
    let mut told = |request: &Request| {
        told(&mut responder, request).map(|answer| (answer.kind().unwrap(), answer.yiaddr))
    };
    let request = || message(Kind::Request, mac(1));
    let other = Ipv4Addr::new(192, 168, 1, 50);
    let none = Ipv4Addr::UNSPECIFIED;
    for round in 0..2 {
        let cases = [
            (everybody(message(Kind::Discover, mac(1))), Some((Kind::Offer, inner))),
            (everybody(wishing(message(Kind::Discover, mac(1)), other)), Some((Kind::Offer, inner))),
            (rapid(mac(1)), Some((Kind::Ack, inner))),
            (everybody(to_server(wishing(request(), inner), server)), Some((Kind::Ack, inner))),
            (everybody(to_server(wishing(request(), other), server)), Some((Kind::Nak, none))),
            (everybody(to_server(wishing(request(), inner), other)), None),
            (everybody(wishing(request(), inner)), Some((Kind::Ack, inner))),
            (everybody(wishing(request(), other)), Some((Kind::Nak, none))),
            (everybody(wishing(request(), ip(9))), Some((Kind::Nak, none))),
            (from_its_address(request(), inner, server), Some((Kind::Ack, inner))),
            (from_its_address(request(), inner, Ipv4Addr::BROADCAST), Some((Kind::Ack, inner))),
            (from_its_address(request(), other, server), Some((Kind::Nak, none))),
            (from_its_address(message(Kind::Inform, mac(1)), inner, server), Some((Kind::Ack, none))),
            (everybody(message(Kind::Discover, mac(2))), None),
            // What would end a lease elsewhere; the second round shows that it changes nothing here.
            (from_its_address(to_server(message(Kind::Release, mac(1)), server), inner, server), None),
            (everybody(to_server(wishing(message(Kind::Decline, mac(1)), inner), server)), None),
        ];
        for (n, (request, expected)) in cases.iter().enumerate() {
            assert_eq!(told(request), *expected, "case {n} in round {round}");
        }
    }
}

#[test]
fn a_veiled_guest_cannot_be_told_an_address_that_is_its_networks() {
    let (network, _) = veiled();
    for address in [network.server, network.subnet.base(), ip(7)] {
        let error = Responder::fixed(network.clone(), mac(1), address).unwrap_err();
        assert!(matches!(error, ReserveError::Outside { .. }), "{error}");
    }
}
