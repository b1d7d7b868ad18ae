//! What root prepares for a user with `midge net setup`, so that the user's VMs on bridges and on midge's own network need no
//! privilege: taps that the user owns, and one small program that passes on the frames to watch them by.
//!
//! All that must be known of a prepared tap is written at the tap itself, in the kernel, where everybody reads it: it lasts
//! exactly as long as the tap does.
//!
//! | file | is |
//! |---|---|
//! | `mod` | a prepared tap: its name, its alias, its address; which one a VM takes |
//! | [`lender`] | the program that passes frames on, installed with its one capability |
//! | [`mod@unit`] | the unit for systemd that prepares everything anew at every boot |

pub mod lender;
pub mod unit;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use netbr::link::{ALIAS_PREFIX, Link, tap_name};
use xxhash_rust::xxh3::xxh3_64;

/// What follows [`ALIAS_PREFIX`] in the alias of a prepared tap; the user's name comes next, and on a network of midge's own the
/// address that belongs to the tap.
const FOR: &str = "for ";

/// A tap that was prepared for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedTap {
    /// The interface.
    pub link: Link,
    /// Whose it is.
    pub uid: u32,
    /// What the alias calls the user.
    pub user: String,
    /// The address of whichever guest is behind it, on midge's own network.
    pub address: Option<Ipv4Addr>,
}

impl PreparedTap {
    /// An interface as a prepared tap, if it is one.
    #[must_use]
    pub fn of(link: &Link) -> Option<Self> {
        let tap = link.tap().filter(|tap| tap.persistent)?;
        let whose = link.alias.as_deref()?.strip_prefix(ALIAS_PREFIX)?.strip_prefix(FOR)?;
        let (user, address) = match whose.rsplit_once(' ').map(|(user, last)| (user, last.parse().ok())) {
            Some((user, Some(address))) => (user, Some(address)),
            _ => (whose, None),
        };
        Some(Self { link: link.clone(), uid: tap.owner?, user: user.to_owned(), address })
    }

    /// The prepared taps among these interfaces, by name.
    #[must_use]
    pub fn among(links: &[Link]) -> Vec<Self> {
        let mut taps: Vec<Self> = links.iter().filter_map(Self::of).collect();
        taps.sort_by(|a, b| a.link.name.cmp(&b.link.name));
        taps
    }

    /// Whether somebody uses it.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.link.tap().is_some_and(|tap| tap.open)
    }
}

/// The alias of a tap that is prepared for a user.
#[must_use]
pub fn alias(user: &str, address: Option<Ipv4Addr>) -> String {
    match address {
        Some(address) => format!("{ALIAS_PREFIX}{FOR}{user} {address}"),
        None => format!("{ALIAS_PREFIX}{FOR}{user}"),
    }
}

/// The name of a user's tap number `index` on a bridge: the same after a reboot.
#[must_use]
pub fn name(user: &str, uid: u32, bridge: &str, index: usize) -> String {
    tap_name(user, format!("setup {uid} {bridge}").as_bytes(), index)
}

/// The name by which a user's set-up uses midge's own network.
#[must_use]
pub fn network_user(uid: u32) -> String {
    format!("{NETWORK_USER}{uid}")
}

/// Whether a user of midge's own network is a set-up, and no VM.
#[must_use]
pub fn is_network_user(id: &str) -> bool {
    id.starts_with(NETWORK_USER)
}

const NETWORK_USER: &str = "setup-";

/// The address of a new tap: of those that nobody has, the one that its name leads to, so that a tap that is made anew after a
/// reboot has the same. Nothing when all are taken.
#[must_use]
pub fn address(
    tap: &str,
    range: RangeInclusive<Ipv4Addr>,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let first = range.start().to_bits();
    let size = u64::from(range.end().to_bits().checked_sub(first)?) + 1;
    let start = xxh3_64(tap.as_bytes()) % size;
    (0..size)
        .filter_map(|step| u32::try_from((start + step) % size).ok())
        .map(|offset| Ipv4Addr::from_bits(first + offset))
        .find(|address| !taken(*address))
}

