use std::net::Ipv6Addr;

use super::*;
use crate::watch::testing::{ROUTER, ack, arp_frame, dhcp_message, ipv6_udp_frame, neighbor_frame, recorded};
use Direction::{FromGuest, ToGuest};

const GUEST: Mac = Mac::local([0x12, 0x34, 0x56]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 9);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 10);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
const UP: Port = Port { running: true, link_up: true };

/// A table and its clock.
struct Test {
    table: Table,
    now: Instant,
    sent: usize,
}

impl Test {
    fn new() -> Self {
        Self::with(Some(HOST))
    }

    fn with(ipv4: Option<Ipv4Addr>) -> Self {
        let asker = Asker { mac: Mac::local([0, 0xff, 2]), ipv4, ipv6: Some("fe80::2".parse().unwrap()) };
        let table = Table::new(TableConfig { macs: vec![GUEST], siblings: Vec::new(), asker });
        Self { table, now: Instant::now(), sent: 0 }
    }

    fn sees(&mut self, direction: Direction, frame: &[u8]) -> Vec<Event> {
        let out = self.table.frame(self.now, direction, frame);
        self.sent += out.frames.len();
        out.events
    }

    /// Lets time pass, doing what is due when it is due.
    fn wait(&mut self, secs: u64) -> Vec<Event> {
        let end = self.now + Duration::from_secs(secs);
        let mut events = Vec::new();
        while let Some(due) = self.table.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let out = self.table.tick(self.now);
            self.sent += out.frames.len();
            events.extend(out.events);
        }
        self.now = end;
        events
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.table.addresses().iter().map(|known| known.address).collect()
    }

    /// The guest uses an address.
    fn announces(&mut self, address: Ipv4Addr) -> Vec<Event> {
        self.sees(FromGuest, &arp_frame(false, (GUEST, address), address))
    }
}

/// The events in short: a letter and an address each.
fn short(events: &[Event]) -> Vec<(char, IpAddr)> {
    let one = |event: &Event| match *event {
        Event::Appeared(known) => ('a', known.address),
        Event::Confirmed(known) => ('c', known.address),
        Event::Lost { address, .. } => ('l', address),
        Event::Conflict { address, .. } => ('x', address),
        Event::DuplicateMac(_) => ('d', NONE.into()),
    };
    events.iter().map(one).collect()
}

fn v4(address: Ipv4Addr) -> IpAddr {
    address.into()
}

#[test]
fn a_lease_is_known_from_the_ack_and_confirmed_by_the_guests_answer() {
    let mut test = Test::new();
    let events = test.sees(ToGuest, &ack(GUEST, ADDRESS, 3600));
    assert_eq!(short(&events), [('a', v4(ADDRESS))]);
    let known = test.table.addresses()[0];
    assert_eq!(
        (known.source, known.confirmed, known.server),
        (Source::Dhcp, false, Some("192.168.7.1".parse().unwrap()))
    );
    assert_eq!(known.lease_end, Some(test.now + Duration::from_secs(3600)));
    assert_eq!(test.sent, 1, "it is asked at once");
    assert_eq!(test.table.why(UP, Want::Any), Some(NoAddress::Unreachable { address: v4(ADDRESS) }));
    let events = test.sees(FromGuest, &arp_frame(true, (GUEST, ADDRESS), HOST));
    assert_eq!(short(&events), [('c', v4(ADDRESS))]);
    assert_eq!(test.table.why(UP, Want::Any), None);
    assert_eq!(test.wait(1000), []);
    assert_eq!(test.sent, 1, "and no more once it has answered");
}

#[test]
fn a_guest_that_does_not_answer_is_asked_a_bounded_number_of_times() {
    let mut test = Test::new();
    test.sees(ToGuest, &ack(GUEST, ADDRESS, u32::MAX));
    assert_eq!(test.wait(100_000), []);
    assert_eq!(test.sent, 9);
    assert_eq!(test.table.next_deadline(), None);
    assert_eq!(test.table.why(UP, Want::Any).unwrap().code(), "unreachable");
}

