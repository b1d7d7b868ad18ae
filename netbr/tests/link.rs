//! Bridges, ports, taps and their changes on the real kernel, each test in network namespaces of its own. They need root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod link_support;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use link_support::{PATIENCE, ip, namespace, receive, send};
use netbr::link::{
    Address, Link, LinkError, LinkEvent, LinkEvents, LinkKind, Links, Reason, Route, Tap, TapOptions,
};
use netbr::{Mac, Namespace};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const NOBODY: u32 = 65534;

fn options(name: &str) -> TapOptions {
    TapOptions { name: name.to_owned(), vnet_hdr: false, ..TapOptions::default() }
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

async fn link(links: &Links, name: &str) -> Link {
    links.get(name).await.unwrap().unwrap_or_else(|| panic!("no {name}"))
}

/// Waits for a change that satisfies `wanted`.
async fn until(events: &mut LinkEvents, mut wanted: impl FnMut(&LinkEvent) -> bool) -> LinkEvent {
    let wait = async {
        loop {
            let event = events.next().await.unwrap();
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the change was not told")
}

/// Runs `work` in the namespace on a thread that is `uid` and has no capability, where everyone may open /dev/net/tun as on hosts
/// with udev.
fn unprivileged<T: Send>(namespace: &Namespace, uid: u32, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        with_device_folder(|| {
            mknod("/dev/net/tun", SFlag::S_IFCHR, Mode::empty(), makedev(10, 200)).unwrap();
            std::fs::set_permissions("/dev/net/tun", std::os::unix::fs::PermissionsExt::from_mode(0o666))
                .unwrap();
        });
        let uid = rustix::process::Uid::from_raw(uid);
        // Of this thread alone; its capabilities go with its last uid 0 (capabilities(7)).
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        work()
    };
    namespace.run(inside).unwrap()
}

/// Gives this thread an empty /dev/net of its own, to be filled by `fill`.
fn with_device_folder(fill: impl FnOnce()) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fill();
}

fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[tokio::test]
async fn a_bridge_keeps_its_mac_whichever_ports_come_and_go() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let pinned = mac("52:54:00:ff:ff:01");
    let bridge = links.create_bridge("br0", pinned).await.unwrap();
    assert_eq!((bridge.mac, bridge.up), (Some(pinned), true));
    let state = *bridge.bridge().unwrap();
    assert!(!state.stp && state.forward_delay == 0, "{state:?}");

    // A bridge whose MAC is its own choice takes the lowest of its ports.
    let tap = Tap::create(&namespace, &options("tap0")).unwrap();
    links.set_mac(tap.index(), mac("02:00:00:00:00:01")).await.unwrap();
    links.port_ready(tap.index(), bridge.index, false).await.unwrap();
    let adopted = links.adopt_bridge("br0").await.unwrap();
    assert_eq!(adopted.link.mac, Some(pinned));
    assert_eq!(adopted.ports.iter().map(|port| &*port.name).collect::<Vec<_>>(), ["tap0"]);

    links.no_master(tap.index()).await.unwrap();
    let adopted = links.adopt_bridge("br0").await.unwrap();
    assert_eq!((adopted.link.mac, adopted.ports.len()), (Some(pinned), 0));
    assert_eq!(link(&links, "tap0").await.master, None);

    links.delete("br0").await.unwrap();
    assert_eq!(links.get("br0").await.unwrap(), None);
}

#[tokio::test]
async fn what_is_no_bridge_is_not_adopted() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let _tap = Tap::create(&namespace, &options("tap0")).unwrap();
    let before = link(&links, "tap0").await;
    let error = links.adopt_bridge("tap0").await.unwrap_err();
    assert!(matches!(&error, LinkError::NotBridge { name, .. } if name == "tap0"));
    assert!(error.to_string().starts_with("`tap0` is a tap, not a bridge"), "{error}");
    assert_eq!(link(&links, "tap0").await, before);

    let error = links.adopt_bridge("br7").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Gone));
    assert_eq!(error.to_string(), "cannot use the bridge br7: there is no such interface");
}