/// Brings taps into the order in which a VM's interface tries them. It is a rendezvous (highest random weight, Thaler and Ravishankar
/// 1998): a VM takes the same tap, and with it the same address, as long as nobody else has that, whichever others there are.
pub fn in_order_for(interface: &str, taps: &mut [PreparedTap]) {
    taps.sort_by_cached_key(|tap| {
        std::cmp::Reverse(xxh3_64(format!("{interface} {}", tap.link.name).as_bytes()))
    });
}

#[cfg(test)]
mod tests {
    use netbr::link::{LinkKind, TapState};

    use super::*;

    fn link(name: &str, alias: Option<&str>, tap: TapState) -> Link {
        Link {
            index: 7,
            name: name.to_owned(),
            mac: None,
            up: true,
            carrier: false,
            operational: true,
            mtu: 1500,
            kind: LinkKind::Tap(tap),
            master: Some(3),
            isolated: false,
            alias: alias.map(ToOwned::to_owned),
        }
    }

    fn prepared(name: &str) -> PreparedTap {
        let tap = TapState { persistent: true, owner: Some(1000), ..TapState::default() };
        PreparedTap::of(&link(name, Some("midge for pi"), tap)).unwrap()
    }

    #[test]
    fn what_an_alias_says_is_read_back() {
        let tap = TapState { persistent: true, owner: Some(1000), ..TapState::default() };
        let read = |alias: &str| PreparedTap::of(&link("t", Some(alias), tap));
        for (user, address) in [
            ("pi", None),
            ("pi", Some(Ipv4Addr::new(10, 77, 0, 200))),
            ("DOM\\a b", None),
            ("DOM\\a b", Some(Ipv4Addr::new(10, 77, 0, 201))),
        ] {
            let tap = read(&alias(user, address)).unwrap();
            assert_eq!((tap.user.as_str(), tap.uid, tap.address), (user, 1000, address));
        }
        assert_eq!(alias("pi", None), "midge for pi");
        for other in ["midge web", "midge network midge0", "for pi", ""] {
            assert_eq!(read(other), None, "{other}");
        }
        // The text alone makes nobody an owner.
        let nobodys = TapState { owner: None, ..tap };
        assert_eq!(PreparedTap::of(&link("t", Some("midge for pi"), nobodys)), None);
        let brief = TapState { persistent: false, ..tap };
        assert_eq!(PreparedTap::of(&link("t", Some("midge for pi"), brief)), None);
    }

    #[test]
    fn names_stay_and_differ() {
        assert_eq!(name("pi", 1000, "br0", 0), name("pi", 1000, "br0", 0));
        let names: std::collections::BTreeSet<_> = (0..250)
            .flat_map(|n| {
                [name("pi", 1000, "br0", n), name("pi", 1000, "midge0", n), name("pi", 1001, "br0", n)]
            })
            .collect();
        assert_eq!(names.len(), 750);
    }

    #[test]
    fn addresses_are_all_given_and_none_twice() {
        let range = || Ipv4Addr::new(10, 77, 0, 128)..=Ipv4Addr::new(10, 77, 0, 254);
        let mut given = std::collections::BTreeSet::new();
        for n in 0..127 {
            let address = address(&name("pi", 1000, "midge0", n), range(), |a| given.contains(&a)).unwrap();
            assert!(range().contains(&address) && given.insert(address));
        }
        assert_eq!(address("one more", range(), |a| given.contains(&a)), None);
        assert_eq!(address("a", range(), |_| false), address("a", range(), |_| false));
    }

    #[test]
    fn a_vm_keeps_to_its_tap_when_others_come_and_go() {
        let mut taps: Vec<_> = (0..8).map(|n| prepared(&format!("tap{n}"))).collect();
        in_order_for("vm.0", &mut taps);
        let first = taps[0].clone();
        let second = taps[1].clone();
        taps.reverse();
        taps.push(prepared("tap8"));
        in_order_for("vm.0", &mut taps);
        assert!(taps[0] == first || taps[0].link.name == "tap8");
        taps.retain(|tap| *tap != first && tap.link.name != "tap8");
        assert_eq!(taps[0], second);
        let mut spread = std::collections::BTreeSet::new();
        for vm in 0..64 {
            in_order_for(&format!("vm{vm}.0"), &mut taps);
            spread.insert(taps[0].link.name.clone());
        }
        assert!(spread.len() > 4, "{spread:?}");
    }
}