#[test]
fn a_guest_that_tries_its_lease_out_hears_no_probe() {
    let mut test = Test::with(None);
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 3600));
    for _ in 0..3 {
        test.wait(2);
        assert_eq!(test.sees(FromGuest, &arp_frame(false, (GUEST, NONE), ADDRESS)), []);
    }
    test.wait(2);
    assert_eq!(test.sent, 0);
    assert_eq!(short(&test.announces(ADDRESS)), [('c', v4(ADDRESS))]);
    test.wait(100);
    assert_eq!(test.sent, 0);
}

#[test]
fn recorded_guests_have_the_address_that_they_were_given() {
    for (frames, address, released) in [
        (include_str!("../frame/recorded/networkd.txt"), [192, 168, 50, 111], true),
        (include_str!("../frame/recorded/dhclient.txt"), [192, 168, 50, 111], false),
        (include_str!("../frame/recorded/hello.txt"), [10, 0, 2, 15], false),
    ] {
        let (mut test, mut events) = (Test::new(), Vec::new());
        for (direction, frame) in recorded(frames) {
            events.extend(test.sees(direction, &frame));
        }
        let address = IpAddr::from(address);
        assert_eq!(short(&events)[..2], [('a', address), ('c', address)]);
        assert_eq!(short(&events).contains(&('l', address)), released);
        assert_eq!(test.addresses().is_empty(), released);
    }
}

#[test]
fn a_lease_ends_when_its_time_is_over_and_not_before() {
    let mut test = Test::new();
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 600));
    test.announces(ADDRESS);
    assert_eq!(test.wait(500), []);
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 600));
    assert_eq!(test.wait(599), []);
    assert_eq!(test.wait(1), [Event::Lost { address: v4(ADDRESS), why: LostWhy::Expired }]);
    assert_eq!(test.addresses(), [] as [IpAddr; 0]);
}

#[test]
fn what_ends_a_lease() {
    let release = dhcp_message(7, GUEST, ADDRESS, NONE, &[]);
    let decline = dhcp_message(4, GUEST, NONE, NONE, &[50, 4, 192, 168, 7, 9]);
    let nak = dhcp_message(6, GUEST, NONE, NONE, &[]);
    for (direction, frame, why) in [
        (FromGuest, release, LostWhy::Released),
        (FromGuest, decline, LostWhy::Declined),
        (ToGuest, nak, LostWhy::Refused),
        (ToGuest, ack(GUEST, OTHER, 600), LostWhy::Replaced),
    ] {
        let mut test = Test::new();
        test.sees(ToGuest, &ack(GUEST, ADDRESS, 600));
        test.announces(ADDRESS);
        let events = test.sees(direction, &frame);
        assert_eq!(events[0], Event::Lost { address: v4(ADDRESS), why });
        assert!(!test.addresses().contains(&v4(ADDRESS)));
    }
}

#[test]
fn a_refusal_in_another_transaction_does_not_count() {
    let mut test = Test::new();
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 600));
    test.sees(FromGuest, &dhcp_message(3, GUEST, NONE, NONE, &[]));
    let mut nak = dhcp_message(6, GUEST, NONE, NONE, &[]);
    nak[14 + 28 + 7] = 99;
    assert_eq!(test.sees(ToGuest, &nak), []);
}

#[test]
fn what_is_not_for_the_guest_is_not_its() {
    let mut test = Test::new();
    assert_eq!(test.sees(ToGuest, &ack(ROUTER, ADDRESS, 600)), []);
    assert_eq!(test.sees(FromGuest, &ack(GUEST, ADDRESS, 600)), [], "it is no server of its own");
    assert_eq!(test.sees(FromGuest, &arp_frame(false, (ROUTER, ADDRESS), OTHER)), []);
    assert_eq!(test.sees(ToGuest, &arp_frame(false, (ROUTER, ADDRESS), OTHER)), []);
    assert_eq!(test.addresses(), [] as [IpAddr; 0]);
}

