//! The server, message by message: RFC 2131's tables, and what must hold whatever is asked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dhcp_support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcp_support::*;
use netbr::Mac;
use netbr::dhcp::leases::{Refusal, ReserveError, RowState, State};
use netbr::dhcp::message::{Datagram, Kind, Side};
use netbr::dhcp::options::code;
use netbr::dhcp::server::{self, Event, Ignored, Occasion};
use netbr::dhcp::subnet::Route;
use netbr::dhcp::{Leases, Network};
use proptest::prelude::*;

fn ignored(outcome: &server::Outcome) -> Option<Ignored> {
    match outcome.events.as_slice() {
        [Event::Ignored { why, .. }] if outcome.reply.is_none() => Some(*why),
        _ => None,
    }
}

fn is_refused(outcome: &server::Outcome, address: Ipv4Addr) -> bool {
    let nak = reply(outcome).filter(|nak| nak.message.kind() == Some(Kind::Nak));
    let told = outcome.events.iter().any(|e| matches!(e, Event::Refused { address: a, .. } if *a == address));
    nak.is_some_and(|nak| {
        nak.message.yiaddr.is_unspecified()
            && nak.destination.is_broadcast()
            && nak.message.options.long(code::LEASE_TIME).is_none()
            && nak.message.options.text(code::MESSAGE).is_some()
    }) && told
}

fn bound_by(outcome: &server::Outcome) -> Option<(Ipv4Addr, Occasion)> {
    outcome.events.iter().find_map(|event| match event {
        Event::Bound { address, occasion, .. } => Some((*address, *occasion)),
        _ => None,
    })
}

#[test]
fn discover_is_offered_what_it_asks_for_in_its_order() {
    let mut network = network(20);
    network.names.insert(mac(1), "one".to_owned());
    let routes = [("192.168.4.0/22", ip(7)), ("10.0.0.0/8", ip(8))];
    network.routes = routes.map(|(to, via)| Route { to: to.parse().unwrap(), via }).to_vec();
    let asked = [28, 121, 3, 15, 6, 26, 12, 42, 1, 59];
    let discover = with(message(Kind::Discover, mac(1)), code::PARAMETERS, asked);
    let discover = with(discover, code::CLIENT_IDENTIFIER, [1, 2, 3]);
    let outcome = handle(&network, &mut Leases::default(), at(0), &everybody(discover));
    let offer = reply(&outcome).unwrap();
    assert_eq!(offer.ether_source, network.server_mac.bytes());
    assert_eq!((offer.source, offer.destination), (network.server, offer.message.yiaddr));
    assert_eq!(offer.ether_destination, mac(1).bytes());
    assert_eq!(offer.message.xid, 0x1234_5678);
    let options = &offer.message.options;
    let codes: Vec<u8> = options.iter().map(|(code, _)| code).collect();
    // The kind, who offers, whom (RFC 6842), for how long; then the mask, which must precede the router; then as asked.
    assert_eq!(codes, [53, 54, 61, 51, 1, 28, 121, 3, 15, 6, 26, 12, 59, 58]);
    assert_eq!(options.address(code::SUBNET_MASK), Some(Ipv4Addr::new(255, 255, 255, 0)));
    assert_eq!(options.address(code::BROADCAST), Some(ip(255)));
    assert_eq!(options.addresses(code::ROUTER), [ip(1)]);
    assert_eq!(options.addresses(code::DNS), network.dns);
    assert_eq!(options.text(code::DOMAIN), Some("guests.test"));
    assert_eq!(options.text(code::HOST_NAME), Some("one"));
    assert_eq!(options.short(code::MTU), Some(1400));
    assert_eq!(options.get(code::CLIENT_IDENTIFIER), Some(&[1, 2, 3][..]));
    let times = [code::LEASE_TIME, code::RENEWAL, code::REBINDING].map(|code| options.long(code));
    assert_eq!(times, [Some(3600), Some(1800), Some(3150)]);
    // RFC 3442: the default route is among them, as whoever reads this option does not read option 3.
    let expected =
        [&[22, 192, 168, 4, 10, 77, 0, 7][..], &[8, 10, 10, 77, 0, 8], &[0, 10, 77, 0, 1]].concat();
    assert_eq!(options.get(code::CLASSLESS_ROUTES), Some(&expected[..]));
}