#[tokio::test]
async fn a_tap_joins_and_has_a_carrier_while_it_is_open() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    for queues in [1, 4] {
        let guest = mac("52:54:00:12:34:56");
        let name = format!("tap{queues}");
        let asked = TapOptions { guest: Some(guest), vnet_hdr: true, queues, ..options(&name) };
        let tap = Tap::create(&namespace, &asked).unwrap();
        assert_eq!(tap.fds().len(), usize::from(queues));
        links.port_ready(tap.index(), bridge.index, queues == 4).await.unwrap();
        links.set_alias(tap.index(), "midge test").await.unwrap();
        links.set_mtu(tap.index(), 1400).await.unwrap();

        let link = link(&links, &name).await;
        assert_eq!(link.index, tap.index());
        assert_eq!(link.mac, Some(mac("fe:54:00:12:34:56")));
        assert_eq!(link.master, Some(bridge.index));
        assert!(link.up && link.carrier, "{link:?}");
        assert_eq!((link.isolated, link.mtu), (queues == 4, 1400));
        assert_eq!(link.alias.as_deref(), Some("midge test"));
        let state = link.tap().unwrap();
        assert!(state.vnet_hdr && state.open && !state.persistent, "{state:?}");
        assert_eq!(state.multi_queue, queues > 1);
        // It says nothing of its own to the guest.
        assert_eq!(links.addresses(tap.index()).await.unwrap(), []);
        // With its last descriptor it goes.
        drop(tap);
        assert_eq!(links.get(&name).await.unwrap(), None);
    }
}

#[tokio::test]
async fn its_owner_attaches_to_a_persistent_tap_without_privilege() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    for queues in [1, 2] {
        let asked = TapOptions { owner: Some(NOBODY), persistent: true, queues, ..options("tap0") };
        let tap = Tap::create(&namespace, &asked).unwrap();
        links.port_ready(tap.index(), bridge.index, false).await.unwrap();
        links.set_alias(tap.index(), "midge pool").await.unwrap();
        assert_eq!(links.stale_taps().await.unwrap(), []);
        drop(tap);
        let stale = links.stale_taps().await.unwrap();
        assert_eq!(stale.iter().map(|link| &*link.name).collect::<Vec<_>>(), ["tap0"]);
        assert!(!stale[0].carrier && stale[0].tap().unwrap().owner == Some(NOBODY), "{stale:?}");

        let attach = || Tap::open_persistent(&Namespace::current(), "tap0", true, queues);
        let attached = unprivileged(&namespace, NOBODY, attach).unwrap();
        assert_eq!(attached.fds().len(), usize::from(queues));
        let link = link(&links, "tap0").await;
        assert!(link.carrier && link.up && link.master == Some(bridge.index), "{link:?}");
        assert!(link.tap().unwrap().vnet_hdr);
        assert_eq!(links.stale_taps().await.unwrap(), []);

        if queues == 1 {
            let error = Tap::open_persistent(&namespace, "tap0", true, 1).unwrap_err();
            assert_eq!(error.reason(), Some(Reason::Busy), "{error}");
            assert!(error.to_string().starts_with("cannot attach to the tap tap0: "), "{error}");
        }
        // What was found while it was idle does not count any more.
        let found = stale[0].tap().unwrap();
        if queues == 1 {
            let error = Tap::remove_persistent(&namespace, "tap0", found).unwrap_err();
            assert_eq!(error.reason(), Some(Reason::Busy), "{error}");
        }
        let error = Tap::remove_persistent(&namespace, "tap0", link.tap().unwrap()).unwrap_err();
        assert_eq!(error.reason(), Some(Reason::Busy), "{error}");
        drop(attached);

        let other = unprivileged(&namespace, NOBODY - 1, attach).unwrap_err();
        assert_eq!(other.reason(), Some(Reason::NotPermitted), "{other}");
        let remove = || Tap::remove_persistent(&Namespace::current(), "tap0", found);
        unprivileged(&namespace, NOBODY, remove).unwrap();
        assert_eq!(links.get("tap0").await.unwrap(), None);
        let error = unprivileged(&namespace, NOBODY, attach).unwrap_err();
        assert_eq!(error.reason(), Some(Reason::Gone), "{error}");
    }
}

#[tokio::test]
async fn isolated_ports_do_not_hear_each_other() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    let mut taps = Vec::new();
    for (name, isolated) in [("one", true), ("two", true), ("open", false)] {
        let tap = Tap::create(&namespace, &options(name)).unwrap();
        links.port_ready(tap.index(), bridge.index, isolated).await.unwrap();
        taps.push(tap);
    }
    let [one, two, open] = &taps[..] else { unreachable!() };
    let fd = |tap: &'_ Tap| tap.fds().next().unwrap().try_clone_to_owned().unwrap();
    let (one, two, open) = (fd(one), fd(two), fd(open));

    send(one.as_fd(), [2, 0, 0, 0, 0, 1], "from one");
    assert_eq!(receive(open.as_fd()), "from one");
    // Whatever the other isolated port was to hear of it came before this.
    send(open.as_fd(), [2, 0, 0, 0, 0, 3], "from open");
    assert_eq!(receive(two.as_fd()), "from open");
    assert_eq!(receive(one.as_fd()), "from open");

    links.set_isolated(taps[0].index(), false).await.unwrap();
    assert!(!link(&links, "one").await.isolated);
    send(one.as_fd(), [2, 0, 0, 0, 0, 1], "again");
    assert_eq!(receive(two.as_fd()), "again");
}

