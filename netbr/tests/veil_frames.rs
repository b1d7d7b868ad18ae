//! What veils rewrite, frame by frame: what is sent on one side must arrive on the other as if it had been made there, with every
//! checksum as it is when made from scratch.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod nft_lab;

use std::net::{Ipv4Addr, Ipv6Addr};

use netbr::Mac;
use netbr::nft::Nft;
use netbr::veil::{Identity, MARK, Veil};
use nft_lab::frames::{
    Ether, arp, ether, group_ether6, icmp_error, icmpv6, ipv4, link_layer, mld, solicited, udp4, udp6,
};
use nft_lab::sys::Packets;
use nft_lab::{Net, SOON};

const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const BROADCAST: Ether = [0xff; 6];
const NOBODY: Ether = [0; 6];

/// The identity of someone, with an address that is made from the MAC and one that is not.
#[derive(Clone, Copy)]
struct Who {
    mac: Ether,
    ip: Ipv4Addr,
    ip6: Ipv6Addr,
    link_local: Ipv6Addr,
}

const fn who(low: u8) -> Who {
    Who {
        mac: [0x52, 0x54, 0, 0, 0, low],
        ip: Ipv4Addr::new(10, 9, 0, low),
        ip6: Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 1, low as u16),
        link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe00, low as u16),
    }
}

const INNER: Who = who(0x99);
const OUTER: Who = who(0x0a);
const LAN: Who = who(0x02);

fn identity(who: Who) -> Identity {
    Identity { mac: Mac::local([0, 0, who.mac[5]]), ipv4: Some(who.ip), ipv6: vec![who.ip6] }
}

/// A bridge with a veiled guest and a machine of the LAN, neither of which says anything by itself.
struct Lab {
    host: Net,
    _nets: [Net; 2],
    guest: Packets,
    lan: Packets,
}

impl Lab {
    fn new() -> Self {
        let host = Net::new("host");
        host.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        host.ip("link add br0 type bridge mcast_snooping 0");
        host.ip("link set br0 up");
        let [guest, lan] = ["guest", "lan"].map(|name| {
            let net = Net::new(name);
            net.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            host.veth(name, &net, "eth0");
            host.ip(&format!("link set {name} master br0"));
            net
        });
        let veil = Veil { port: "guest".to_owned(), inner: identity(INNER), outer: identity(OUTER) };
        veil.raise(&mut Nft::open(&host.namespace).unwrap()).unwrap();
        let sockets = [&guest, &lan].map(|net| Packets::open(net, "eth0"));
        let [guest_socket, lan_socket] = sockets;
        Self { host, _nets: [guest, lan], guest: guest_socket, lan: lan_socket }
    }

    /// What the guest sends, made by `frame` for whom it takes itself for, arrives as made for whom it is to others; and back.
    fn both_ways(&self, what: &str, from_guest: impl Fn(Who) -> Vec<u8>, to_guest: impl Fn(Who) -> Vec<u8>) {
        arrives(
            &format!("{what} from the guest"),
            &self.guest,
            &self.lan,
            &from_guest(INNER),
            &from_guest(OUTER),
        );
        arrives(&format!("{what} to the guest"), &self.lan, &self.guest, &to_guest(OUTER), &to_guest(INNER));
    }

    /// What the guest sends about itself, and what comes from who really has the inner identity: to the guest, that one has the other.
    fn of_itself(&self, what: &str, frame: impl Fn(Who) -> Vec<u8>) {
        arrives(&format!("{what} from the guest"), &self.guest, &self.lan, &frame(INNER), &frame(OUTER));
        arrives(&format!("{what} of the original"), &self.lan, &self.guest, &frame(INNER), &frame(OUTER));
    }
}