#[test]
fn who_does_not_say_what_it_wants_gets_the_usual() {
    let outcome =
        handle(&network(20), &mut Leases::default(), at(0), &everybody(message(Kind::Discover, mac(1))));
    let codes: Vec<u8> = reply(&outcome).unwrap().message.options.iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [53, 54, 51, 1, 3, 6, 15, 26, 28, 58, 59]);
}

#[test]
fn answers_go_where_rfc_2131_4_1_sends_them() {
    let (network, mut leases) = (network(20), Leases::default());
    let address = obtain(&network, &mut leases, at(0), mac(1));
    let mut discover = message(Kind::Discover, mac(1));
    discover.broadcast = true;
    let offer = reply(&handle(&network, &mut leases, at(0), &everybody(discover))).unwrap();
    assert_eq!((offer.destination, offer.ether_destination), (Ipv4Addr::BROADCAST, [0xff; 6]));
    assert!(offer.message.broadcast);
    let mut renewing = message(Kind::Request, mac(1));
    renewing.broadcast = true;
    let renewing = from_its_address(renewing, address, network.server);
    let ack = reply(&handle(&network, &mut leases, at(0), &renewing)).unwrap();
    assert_eq!((ack.destination, ack.ether_destination), (address, mac(1).bytes()));
    assert_eq!((ack.message.ciaddr, ack.message.yiaddr), (address, address));
}

#[test]
fn messages_have_room_for_old_clients_and_stay_within_what_new_ones_take() {
    let mut network = network(20);
    network.routes =
        (0..60).map(|n| Route { to: format!("10.{n}.0.0/16").parse().unwrap(), via: ip(7) }).collect();
    let discover = |size: Option<u16>| {
        let message = with(message(Kind::Discover, mac(1)), code::PARAMETERS, [121, 3, 6]);
        everybody(match size {
            Some(size) => with(message, code::MAX_SIZE, size.to_be_bytes()),
            None => message,
        })
    };
    // 14 + 20 + 8 bytes of headers come before the message.
    let lengths = [None, Some(100), Some(576), Some(1000), Some(1300), Some(9000)].map(|size| {
        let outcome = handle(&network, &mut Leases::default(), at(0), &discover(size));
        let left_out =
            outcome.events.iter().any(|e| matches!(e, Event::LeftOut { codes, .. } if codes == &[121]));
        (outcome.reply.unwrap().len() - 42, left_out)
    });
    let whole = lengths[5].0;
    assert_eq!(lengths[..3], [(548, true); 3]);
    assert!((672..=972).contains(&whole), "{whole}");
    assert_eq!(lengths[3..], [(whole, false); 3]);
}

#[test]
fn a_lease_lasts_as_long_as_wished_within_bounds() {
    let network = network(20);
    for (wish, given) in [(1, 60), (600, 600), (3600, 3600), (u32::MAX, 3600)] {
        let discover = with(message(Kind::Discover, mac(1)), code::LEASE_TIME, wish.to_be_bytes());
        let outcome = handle(&network, &mut Leases::default(), at(0), &everybody(discover));
        assert_eq!(reply(&outcome).unwrap().message.options.long(code::LEASE_TIME), Some(given));
    }
    let short = Network { lease_time: Duration::from_secs(6), ..network };
    let outcome = handle(&short, &mut Leases::default(), at(0), &everybody(message(Kind::Discover, mac(1))));
    let options = reply(&outcome).unwrap().message.options;
    let times = [code::LEASE_TIME, code::RENEWAL, code::REBINDING].map(|code| options.long(code));
    assert_eq!(times, [Some(6), Some(3), Some(6)]);
}

#[test]
fn rapid_commit_gives_the_lease_at_once() {
    let (network, mut leases) = (network(20), Leases::default());
    let discover = with(message(Kind::Discover, mac(1)), code::RAPID_COMMIT, []);
    let outcome = handle(&network, &mut leases, at(0), &everybody(discover));
    let ack = reply(&outcome).unwrap().message;
    assert_eq!(ack.kind(), Some(Kind::Ack));
    assert_eq!(ack.options.get(code::RAPID_COMMIT), Some(&[][..]));
    assert_eq!(bound_by(&outcome), Some((ack.yiaddr, Occasion::RapidCommit)));
    assert_eq!(leases.get(mac(1)).unwrap().state, State::Bound);
}