#[test]
fn addresses_that_no_host_has_are_ignored() {
    let mut test = Test::new();
    for never in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        assert_eq!(test.announces(never.parse().unwrap()), [], "{never}");
        assert_eq!(test.sees(ToGuest, &ack(GUEST, never.parse().unwrap(), 600)), [], "{never}");
    }
}

#[test]
fn an_address_that_is_tried_out_appears_when_it_is_used() {
    let mut test = Test::new();
    assert_eq!(test.sees(FromGuest, &arp_frame(false, (GUEST, NONE), ADDRESS)), []);
    assert_eq!(test.addresses(), [] as [IpAddr; 0]);
    test.wait(7);
    assert_eq!(short(&test.announces(ADDRESS)), [('a', v4(ADDRESS)), ('c', v4(ADDRESS))]);

    let mut test = Test::new();
    test.sees(FromGuest, &arp_frame(false, (GUEST, NONE), ADDRESS));
    assert_eq!(test.wait(100), []);
    assert_eq!(test.table.entries.len(), 0, "and is forgotten when it is not");
}

#[test]
fn another_claim_is_a_conflict_until_the_other_is_silent() {
    for claim in [(ToGuest, ROUTER), (FromGuest, ROUTER), (ToGuest, GUEST)] {
        let mut test = Test::new();
        test.announces(ADDRESS);
        let events = test.sees(claim.0, &arp_frame(true, (claim.1, ADDRESS), OTHER));
        let told = [
            Event::Conflict { address: v4(ADDRESS), other: claim.1 },
            Event::Lost { address: v4(ADDRESS), why: LostWhy::Conflict },
        ];
        assert!(events.ends_with(&told), "{events:?}");
        assert_eq!(
            test.table.why(UP, Want::Any),
            Some(NoAddress::AddressConflict { address: v4(ADDRESS), other: Some(claim.1) })
        );
        // Both go on: that is said once.
        assert_eq!(test.announces(ADDRESS), []);
        test.wait(20);
        assert_eq!(short(&test.sees(claim.0, &arp_frame(true, (claim.1, ADDRESS), OTHER))), []);
        test.wait(20);
        assert_eq!(test.addresses(), [] as [IpAddr; 0]);
        // The other falls silent, and the guest is asked again.
        let sent = test.sent;
        test.wait(11);
        assert!(test.sent > sent);
        assert_eq!(short(&test.announces(ADDRESS)), [('a', v4(ADDRESS)), ('c', v4(ADDRESS))]);
        assert_eq!(test.table.why(UP, Want::Any), None);
    }
}

#[test]
fn the_guests_other_interface_is_no_rival() {
    let mut test = Test::new();
    test.table.config.siblings = vec![ROUTER];
    test.announces(ADDRESS);
    assert_eq!(test.sees(ToGuest, &arp_frame(true, (ROUTER, ADDRESS), OTHER)), []);
    assert_eq!(test.addresses(), [v4(ADDRESS)]);
}

#[test]
fn a_station_with_the_guests_mac_is_told_now_and_then() {
    let mut test = Test::new();
    let frame = arp_frame(false, (GUEST, OTHER), HOST);
    assert_eq!(test.sees(ToGuest, &frame), [Event::DuplicateMac(GUEST)]);
    assert_eq!(test.sees(ToGuest, &frame), []);
    test.wait(31);
    assert_eq!(test.sees(ToGuest, &frame), [Event::DuplicateMac(GUEST)]);
}