fn arrives(what: &str, from: &Packets, to: &Packets, sent: &[u8], expected: &[u8]) {
    from.send(sent);
    let arrived =
        to.wait_for(|frame| frame.len() == expected.len(), SOON).unwrap_or_else(|| panic!("{what} got lost"));
    assert_eq!(hex(&arrived), hex(expected), "{what}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn arp_is_rewritten() {
    let lab = Lab::new();
    lab.both_ways(
        "a request",
        |me| ether(BROADCAST, me.mac, ARP, &arp(1, (me.mac, me.ip), (NOBODY, LAN.ip))),
        |me| ether(BROADCAST, LAN.mac, ARP, &arp(1, (LAN.mac, LAN.ip), (NOBODY, me.ip))),
    );
    lab.both_ways(
        "an answer",
        |me| ether(LAN.mac, me.mac, ARP, &arp(2, (me.mac, me.ip), (LAN.mac, LAN.ip))),
        |me| ether(me.mac, LAN.mac, ARP, &arp(2, (LAN.mac, LAN.ip), (me.mac, me.ip))),
    );
    let unspecified = Ipv4Addr::UNSPECIFIED;
    lab.both_ways(
        "a probe",
        |me| ether(BROADCAST, me.mac, ARP, &arp(1, (me.mac, unspecified), (NOBODY, me.ip))),
        |me| ether(BROADCAST, LAN.mac, ARP, &arp(1, (LAN.mac, unspecified), (NOBODY, me.ip))),
    );
    // The guest would take one of its own address for a conflict, so it is shown as the other's.
    lab.of_itself("an announcement", |me| {
        ether(BROADCAST, me.mac, ARP, &arp(1, (me.mac, me.ip), (NOBODY, me.ip)))
    });
    lab.of_itself("QEMU's announcement", |me| {
        let nowhere = Ipv4Addr::UNSPECIFIED;
        ether(BROADCAST, me.mac, RARP, &arp(3, (me.mac, nowhere), (me.mac, nowhere)))
    });
    // Of other networks than Ethernet and IPv4, only the frame's own addresses are known.
    let mut other = arp(1, (INNER.mac, INNER.ip), (NOBODY, INNER.ip));
    other[3] = 1;
    lab.both_ways(
        "another ARP",
        |me| ether(BROADCAST, me.mac, ARP, &other),
        |me| ether(me.mac, LAN.mac, ARP, &other),
    );
}

#[test]
fn ipv4_is_rewritten() {
    let lab = Lab::new();
    lab.both_ways(
        "a datagram",
        |me| ether(LAN.mac, me.mac, IPV4, &udp4(me.ip, LAN.ip, 9, &[1; 101])),
        |me| ether(me.mac, LAN.mac, IPV4, &udp4(LAN.ip, me.ip, 9, &[1; 101])),
    );
    lab.both_ways(
        "a broadcast",
        |me| ether(BROADCAST, me.mac, IPV4, &udp4(me.ip, Ipv4Addr::BROADCAST, 9, &[2; 102])),
        |_| ether(BROADCAST, LAN.mac, IPV4, &udp4(LAN.ip, Ipv4Addr::BROADCAST, 9, &[2; 102])),
    );
    let (group, group_ether) = (Ipv4Addr::new(224, 0, 0, 251), [1, 0, 0x5e, 0, 0, 251]);
    lab.both_ways(
        "a multicast",
        |me| ether(group_ether, me.mac, IPV4, &udp4(me.ip, group, 5353, &[3; 103])),
        |_| ether(group_ether, LAN.mac, IPV4, &udp4(LAN.ip, group, 5353, &[3; 103])),
    );
    let about = |from, to| ipv4(from, to, 17, &[0x11, 0x5c, 0, 9, 0, 8, 0, 0]);
    for kind in [3, 4, 11, 12] {
        lab.both_ways(
            "an ICMP error",
            |me| {
                ether(
                    LAN.mac,
                    me.mac,
                    IPV4,
                    &ipv4(me.ip, LAN.ip, 1, &icmp_error(kind, &about(LAN.ip, me.ip))),
                )
            },
            |me| {
                ether(
                    me.mac,
                    LAN.mac,
                    IPV4,
                    &ipv4(LAN.ip, me.ip, 1, &icmp_error(kind, &about(me.ip, LAN.ip))),
                )
            },
        );
    }
    // An echo carries what it likes, also what looks like an address.
    let echo = icmp_error(8, &about(INNER.ip, OUTER.ip));
    lab.both_ways(
        "an echo",
        |me| ether(LAN.mac, me.mac, IPV4, &ipv4(me.ip, LAN.ip, 1, &echo)),
        |me| ether(me.mac, LAN.mac, IPV4, &ipv4(LAN.ip, me.ip, 1, &echo)),
    );
    // A frame for who really has the inner identity, flooded because the bridge does not know where that is.
    lab.both_ways(
        "another's frame",
        |me| ether(LAN.mac, me.mac, IPV4, &udp4(me.ip, LAN.ip, 9, &[4; 104])),
        |me| ether(me.mac, LAN.mac, IPV4, &udp4(LAN.ip, me.ip, 9, &[4; 104])),
    );
    arrives(
        "what is the original's",
        &lab.lan,
        &lab.guest,
        &ether(INNER.mac, LAN.mac, IPV4, &udp4(LAN.ip, INNER.ip, 9, &[5; 105])),
        &ether(OUTER.mac, LAN.mac, IPV4, &udp4(LAN.ip, OUTER.ip, 9, &[5; 105])),
    );
}

#[test]
fn frames_with_a_vlan_tag_are_rewritten() {
    let lab = Lab::new();
    let tagged =
        |to, from, packet: &[u8]| ether(to, from, VLAN, &[&[0, 7][..], &IPV4.to_be_bytes(), packet].concat());
    // Packet sockets see the tag apart from the frame.
    arrives(
        "a tagged frame",
        &lab.guest,
        &lab.lan,
        &tagged(LAN.mac, INNER.mac, &udp4(INNER.ip, LAN.ip, 9, &[6; 106])),
        &ether(LAN.mac, OUTER.mac, IPV4, &udp4(OUTER.ip, LAN.ip, 9, &[6; 106])),
    );
    arrives(
        "a tagged frame back",
        &lab.lan,
        &lab.guest,
        &tagged(OUTER.mac, LAN.mac, &udp4(LAN.ip, OUTER.ip, 9, &[6; 106])),
        &ether(INNER.mac, LAN.mac, IPV4, &udp4(LAN.ip, INNER.ip, 9, &[6; 106])),
    );
}

#[test]
fn neighbour_discovery_is_rewritten() {
    let lab = Lab::new();
    for address in [|who: Who| who.ip6, |who: Who| who.link_local] {
        let solicit = |from: Who, from_ip: Ipv6Addr, target: Ipv6Addr, to: Ipv6Addr, option: bool| {
            let option = if option { link_layer(1, from.mac) } else { Vec::new() };
            let body = [&[0; 4][..], &target.octets(), &option].concat();
            ether(group_ether6(to), from.mac, IPV6, &icmpv6(from_ip, to, 135, &body))
        };
        lab.both_ways(
            "a solicitation",
            |me| solicit(me, address(me), address(LAN), solicited(address(LAN)), true),
            |me| solicit(LAN, address(LAN), address(me), solicited(address(me)), true),
        );
        lab.both_ways(
            "a search for duplicates",
            |me| solicit(me, Ipv6Addr::UNSPECIFIED, address(me), solicited(address(me)), false),
            |me| solicit(LAN, Ipv6Addr::UNSPECIFIED, address(me), solicited(address(me)), false),
        );
        let confirm = |from: Who, to: Who, target: Ipv6Addr| {
            let body = [&[0; 4][..], &target.octets(), &link_layer(1, from.mac)].concat();
            ether(to.mac, from.mac, IPV6, &icmpv6(address(from), address(to), 135, &body))
        };
        lab.both_ways(
            "a solicitation for one",
            |me| confirm(me, LAN, address(LAN)),
            |me| confirm(LAN, me, address(me)),
        );
        let advertise = |from: Who, to: Who, target: Ipv6Addr| {
            let body = [&[0x60, 0, 0, 0][..], &target.octets(), &link_layer(2, from.mac)].concat();
            ether(to.mac, from.mac, IPV6, &icmpv6(address(from), address(to), 136, &body))
        };
        lab.both_ways(
            "an advertisement",
            |me| advertise(me, LAN, address(me)),
            |me| advertise(LAN, me, address(LAN)),
        );
    }
    // A solicitation for another whose address ends as the guest's does must reach that one's group.
    let other = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0x7701, 0x99);
    assert_eq!(solicited(other), solicited(INNER.ip6));
    lab.both_ways(
        "a solicitation for another",
        |me| {
            let body = [&[0; 4][..], &other.octets(), &link_layer(1, me.mac)].concat();
            let to = solicited(other);
            ether(group_ether6(to), me.mac, IPV6, &icmpv6(me.ip6, to, 135, &body))
        },
        |_| {
            let body = [&[0; 4][..], &other.octets(), &link_layer(1, LAN.mac)].concat();
            let to = solicited(other);
            ether(group_ether6(to), LAN.mac, IPV6, &icmpv6(LAN.ip6, to, 135, &body))
        },
    );
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let solicit = |me: Who| {
        let body = [&[0; 4][..], &link_layer(1, me.mac)].concat();
        ether(group_ether6(routers), me.mac, IPV6, &icmpv6(me.link_local, routers, 133, &body))
    };
    lab.of_itself("a router solicitation", solicit);
}