#[test]
fn selecting_takes_what_was_offered_and_nothing_else() {
    let (network, mut leases) = (network(20), Leases::default());
    let offer = handle(&network, &mut leases, at(0), &everybody(message(Kind::Discover, mac(1))));
    let address = reply(&offer).unwrap().message.yiaddr;
    let other = if address == ip(10) { ip(11) } else { ip(10) };
    let selecting = |who, address| everybody(to_server(wishing(message(Kind::Request, who), address), ip(1)));
    assert!(is_refused(&handle(&network, &mut leases, at(1), &selecting(mac(1), other)), other));
    assert!(is_refused(&handle(&network, &mut leases, at(1), &selecting(mac(2), address)), address));
    let outcome = handle(&network, &mut leases, at(1), &selecting(mac(1), address));
    assert_eq!(bound_by(&outcome), Some((address, Occasion::Selecting)));
    assert_eq!(leases.get(mac(1)).unwrap().ends, 1_800_000_001 + 3600);
}

#[test]
fn an_offer_that_lost_to_another_server_is_free_again() {
    let (network, mut leases) = (network(1), Leases::default());
    let _ = handle(&network, &mut leases, at(0), &everybody(message(Kind::Discover, mac(1))));
    let refused = handle(&network, &mut leases, at(0), &everybody(message(Kind::Discover, mac(2))));
    assert!(matches!(refused.events[..], [Event::NoAddress { .. }]));
    let elsewhere = to_server(wishing(message(Kind::Request, mac(1)), ip(10)), ip(2));
    let outcome = handle(&network, &mut leases, at(0), &everybody(elsewhere));
    assert_eq!(ignored(&outcome), Some(Ignored::OtherServer(ip(2))));
    assert_eq!(obtain(&network, &mut leases, at(0), mac(2)), ip(10));
}

#[test]
fn init_reboot_is_confirmed_refused_or_met_with_silence() {
    let (network, mut leases) = (network(20), Leases::default());
    let address = obtain(&network, &mut leases, at(0), mac(1));
    let reboot = |who, address| everybody(wishing(message(Kind::Request, who), address));
    let outcome = handle(&network, &mut leases, at(9), &reboot(mac(1), address));
    assert_eq!(bound_by(&outcome), Some((address, Occasion::Reboot)));
    let elsewhere = Ipv4Addr::new(192, 168, 1, 7);
    for who in [mac(1), mac(2)] {
        assert!(is_refused(&handle(&network, &mut leases, at(9), &reboot(who, elsewhere)), elsewhere));
    }
    let wrong = if address == ip(10) { ip(11) } else { ip(10) };
    assert!(is_refused(&handle(&network, &mut leases, at(9), &reboot(mac(1), wrong)), wrong));
    let unknown = handle(&network, &mut leases, at(9), &reboot(mac(2), wrong));
    assert_eq!(ignored(&unknown), Some(Ignored::Unknown(wrong)));
    // Its time is over, but nobody else has it.
    let late = handle(&network, &mut leases, at(9999), &reboot(mac(1), address));
    assert_eq!(bound_by(&late), Some((address, Occasion::Reboot)));
}

#[test]
fn renewing_and_rebinding_extend_the_lease() {
    let (network, mut leases) = (network(20), Leases::default());
    let address = obtain(&network, &mut leases, at(0), mac(1));
    let destinations = [
        (network.server, Occasion::Renewing),
        (Ipv4Addr::BROADCAST, Occasion::Rebinding),
        (ip(255), Occasion::Rebinding),
    ];
    for (now, (to, occasion)) in (100..).zip(destinations) {
        let request = from_its_address(message(Kind::Request, mac(1)), address, to);
        let outcome = handle(&network, &mut leases, at(now), &request);
        assert_eq!(bound_by(&outcome), Some((address, occasion)));
        assert_eq!(leases.get(mac(1)).unwrap().ends, 1_800_000_000 + now + 3600);
    }
    for address in [ip(5), ip(250), Ipv4Addr::new(10, 78, 0, 1)] {
        let request = from_its_address(message(Kind::Request, mac(1)), address, network.server);
        assert!(is_refused(&handle(&network, &mut leases, at(200), &request), address));
    }
    let request = from_its_address(message(Kind::Request, mac(1)), address, ip(2));
    assert_eq!(ignored(&handle(&network, &mut leases, at(200), &request)), Some(Ignored::OtherServer(ip(2))));
}

