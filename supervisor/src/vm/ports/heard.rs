//! What a watch knows, as it is recorded, and back. Pure.

use std::time::Duration;

use jiff::Timestamp;
use netbr::watch::{Address, Clocks, Saved};

use crate::spec::Mac;
use crate::store::{Heard, Source};

/// A port's addresses, with times by the wall clock.
pub(super) fn all(net: usize, addresses: &[Address]) -> Vec<Heard> {
    let clocks = Clocks::read();
    addresses
        .iter()
        .map(|address| {
            let saved = Saved::new(address, clocks);
            Heard {
                net,
                address: saved.address,
                source: source(saved.source),
                confirmed: saved.confirmed,
                since: timestamp(saved.first_seen),
                seen: timestamp(saved.last_seen),
                lease_ends: saved.lease_end.map(timestamp),
            }
        })
        .collect()
}

/// A recorded address as a watch takes it; nothing for what no watch has heard.
pub(super) fn saved(heard: &Heard, mac: Mac) -> Option<Saved> {
    let source = match heard.source {
        Source::Dhcp => netbr::watch::Source::Dhcp,
        Source::Dhcpv6 => netbr::watch::Source::Dhcpv6,
        Source::Arp => netbr::watch::Source::Arp,
        Source::Ndp => netbr::watch::Source::Ndp,
        Source::Agent | Source::Console => return None,
    };
    Some(Saved {
        address: heard.address,
        mac,
        source,
        first_seen: millis(heard.since),
        last_seen: millis(heard.seen),
        confirmed: heard.confirmed,
        lease_end: heard.lease_ends.map(millis),
        server: None,
    })
}

/// How an address became known, in the words of records.
pub(super) const fn source(source: netbr::watch::Source) -> Source {
    match source {
        netbr::watch::Source::Dhcp => Source::Dhcp,
        netbr::watch::Source::Dhcpv6 => Source::Dhcpv6,
        netbr::watch::Source::Arp => Source::Arp,
        netbr::watch::Source::Ndp => Source::Ndp,
    }
}

fn timestamp(millis: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(Timestamp::MAX)
}

fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_survives_being_recorded() {
        let heard = Heard {
            net: 0,
            address: "192.0.2.7".parse().unwrap(),
            source: Source::Dhcp,
            confirmed: true,
            since: timestamp(1_700_000_000_123),
            seen: timestamp(1_700_000_001_000),
            lease_ends: Some(timestamp(1_700_003_600_000)),
        };
        let saved = saved(&heard, Mac::local([1, 2, 3])).unwrap();
        assert_eq!((saved.first_seen, saved.lease_end), (1_700_000_000_123, Some(1_700_003_600_000)));
        assert_eq!(timestamp(saved.last_seen), heard.seen);
    }

    #[test]
    fn what_no_watch_heard_is_not_given_to_one() {
        let heard = Heard {
            net: 0,
            address: "10.0.2.15".parse().unwrap(),
            source: Source::Agent,
            confirmed: true,
            since: Timestamp::UNIX_EPOCH,
            seen: Timestamp::UNIX_EPOCH,
            lease_ends: None,
        };
        assert_eq!(saved(&heard, Mac::local([1, 2, 3])), None);
    }
}
