//! The codec against dhcproto, an independent one, message by message in both directions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dhcp_support;

use std::net::Ipv4Addr;

use dhcp_support::*;
use dhcproto::v4::{self, DhcpOption, Encodable, OptionCode};
use dhcproto::{Decodable, Decoder};
use netbr::dhcp::message::{Datagram, Kind, Side};
use netbr::dhcp::options::code;
use netbr::dhcp::subnet::Route;
use netbr::dhcp::{Leases, Network, Subnet};
use proptest::prelude::*;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, UdpPacket};

/// What is in a frame's UDP datagram, the checksums seen to.
fn payload(frame: &[u8], from: u16, to: u16) -> &[u8] {
    let ip = Ipv4Packet::new_checked(EthernetFrame::new_checked(frame).unwrap().payload()).unwrap();
    assert!(ip.verify_checksum());
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(udp.checksum() != 0 && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    assert_eq!((udp.src_port(), udp.dst_port()), (from, to));
    udp.payload()
}

/// A frame around a message that dhcproto wrote.
fn framed(message: &v4::Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[0x52, 0x54, 0, 0xaa, 0, 1, 8, 0]);
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    let length = u16::try_from(bytes.len()).unwrap();
    ip[2..4].copy_from_slice(&(length + 28).to_be_bytes());
    Ipv4Packet::new_unchecked(&mut ip[..]).fill_checksum();
    frame.extend(ip);
    frame.extend([68_u16, 67, length + 8, 0].iter().flat_map(|field| field.to_be_bytes()));
    frame.extend(bytes);
    frame
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    any::<[u8; 4]>().prop_map(Ipv4Addr::from)
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,20}"
}

/// Any option that a client sends.
fn option() -> impl Strategy<Value = DhcpOption> {
    prop_oneof![
        name().prop_map(DhcpOption::Hostname),
        address().prop_map(DhcpOption::RequestedIpAddress),
        any::<u32>().prop_map(DhcpOption::AddressLeaseTime),
        address().prop_map(DhcpOption::ServerIdentifier),
        prop::collection::vec((1..255_u8).prop_map(OptionCode::from), 1..300)
            .prop_map(DhcpOption::ParameterRequestList),
        any::<u16>().prop_map(DhcpOption::MaxMessageSize),
        prop::collection::vec(any::<u8>(), 1..300).prop_map(DhcpOption::ClassIdentifier),
        prop::collection::vec(any::<u8>(), 1..64).prop_map(DhcpOption::ClientIdentifier),
        Just(DhcpOption::RapidCommit),
        prop::collection::vec(any::<u8>(), 1..64).prop_map(DhcpOption::UserClass),
    ]
}

fn any_kind() -> impl Strategy<Value = v4::MessageType> {
    use v4::MessageType::{Decline, Discover, Inform, Release, Request};
    prop::sample::select(vec![Discover, Request, Decline, Release, Inform])
}

prop_compose! {
    fn any_request()(
        kind in any_kind(),
        options in prop::collection::vec(option(), 0..10),
        xid: u32, secs: u16, hops: u8, broadcast: bool,
        addresses in prop::array::uniform4(address()),
        lower: [u8; 3],
    ) -> v4::Message {
        let [ciaddr, yiaddr, siaddr, giaddr] = addresses;
        let mut message = v4::Message::new_with_id(xid, ciaddr, yiaddr, siaddr, giaddr, &netbr::Mac::local(lower).bytes());
        message.set_hops(hops).set_secs(secs);
        message.set_flags(if broadcast { v4::Flags::default().set_broadcast() } else { v4::Flags::default() });
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in options {
            message.opts_mut().insert(option);
        }
        message
    }
}

