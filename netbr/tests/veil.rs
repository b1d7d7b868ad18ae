//! Guests with one identity on one bridge, told apart by veils: guests are namespaces behind veth pairs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod nft_lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use netbr::Mac;
use netbr::nft::Nft;
use netbr::veil::{Identity, Veil};
use nft_lab::sys::{index, offloads, without_checksum};
use nft_lab::{Net, SOON, exchange_datagrams, talk};

const ANY4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const ANY6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const LAN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

fn v6(low: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, low)
}

/// Who all guests take themselves for.
fn inner() -> Identity {
    Identity { mac: Mac::local([0, 0, 0x99]), ipv4: Some(Ipv4Addr::new(10, 9, 0, 99)), ipv6: vec![v6(0x99)] }
}

/// Who the guest with a number is to others.
fn outer(number: u8) -> Identity {
    Identity {
        mac: Mac::local([0, 0, number]),
        ipv4: Some(Ipv4Addr::new(10, 9, 0, number)),
        ipv6: vec![v6(u16::from(number))],
    }
}

/// The link-local address that is made from a MAC.
fn link_local(identity: &Identity) -> Ipv6Addr {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[0xfe, 0x80]);
    bytes[8..].copy_from_slice(&identity.interface_id());
    bytes.into()
}

struct Guest {
    net: Net,
    port: String,
    outer: Identity,
}

impl Guest {
    fn veil(&self) -> Veil {
        Veil { port: self.port.clone(), inner: inner(), outer: self.outer.clone() }
    }

    /// Waits until its IPv6 addresses are usable: the kernel tells no sooner than a second.
    fn settle(&self) {
        let end = Instant::now() + SOON;
        while self.net.ip("-6 addr show dev eth0").contains("tentative") {
            assert!(Instant::now() < end, "{} has no usable IPv6 address", self.port);
            std::thread::sleep(Duration::from_millis(50));
        }
        let addresses = self.net.ip("-6 addr show dev eth0");
        assert!(!addresses.contains("dadfailed"), "a duplicate was seen: {addresses}");
    }

    fn outer4(&self) -> Ipv4Addr {
        self.outer.ipv4.unwrap()
    }

    fn outer6(&self) -> Ipv6Addr {
        self.outer.ipv6[0]
    }
}

/// A bridge with guests of one identity behind veils, and a machine of the LAN.
struct Lab {
    host: Net,
    lan: Net,
    guests: Vec<Guest>,
}

impl Lab {
    fn new(guests: u8) -> Self {
        let host = Net::new("host");
        host.ip("link add br0 type bridge");
        host.ip("link set br0 up");
        host.ip(&format!("addr add {HOST}/24 dev br0"));
        host.ip(&format!("addr add {}/64 dev br0", v6(1)));
        let lan = Net::new("lan");
        host.veth("lan", &lan, "eth0");
        host.ip("link set lan master br0");
        lan.ip(&format!("addr add {LAN}/24 dev eth0"));
        lan.ip(&format!("addr add {}/64 dev eth0", v6(2)));
        let guests = (0..guests).map(|n| Self::guest(&host, 10 + n)).collect();
        Self { host, lan, guests }
    }

    /// A guest whose veil is raised before it says a word.
    fn guest(host: &Net, number: u8) -> Guest {
        let guest = Self::unveiled(host, number);
        guest.veil().raise(&mut Nft::open(&host.namespace).unwrap()).unwrap();
        Self::begin(&guest);
        guest
    }

    /// A guest that is down still.
    fn unveiled(host: &Net, number: u8) -> Guest {
        let net = Net::new(&format!("g{number}"));
        let port = format!("tap{number}");
        host.veth(&port, &net, "eth0");
        net.ip("link set eth0 down");
        net.ip(&format!("link set eth0 address {}", inner().mac));
        host.ip(&format!("link set {port} master br0"));
        Guest { net, port, outer: outer(number) }
    }

