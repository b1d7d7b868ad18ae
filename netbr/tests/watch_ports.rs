//! Watched ports of a real bridge: what static, cloned, silent, hostile and vanishing guests look like.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod watch_net;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use netbr::packet::{Direction, Filter, Options, PacketSocket};
use netbr::watch::{CAPACITY, Event, LostWhy, NoAddress, Source, Want, WatchError, Watcher, WishError};
use watch_net::home::{Home, acknowledgement, mac};
use watch_net::within;

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, 50, last).into()
}

#[tokio::test]
async fn a_silent_static_guest_is_found_when_it_is_asked() {
    let home = Home::new(1);
    home.guests[0].ip("addr add 192.168.50.77/24 dev eth0");
    let mut port = home.watch(0);
    port.watch.sweep(Ipv4Addr::new(192, 168, 50, 0), 24).await.unwrap();
    let known = port.ipv4_appeared().await;
    assert_eq!((known.address, known.source, known.confirmed), (v4(77), Source::Arp, true));
    let wide = port.watch.sweep(Ipv4Addr::new(192, 168, 0, 0), 16).await.unwrap_err();
    assert!(matches!(wide, WishError::Ask(_)));
}

#[tokio::test]
async fn a_guest_of_another_network_is_found_when_it_is_asked() {
    let home = Home::new(1);
    home.guests[0].exec("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1");
    home.guests[0].ip("addr add 10.9.8.7/24 dev eth0");
    let mut port = home.watch(0);
    port.watch.ask(["10.9.8.7".parse().unwrap()]).await.unwrap();
    assert_eq!(port.ipv4_appeared().await.address, IpAddr::from([10, 9, 8, 7]));
}

#[tokio::test]
async fn a_static_guest_is_seen_when_it_speaks() {
    let home = Home::new(1);
    let mut port = home.watch(0);
    home.guests[0].ip("addr add 192.168.50.78/24 dev eth0");
    home.guests[0].exec("ping -c 1 -W 5 192.168.50.1");
    let known = port.ipv4_appeared().await;
    assert_eq!((known.address, known.source, known.confirmed), (v4(78), Source::Arp, true));
}

#[tokio::test]
async fn two_guests_with_one_address_are_told_of_each_other() {
    let home = Home::new(2);
    let (mut one, mut other) = (home.watch(0), home.watch(1));
    for guest in &home.guests {
        guest.ip("addr add 192.168.50.80/24 dev eth0");
    }
    let speak = |guest: usize| home.guests[guest].exec("busybox arping -c 1 -U -I eth0 192.168.50.80");
    speak(0);
    one.confirmed(v4(80)).await;
    speak(1);
    speak(0);
    let conflict = |event| match event {
        Event::Conflict { address, other } if address == v4(80) => Some(other),
        _ => None,
    };
    assert_eq!(one.event(conflict).await, mac(2));
    assert_eq!(other.event(conflict).await, mac(1));
    let lost = |event| matches!(event, Event::Lost { why: LostWhy::Conflict, .. }).then_some(());
    one.event(lost).await;
    let why = one.watch.why(true, Want::Ipv4);
    assert_eq!(why, Some(NoAddress::AddressConflict { address: v4(80), other: Some(mac(2)) }));
    assert!(one.watch.addresses().iter().all(|known| known.address != v4(80)));
}