#[test]
fn a_guest_goes_on_with_its_address_when_the_leases_were_lost() {
    let (network, mut leases) = (network(20), Leases::default());
    let request = from_its_address(message(Kind::Request, mac(1)), ip(12), network.server);
    let outcome = handle(&network, &mut leases, at(0), &request);
    assert_eq!(bound_by(&outcome), Some((ip(12), Occasion::Adopted)));
    let request = from_its_address(message(Kind::Request, mac(2)), ip(12), network.server);
    assert!(is_refused(&handle(&network, &mut leases, at(0), &request), ip(12)));
    // Also when another one was chosen for it meanwhile, of which it was not told.
    let chosen = leases.choose(&network, at(0), mac(2), None).unwrap().address;
    let used = if chosen == ip(13) { ip(14) } else { ip(13) };
    let request = from_its_address(message(Kind::Request, mac(2)), used, network.server);
    let outcome = handle(&network, &mut leases, at(0), &request);
    assert_eq!(bound_by(&outcome), Some((used, Occasion::Adopted)));
}

#[test]
fn declined_addresses_are_avoided_for_a_time() {
    let (network, mut leases) = (network(2), Leases::default());
    let first = obtain(&network, &mut leases, at(0), mac(1));
    let decline =
        |address, server| everybody(to_server(wishing(message(Kind::Decline, mac(1)), address), server));
    assert_eq!(
        ignored(&handle(&network, &mut leases, at(1), &decline(first, ip(2)))),
        Some(Ignored::OtherServer(ip(2)))
    );
    let outcome = handle(&network, &mut leases, at(1), &decline(first, ip(1)));
    assert_eq!(outcome.events, [Event::Declined { mac: mac(1), address: first }]);
    assert_eq!(outcome.reply, None);
    let second = obtain(&network, &mut leases, at(2), mac(1));
    assert_ne!(first, second);
    let refused = handle(&network, &mut leases, at(3), &everybody(message(Kind::Discover, mac(2))));
    assert!(
        matches!(
            refused.events[..],
            [Event::NoAddress { why: Refusal::Exhausted { size: 2, leased: 1, avoided: 1, .. }, .. }]
        ),
        "{refused:?}"
    );
    assert_eq!(obtain(&network, &mut leases, at(700), mac(2)), first);
}

#[test]
fn no_guest_can_decline_the_pool_away() {
    let (network, mut leases) = (network(40), Leases::default());
    for now in 0..200 {
        let address = obtain(&network, &mut leases, at(now), mac(1));
        let decline = to_server(wishing(message(Kind::Decline, mac(1)), address), ip(1));
        let _ = handle(&network, &mut leases, at(now), &everybody(decline));
    }
    let avoided = leases.list(at(200)).iter().filter(|row| row.state == RowState::Avoided).count();
    assert_eq!(avoided, 8);
}

#[test]
fn released_addresses_stay_their_guests_while_there_are_others() {
    let (network, mut leases) = (network(2), Leases::default());
    let first = obtain(&network, &mut leases, at(0), mac(1));
    let not_its = from_its_address(message(Kind::Release, mac(1)), ip(99), ip(1));
    assert_eq!(
        ignored(&handle(&network, &mut leases, at(1), &not_its)),
        Some(Ignored::NotItsAddress(ip(99)))
    );
    let release = from_its_address(to_server(message(Kind::Release, mac(1)), ip(1)), first, ip(1));
    let outcome = handle(&network, &mut leases, at(1), &release);
    assert_eq!(outcome.events, [Event::Released { mac: mac(1), address: first }]);
    assert_eq!(outcome.reply, None);
    let second = obtain(&network, &mut leases, at(2), mac(2));
    assert_ne!(second, first);
    assert_eq!(obtain(&network, &mut leases, at(3), mac(1)), first);
    let _ = handle(&network, &mut leases, at(4), &release);
    assert_eq!(obtain(&network, &mut leases, at(5), mac(3)), first);
}

