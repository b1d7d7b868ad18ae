use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::watch::testing::{ack, arp_frame, dhcp_message, neighbor_frame};
use Direction::{FromGuest, ToGuest};

const GUEST: Mac = Mac::local([0, 0, 1]);
const OTHER: Mac = Mac::local([0, 0, 2]);

/// What happens to a table.
#[derive(Debug, Clone)]
enum Step {
    Arp { from: bool, own: bool, reply: bool, probe: bool, address: u16 },
    Dhcp { code: u8, own: bool, address: u16, secs: u32 },
    Neighbor { from: bool, own: bool, advertisement: bool, probe: bool, address: u16 },
    Garbage(bool, Vec<u8>),
    Wait(u64),
    Ask(Vec<u16>),
    Recheck,
}

/// Few addresses, so that steps meet; `wide` gives enough of them to fill a table.
fn steps(wide: bool) -> impl Strategy<Value = Vec<Step>> {
    let address = if wide { 0..1000_u16 } else { 0..6_u16 };
    let flags = any::<[bool; 4]>();
    let step = prop_oneof![
        8 => (flags, address.clone()).prop_map(|([from, own, reply, probe], address)| {
            Step::Arp { from, own, reply, probe, address }
        }),
        6 => (1..9_u8, any::<bool>(), address.clone(), 0..100_u32).prop_map(|(code, own, address, secs)| {
            Step::Dhcp { code, own, address, secs }
        }),
        4 => (flags, address.clone()).prop_map(|([from, own, advertisement, probe], address)| {
            Step::Neighbor { from, own, advertisement, probe, address }
        }),
        1 => (any::<bool>(), prop::collection::vec(any::<u8>(), 0..100)).prop_map(|(from, bytes)| {
            Step::Garbage(from, bytes)
        }),
        3 => (0..40_000_u64).prop_map(Step::Wait),
        1 => prop::collection::vec(address, 0..300).prop_map(Step::Ask),
        1 => Just(Step::Recheck),
    ];
    prop::collection::vec(step, 0..200)
}

fn v4(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(192, 168, high, low)
}

fn v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)
}

/// A table, and what it has told.
struct Model {
    table: Table,
    now: Instant,
    start: Instant,
    told: BTreeSet<IpAddr>,
    given: BTreeSet<IpAddr>,
    sent: u32,
}

impl Model {
    fn new(named: bool) -> Self {
        let asker = Asker {
            mac: Mac::local([0, 0, 3]),
            ipv4: named.then_some(Ipv4Addr::new(192, 168, 9, 9)),
            ipv6: named.then_some("fe80::2".parse().unwrap()),
        };
        let now = Instant::now();
        let table = Table::new(TableConfig { macs: vec![GUEST], siblings: Vec::new(), asker });
        Self { table, now, start: now, told: BTreeSet::new(), given: BTreeSet::new(), sent: 0 }
    }

    /// Whoever only listens to events knows the same addresses as the table.
    fn take(&mut self, out: &Output) {
        for event in &out.events {
            match *event {
                Event::Appeared(known) => {
                    assert!(self.told.insert(known.address), "appeared twice: {known:?}");
                    assert!(self.given.contains(&known.address), "out of thin air: {known:?}");
                }
                Event::Confirmed(known) => assert!(self.told.contains(&known.address)),
                Event::Conflict { address, .. } => assert!(self.told.contains(&address)),
                Event::Lost { address, .. } => assert!(self.told.remove(&address), "lost twice: {address}"),
                Event::DuplicateMac(mac) => assert_eq!(mac, GUEST),
            }
        }
        let held: BTreeSet<_> = self.table.addresses().iter().map(|known| known.address).collect();
        assert_eq!(held, self.told);
        assert!(self.table.entries.len() <= CAPACITY);
        assert!(self.table.asks.len() <= 2 * MOST_ASKED);
        self.sent += u32::try_from(out.frames.len()).unwrap();
        let allowed = 32 + (self.now - self.start).as_millis() / 4;
        assert!(u128::from(self.sent) <= allowed, "{} frames sent", self.sent);
    }

    fn sees(&mut self, direction: Direction, address: impl Into<IpAddr>, frame: &[u8]) {
        self.given.insert(address.into());
        let out = self.table.frame(self.now, direction, frame);
        self.take(&out);
    }