#[test]
fn a_static_address_that_was_changed_is_given_up() {
    let mut test = Test::new();
    test.announces(ADDRESS);
    test.wait(1000);
    assert_eq!(short(&test.announces(OTHER)), [('a', v4(OTHER)), ('c', v4(OTHER))]);
    test.wait(1);
    test.announces(OTHER);
    assert_eq!(test.wait(60), [Event::Lost { address: v4(ADDRESS), why: LostWhy::Unanswered }]);
    assert_eq!(test.addresses(), [v4(OTHER)]);
}

#[test]
fn a_late_trial_puts_probes_off() {
    let mut test = Test::with(None);
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 3600));
    test.wait(9);
    test.sees(FromGuest, &arp_frame(false, (GUEST, NONE), ADDRESS));
    test.wait(9);
    assert_eq!(test.sent, 0);
    test.wait(2);
    assert_eq!(test.sent, 1);
}

/// The guest's address of a number.
fn many(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 1, high, low)
}

#[test]
fn a_guest_with_many_addresses_must_answer_for_each() {
    let mut test = Test::new();
    for number in 1..=8 {
        assert_eq!(short(&test.announces(many(number))), [('a', v4(many(number))), ('c', v4(many(number)))]);
    }
    assert_eq!(short(&test.announces(many(9))), [('a', v4(many(9)))]);
    assert_eq!(test.announces(many(9)), [], "saying it again is not enough");
    let answer = arp_frame(true, (GUEST, many(9)), HOST);
    assert_eq!(short(&test.sees(FromGuest, &answer)), [('c', v4(many(9)))]);
}

#[test]
fn a_flood_of_claims_does_not_drive_out_what_is_known() {
    let mut test = Test::new();
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 3600));
    test.announces(ADDRESS);
    for number in 0..1000 {
        test.announces(many(number));
    }
    assert_eq!(test.table.entries.len(), CAPACITY);
    assert!(test.table.addresses().iter().any(|known| known.address == v4(ADDRESS) && known.confirmed));
    // Nor do answers that nobody asked for.
    for number in 1000..2000 {
        test.sees(FromGuest, &arp_frame(true, (GUEST, many(number)), HOST));
    }
    let confirmed = test.table.addresses().iter().filter(|known| known.confirmed).count();
    assert_eq!(confirmed, 8);
    // A table full of addresses that the guest answers for takes no more claims, but a lease is always known.
    for known in test.table.addresses() {
        let IpAddr::V4(address) = known.address else { continue };
        test.sees(FromGuest, &arp_frame(true, (GUEST, address), HOST));
    }
    assert!(test.table.addresses().iter().all(|known| known.confirmed));
    assert_eq!(test.announces(many(3000)), []);
    let events = test.sees(ToGuest, &ack(GUEST, OTHER, 3600));
    assert!(short(&events).ends_with(&[('a', v4(OTHER))]), "{events:?}");
    assert_eq!(test.table.entries.len(), CAPACITY);
}

#[test]
fn only_the_guests_own_comes_back() {
    let test = Test::new();
    let clocks = Clocks { now: test.now, wall: std::time::SystemTime::now() };
    let mut foreign = Test::new();
    foreign.announces(ADDRESS);
    let mut saved = Saved::new(&foreign.table.addresses()[0], clocks);
    saved.mac = ROUTER;
    assert_eq!(Test::new().table.restore(clocks, &[saved]), Output::default());
    saved.mac = GUEST;
    saved.address = v4(NONE);
    assert_eq!(Test::new().table.restore(clocks, &[saved]), Output::default());
}

#[test]
fn a_guest_that_is_paused_keeps_its_addresses() {
    let mut test = Test::new();
    test.announces(ADDRESS);
    test.announces(OTHER);
    assert_eq!(test.wait(1000), []);
    assert_eq!(test.addresses().len(), 2);
}

