//! The table under arbitrary histories of frames and times.
//!
//! Input: pieces of a kind, a length and so many bytes. A piece is a frame as it is, a frame put together of few numbers so
//! that histories meet, time passing, or a wish of the owner.
#![no_main]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime};

use libfuzzer_sys::fuzz_target;
use netbr::Mac;
use netbr::packet::Direction;
use netbr::watch::{
    Asker, CAPACITY, Clocks, Event, MOST_ASKED, Output, Port, Saved, Table, TableConfig, Want,
};

const GUEST: Mac = Mac::local([0, 0, 1]);

struct Model {
    table: Table,
    told: BTreeSet<IpAddr>,
    start: Instant,
    now: Instant,
    sent: u128,
}

impl Model {
    fn new(named: bool, now: Instant) -> Self {
        let asker = Asker {
            mac: Mac::local([0, 0, 3]),
            ipv4: named.then_some(Ipv4Addr::new(192, 168, 9, 9)),
            ipv6: named.then(|| "fe80::2".parse().unwrap()),
        };
        let table = Table::new(TableConfig { macs: vec![GUEST], siblings: Vec::new(), asker });
        Self { table, told: BTreeSet::new(), start: now, now, sent: 0 }
    }

    /// Whoever only listens to events knows the same addresses as the table.
    fn take(&mut self, out: Output) {
        for event in out.events {
            match event {
                Event::Appeared(known) => assert!(self.told.insert(known.address)),
                Event::Confirmed(known) => assert!(self.told.contains(&known.address)),
                Event::Conflict { address, .. } => assert!(self.told.contains(&address)),
                Event::Lost { address, .. } => assert!(self.told.remove(&address)),
                Event::DuplicateMac(mac) => assert_eq!(mac, GUEST),
            }
        }
        let addresses = self.table.addresses();
        assert!(addresses.len() <= CAPACITY);
        assert_eq!(addresses.iter().map(|known| known.address).collect::<BTreeSet<_>>(), self.told);
        self.sent += out.frames.len() as u128;
        assert!(self.sent <= 32 + (self.now - self.start).as_millis() / 4, "{} sent", self.sent);
        for want in [Want::Any, Want::Ipv4, Want::Ipv6] {
            if let Some(why) = self.table.why(Port { running: true, link_up: true }, want) {
                let _ = (why.to_string(), why.likely(), why.code());
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for turn in 0.. {
            assert!(turn < 10_000, "it does not come to rest");
            let Some(due) = self.table.next_deadline().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            let out = self.table.tick(self.now);
            self.take(out);
        }
        self.now = end;
    }

    fn sees(&mut self, from: bool, frame: &[u8]) {
        let direction = if from { Direction::FromGuest } else { Direction::ToGuest };
        let out = self.table.frame(self.now, direction, frame);
        self.take(out);
    }
}

fn mac(number: u8) -> [u8; 6] {
    Mac::local([0, 0, 1 + (number & 1)]).bytes()
}

fn ethernet(source: u8, ethertype: [u8; 2]) -> Vec<u8> {
    let mut frame = mac(source >> 1).to_vec();
    frame.extend(mac(source));
    frame.extend(ethertype);
    frame
}

/// The sender's MAC, a request or a reply, the sender's address, the target.
fn arp(data: &[u8]) -> Option<Vec<u8>> {
    let &[who, sender, target, ..] = data else { return None };
    let mut frame = ethernet(who, [8, 6]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1 + (who >> 2 & 1)]);
    frame.extend(mac(who));
    frame.extend(if who & 8 == 0 { [192, 168, who >> 6, sender] } else { [0; 4] });
    frame.extend([0; 6]);
    frame.extend([192, 168, who >> 6, target]);
    Some(frame)
}

/// The client's MAC, the kind, the address, then options as they are.
fn dhcp(data: &[u8]) -> Option<Vec<u8>> {
    let (&[who, code, address, lease], options) = data.split_first_chunk()?;
    let reply = matches!(code, 2 | 5 | 6);
    let mut message = vec![1 + u8::from(reply), 1, 6, 0, 0, 0, 0, who >> 4, 0, 0, 0, 0];
    message.extend([192, 168, 0, address, 192, 168, 0, address, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(mac(who));
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, code, 50, 4, 192, 168, 0, address]);
    message.extend([51, 4, 0, 0, 0, lease]);
    message.extend(options);
    let mut frame = ethernet(who, [8, 0]);
    let len = |extra| u16::try_from(message.len() + extra).unwrap_or(u16::MAX).to_be_bytes();
    frame.extend([0x45, 0]);
    frame.extend(len(28));
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67]);
    frame.extend(len(8));
    frame.extend([0, 0]);
    frame.extend(message);
    Some(frame)
}

/// The sender's MAC, the kind, the source's and the target's last byte, then options as they are.
fn neighbor(data: &[u8]) -> Option<Vec<u8>> {
    let (&[who, kind, source, target], options) = data.split_first_chunk()?;
    let mut frame = ethernet(who, [0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(24 + options.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([58, 255]);
    let prefix = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend(if source == 0 { [0; 15] } else { prefix });
    frame.push(source);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([133 + kind % 5, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(prefix);
    frame.push(target);
    frame.extend(options);
    Some(frame)
}

/// The receiver's MAC, then the message as it is.
fn dhcpv6(data: &[u8]) -> Option<Vec<u8>> {
    let (&who, message) = data.split_first()?;
    let mut frame = ethernet(who, [0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    let len = u16::try_from(8 + message.len()).unwrap_or(u16::MAX).to_be_bytes();
    frame.extend(len);
    frame.extend([17, 64]);
    frame.extend([0xfe; 32]);
    frame.extend([2, 35, 2, 34]);
    frame.extend(len);
    frame.extend([0, 0]);
    frame.extend(message);
    Some(frame)
}

fuzz_target!(|data: &[u8]| {
    let Some((options, mut rest)) = data.split_first() else { return };
    let start = Instant::now();
    let mut model = Model::new(options & 1 == 0, start);
    while let [kind, len, after @ ..] = rest {
        let piece;
        (piece, rest) = after.split_at(usize::from(*len).min(after.len()));
        let from = kind & 16 == 0;
        let frame = match kind & 15 {
            0 => Some(piece.to_vec()),
            1..5 => arp(piece),
            5..8 => dhcp(piece),
            8..10 => neighbor(piece),
            10 => dhcpv6(piece),
            11..14 => {
                let time = piece.iter().take(2).fold(0, |time, byte| time << 8 | u64::from(*byte));
                model.wait(Duration::from_millis(time * if from { 1 } else { 100 }));
                None
            }
            14 => {
                let out = if from {
                    let asked = piece.iter().map(|last| IpAddr::from([192, 168, 0, *last]));
                    model.table.ask(model.now, asked.take(MOST_ASKED)).unwrap()
                } else {
                    model.table.recheck(model.now)
                };
                model.take(out);
                None
            }
            _ => {
                // The owner is restarted.
                let before = Clocks { now: model.now, wall: SystemTime::now() };
                let known = model.table.addresses();
                let saved: Vec<_> = known.iter().map(|known| Saved::new(known, before)).collect();
                let mut again = Model::new(from, model.now);
                let out = again.table.restore(before, &saved);
                again.take(out);
                model = again;
                None
            }
        };
        if let Some(frame) = frame {
            model.sees(from, &frame);
        }
    }
    model.wait(Duration::from_secs(1_000));
});