    fn wait(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        let mut turns = 0;
        while let Some(due) = self.table.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let out = self.table.tick(self.now);
            self.take(&out);
            turns += 1;
            assert!(turns < 10_000, "it does not come to rest");
        }
        self.now = end;
    }

    fn step(&mut self, step: &Step) {
        let mac = |own| if own { GUEST } else { OTHER };
        let way = |from| if from { FromGuest } else { ToGuest };
        match *step {
            Step::Arp { from, own, reply, probe, address } => {
                let address = v4(address);
                let sender = if probe { Ipv4Addr::UNSPECIFIED } else { address };
                self.sees(way(from), address, &arp_frame(reply, (mac(own), sender), address));
            }
            Step::Dhcp { code, own, address, secs } => {
                let address = v4(address);
                let [a, b, c, d] = address.octets();
                let frame = match code {
                    5 => ack(mac(own), address, secs),
                    _ => dhcp_message(code, mac(own), address, address, &[50, 4, a, b, c, d]),
                };
                self.sees(way(!matches!(code, 2 | 5 | 6)), address, &frame);
            }
            Step::Neighbor { from, own, advertisement, probe, address } => {
                let address = v6(address);
                let source = if probe { Ipv6Addr::UNSPECIFIED } else { address };
                let frame = neighbor_frame(135 + u8::from(advertisement), mac(own), source, address);
                self.sees(way(from), address, &frame);
            }
            Step::Garbage(from, ref bytes) => {
                let out = self.table.frame(self.now, way(from), bytes);
                self.take(&out);
            }
            Step::Wait(millis) => self.wait(millis),
            Step::Ask(ref addresses) => {
                let addresses = addresses.iter().map(|address| v4(*address).into());
                if let Ok(out) = self.table.ask(self.now, addresses) {
                    self.take(&out);
                }
            }
            Step::Recheck => {
                let out = self.table.recheck(self.now);
                self.take(&out);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_its_word_can_be_relied_on(named: bool, steps in prop_oneof![steps(false), steps(true)]) {
        let mut model = Model::new(named);
        for step in &steps {
            model.step(step);
        }
        // It comes to rest: nothing is asked for ever.
        model.wait(1_000_000);
        prop_assert_eq!(model.table.next_deadline(), None);
    }

    /// Of two guests that go on using one address, each one's watcher says so, whoever was there first.
    #[test]
    fn a_conflict_is_seen_from_both_sides(turns in prop::collection::vec(any::<bool>(), 0..10)) {
        let mut sides = [GUEST, OTHER].map(|mac| {
            let asker = Asker { mac: Mac::local([0, 0, 3]), ipv4: None, ipv6: None };
            (Table::new(TableConfig { macs: vec![mac], siblings: Vec::new(), asker }), mac, false)
        });
        let now = Instant::now();
        // At the latest each speaks twice by turns.
        for speaker in turns.into_iter().chain([false, true, false, true]) {
            let speaker = usize::from(speaker);
            let frame = arp_frame(true, (sides[speaker].1, v4(1)), v4(1));
            for (side, (table, _, seen)) in sides.iter_mut().enumerate() {
                let direction = if side == speaker { FromGuest } else { ToGuest };
                let events = table.frame(now, direction, &frame).events;
                *seen |= events.iter().any(|event| matches!(event, Event::Conflict { .. }));
            }
        }
        prop_assert!(sides[0].2 && sides[1].2);
    }

    /// What was known is known again, and nothing else.
    #[test]
    fn what_was_saved_is_restored(steps in steps(false), away in 0..200_000_u64) {
        let mut before = Model::new(true);
        for step in &steps {
            before.step(step);
        }
        let clocks = Clocks { now: before.now, wall: std::time::SystemTime::now() };
        let known = before.table.addresses();
        let saved: Vec<_> = known.iter().map(|known| Saved::new(known, clocks)).collect();
        let away = Duration::from_millis(away);
        let later = Clocks { now: clocks.now + away, wall: clocks.wall + away };
        let mut after = Model::new(true);
        (after.now, after.start) = (later.now, later.now);
        after.given = before.told.clone();
        let out = after.table.restore(later, &saved);
        after.take(&out);
        let restored = after.table.addresses();
        for known in &restored {
            prop_assert!(!known.confirmed);
        }
        for known in &known {
            // The wall clock is kept in milliseconds.
            let margin = Duration::from_millis(2);
            let kept = restored.iter().find(|restored| restored.address == known.address);
            match known.lease_end {
                Some(end) if end + margin < later.now => prop_assert!(kept.is_none()),
                Some(end) if end < later.now + margin => {}
                _ => {
                    let kept = kept.expect("forgotten");
                    prop_assert_eq!((kept.source, kept.mac), (known.source, known.mac));
                }
            }
        }
        prop_assert_eq!(out.frames.len(), restored.len(), "each is asked for at once");
    }
}