#[test]
fn a_guest_is_asked_for_silent_addresses_twice_and_not_faster_than_it_may() {
    let mut test = Test::new();
    let asked = test.table.sweep(test.now, Ipv4Addr::new(192, 168, 7, 77), 24).unwrap();
    assert_eq!(asked.frames.len(), 32);
    test.sent = 0;
    test.wait(1);
    assert!((200..=225).contains(&test.sent), "{}", test.sent);
    test.wait(10);
    // Not for the host's own address.
    assert_eq!(test.sent + 32, 2 * 253);
    assert_eq!(test.table.next_deadline(), None);
    assert_eq!(test.table.sweep(test.now, ADDRESS, 23), Err(AskError::TooMany));
    assert_eq!(Table::hosts(ADDRESS, 32).unwrap().collect::<Vec<_>>(), [v4(ADDRESS)]);
}

#[test]
fn what_was_saved_comes_back_unconfirmed_and_is_asked_at_once() {
    let mut test = Test::new();
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 600));
    test.announces(ADDRESS);
    let clocks = Clocks { now: test.now, wall: std::time::SystemTime::now() };
    let saved: Vec<_> = test.table.addresses().iter().map(|known| Saved::new(known, clocks)).collect();
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Vec<Saved> = serde_json::from_str(&text).unwrap();

    let later = Duration::from_secs(60);
    let clocks = Clocks { now: clocks.now + Duration::from_secs(5), wall: clocks.wall + later };
    let mut again = Test::new();
    again.now = clocks.now;
    let out = again.table.restore(clocks, &saved);
    assert_eq!((short(&out.events), out.frames.len()), (vec![('a', v4(ADDRESS))], 1));
    let left = again.table.addresses()[0].lease_end.unwrap() - clocks.now;
    assert!(left.abs_diff(Duration::from_secs(540)) < Duration::from_millis(2), "{left:?}");
    assert_eq!(short(&again.sees(FromGuest, &arp_frame(true, (GUEST, ADDRESS), HOST))), [('c', v4(ADDRESS))]);

    let over = Clocks { wall: clocks.wall + Duration::from_secs(600), ..clocks };
    assert_eq!(Test::new().table.restore(over, &saved), Output::default(), "its lease is over");
}

#[test]
fn ipv6_addresses_appear_after_their_trial() {
    let address: Ipv6Addr = "2001:db8::9".parse().unwrap();
    let mut test = Test::new();
    let trial = neighbor_frame(135, GUEST, Ipv6Addr::UNSPECIFIED, address);
    assert_eq!(test.sees(FromGuest, &trial), []);
    assert_eq!(test.wait(1), []);
    assert_eq!(test.sent, 0, "not while it is tried out");
    test.wait(1);
    assert!(test.sent > 0);
    let events = test.sees(FromGuest, &neighbor_frame(136, GUEST, address, address));
    assert_eq!(short(&events), [('a', address.into()), ('c', address.into())]);
    let events = test.sees(ToGuest, &neighbor_frame(136, ROUTER, address, address));
    assert_eq!(short(&events), [('x', address.into()), ('l', address.into())]);

    let mut test = Test::new();
    test.sees(FromGuest, &trial);
    test.sees(ToGuest, &neighbor_frame(136, ROUTER, address, address));
    assert_eq!(test.wait(100), [], "the trial failed");
    assert_eq!(test.table.why(UP, Want::Ipv6).unwrap().code(), "address-conflict");
}

#[test]
fn a_dhcpv6_server_gives_and_takes() {
    let address: Ipv6Addr = "2001:db8::77".parse().unwrap();
    let message = |kind: u8, valid: u32| {
        let mut bytes = vec![kind, 1, 2, 3, 0, 3, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 24];
        bytes.extend(address.octets());
        bytes.extend([0; 4]);
        bytes.extend(valid.to_be_bytes());
        bytes
    };
    let mut test = Test::new();
    let reply = |valid| ipv6_udp_frame(GUEST.bytes(), 546, &message(7, valid));
    assert_eq!(short(&test.sees(ToGuest, &reply(100))), [('a', address.into())]);
    assert_eq!(test.table.addresses()[0].source, Source::Dhcpv6);
    assert_eq!(short(&test.sees(ToGuest, &reply(0))), [('l', address.into())]);
    assert_eq!(test.sees(ToGuest, &ipv6_udp_frame(ROUTER.bytes(), 546, &message(7, 100))), []);
    test.sees(ToGuest, &reply(100));
    assert_eq!(test.wait(100), [Event::Lost { address: address.into(), why: LostWhy::Expired }]);
}

