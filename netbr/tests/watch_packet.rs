//! Packet sockets on real interfaces.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod watch_net;

use std::os::fd::AsFd;

use netbr::packet::{self, Direction, FRAME_ROOM, Filter, Options, PacketError, PacketSocket};
use watch_net::{Net, within};

/// `one` and `two`, the ends of one cable, both up.
fn cable() -> Net {
    let net = Net::new();
    // Quiet: no addresses of its own that it would announce.
    net.exec("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    net.ip("link add one type veth peer name two");
    net.ip("link set one up");
    net.ip("link set two up");
    net.wait_up(&["one", "two"]);
    net
}

fn open(net: &Net, interface: &str) -> PacketSocket {
    PacketSocket::open(&net.namespace(), interface, Options::new(Filter::addresses())).unwrap()
}

/// A frame that passes, told apart by a number.
fn arp(number: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x52, 0x54, 0, 0, 0, 1, 8, 6]);
    frame.extend([number; 28]);
    frame
}

async fn next(socket: &PacketSocket) -> (Direction, Vec<u8>) {
    let mut buf = [0; FRAME_ROOM];
    let received = within(socket.recv(&mut buf)).await.unwrap();
    assert!(!received.truncated());
    (received.direction, buf[..received.len].to_vec())
}

#[tokio::test]
async fn frames_are_seen_both_ways_and_own_sends_are_not() {
    let net = cable();
    let (one, other, watcher) = (open(&net, "one"), open(&net, "two"), open(&net, "two"));
    one.send(&arp(1)).await.unwrap();
    other.send(&arp(2)).await.unwrap();
    assert_eq!(next(&watcher).await, (Direction::FromGuest, arp(1)));
    assert_eq!(next(&watcher).await, (Direction::ToGuest, arp(2)));
    assert_eq!(next(&other).await, (Direction::FromGuest, arp(1)));
    assert_eq!(other.try_recv(&mut [0; 64]).unwrap(), None);
}

#[tokio::test]
async fn what_the_filter_refuses_is_not_queued_and_a_vlan_is_refused() {
    let net = cable();
    let (one, other) = (open(&net, "one"), open(&net, "two"));
    let mut tagged = arp(1);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut priority = arp(2);
    priority.splice(12..12, [0x81, 0, 0x60, 0]);
    let mut other_type = arp(3);
    other_type[13] = 0;
    for frame in [&tagged, &other_type, &priority, &arp(4)] {
        one.send(frame).await.unwrap();
    }
    // The priority tag is taken off by the kernel; the frame tells of this network all the same.
    assert_eq!(next(&other).await, (Direction::FromGuest, arp(2)));
    assert_eq!(next(&other).await, (Direction::FromGuest, arp(4)));
}

/// On a port whose frames nftables rewrites, a packet socket shows what the guest sends and gets.
#[tokio::test]
async fn a_rewritten_port_shows_the_guests_own_view() {
    const RULES: &str = "table netdev veil {
        chain in { type filter hook ingress device two priority 0; ether saddr set 52:54:00:00:00:aa; }
        chain out { type filter hook egress device two priority 0; ether saddr set 52:54:00:00:00:bb; }
    }";
    let net = cable();
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&rules, RULES).unwrap();
    net.exec(&format!("nft -f {}", rules.path().display()));
    let (guest, port, watcher) = (open(&net, "one"), open(&net, "two"), open(&net, "two"));

    guest.send(&arp(1)).await.unwrap();
    assert_eq!(next(&watcher).await, (Direction::FromGuest, arp(1)), "before it is rewritten");

    let mut rewritten = arp(2);
    rewritten[6..12].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 0xbb]);
    port.send(&arp(2)).await.unwrap();
    assert_eq!(next(&watcher).await, (Direction::ToGuest, rewritten.clone()), "after it was rewritten");
    assert_eq!(next(&guest).await, (Direction::FromGuest, rewritten));

    // Also where the queue is bypassed.
    let mut options = Options::new(Filter::addresses());
    options.bypass_queue = true;
    let bypass = PacketSocket::open(&net.namespace(), "two", options).unwrap();
    let mut rewritten = arp(3);
    rewritten[6..12].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 0xbb]);
    bypass.send(&arp(3)).await.unwrap();
    assert_eq!(next(&guest).await, (Direction::FromGuest, rewritten));
}

#[tokio::test]
async fn a_short_buffer_is_said() {
    let net = cable();
    let (one, other) = (open(&net, "one"), open(&net, "two"));
    one.send(&arp(1)).await.unwrap();
    let received = other.recv(&mut [0; 20]).await.unwrap();
    assert_eq!((received.len, received.frame_len, received.truncated()), (20, 42, true));
}

#[tokio::test]
async fn a_socket_can_be_handed_over() {
    let net = cable();
    let mut options = Options::new(Filter::addresses());
    options.lock_filter = true;
    options.bypass_queue = true;
    let fd = packet::open(&net.namespace(), "two", options).unwrap();
    let handed = fd.as_fd().try_clone_to_owned().unwrap();
    let socket = PacketSocket::from_fd(handed).unwrap();
    assert_eq!(socket.interface(), "two");
    open(&net, "one").send(&arp(7)).await.unwrap();
    assert_eq!(next(&socket).await, (Direction::FromGuest, arp(7)));

    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
    assert!(matches!(PacketSocket::from_fd(other), Err(PacketError::NotAPacketSocket)));
}

#[tokio::test]
async fn an_interface_that_goes_down_or_away_is_told_apart() {
    let net = cable();
    let socket = open(&net, "two");
    let state = socket.link_state().unwrap();
    assert!(state.up && state.running);
    net.ip("link set one down");
    net.wait_links(|| !socket.link_state().unwrap().running);

    net.ip("link set two down");
    let mut buf = [0; FRAME_ROOM];
    assert!(
        matches!(within(socket.recv(&mut buf)).await, Err(PacketError::Down { interface }) if interface == "two")
    );
    assert!(matches!(socket.send(&arp(1)).await, Err(PacketError::Down { .. })));
    net.ip("link set two up");
    net.ip("link set one up");
    net.wait_up(&["one", "two"]);
    open(&net, "one").send(&arp(1)).await.unwrap();
    assert_eq!(next(&socket).await.1, arp(1));

    net.ip("link del two");
    // The kernel takes it down before it deletes it; here both have happened.
    assert!(
        matches!(within(socket.recv(&mut buf)).await, Err(PacketError::Gone { interface }) if interface == "two")
    );
    assert!(matches!(socket.send(&arp(1)).await, Err(PacketError::Gone { .. })));
    assert!(matches!(socket.link_state(), Err(PacketError::Gone { .. })));
}

#[tokio::test]
async fn an_interface_that_is_not_there_is_named() {
    let net = cable();
    let missing = PacketSocket::open(&net.namespace(), "three", Options::new(Filter::dhcp()));
    assert_eq!(missing.unwrap_err().to_string(), "there is no network interface three");
}