#[tokio::test]
async fn clones_with_one_mac_are_told() {
    let home = Home::with_macs(&[mac(1), mac(1)]);
    let mut port = home.watch(0);
    home.guests[0].ip("addr add 192.168.50.81/24 dev eth0");
    home.guests[1].ip("addr add 192.168.50.81/24 dev eth0");
    home.guests[0].exec("busybox arping -c 1 -U -I eth0 192.168.50.81");
    port.confirmed(v4(81)).await;
    home.guests[1].exec("busybox arping -c 1 -U -I eth0 192.168.50.81");
    let mut seen = (false, false);
    port.event(|event| {
        match event {
            Event::DuplicateMac(same) => seen.0 |= same == mac(1),
            Event::Conflict { address, other } => seen.1 |= (address, other) == (v4(81), mac(1)),
            _ => {}
        }
        (seen == (true, true)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ipv6_addresses_appear() {
    let mut home = Home::new(1);
    let mut port = home.watch(0);
    home.guests[0].ip("addr add 2001:db8:50::9/64 dev eth0");
    let fixed: IpAddr = "2001:db8:50::9".parse().unwrap();
    assert_eq!(port.confirmed(fixed).await.source, Source::Ndp);

    home.router.ip("addr add 2001:db8:51::1/64 dev eth0 nodad");
    home.serve(&[
        "--enable-ra",
        "--dhcp-range=2001:db8:51::,ra-only",
        "--dhcp-range=192.168.50.100,192.168.50.150",
    ]);
    let found = port
        .event(|event| match event {
            Event::Confirmed(known) => {
                Some(known).filter(|known| known.address.to_string().starts_with("2001:db8:51:"))
            }
            _ => None,
        })
        .await;
    assert_eq!((found.source, found.mac), (Source::Ndp, mac(1)));
    let addresses = port.watch.addresses();
    assert!(!addresses[0].is_link_local() && addresses.iter().any(netbr::watch::Address::is_link_local));
}

#[tokio::test]
async fn what_was_known_is_known_again_within_one_question() {
    let home = Home::new(1);
    home.guests[0].ip("addr add 192.168.50.82/24 dev eth0");
    let mut port = home.watch(0);
    port.watch.ask([v4(82)]).await.unwrap();
    port.confirmed(v4(82)).await;
    let saved = port.watch.saved();
    drop(port.watch);
    within(port.task).await.unwrap().unwrap();

    let mut again = home.watch_known(0, saved);
    let known = again.ipv4_appeared().await;
    assert!(!known.confirmed);
    let confirmed = again.confirmed(v4(82)).await;
    assert_eq!(confirmed.source, Source::Arp);
    assert!(confirmed.first_seen < known.last_seen + std::time::Duration::from_millis(1));
}

#[tokio::test]
async fn a_port_that_is_deleted_ends_its_watch() {
    let home = Home::new(1);
    let mut port = home.watch(0);
    port.watch.ask([v4(83)]).await.unwrap();
    home.host.ip("link del p0");
    let ended = within(port.task).await.unwrap().unwrap_err();
    assert!(matches!(&ended, WatchError::Gone { interface } if interface == "p0"), "{ended}");
    assert_eq!(port.watch.ask([v4(83)]).await, Err(WishError::Ended));
    assert_eq!(port.watch.why(true, Want::Any), Some(NoAddress::NoLink));
    let closed = |error| matches!(error, tokio::sync::broadcast::error::RecvError::Closed);
    while let Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) = port.events.recv().await {}
    assert!(closed(port.events.recv().await.unwrap_err()));
}

#[tokio::test]
async fn a_port_that_was_down_is_watched_again_and_asked_anew() {
    let home = Home::new(1);
    home.guests[0].ip("addr add 192.168.50.84/24 dev eth0");
    let (mut port, mut frames) = home.watch_frames(0);
    port.watch.ask([v4(84)]).await.unwrap();
    port.confirmed(v4(84)).await;
    while frames.try_recv().is_ok() {}
    home.host.ip("link set p0 down");
    home.host.ip("link set p0 up");
    // The guest answers the question that follows.
    within(async {
        while let Some((direction, frame)) = frames.recv().await {
            if direction == Direction::FromGuest
                && frame[12..14] == [8, 6]
                && frame[28..32] == [192, 168, 50, 84]
            {
                return;
            }
        }
        panic!("the watcher has ended");
    })
    .await;
    assert_eq!(port.watch.addresses().iter().filter(|known| known.address == v4(84)).count(), 1);
}

/// A guest that floods its port can neither fill the memory nor keep the watcher from what comes afterwards.
#[tokio::test]
async fn a_flood_does_not_blind_the_watcher() {
    const FRAMES: u32 = 100_000;
    let home = Home::new(1);
    home.guests[0].ip("addr add 192.168.50.85/24 dev eth0");
    let mut port = home.watch(0);
    port.watch.ask([v4(85)]).await.unwrap();
    port.confirmed(v4(85)).await;

    let options = Options::new(Filter::dhcp());
    let guest = PacketSocket::open(&home.guests[0].namespace(), "eth0", options).unwrap();
    let mut random = 0x9e37_79b9_u32;
    for number in 0..FRAMES {
        let mut frame = vec![0xff; 6];
        frame.extend(mac(1).bytes());
        // By turns: addresses that it claims, ARP of nonsense, DHCP of nonsense.
        frame.extend(if number % 3 < 2 { [8, 6] } else { [8, 0] });
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            random.to_be_bytes()
        };
        match number % 3 {
            0 => {
                frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
                frame.extend(mac(1).bytes());
                frame.extend(next());
                frame.extend([0; 6]);
                frame.extend(next());
            }
            1 => (0..7).for_each(|_| frame.extend(next())),
            _ => {
                frame.extend([0x45, 0, 1, 0x40, 0, 0, 0, 0, 64, 17, 0, 0]);
                frame.extend([0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67, 1, 0x2c, 0, 0]);
                (0..73).for_each(|_| frame.extend(next()));
            }
        }
        guest.send(&frame).await.unwrap();
    }
    home.guests[0].ip("addr add 192.168.50.86/24 dev eth0");
    home.guests[0].exec("busybox arping -c 1 -U -I eth0 192.168.50.86");
    port.watch.ask([v4(86)]).await.unwrap();
    port.confirmed(v4(86)).await;
    let addresses = port.watch.addresses();
    assert!(addresses.len() <= CAPACITY);
    assert!(addresses.iter().any(|known| known.address == v4(85) && known.confirmed), "{addresses:?}");
}

/// A DHCP server on the port's own socket: what it answers counts, though the socket does not show it.
#[tokio::test]
async fn an_answer_of_the_hook_is_sent_and_counts() {
    let home = Home::new(1);
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let hook = move |direction: Direction, frame: &[u8]| {
        if direction == Direction::FromGuest && frame[12..14] == [8, 6] {
            *count.lock().unwrap() += 1;
            return vec![acknowledgement(mac(1), [192, 168, 50, 90])];
        }
        Vec::new()
    };
    let (watcher, watch) = Watcher::new(home.socket(0), home.config(0, Vec::new()));
    let task = tokio::spawn(watcher.with_hook(hook).run());
    let mut port = watch_net::home::Watched { events: watch.events(), watch, task };
    let guest =
        PacketSocket::open(&home.guests[0].namespace(), "eth0", Options::new(Filter::dhcp())).unwrap();
    let mut question = vec![0xff; 6];
    question.extend(mac(1).bytes());
    question.extend([8, 6]);
    question.extend([7; 28]);
    guest.send(&question).await.unwrap();
    let known = port.ipv4_appeared().await;
    assert_eq!((known.address, known.source, known.confirmed), (v4(90), Source::Dhcp, false));
    let mut buf = [0; 2048];
    let received = within(guest.recv(&mut buf)).await.unwrap();
    assert_eq!(&buf[..received.len], acknowledgement(mac(1), [192, 168, 50, 90]));
    assert_eq!(*asked.lock().unwrap(), 1);

    // An answer that took its time.
    port.watch.send(acknowledgement(mac(1), [192, 168, 50, 91])).await.unwrap();
    assert_eq!(port.ipv4_appeared().await.address, v4(91));
}