#[test]
fn the_best_address_is_the_first() {
    let mut test = Test::new();
    let local: Ipv6Addr = "fe80::9".parse().unwrap();
    let global: Ipv6Addr = "2001:db8::9".parse().unwrap();
    test.sees(FromGuest, &neighbor_frame(136, GUEST, local, local));
    test.announces(Ipv4Addr::new(169, 254, 1, 1));
    assert_eq!(test.table.why(UP, Want::Any).unwrap().code(), "no-dhcp-request");
    test.sees(FromGuest, &neighbor_frame(136, GUEST, global, global));
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 600));
    assert_eq!(test.addresses()[..2], [IpAddr::from(global), v4(ADDRESS)], "confirmed first");
    test.announces(ADDRESS);
    assert_eq!(test.addresses()[..2], [v4(ADDRESS), IpAddr::from(global)]);
    assert_eq!(test.addresses().len(), 4);
}

#[test]
fn why_there_is_no_address() {
    let mut test = Test::new();
    let why = |test: &Test| test.table.why(UP, Want::Any).map(|why| why.code());
    assert_eq!(
        test.table.why(Port { running: false, link_up: true }, Want::Any),
        Some(NoAddress::NotRunning)
    );
    assert_eq!(test.table.why(Port { running: true, link_up: false }, Want::Any), Some(NoAddress::NoLink));
    assert_eq!(why(&test), Some("no-dhcp-request"));
    test.sees(FromGuest, &dhcp_message(1, GUEST, NONE, NONE, &[]));
    test.sees(FromGuest, &dhcp_message(1, GUEST, NONE, NONE, &[]));
    let asked = test.table.why(UP, Want::Any).unwrap();
    assert_eq!(asked, NoAddress::NoDhcpAnswer { requests: 2, offered: false, refused: false });
    assert!(asked.likely().contains(&LikelyCause::WifiUplink));
    assert_eq!(asked.to_string(), "the guest asked 2 times for an address by DHCP, and nobody answered");
    let json = serde_json::to_string(&asked).unwrap();
    assert!(json.starts_with(r#"{"reason":"no-dhcp-answer","requests":2"#), "{json}");
    test.sees(ToGuest, &dhcp_message(6, GUEST, NONE, NONE, &[]));
    assert_eq!(test.table.why(UP, Want::Any).unwrap().likely(), [LikelyCause::PoolExhausted]);
    test.sees(ToGuest, &ack(GUEST, ADDRESS, 600));
    assert_eq!(why(&test), Some("unreachable"));
    test.sees(FromGuest, &dhcp_message(4, GUEST, NONE, NONE, &[50, 4, 192, 168, 7, 9]));
    assert_eq!(why(&test), Some("address-conflict"));
    let local: Ipv6Addr = "fe80::9".parse().unwrap();
    test.sees(FromGuest, &neighbor_frame(136, GUEST, local, local));
    test.announces(Ipv4Addr::new(169, 254, 1, 1));
    assert_eq!(why(&test), Some("address-conflict"), "what it falls back to changes nothing");
    test.sees(ToGuest, &ack(GUEST, OTHER, 600));
    assert_eq!(why(&test), Some("unreachable"));
    test.announces(OTHER);
    assert_eq!(why(&test), None);
    assert_eq!(test.table.why(UP, Want::Ipv6).map(|why| why.code()), Some("no-dhcp-request"));
}