#[tokio::test]
async fn changes_are_told() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    let mut events = links.watch().unwrap();

    let asked = TapOptions { persistent: true, ..options("tap0") };
    let tap = Tap::create(&namespace, &asked).unwrap();
    let index = tap.index();
    links.port_ready(index, bridge.index, false).await.unwrap();
    let ready = |event: &LinkEvent| matches!(event, LinkEvent::Changed(link) if link.index == index && link.up && link.carrier && link.master == Some(bridge.index));
    until(&mut events, ready).await;

    drop(tap);
    let torn =
        |event: &LinkEvent| matches!(event, LinkEvent::Changed(link) if link.index == index && !link.carrier);
    until(&mut events, torn).await;

    // A port that leaves is not gone, though its bridge says that its port is.
    links.no_master(index).await.unwrap();
    links.set_alias(index, "left").await.unwrap();
    let left = |event: &LinkEvent| {
        assert!(!matches!(event, LinkEvent::Removed(_)), "{event:?}");
        matches!(event, LinkEvent::Changed(link) if link.alias.as_deref() == Some("left") && link.master.is_none())
    };
    until(&mut events, left).await;

    links.delete("tap0").await.unwrap();
    let gone = until(&mut events, |event| matches!(event, LinkEvent::Removed(_))).await;
    assert!(matches!(gone, LinkEvent::Removed(link) if link.name == "tap0"));
}

#[tokio::test]
async fn changes_that_nobody_read_in_time_are_said_to_be_missed() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let mut events = links.watch().unwrap();
    let tap = Tap::create(&namespace, &options("tap0")).unwrap();
    // The buffer holds some hundred messages.
    for mtu in 1000..3000 {
        links.set_mtu(tap.index(), mtu).await.unwrap();
    }
    until(&mut events, |event| *event == LinkEvent::Missed).await;
    links.set_mtu(tap.index(), 1400).await.unwrap();
    until(&mut events, |event| matches!(event, LinkEvent::Changed(link) if link.mtu == 1400)).await;
}

#[tokio::test]
async fn addresses_and_routes_are_what_ip_shows() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    let _tap = {
        let tap = Tap::create(&namespace, &options("tap0")).unwrap();
        links.port_ready(tap.index(), bridge.index, false).await.unwrap();
        tap
    };
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let v4 = Address::new(address("10.77.0.1"), 24);
    let v6 = Address { flags: nix::libc::IFA_F_NODAD, ..Address::new(address("fd00:77::1"), 64) };
    for wanted in [&v4, &v6] {
        links.add_address(bridge.index, wanted).await.unwrap();
        // Twice is as good as once.
        links.add_address(bridge.index, wanted).await.unwrap();
    }
    let shown = ip(&namespace, "-o addr show dev br0");
    assert!(shown.contains("inet 10.77.0.1/24 brd 10.77.0.255 scope global br0"), "{shown}");
    assert!(shown.contains("inet6 fd00:77::1/64 scope global"), "{shown}");
    let listed = links.addresses(bridge.index).await.unwrap();
    assert!(listed.iter().any(|a| (a.address, a.broadcast) == (v4.address, v4.broadcast)), "{listed:?}");
    assert!(listed.iter().any(|a| (a.address, a.prefix) == (v6.address, 64)), "{listed:?}");

    let gateway = Route { metric: 7, ..Route::default_by(address("10.77.0.254"), bridge.index) };
    let gateway6 = Route { metric: 9, ..Route::default_by(address("fd00:77::fe"), bridge.index) };
    links.add_route(&gateway).await.unwrap();
    links.add_route(&gateway).await.unwrap();
    links.add_route(&gateway6).await.unwrap();
    let shown = ip(&namespace, "route show default");
    assert_eq!(shown.trim_end(), "default via 10.77.0.254 dev br0 proto static metric 7");
    let found = links.default_gateways().await.unwrap();
    assert_eq!(found[0], gateway);
    assert_eq!((found[1].gateway, found[1].metric, found.len()), (gateway6.gateway, 9, 2));

    for route in [&gateway, &gateway6] {
        links.remove_route(route).await.unwrap();
        links.remove_route(route).await.unwrap();
    }
    assert_eq!(links.default_gateways().await.unwrap(), []);
    links.remove_address(bridge.index, &v4).await.unwrap();
    links.remove_address(bridge.index, &v4).await.unwrap();
    assert!(links.addresses(bridge.index).await.unwrap().iter().all(|a| a.address != v4.address));

    // Through an interface that is gone.
    let error = links.add_route(&Route { index: 4711, ..gateway }).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot add a route through interface 4711: "), "{error}");
}