#[test]
fn ipv6_is_rewritten() {
    let lab = Lab::new();
    let everyone = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    for address in [|who: Who| who.ip6, |who: Who| who.link_local] {
        lab.both_ways(
            "a datagram",
            |me| ether(LAN.mac, me.mac, IPV6, &udp6(address(me), address(LAN), 9, &[1; 101])),
            |me| ether(me.mac, LAN.mac, IPV6, &udp6(address(LAN), address(me), 9, &[1; 101])),
        );
        lab.both_ways(
            "a multicast",
            |me| ether(group_ether6(everyone), me.mac, IPV6, &udp6(address(me), everyone, 9, &[2; 102])),
            |_| ether(group_ether6(everyone), LAN.mac, IPV6, &udp6(address(LAN), everyone, 9, &[2; 102])),
        );
        for kind in [1, 2, 3, 4] {
            let error = |from: Who, to: Who| {
                let about = udp6(address(to), address(from), 9, &[0; 30]);
                // Its checksum is not corrected, and looked at by nobody.
                let about = [&about[..40], &[0; 38]].concat();
                let body = [&[0; 4][..], &about].concat();
                ether(to.mac, from.mac, IPV6, &icmpv6(address(from), address(to), kind, &body))
            };
            lab.both_ways("an ICMPv6 error", |me| error(me, LAN), |me| error(LAN, me));
        }
    }
}