#[test]
fn inform_tells_everything_but_a_lease() {
    let (network, mut leases) = (network(20), Leases::default());
    let inform = from_its_address(message(Kind::Inform, mac(1)), ip(200), Ipv4Addr::BROADCAST);
    let outcome = handle(&network, &mut leases, at(0), &inform);
    let ack = reply(&outcome).unwrap();
    assert_eq!((ack.destination, ack.message.yiaddr), (ip(200), Ipv4Addr::UNSPECIFIED));
    let codes: Vec<u8> = ack.message.options.iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [53, 54, 1, 3, 6, 15, 26, 28]);
    assert_eq!(leases, Leases::default());
    let nowhere = everybody(message(Kind::Inform, mac(1)));
    assert_eq!(ignored(&handle(&network, &mut leases, at(0), &nowhere)), Some(Ignored::Incomplete));
}

#[test]
fn what_is_not_for_this_server_is_ignored_and_said() {
    let (network, mut leases) = (network(20), Leases::default());
    let mut relayed = message(Kind::Discover, mac(1));
    relayed.giaddr = ip(3);
    let mut bootp = message(Kind::Discover, mac(1));
    bootp.options = netbr::dhcp::options::Options::default();
    let cases = [
        (relayed, Ignored::Relayed(ip(3))),
        (bootp, Ignored::Bootp),
        (message(Kind::Offer, mac(1)), Ignored::Kind(2)),
        (message(Kind::Unknown(13), mac(1)), Ignored::Kind(13)),
        (message(Kind::Request, mac(1)), Ignored::Incomplete),
        (to_server(message(Kind::Request, mac(1)), ip(1)), Ignored::Incomplete),
        (message(Kind::Decline, mac(1)), Ignored::Incomplete),
    ];
    for (message, why) in cases {
        assert_eq!(ignored(&handle(&network, &mut leases, at(0), &everybody(message))), Some(why));
    }
    assert_eq!(leases, Leases::default());
    let mut relayed = message(Kind::Discover, mac(1));
    relayed.giaddr = ip(3);
    let outcome = handle(&network, &mut leases, at(0), &everybody(relayed));
    assert_eq!(
        outcome.events[0].to_string(),
        "ignored 52:54:00:aa:00:01: its message came through the relay 10.77.0.3"
    );
}

#[test]
fn reservations_win_over_dynamic_leases() {
    let (network, mut leases) = (network(2), Leases::default());
    leases.reserve(&network, at(0), mac(1), ip(10)).unwrap();
    leases.reserve(&network, at(0), mac(2), ip(200)).unwrap();
    assert_eq!(obtain(&network, &mut leases, at(0), mac(3)), ip(11));
    let exhausted = handle(&network, &mut leases, at(0), &everybody(message(Kind::Discover, mac(4))));
    let [Event::NoAddress { why, .. }] = &exhausted.events[..] else { panic!("{exhausted:?}") };
    assert_eq!(
        why.to_string(),
        "the pool 10.77.0.10-10.77.0.11 has 2 addresses and none left: 1 leased or offered, 1 reserved, 0 in use by \
         something else; widen the pool, remove guests, or wait for a lease to end"
    );
    assert_eq!(obtain(&network, &mut leases, at(0), mac(1)), ip(10));
    assert_eq!(obtain(&network, &mut leases, at(0), mac(2)), ip(200));
    let reserve = |leases: &mut Leases, now, who, address| leases.reserve(&network, at(now), who, address);
    assert_eq!(
        reserve(&mut leases, 0, mac(4), ip(10)),
        Err(ReserveError::Reserved { address: ip(10), mac: mac(1) })
    );
    assert_eq!(
        reserve(&mut leases, 0, mac(4), ip(11)),
        Err(ReserveError::Leased { address: ip(11), mac: mac(3), left: 3600 })
    );
    for address in [ip(0), ip(1), ip(255), Ipv4Addr::new(10, 78, 0, 1)] {
        assert!(matches!(reserve(&mut leases, 0, mac(4), address), Err(ReserveError::Outside { .. })));
    }
    // A lease that is over gives way, and its former owner is told when it comes back.
    reserve(&mut leases, 9999, mac(4), ip(11)).unwrap();
    let back = from_its_address(message(Kind::Request, mac(3)), ip(11), ip(1));
    assert!(is_refused(&handle(&network, &mut leases, at(9999), &back), ip(11)));
    // A guest whose reservation was changed is moved there.
    reserve(&mut leases, 9999, mac(2), ip(201)).unwrap();
    let renewing = from_its_address(message(Kind::Request, mac(2)), ip(200), ip(1));
    assert!(is_refused(&handle(&network, &mut leases, at(9999), &renewing), ip(200)));
    assert_eq!(obtain(&network, &mut leases, at(9999), mac(2)), ip(201));
    let listed: Vec<_> =
        leases.list(at(9999)).iter().map(|row| (row.address, row.state, row.reserved)).collect();
    let expected = [
        (ip(10), RowState::Expired, true),
        (ip(11), RowState::Unused, true),
        (ip(201), RowState::Bound, true),
    ];
    assert_eq!(listed, expected);
}