#[tokio::test]
async fn refusals_name_the_interface_and_the_operation() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    let again = links.create_bridge("br0", Mac::random()).await.unwrap_err();
    assert_eq!(again.to_string(), "cannot add the bridge br0: it is there already");

    let _tap = Tap::create(&namespace, &options("tap0")).unwrap();
    let again = Tap::create(&namespace, &options("tap0")).unwrap_err();
    assert_eq!(again.to_string(), "cannot make the tap tap0: it is there already");

    let gone = links.set_up(4711).await.unwrap_err();
    assert_eq!(gone.to_string(), "cannot set up interface 4711: there is no such interface");
    let gone = links.delete("tap7").await.unwrap_err();
    assert_eq!(gone.to_string(), "cannot remove tap7: there is no such interface");

    // A bridge cannot be a port of a bridge.
    let nested = links.create_bridge("br1", Mac::random()).await.unwrap();
    let error = links.set_master(nested.index, bridge.index).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot join a bridge with br1: the kernel refuses");

    let long = Tap::create(&namespace, &options("a-name-of-16-byt")).unwrap_err();
    assert!(matches!(&long, LinkError::Name(name) if name == "a-name-of-16-byt"));
    assert!(matches!(links.create_bridge("a b", Mac::random()).await, Err(LinkError::Name(_))));
}

#[test]
fn what_needs_a_privilege_says_so() {
    let namespace = namespace();
    let refused = unprivileged(&namespace, NOBODY, || {
        on_a_runtime(async {
            let links = Links::open(&Namespace::current()).unwrap();
            let listed = links.list().await.unwrap();
            assert!(matches!(listed[0].kind, LinkKind::Loopback), "{listed:?}");
            let bridge = links.create_bridge("br0", Mac::random()).await.unwrap_err();
            let up = links.set_up(listed[0].index).await.unwrap_err();
            let tap = Tap::create(&Namespace::current(), &options("tap0")).unwrap_err();
            [bridge, up, tap]
        })
    });
    for (error, begin) in refused.iter().zip(["add the bridge br0", "set up lo", "make the tap tap0"]) {
        assert_eq!(error.reason(), Some(Reason::NotPermitted), "{error}");
        assert!(
            error.to_string().starts_with(&format!("cannot {begin}: that needs CAP_NET_ADMIN")),
            "{error}"
        );
    }
}

#[test]
fn a_missing_device_is_not_a_missing_privilege() {
    let missing = namespace().run(|| {
        with_device_folder(|| ());
        Tap::create(&Namespace::current(), &options("tap0")).unwrap_err()
    });
    let missing = missing.unwrap();
    assert_eq!(missing.reason(), Some(Reason::Unsupported));
    assert!(missing.to_string().contains("modprobe tun"), "{missing}");
    let source = std::error::Error::source(&missing).unwrap();
    assert_eq!(source.to_string(), "cannot open /dev/net/tun");

    let closed = namespace().run(|| {
        with_device_folder(|| {
            mknod("/dev/net/tun", SFlag::S_IFCHR, Mode::empty(), makedev(10, 200)).unwrap();
        });
        let uid = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        Tap::create(&Namespace::current(), &options("tap0")).unwrap_err()
    });
    let closed = closed.unwrap();
    assert_eq!(closed.reason(), Some(Reason::DeviceClosed), "{closed}");
}

#[tokio::test]
async fn a_full_bridge_says_that_it_is_full() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    for n in 0..1023 {
        // Closed again, as a process may have 1024 files open.
        let tap =
            Tap::create(&namespace, &TapOptions { persistent: true, ..options(&format!("t{n}")) }).unwrap();
        links.port_ready(tap.index(), bridge.index, false).await.unwrap();
    }
    assert_eq!(links.adopt_bridge("br0").await.unwrap().ports.len(), 1023);

    let tap = Tap::create(&namespace, &options("tap0")).unwrap();
    let error = links.port_ready(tap.index(), bridge.index, false).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Full), "{error}");
    assert!(error.to_string().starts_with("cannot join a bridge with tap0: a table is full"), "{error}");
    assert!(!link(&links, "tap0").await.up);
}

/// The budget of a bridge port is 3 ms with its watch; far more here would show by a median over it.
#[tokio::test]
async fn a_port_is_ready_in_little_time() {
    let namespace = namespace();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.create_bridge("br0", Mac::random()).await.unwrap();
    let mut times = Vec::new();
    for round in 0..200 {
        let asked = TapOptions { vnet_hdr: true, ..options("tap0") };
        let begin = Instant::now();
        let tap = Tap::create(&namespace, &asked).unwrap();
        links.port_ready(tap.index(), bridge.index, round % 2 == 0).await.unwrap();
        times.push(begin.elapsed());
    }
    times.sort();
    println!("tap made, joined and up: median {:?}, worst {:?}", times[100], times[199]);
    assert!(times[100].as_millis() < 3, "median {:?}", times[100]);
}