    /// Lets it detect duplicates of its addresses, as guests do, and say its first words.
    fn begin(guest: &Guest) {
        let net = &guest.net;
        net.write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "1");
        net.ip("link set eth0 up");
        net.ip(&format!("addr add {}/24 dev eth0", inner().ipv4.unwrap()));
        net.ip(&format!("route add default via {HOST}"));
        net.ip(&format!("addr add {}/64 dev eth0", v6(0x99)));
    }

    fn settle(&self) {
        self.guests.iter().for_each(Guest::settle);
    }

    fn all(&self) -> impl Iterator<Item = &Net> {
        self.guests.iter().map(|g| &g.net).chain([&self.host, &self.lan])
    }

    fn checksum_errors(&self) -> u64 {
        self.all().map(Net::checksum_errors).sum()
    }

    fn learned(&self) -> BTreeSet<String> {
        let fdb = self.host.run("bridge", &["fdb", "show", "br", "br0"]);
        fdb.lines()
            .filter(|line| !line.contains("permanent"))
            .filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn guests_with_one_identity_are_reached_from_everywhere() {
    let lab = Lab::new(3);
    lab.settle();
    for guest in &lab.guests {
        for (from, name) in [(&lab.host, "host"), (&lab.lan, "LAN")] {
            assert!(from.ping(guest.outer4()), "{} from the {name}", guest.port);
            assert!(from.ping(guest.outer6()), "{} from the {name} by IPv6", guest.port);
        }
        for address in [HOST, LAN] {
            assert!(guest.net.ping(address), "{address} from {}", guest.port);
        }
        for address in [v6(1), v6(2)] {
            assert!(guest.net.ping(address), "{address} from {}", guest.port);
        }
        for other in lab.guests.iter().filter(|other| other.port != guest.port) {
            assert!(guest.net.ping(other.outer4()), "{} from {}", other.port, guest.port);
            assert!(guest.net.ping(other.outer6()), "{} from {} by IPv6", other.port, guest.port);
            // Each sees the other under its outer address.
            let seen = talk(&guest.net, &other.net, ANY4, SocketAddr::new(other.outer4().into(), 0), 1000);
            assert_eq!(seen, guest.outer4());
            let seen = talk(&guest.net, &other.net, ANY6, SocketAddr::new(other.outer6().into(), 0), 1000);
            assert_eq!(seen, guest.outer6());
        }
    }
    // Link-local addresses that no one named: those made from the MAC.
    let scope = index(&lab.lan, "eth0");
    for guest in &lab.guests {
        let reached = std::net::SocketAddrV6::new(link_local(&guest.outer), 0, 0, scope);
        talk(&lab.lan, &guest.net, ANY6, reached.into(), 1000);
    }
    let learned = lab.learned();
    for guest in &lab.guests {
        assert!(learned.contains(&guest.outer.mac.to_string()), "{learned:?}");
    }
    assert!(!learned.contains(&inner().mac.to_string()), "{learned:?}");
    let neighbours = lab.lan.ip("neigh show");
    assert!(!neighbours.contains(&inner().mac.to_string()), "{neighbours}");
    assert_eq!(lab.checksum_errors(), 0);
}

#[test]
fn checksums_are_right_whoever_makes_them() {
    let lab = Lab::new(2);
    lab.settle();
    let [one, other] = [&lab.guests[0], &lab.guests[1]];
    let senders =
        || lab.guests.iter().map(|g| (&g.net, "eth0")).chain([(&lab.lan, "eth0"), (&lab.host, "br0")]);
    let ports = || ["lan", &one.port, &other.port].map(|port| (&lab.host, port)).into_iter();
    // All left to devices that do nothing; all made by the sender; left by the sender and made behind the veil, where the checksum of
    // the pseudo-header and the segments' length must be right still.
    for (sender, port) in [(true, true), (false, false), (true, false)] {
        senders().for_each(|(net, name)| offloads(net, name, sender));
        ports().for_each(|(net, name)| offloads(net, name, port));
        for (from, to, address4, address6) in [
            (&lab.lan, &one.net, one.outer4(), one.outer6()),
            (&lab.host, &one.net, one.outer4(), one.outer6()),
            (&one.net, &lab.lan, LAN, v6(2)),
            (&one.net, &lab.host, HOST, v6(1)),
            (&one.net, &other.net, other.outer4(), other.outer6()),
        ] {
            for (bound, reached) in [(ANY4, IpAddr::V4(address4)), (ANY6, IpAddr::V6(address6))] {
                talk(from, to, bound, SocketAddr::new(reached, 0), 4 << 20);
                let (client, server) = (from.udp(bound), to.udp(bound));
                let reached = SocketAddr::new(reached, server.local_addr().unwrap().port());
                // One frame, and fragments.
                for length in [0, 1, 1000, 5000, 20_000] {
                    exchange_datagrams(&client, &server, reached, length);
                }
                if bound.is_ipv4() {
                    without_checksum(&client);
                    without_checksum(&server);
                    exchange_datagrams(&client, &server, reached, 1000);
                    exchange_datagrams(&client, &server, reached, 5000);
                }
                assert_eq!(lab.checksum_errors(), 0, "{reached}, offloads {sender} {port}");
            }
        }
    }
}

#[test]
fn a_guest_and_its_clone_talk_to_each_other() {
    let lab = Lab::new(1);
    // Who really has the inner identity: no veil.
    let original = Lab::unveiled(&lab.host, 50);
    Lab::begin(&original);
    original.settle();
    lab.settle();
    let clone = &lab.guests[0];
    let (inner4, inner6) = (inner().ipv4.unwrap(), inner().ipv6[0]);
    assert!(lab.host.ping(inner4) && lab.host.ping(clone.outer4()));
    let seen = talk(&original.net, &clone.net, ANY4, SocketAddr::new(clone.outer4().into(), 0), 1 << 20);
    // To the clone, its original has the clone's outer identity.
    assert_eq!(seen, clone.outer4());
    let seen = talk(&clone.net, &original.net, ANY4, SocketAddr::new(clone.outer4().into(), 0), 1 << 20);
    assert_eq!(seen, clone.outer4());
    let seen = talk(&original.net, &clone.net, ANY6, SocketAddr::new(clone.outer6().into(), 0), 1 << 20);
    assert_eq!(seen, clone.outer6());
    let seen = talk(&lab.lan, &original.net, ANY6, SocketAddr::new(inner6.into(), 0), 1000);
    assert_eq!(seen, v6(2));
    assert_eq!(lab.checksum_errors(), 0);
}

#[test]
fn errors_about_a_guests_packets_reach_its_sockets() {
    let lab = Lab::new(2);
    lab.settle();
    let [one, other] = [&lab.guests[0], &lab.guests[1]];
    for (bound, to) in [
        (ANY4, IpAddr::from(LAN)),
        (ANY4, other.outer4().into()),
        (ANY6, v6(2).into()),
        (ANY6, other.outer6().into()),
    ] {
        let socket = one.net.udp(bound);
        // A port that nobody listens on.
        socket.connect(SocketAddr::new(to, 9)).unwrap();
        socket.send(b"anyone?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn groups_that_the_bridge_learns_are_those_of_outer_addresses() {
    let lab = Lab::new(1);
    lab.settle();
    // Reports follow within a second or so of the address.
    let end = Instant::now() + SOON;
    loop {
        let groups = lab.host.run("bridge", &["mdb", "show", "dev", "br0"]);
        assert!(!groups.contains("ff02::1:ff00:99"), "{groups}");
        if groups.contains("port tap10 grp ff02::1:ff00:a") {
            break;
        }
        assert!(Instant::now() < end, "{groups}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_veil_is_replaced_lowered_and_found_when_its_port_has_gone() {
    let lab = Lab::new(1);
    let guest = &lab.guests[0];
    let mut nft = Nft::open(&lab.host.namespace).unwrap();
    let once = lab.host.ruleset();
    guest.veil().raise(&mut nft).unwrap();
    assert_eq!(lab.host.ruleset(), once);
    assert!(lab.host.ping(guest.outer4()));

    let other = Veil { outer: outer(200), ..guest.veil() };
    other.raise(&mut nft).unwrap();
    assert!(lab.host.ping(outer(200).ipv4.unwrap()));
    lab.host.ip("neigh flush all");
    assert!(!lab.host.ping(guest.outer4()));
    assert_eq!(netbr::veil::ports(&mut nft).unwrap(), [&*guest.port]);

    other.lower(&mut nft).unwrap();
    other.lower(&mut nft).unwrap();
    assert_eq!(lab.host.ruleset(), "");
    assert!(lab.host.ping(inner().ipv4.unwrap()));

    guest.veil().raise(&mut nft).unwrap();
    lab.host.ip(&format!("link del {}", guest.port));
    for port in netbr::veil::ports(&mut nft).unwrap() {
        netbr::veil::lower(&mut nft, &port).unwrap();
    }
    assert_eq!(lab.host.ruleset(), "");
    let error = guest.veil().raise(&mut nft).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(
        format!("{error}: {cause}"),
        "no veil on tap10: cannot add the chain from-guest to the table netdev midge-veil-tap10 on tap10: there is no interface tap10"
    );
    assert_eq!(lab.host.ruleset(), "");
}