#[test]
fn reports_of_membership_are_rewritten() {
    let lab = Lab::new();
    let record = |group: Ipv6Addr| [&[4, 0, 0, 0][..], &group.octets()].concat();
    let others = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    // The guest's own groups last of as many records as are looked at.
    let report = |me: Who| {
        let groups =
            [others, others, others, others, others, others, solicited(me.link_local), solicited(me.ip6)];
        let records = groups.map(record).concat();
        let body = [&[0, 0, 0, 8][..], &records].concat();
        ether(group_ether6(routers), me.mac, IPV6, &mld(me.link_local, routers, 143, &body))
    };
    lab.of_itself("a report of version 2", report);
    for kind in [130, 131] {
        let report = |me: Who| {
            let group = solicited(me.ip6);
            let body = [&[0; 4][..], &group.octets()].concat();
            ether(group_ether6(group), me.mac, IPV6, &mld(me.link_local, group, kind, &body))
        };
        lab.of_itself("a report or query of version 1", report);
    }
}

#[test]
fn dhcp_of_the_guest_stays_with_it() {
    let lab = Lab::new();
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let ask4 = udp4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 67, &[7; 107]);
    let port = Packets::open(&lab.host, "guest");
    let renew4 = udp4(INNER.ip, LAN.ip, 67, &[7; 108]);
    let ask6 = udp6(INNER.link_local, servers, 547, &[7; 109]);
    lab.guest.send(&ether(BROADCAST, INNER.mac, IPV4, &ask4));
    lab.guest.send(&ether(LAN.mac, INNER.mac, IPV4, &renew4));
    lab.guest.send(&ether(group_ether6(servers), INNER.mac, IPV6, &ask6));
    // Frames do not overtake each other: what was let through would come before this one.
    lab.guest.send(&ether(LAN.mac, INNER.mac, IPV4, &udp4(INNER.ip, LAN.ip, 68, &[8; 110])));
    let first = lab.lan.wait_for(|_| true, SOON).unwrap();
    assert_eq!(hex(&first), hex(&ether(LAN.mac, OUTER.mac, IPV4, &udp4(OUTER.ip, LAN.ip, 68, &[8; 110]))));

    // Who listens at the port hears the guest, and answers it by its outer identity or, with the mark, by its inner one.
    for asked in [ether(BROADCAST, INNER.mac, IPV4, &ask4), ether(LAN.mac, INNER.mac, IPV4, &renew4)] {
        let heard = port.wait_for(|frame| frame[12..14] == IPV4.to_be_bytes(), SOON).unwrap();
        assert_eq!(hex(&heard), hex(&asked));
    }
    let answer = |me: Who| ether(me.mac, LAN.mac, IPV4, &udp4(LAN.ip, me.ip, 68, &[9; 111]));
    arrives("an answer", &port, &lab.guest, &answer(OUTER), &answer(INNER));
    port.mark(MARK);
    arrives("an answer with the mark", &port, &lab.guest, &answer(INNER), &answer(INNER));
}