#[test]
fn an_address_is_probed_before_it_changes_hands() {
    let (network, mut leases) = (network(2), Leases::default());
    let discover = everybody(message(Kind::Discover, mac(1)));
    let first = server::handle(&network, &mut leases, at(0), &discover);
    let tried = first.probe.expect("a probe");
    assert_eq!(first.reply, None);
    assert!(leases.probed(at(0), mac(1), tried, Some(mac(99))), "somebody has it");
    let second = server::handle(&network, &mut leases, at(0), &discover);
    let next = second.probe.expect("another probe");
    assert_ne!(next, tried);
    // The guest itself may answer: it went on with an address of which nothing is known any more.
    assert!(!leases.probed(at(0), mac(1), next, Some(mac(1))));
    let offer = server::handle(&network, &mut leases, at(0), &discover);
    assert_eq!((offer.probe, reply(&offer).unwrap().message.yiaddr), (None, next));
    // It had it before, so it is not asked again; whoever gets it next is.
    let request = to_server(wishing(message(Kind::Request, mac(1)), next), ip(1));
    let _ = server::handle(&network, &mut leases, at(0), &everybody(request));
    assert_eq!(server::handle(&network, &mut leases, at(8000), &discover).probe, None);
    let _ = leases.probed(at(8000), mac(1), next, None);
    let other = everybody(message(Kind::Discover, mac(2)));
    let choice = server::handle(&network, &mut leases, at(8000), &other);
    assert_eq!(choice.probe, Some(tried), "its time of being avoided is over");
}

#[test]
fn an_address_chosen_before_the_guest_starts_is_offered_at_once() {
    let (network, mut leases) = (network(20), Leases::default());
    let choice = leases.choose(&network, at(0), mac(1), None).unwrap();
    assert!(choice.probe);
    assert!(!leases.probed(at(0), mac(1), choice.address, None));
    let outcome = server::handle(&network, &mut leases, at(5), &everybody(message(Kind::Discover, mac(1))));
    assert_eq!(reply(&outcome).unwrap().message.yiaddr, choice.address);
    assert!(!leases.choose(&network, at(6), mac(1), None).unwrap().probe);
}

#[test]
fn clocks_that_jump_neither_keep_nor_lose_an_address() {
    let (network, mut leases) = (network(1), Leases::default());
    let address = obtain(&network, &mut leases, at(1_000_000), mac(1));
    // Back by ten days: the lease ends an hour from now, not in ten days.
    leases.settle(at(0));
    assert_eq!(leases.get(mac(1)).unwrap().ends, 1_800_000_000 + 3600);
    // Ahead by ten days: it is over, but still its guest's.
    assert_eq!(leases.list(at(1_000_000))[0].state, RowState::Expired);
    assert_eq!(obtain(&network, &mut leases, at(1_000_000), mac(1)), address);
}

#[test]
fn guests_names_are_taken_when_they_are_names() {
    let network = network(20);
    let fqdn_ascii = [&[0, 0, 0][..], b"guest7.example.org"].concat();
    let fqdn_dns = [&[4, 0, 0, 6][..], b"guest8\x07example\0"].concat();
    let cases: [(u8, &[u8], Option<&str>); 8] = [
        (code::HOST_NAME, b"guest", Some("guest")),
        (code::HOST_NAME, b"guest\0", Some("guest")),
        (code::HOST_NAME, b"a\x1b[2Jb", None),
        (code::HOST_NAME, b"a b", None),
        (code::HOST_NAME, b"", None),
        (code::CLIENT_FQDN, &fqdn_ascii, Some("guest7")),
        (code::CLIENT_FQDN, &fqdn_dns, Some("guest8")),
        (code::CLIENT_FQDN, &[4, 0, 0, 200, b'a'], None),
    ];
    for (code, value, name) in cases {
        let mut leases = Leases::default();
        let discover = with(with(message(Kind::Discover, mac(1)), code, value), code::RAPID_COMMIT, []);
        let _ = handle(&network, &mut leases, at(0), &everybody(discover));
        assert_eq!(leases.get(mac(1)).unwrap().hostname.as_deref(), name, "{value:?}");
    }
}

