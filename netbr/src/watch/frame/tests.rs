use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Encodable, v6};
use proptest::prelude::*;

use super::DhcpKind::{Ack, Discover, Offer, Release, Request};
use super::*;
use crate::watch::testing::{dhcp_frame, ipv6_udp_frame, recorded};

const GUEST: Mac = Mac::local([0x12, 0x34, 0x56]);

fn told(frames: &str) -> Vec<Observation> {
    let frames = recorded(frames);
    frames.iter().map(|(_, bytes)| parse(bytes).expect("a frame that tells something").observation).collect()
}

/// The kinds of the DHCP messages, each of which must be about the guest.
fn kinds(observations: &[Observation]) -> Vec<DhcpKind> {
    let dhcp = observations.iter().filter_map(|observation| match observation {
        Observation::Dhcp(dhcp) => {
            assert_eq!(dhcp.chaddr, GUEST);
            Some(dhcp.kind)
        }
        _ => None,
    });
    dhcp.collect()
}

fn acknowledged(observations: &[Observation]) -> Dhcp {
    let ack = observations.iter().find_map(|observation| match observation {
        Observation::Dhcp(dhcp) if dhcp.kind == DhcpKind::Ack => Some(*dhcp),
        _ => None,
    });
    ack.expect("an ACK")
}

/// systemd-networkd 252, whose client identifier is a DUID, and dnsmasq 2.90.
#[test]
fn networkd_is_understood() {
    let told = told(include_str!("recorded/networkd.txt"));
    assert_eq!(kinds(&told), [Discover, Offer, Request, Ack, Release]);
    let ack = acknowledged(&told);
    assert_eq!(ack.yiaddr, Ipv4Addr::new(192, 168, 50, 111));
    assert_eq!((ack.server, ack.lease_secs), (Some(Ipv4Addr::new(192, 168, 50, 1)), Some(3600)));
    let Some(Observation::Dhcp(release)) = told.last() else { panic!("{told:?}") };
    assert_eq!(release.ciaddr, ack.yiaddr);
}

/// ISC dhclient 4.4.3 and dnsmasq 2.90.
#[test]
fn dhclient_is_understood() {
    let told = told(include_str!("recorded/dhclient.txt"));
    assert_eq!(kinds(&told), [Discover, Offer, Request, Ack]);
    let ack = acknowledged(&told);
    let Some(Observation::Arp(reply)) = told.last() else { panic!("{told:?}") };
    assert_eq!((reply.reply, reply.sender_mac, reply.sender), (true, GUEST, ack.yiaddr));
}

/// smoltcp 0.14 in the unikernel `hello`, and QEMU's user network.
#[test]
fn smoltcp_is_understood() {
    let told = told(include_str!("recorded/hello.txt"));
    assert_eq!(kinds(&told), [Discover, Offer, Request, Ack]);
    let ack = acknowledged(&told);
    assert_eq!(ack.yiaddr, Ipv4Addr::new(10, 0, 2, 15));
    let announced = Arp { reply: false, sender_mac: GUEST, sender: ack.yiaddr, target: ack.yiaddr };
    assert!(told.contains(&Observation::Arp(announced)));
}

#[test]
fn no_part_of_a_real_frame_makes_it_panic_or_lie() {
    for frames in [
        include_str!("recorded/networkd.txt"),
        include_str!("recorded/dhclient.txt"),
        include_str!("recorded/hello.txt"),
    ] {
        for (_, bytes) in recorded(frames) {
            let whole = parse(&bytes);
            for len in 0..bytes.len() {
                // A short frame tells nothing, or what is left is padding.
                let part = parse(&bytes[..len]);
                assert!(part.is_none() || part == whole, "{len} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn what_came_from_afar_is_no_neighbour() {
    let solicitation = |hop_limit| {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
        frame.extend(GUEST.bytes());
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, hop_limit]);
        frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1]);
        frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame
    };
    let expected =
        Neighbor::Solicitation { source: "fe80::9".parse().unwrap(), target: "fe80::1".parse().unwrap() };
    assert_eq!(parse(&solicitation(255)).unwrap().observation, Observation::Neighbor(expected));
    assert_eq!(parse(&solicitation(254)), None);
}

fn kind(number: u8) -> (MessageType, DhcpKind) {
    match number % 8 {
        0 => (MessageType::Discover, DhcpKind::Discover),
        1 => (MessageType::Offer, DhcpKind::Offer),
        2 => (MessageType::Request, DhcpKind::Request),
        3 => (MessageType::Decline, DhcpKind::Decline),
        4 => (MessageType::Ack, DhcpKind::Ack),
        5 => (MessageType::Nak, DhcpKind::Nak),
        6 => (MessageType::Release, DhcpKind::Release),
        _ => (MessageType::Inform, DhcpKind::Inform),
    }
}