prop_compose! {
    fn any_network()(
        prefix in 8..=29_u8,
        dns in prop::collection::vec(address(), 0..5),
        domain in prop::option::of(name()),
        mtu in prop::option::of(68..9000_u16),
        router: bool,
        routes in prop::collection::vec((address(), 0..=32_u8, address()), 0..5),
        hostname in prop::option::of(name()),
        seconds in 4..200_000_u64,
    ) -> Network {
        let mut network = Network::new(Subnet::of(ip(0), prefix), ip(1), netbr::Mac::local([0, 0, 1]));
        network.router = router.then_some(ip(1));
        network.dns = dns;
        network.domain = domain;
        network.mtu = mtu;
        network.routes = routes.into_iter().map(|(to, prefix, via)| Route { to: Subnet::of(to, prefix), via }).collect();
        network.names = hostname.map(|name| (mac(1), name)).into_iter().collect();
        network.lease_time = std::time::Duration::from_secs(seconds);
        network
    }
}

proptest! {
    #[test]
    fn a_request_that_dhcproto_writes_says_the_same_here(theirs in any_request()) {
        let frame = framed(&theirs);
        let ours = Datagram::parse(&frame, Side::Server).unwrap().message;
        prop_assert_eq!(ours.xid, theirs.xid());
        prop_assert_eq!(ours.secs, theirs.secs());
        prop_assert_eq!(ours.hops, theirs.hops());
        prop_assert_eq!(ours.broadcast, theirs.flags().broadcast());
        prop_assert_eq!([ours.ciaddr, ours.yiaddr, ours.siaddr, ours.giaddr],
            [theirs.ciaddr(), theirs.yiaddr(), theirs.siaddr(), theirs.giaddr()]);
        prop_assert_eq!(&ours.chaddr.bytes()[..], theirs.chaddr());
        prop_assert_eq!(ours.options.iter().count(), theirs.opts().len());
        for (code, option) in theirs.opts().iter() {
            let value = ours.options.get(u8::from(*code)).unwrap();
            let expected = match option {
                DhcpOption::Hostname(name) => name.clone().into_bytes(),
                DhcpOption::RequestedIpAddress(ip) | DhcpOption::ServerIdentifier(ip) => ip.octets().to_vec(),
                DhcpOption::AddressLeaseTime(seconds) => seconds.to_be_bytes().to_vec(),
                DhcpOption::ParameterRequestList(codes) => codes.iter().map(|code| u8::from(*code)).collect(),
                DhcpOption::MaxMessageSize(size) => size.to_be_bytes().to_vec(),
                DhcpOption::ClassIdentifier(bytes) | DhcpOption::ClientIdentifier(bytes) | DhcpOption::UserClass(bytes) => bytes.clone(),
                DhcpOption::RapidCommit => Vec::new(),
                DhcpOption::MessageType(kind) => vec![u8::from(*kind)],
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(value, &expected[..]);
        }
    }

    /// And what is written here says the same there, fields and options.
    #[test]
    fn a_message_that_is_read_here_is_written_as_dhcproto_reads_it(theirs in any_request()) {
        let ours = Datagram::parse(&framed(&theirs), Side::Server).unwrap();
        let (frame, left_out) = ours.encode(2000);
        prop_assert_eq!(left_out, Vec::<u8>::new());
        let again = v4::Message::decode(&mut Decoder::new(payload(&frame, 68, 67))).unwrap();
        prop_assert_eq!(again.opts(), theirs.opts());
        prop_assert_eq!((again.xid(), again.secs(), again.hops(), again.flags()), (theirs.xid(), theirs.secs(), theirs.hops(), theirs.flags()));
        prop_assert_eq!(again.chaddr(), theirs.chaddr());
        prop_assert_eq!([again.ciaddr(), again.yiaddr(), again.siaddr(), again.giaddr()],
            [theirs.ciaddr(), theirs.yiaddr(), theirs.siaddr(), theirs.giaddr()]);
    }

    #[test]
    fn dhcproto_reads_every_reply_as_it_was_meant(network in any_network(), wanted in prop::collection::vec(1..255_u8, 0..20), rapid: bool, broadcast: bool, id in prop::option::of(prop::collection::vec(any::<u8>(), 2..30))) {
        let mut asks = with(message(Kind::Discover, mac(1)), code::MAX_SIZE, 1500_u16.to_be_bytes());
        if !wanted.is_empty() { asks = with(asks, code::PARAMETERS, wanted.clone()); }
        if rapid { asks = with(asks, code::RAPID_COMMIT, []); }
        if let Some(id) = &id { asks = with(asks, code::CLIENT_IDENTIFIER, id.clone()); }
        asks.broadcast = broadcast;
        let mut leases = Leases::default();
        let outcome = handle(&network, &mut leases, at(0), &everybody(asks));
        let frame = outcome.reply.unwrap();
        let theirs = v4::Message::decode(&mut Decoder::new(payload(&frame, 67, 68))).unwrap();
        prop_assert_eq!(theirs.opcode(), v4::Opcode::BootReply);
        prop_assert_eq!((theirs.xid(), theirs.flags().broadcast()), (0x1234_5678, broadcast));
        prop_assert_eq!(theirs.chaddr(), &mac(1).bytes()[..]);
        prop_assert_eq!(theirs.yiaddr(), leases.get(mac(1)).unwrap().address);
        let kind = if rapid { v4::MessageType::Ack } else { v4::MessageType::Offer };
        prop_assert_eq!(theirs.opts().msg_type(), Some(kind));
        let seconds = u32::try_from(network.lease_time.as_secs()).unwrap();
        let default_route = network.routes.iter().any(|route| route.to.prefix() == 0);
        let own_routes = network.routes.iter().map(|route| (route.to, route.via));
        let default = network.router.filter(|_| !default_route).map(|via| (Subnet::of(ip(0), 0), via));
        let routes: Vec<_> = own_routes.chain(default).collect();
        let mut expected = vec![
            DhcpOption::MessageType(kind),
            DhcpOption::ServerIdentifier(network.server),
            DhcpOption::AddressLeaseTime(seconds),
            DhcpOption::SubnetMask(network.subnet.mask()),
            DhcpOption::Renewal(seconds / 2),
            DhcpOption::Rebinding(seconds - seconds / 8),
        ];
        expected.extend(rapid.then_some(DhcpOption::RapidCommit));
        expected.extend(id.map(DhcpOption::ClientIdentifier));
        let is_wanted = |code: u8| if wanted.is_empty() { code != 121 } else { wanted.contains(&code) };
        let mut wish = |code, option: Option<DhcpOption>| expected.extend(option.filter(|_| is_wanted(code)));
        wish(3, network.router.map(|router| DhcpOption::Router(vec![router])));
        wish(6, (!network.dns.is_empty()).then(|| DhcpOption::DomainNameServer(network.dns.clone())));
        wish(12, network.names.get(&mac(1)).cloned().map(DhcpOption::Hostname));
        wish(15, network.domain.clone().map(DhcpOption::DomainName));
        wish(26, network.mtu.map(DhcpOption::InterfaceMtu));
        wish(28, network.subnet.broadcast().map(DhcpOption::BroadcastAddr));
        let expected: v4::DhcpOptions = expected.into_iter().collect();
        let mut theirs = theirs.opts().clone();
        let theirs_routes = theirs.remove(OptionCode::ClasslessStaticRoute);
        prop_assert_eq!(theirs, expected);
        let read: Vec<(Subnet, Ipv4Addr)> = match theirs_routes {
            Some(DhcpOption::ClasslessStaticRoute(routes)) => routes.into_iter()
                .map(|(to, via)| (Subnet::of(to.addr(), to.prefix_len()), via)).collect(),
            other => { prop_assert_eq!(other, None); Vec::new() }
        };
        let told = is_wanted(121) && !network.routes.is_empty();
        prop_assert_eq!(read, if told { routes } else { Vec::new() });
    }
}