#[test]
fn leases_from_outside_become_consistent() {
    let record = |address: Ipv4Addr, ends: u64| {
        format!(
            r#"{{"address":"{address}","state":"bound","ends":{ends},"lasts":60,"probed":true,"hostname":null}}"#
        )
    };
    let text = format!(
        r#"{{"records":{{"{}":{},"{}":{},"{}":{}}},"reserved":{{"{}":"{}","{}":"{}"}},"avoided":{{}}}}"#,
        mac(1),
        record(ip(10), 5),
        mac(2),
        record(ip(10), 9),
        mac(3),
        record(ip(11), 9),
        mac(4),
        ip(11),
        mac(5),
        ip(11),
    );
    let leases: Leases = serde_json::from_str(&text).unwrap();
    let kept: Vec<Mac> = [1, 2, 3].map(mac).into_iter().filter(|who| leases.get(*who).is_some()).collect();
    assert_eq!(kept, [mac(2)]);
    assert_eq!((leases.reservation(mac(4)), leases.reservation(mac(5))), (Some(ip(11)), None));
}

/// What can befall a network.
#[derive(Debug, Clone)]
enum Step {
    Asks {
        who: u8,
        kind: u8,
        wish: Option<u8>,
        server: Option<u8>,
        ciaddr: Option<u8>,
        rapid: bool,
        unicast: bool,
    },
    Probe {
        taken: bool,
    },
    Reserve {
        who: u8,
        address: u8,
    },
    Unreserve {
        who: u8,
    },
    Forget {
        who: u8,
    },
    Time {
        seconds: u32,
    },
    Back {
        seconds: u32,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || 0..6_u8;
    let address = || 8..16_u8;
    let asks = (
        who(),
        1..9_u8,
        prop::option::of(address()),
        prop::option::weighted(0.5, 1..3_u8),
        prop::option::weighted(0.3, address()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(who, kind, wish, server, ciaddr, rapid, unicast)| Step::Asks {
            who,
            kind,
            wish,
            server,
            ciaddr,
            rapid,
            unicast,
        });
    let step = prop_oneof![
        12 => asks,
        6 => prop::bool::weighted(0.2).prop_map(|taken| Step::Probe { taken }),
        1 => (who(), address()).prop_map(|(who, address)| Step::Reserve { who, address }),
        1 => who().prop_map(|who| Step::Unreserve { who }),
        1 => who().prop_map(|who| Step::Forget { who }),
        2 => (0..5000_u32).prop_map(|seconds| Step::Time { seconds }),
        1 => (0..5000_u32).prop_map(|seconds| Step::Back { seconds }),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens: no two MACs have one address, and none gets one that is neither in the pool nor reserved for it, or
    /// that was not probed for it.
    #[test]
    fn addresses_are_given_to_one_guest_only_and_from_the_pool_only(steps in steps()) {
        let network = Network { pool: Some(ip(10)..=ip(13)), ..network(4) };
        let mut leases = Leases::default();
        let mut now = 10_000;
        let mut asked: Option<(Mac, Ipv4Addr)> = None;
        // What each guest was told last, and until when by its own clock, which does not jump.
        let mut told: BTreeMap<Mac, (Ipv4Addr, u64)> = BTreeMap::new();
        let (mut elapsed, mut jumped) = (0_u64, false);
        for step in steps {
            match step {
                Step::Asks { who, kind, wish, server, ciaddr, rapid, unicast } => {
                    let mut asks = message(Kind::from(kind), mac(who));
                    if let Some(wish) = wish { asks = wishing(asks, ip(wish)); }
                    if let Some(server) = server { asks = to_server(asks, ip(server)); }
                    if rapid { asks = with(asks, code::RAPID_COMMIT, []); }
                    asks.ciaddr = ciaddr.map_or(Ipv4Addr::UNSPECIFIED, ip);
                    let mut request = everybody(asks);
                    if unicast { request.destination = ip(1); }
                    let outcome = server::handle(&network, &mut leases, at(now), &request);
                    if let Some(address) = outcome.probe { asked = Some((mac(who), address)); }
                    if let Some(answer) = reply(&outcome) {
                        prop_assert_eq!(answer.message.chaddr, mac(who));
                        let address = answer.message.yiaddr;
                        if answer.message.kind() == Some(Kind::Nak) { told.remove(&mac(who)); }
                        if !address.is_unspecified() {
                            prop_assert!(network.in_pool(address) || leases.reservation(mac(who)) == Some(address));
                            prop_assert_eq!(leases.get(mac(who)).unwrap().address, address);
                            prop_assert!(leases.get(mac(who)).unwrap().probed);
                            if answer.message.kind() == Some(Kind::Ack) {
                                let holder = told.iter().find(|(m, (a, until))| **m != mac(who) && *a == address && elapsed < *until);
                                prop_assert!(jumped || holder.is_none(), "{:?} still has {}", holder, address);
                                told.insert(mac(who), (address, elapsed + 3600));
                            }
                        }
                    }
                    // Whatever else it may say, a guest that gives its address back or declines it has it no more; nor has one
                    // that turns to another server.
                    if [Kind::Release, Kind::Decline].contains(&Kind::from(kind)) || server == Some(2) { told.remove(&mac(who)); }
                }
                Step::Probe { taken } => if let Some((who, address)) = asked.take() {
                    leases.probed(at(now), who, address, taken.then(|| mac(99)));
                },
                Step::Reserve { who, address } => { let _ = leases.reserve(&network, at(now), mac(who), ip(address)); }
                Step::Unreserve { who } => leases.unreserve(mac(who)),
                Step::Forget { who } => { leases.forget(mac(who)); told.remove(&mac(who)); }
                Step::Time { seconds } => { now += u64::from(seconds); elapsed += u64::from(seconds); }
                Step::Back { seconds } => { now = now.saturating_sub(seconds.into()); jumped = true; }
            }
            let held: Vec<Ipv4Addr> = (0..6).filter_map(|who| leases.get(mac(who))).map(|record| record.address).collect();
            prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len(), "two hold one address");
            let reserved: Vec<Ipv4Addr> = (0..6).filter_map(|who| leases.reservation(mac(who))).collect();
            prop_assert_eq!(reserved.iter().collect::<BTreeSet<_>>().len(), reserved.len());
            // What is written is what is read.
            let text = serde_json::to_string(&leases).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Leases>(&text).unwrap(), &leases);
        }
    }

    #[test]
    fn who_releases_and_comes_back_gets_the_same(macs in prop::collection::btree_set(any::<[u8; 3]>(), 1..20)) {
        let (network, mut leases) = (network(20), Leases::default());
        let given: BTreeMap<Mac, Ipv4Addr> =
            macs.into_iter().map(Mac::local).map(|mac| (mac, obtain(&network, &mut leases, at(0), mac))).collect();
        for (mac, address) in &given {
            let release = from_its_address(message(Kind::Release, *mac), *address, ip(1));
            let _ = handle(&network, &mut leases, at(1), &release);
        }
        for (mac, address) in given.iter().rev() {
            prop_assert_eq!(obtain(&network, &mut leases, at(2), *mac), *address);
        }
    }

    #[test]
    fn a_guests_first_address_is_the_same_on_every_empty_network(random: [u8; 3]) {
        let network = network(200);
        let first = obtain(&network, &mut Leases::default(), at(0), Mac::local(random));
        let again = obtain(&network, &mut Leases::default(), at(77), Mac::local(random));
        prop_assert_eq!(first, again);
    }

    #[test]
    fn garbage_is_no_request(frame in prop::collection::vec(any::<u8>(), 0..700)) {
        prop_assert!(Datagram::parse(&frame, Side::Server).is_err());
    }

    /// A frame of which some bytes were changed is not read, or says something else; it never panics.
    #[test]
    fn damaged_frames_do_no_harm(changes in prop::collection::vec((0..590_usize, any::<u8>()), 1..6), cut in 0..600_usize) {
        let discover = wishing(with(message(Kind::Discover, mac(1)), code::PARAMETERS, [1, 3, 6, 121]), ip(12));
        let (mut frame, _) = everybody(discover).encode(0);
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) { *place = byte; }
        }
        frame.truncate(cut.max(14));
        if let Ok(request) = Datagram::parse(&frame, Side::Server) {
            let _ = handle(&network(20), &mut Leases::default(), at(0), &request);
        }
    }
}