proptest! {
    /// What dhcproto writes is read as dhcproto reads it, whatever else is in the message.
    #[test]
    fn dhcp_is_read_as_dhcproto_reads_it(
        number: u8, xid: u32, mac: [u8; 3], addresses: [[u8; 4]; 4], lease: Option<u32>,
        server: Option<[u8; 4]>, requested: Option<[u8; 4]>, client: Option<Vec<u8>>,
    ) {
        let (message_type, expected) = kind(number);
        let reply = matches!(expected, DhcpKind::Offer | DhcpKind::Ack | DhcpKind::Nak);
        let [ciaddr, yiaddr, siaddr, giaddr] = addresses.map(Ipv4Addr::from);
        let mac = Mac::local(mac);
        let mut message = Message::new_with_id(xid, ciaddr, yiaddr, siaddr, giaddr, &mac.bytes());
        message.set_opcode(if reply { Opcode::BootReply } else { Opcode::BootRequest });
        message.set_htype(HType::Eth).set_flags(Flags::default());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(message_type));
        if let Some(lease) = lease {
            options.insert(DhcpOption::AddressLeaseTime(lease));
        }
        if let Some(server) = server {
            options.insert(DhcpOption::ServerIdentifier(server.into()));
        }
        if let Some(requested) = requested {
            options.insert(DhcpOption::RequestedIpAddress(requested.into()));
        }
        if let Some(client) = client.filter(|client| (2..=64).contains(&client.len())) {
            options.insert(DhcpOption::ClientIdentifier(client));
        }
        let frame = dhcp_frame(mac, &message.to_vec().unwrap());
        let frame = parse(&frame).expect("a DHCP message");
        prop_assert_eq!(frame.observation, Observation::Dhcp(Dhcp {
            kind: expected,
            xid,
            chaddr: mac,
            ciaddr,
            yiaddr,
            requested: requested.map(Into::into),
            server: server.map(Into::into),
            lease_secs: lease,
        }));
    }

    /// Whatever stands in the fields and in which order the options come: both read the same. (dhcproto reads no further where
    /// an option that it knows has the wrong length, so none has.)
    #[test]
    fn any_dhcp_is_read_as_dhcproto_reads_it(
        head in prop::collection::vec(any::<u8>(), 28..=28),
        options in prop::collection::vec((0..9_usize, any::<[u8; 4]>()), 0..8),
        number in 1_u8..9,
    ) {
        use dhcproto::{Decodable, Decoder};
        let mut bytes = head;
        (bytes[0], bytes[1], bytes[2]) = (1 + u8::from(matches!(number, 2 | 5 | 6)), 1, 6);
        bytes.extend(GUEST.bytes());
        bytes.resize(236, 0);
        bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, number]);
        // Each kind of option once: what repetitions mean differs between readers (RFC 3396).
        let mut seen = vec![53];
        for (code, data) in options {
            let code = [1, 28, 43, 50, 51, 54, 58, 59, 61][code];
            if !seen.contains(&code) {
                seen.push(code);
                bytes.extend([code, 4]);
                bytes.extend(data);
            }
        }
        bytes.push(255);
        let ours = parse(&dhcp_frame(GUEST, &bytes)).map(|frame| frame.observation);
        let theirs = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        let Some(Observation::Dhcp(ours)) = ours else { panic!("not understood") };
        prop_assert_eq!(ours.xid, theirs.xid());
        prop_assert_eq!((ours.ciaddr, ours.yiaddr), (theirs.ciaddr(), theirs.yiaddr()));
        let lease = match theirs.opts().get(OptionCode::AddressLeaseTime) {
            Some(DhcpOption::AddressLeaseTime(secs)) => Some(*secs),
            _ => None,
        };
        prop_assert_eq!(ours.lease_secs, lease);
        let server = match theirs.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        };
        prop_assert_eq!(ours.server, server);
    }

    #[test]
    fn dhcpv6_is_read_as_dhcproto_writes_it(
        xid: [u8; 3], addresses in prop::collection::vec((any::<[u8; 16]>(), any::<u32>()), 0..4), duid: Vec<u8>,
    ) {
        let mut message = v6::Message::new_with_id(v6::MessageType::Reply, xid);
        let options = message.opts_mut();
        options.insert(v6::DhcpOption::ClientId(duid));
        let mut leases = v6::DhcpOptions::new();
        for (address, valid_life) in &addresses {
            leases.insert(v6::DhcpOption::IAAddr(v6::IAAddr {
                addr: (*address).into(),
                preferred_life: 0,
                valid_life: *valid_life,
                opts: v6::DhcpOptions::new(),
            }));
        }
        options.insert(v6::DhcpOption::IANA(v6::IANA { id: 7, t1: 0, t2: 0, opts: leases }));
        let frame = ipv6_udp_frame(GUEST.bytes(), 546, &message.to_vec().unwrap());
        let Some(Observation::Dhcpv6(told)) = parse(&frame).map(|frame| frame.observation) else {
            panic!("not understood")
        };
        prop_assert_eq!((told.kind, told.xid), (Dhcpv6::REPLY, u32::from_be_bytes([0, xid[0], xid[1], xid[2]])));
        // dhcproto writes options of one kind in an order of its own.
        let mut expected: Vec<_> = addresses.iter().map(|(address, valid)| ((*address).into(), *valid)).collect();
        let mut told = told.addresses;
        expected.sort_unstable();
        told.sort_unstable();
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn no_frame_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..3_usize) {
        let mut bytes = bytes;
        if bytes.len() > 60 {
            bytes[12..14].copy_from_slice(&[[8, 6], [8, 0], [0x86, 0xdd]][kind]);
            (bytes[14], bytes[23], bytes[20]) = ([0, 0x45, 0x60][kind], 17, if bytes[0] & 1 == 0 { 58 } else { 17 });
        }
        let _ = parse(&bytes);
    }
}
