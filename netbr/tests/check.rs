//! What keeps guests from the network, and a bridge over the uplink, on the real kernel in namespaces of the test's own. They need
//! root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod link_support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use link_support::{PATIENCE, cable, ip, namespace, nft, sysctl};
use netbr::check::{
    Cause, CauseId, Certainty, Facts, Manager, Plan, Refusal, Subject, UpError, Wireless, WirelessMode,
    causes, recipe, restore, up,
};
use netbr::link::{Links, Tap, TapOptions};
use netbr::{Mac, Namespace};

/// What Docker makes of the firewall, by iptables upon nftables.
const DOCKER: &str = "table ip filter {
    chain DOCKER-USER { }
    chain DOCKER { }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
table ip nat {
    chain POSTROUTING { type nat hook postrouting priority srcnat; }
}";

/// A host at home: `eth0` with a cable to a router that has 10.9.0.254 and fd00:9::fe.
struct Home {
    host: Namespace,
    router: Namespace,
    links: Links,
}

impl Home {
    fn new() -> Self {
        let (host, router) = (namespace(), namespace());
        cable(&host, "eth0", &router, "r0");
        ip(&host, "link set eth0 address 52:54:00:00:00:77");
        ip(&host, "link set eth0 mtu 1400");
        let links = Links::open(&host).unwrap();
        Self { host, router, links }
    }

    /// The router answers.
    fn with_router(self) -> Self {
        ip(&self.router, "link set lo up");
        ip(&self.router, "addr add 10.9.0.254/24 dev r0");
        ip(&self.router, "addr add fd00:9::fe/64 dev r0 nodad");
        self
    }

    /// All sorts of addresses and routes, as DHCP clients, NetworkManager and people make them.
    fn with_addresses(self) -> Self {
        for address in [
            "10.9.0.1/24 brd + valid_lft 3600 preferred_lft 1800",
            "10.9.0.2/24 brd +",
            "192.168.77.1/24 brd + noprefixroute",
            "fd00:9::1/64 nodad",
            "fd00:a::1/64 nodad noprefixroute",
        ] {
            ip(&self.host, &format!("addr add {address} dev eth0"));
        }
        for route in [
            "192.168.77.0/24 dev eth0 proto kernel scope link src 192.168.77.1 metric 100",
            "default via 10.9.0.254 dev eth0 proto dhcp src 10.9.0.1 metric 100",
            "172.31.0.0/16 via 10.9.0.254 dev eth0",
            "10.99.0.0/16 dev eth0 scope link table 77",
            "203.0.113.7 via 10.98.0.1 dev eth0 onlink mtu 1300",
            "default via fd00:9::fe dev eth0 metric 77",
            "fd00:b::/64 via fd00:9::fe dev eth0",
        ] {
            ip(
                &self.host,
                &format!("{} route add {route}", if route.contains("fd00") { "-6" } else { "-4" }),
            );
        }
        self
    }

    async fn facts(&self) -> Facts {
        Facts::collect(&self.links).await.unwrap()
    }

    /// What must be the same after all was put back: everything but how long addresses still hold.
    async fn comparable(&self) -> Facts {
        let mut facts = self.facts().await;
        for (_, address) in &mut facts.addresses {
            if let Some(lifetime) = &mut address.lifetime {
                assert!((3000..=3600).contains(&lifetime.valid), "{lifetime:?}");
                *lifetime = netbr::link::Lifetime { valid: 3600, preferred: 1800 };
            }
            if address.is_link_local() {
                // Whether the kernel has found out by now that nobody else has it (IFA_F_TENTATIVE).
                address.flags &= !0x40;
            }
        }
        // The kernel lists what was added last first, here and there.
        facts.addresses.sort_by_key(|(index, address)| (*index, address.address));
        facts.routes.sort_by_key(|route| (route.table, route.destination, route.prefix, route.index));
        facts
    }
}

/// Shows only what differs, as there is much that does not.
#[track_caller]
fn assert_same(now: &Facts, before: &Facts) {
    let lines = |facts: &Facts| {
        let links = facts.links.iter().map(|link| format!("{link:?}"));
        let addresses = facts.addresses.iter().map(|address| format!("{address:?}"));
        let routes = facts.routes.iter().map(|route| format!("{route:?}"));
        links.chain(addresses).chain(routes).collect::<Vec<_>>()
    };
    let (now_lines, before_lines) = (lines(now), lines(before));
    let gone: Vec<_> = before_lines.iter().filter(|line| !now_lines.contains(line)).collect();
    let new: Vec<_> = now_lines.iter().filter(|line| !before_lines.contains(line)).collect();
    assert!(now == before, "gone: {gone:#?}\nnew: {new:#?}");
}

/// An echo in the namespace for datagrams and connections at port 7.
fn echo(namespace: &Namespace, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    let address = SocketAddr::new(address, 7);
    let (datagrams, connections) =
        namespace.run(|| (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap())).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = datagrams.recv_from(&mut bytes) {
            let _ = datagrams.send_to(&bytes[..length], from);
        }
    });
    std::thread::spawn(move || {
        for mut connection in connections.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(length @ 1..) = connection.read(&mut bytes) {
                    let _ = connection.write_all(&bytes[..length]);
                }
            });
        }
    });
}

#[track_caller]
fn talk(connection: &mut TcpStream) {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

/// Asks the echo every millisecond until it is told to stop and has one more answer; the longest time without an answer.
fn longest_gap(host: &Namespace, to: &str, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Duration> {
    let socket = host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let to = SocketAddr::new(to.parse().unwrap(), 7);
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    std::thread::spawn(move || {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        let mut bytes = [0; 64];
        loop {
            // Without a route, sending fails: that is part of the gap.
            let _ = socket.send_to(b"there?", to);
            if socket.recv(&mut bytes).is_ok() {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            assert!(last.elapsed() < PATIENCE, "the router is gone");
        }
        longest
    })
}

#[tokio::test]
async fn the_uplink_moves_into_a_bridge_and_back_while_the_host_stays_connected() {
    let home = Home::new().with_router().with_addresses();
    echo(&home.router, "10.9.0.254");
    echo(&home.router, "fd00:9::fe");
    let connect = |to: &str| home.host.run(|| TcpStream::connect((to, 7)).unwrap()).unwrap();
    let (mut v4, mut v6) = (connect("10.9.0.254"), connect("fd00:9::fe"));
    talk(&mut v4);
    talk(&mut v6);
    let before = home.comparable().await;
    let stop = Arc::new(AtomicBool::new(false));
    let gap = longest_gap(&home.host, "10.9.0.254", stop.clone());

    let plan = Plan::up(&home.facts().await, "br0", "eth0").unwrap();
    assert_eq!(plan.gateway, Some("10.9.0.254".parse().unwrap()));
    assert!(plan.dhcp);
    up(&home.links, &plan, PATIENCE).await.unwrap();

    let bridge = home.links.adopt_bridge("br0").await.unwrap();
    assert_eq!(bridge.link.mac, Some("52:54:00:00:00:77".parse::<Mac>().unwrap()));
    assert_eq!((bridge.link.mtu, bridge.ports[0].name.as_str()), (1400, "eth0"));
    let shown = ip(&home.host, "-4 -o addr show dev br0");
    assert!(shown.contains("10.9.0.1/24") && shown.contains("valid_lft 3"), "{shown}");
    assert_eq!(ip(&home.host, "-4 -o addr show dev eth0"), "");
    assert_eq!(ip(&home.host, "-6 -o addr show dev eth0 scope global"), "");
    assert_eq!(ip(&home.host, "-4 route show dev eth0 table all"), "");
    let default = ip(&home.host, "-4 route show default");
    assert_eq!(default.trim_end(), "default via 10.9.0.254 dev br0 proto dhcp src 10.9.0.1 metric 100");
    talk(&mut v4);
    talk(&mut v6);
    talk(&mut connect("10.9.0.254"));

    let facts = home.facts().await;
    let again = Plan::up(&facts, "br0", "eth0").unwrap_err();
    assert_eq!(again.to_string(), "eth0 is in the bridge br0 already");
    let down = Plan::down(&facts, "br0", false).unwrap();
    restore(&home.links, &down).await.unwrap();
    talk(&mut v4);
    talk(&mut v6);
    stop.store(true, Ordering::Relaxed);
    let gap = gap.join().unwrap();
    println!("the longest time without an answer: {gap:?}");
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    assert_same(&home.comparable().await, &before);
}

#[tokio::test]
async fn without_an_answer_of_the_gateway_everything_is_put_back() {
    let home = Home::new().with_addresses();
    let before = home.comparable().await;
    let plan = Plan::up(&home.facts().await, "br0", "eth0").unwrap();
    let patience = Duration::from_millis(1500);
    let begin = Instant::now();
    let error = up(&home.links, &plan, patience).await.unwrap_err();
    assert!(begin.elapsed() >= patience);
    assert!(
        matches!(&error, UpError::NoAnswer { bridge, gateway, .. } if bridge == "br0" && Some(*gateway) == plan.gateway),
        "{error}"
    );
    assert!(error.to_string().contains("everything is as it was before"), "{error}");
    assert_same(&home.comparable().await, &before);

    // A router that comes late, but in time, is waited for: here it comes after the kernel has asked for the first time.
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ip(&home.router, "addr add 10.9.0.254/24 dev r0");
    };
    let (done, ()) = tokio::join!(up(&home.links, &plan, PATIENCE), later);
    done.unwrap();
}

#[tokio::test]
async fn whenever_it_is_cut_off_everything_can_be_put_back() {
    let home = Home::new().with_addresses();
    let before = home.comparable().await;
    let plan = Plan::up(&home.facts().await, "br0", "eth0").unwrap();
    // As it is found in a file.
    let kept: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(kept, plan);
    for cut in (0..20).map(|n| Duration::from_micros(n * 500)).chain([Duration::from_secs(1)]) {
        let cut_off = tokio::time::timeout(cut, up(&home.links, &plan, PATIENCE)).await;
        assert!(cut_off.is_err(), "{cut_off:?}");
        restore(&home.links, &kept).await.unwrap();
        assert_same(&home.comparable().await, &before);
        // Once more changes nothing, nor does it when there was nothing to put back.
        restore(&home.links, &kept).await.unwrap();
        assert_same(&home.comparable().await, &before);
    }
}

/// Sends a router advertisement (RFC 4861, 4.2) with a prefix for addresses, as the router that is called fe80::fe.
fn advertise(router: &Namespace) {
    let index = ip(router, "-o link show dev r0").split(':').next().unwrap().parse().unwrap();
    ip(router, "addr add fe80::fe/64 dev r0 nodad");
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(1800_u16.to_be_bytes());
    message.extend([0; 8]);
    // Prefix information: /64, on the link and for addresses, valid 3600 s, preferred 1800 s.
    message.extend([3, 4, 64, 0xc0]);
    message.extend(3600_u32.to_be_bytes());
    message.extend(1800_u32.to_be_bytes());
    message.extend([0; 4]);
    message.extend("2001:db8:9::".parse::<std::net::Ipv6Addr>().unwrap().octets());
    let send = || {
        use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
        let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let all = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        sendto(&socket, &message, SendFlags::empty(), &all).unwrap();
    };
    router.run(send).unwrap();
}

#[tokio::test]
async fn what_a_router_advertised_moves_as_well() {
    let home = Home::new();
    advertise(&home.router);
    let end = Instant::now() + PATIENCE;
    let facts = loop {
        let facts = home.facts().await;
        if facts.default_routes(true).len() == 1 {
            break facts;
        }
        assert!(Instant::now() < end, "the kernel did not take the advertisement: {facts:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let plan = Plan::up(&facts, "br0", "eth0").unwrap();
    assert_eq!(plan.gateway, Some("fe80::fe".parse().unwrap()));
    assert!(!plan.dhcp);
    up(&home.links, &plan, PATIENCE).await.unwrap();
    for (step, device) in [("up", "br0"), ("down", "eth0")] {
        if step == "down" {
            restore(&home.links, &plan).await.unwrap();
        }
        let address = ip(&home.host, &format!("-6 -o addr show dev {device} scope global"));
        assert!(address.contains("2001:db8:9:0:5054:ff:fe00:77/64"), "{step}: {address}");
        assert!(address.contains("valid_lft 3") && !address.contains("tentative"), "{step}: {address}");
        let routes = ip(&home.host, "-6 route show default");
        assert_eq!(routes.lines().count(), 1, "{step}: {routes}");
        let begin = format!("default via fe80::fe dev {device} proto ra metric 1024 expires 1");
        assert!(routes.starts_with(&begin), "{step}: {routes}");
        let prefix = ip(&home.host, "-6 route show 2001:db8:9::/64");
        assert!(prefix.contains(&format!("dev {device} proto kernel")), "{step}: {prefix}");
    }
}

#[tokio::test]
async fn a_removed_bridge_leaves_the_host_without_an_address_until_it_is_put_back() {
    let home = Home::new().with_router().with_addresses();
    let before = home.comparable().await;
    let plan = Plan::up(&home.facts().await, "br0", "eth0").unwrap();
    up(&home.links, &plan, PATIENCE).await.unwrap();
    home.links.delete("br0").await.unwrap();
    restore(&home.links, &plan).await.unwrap();
    assert_same(&home.comparable().await, &before);

    // But what was set up anew since is left alone.
    ip(&home.host, "addr flush dev eth0 scope global");
    ip(&home.host, "addr add 10.1.0.1/24 dev eth0");
    restore(&home.links, &plan).await.unwrap();
    assert_eq!(
        ip(&home.host, "-4 -o addr show dev eth0").lines().count(),
        1,
        "{}",
        ip(&home.host, "addr show dev eth0")
    );
}

#[tokio::test]
async fn what_is_no_uplink_is_refused() {
    let home = Home::new().with_addresses();
    let tap =
        Tap::create(&home.host, &TapOptions { name: "tap0".to_owned(), ..TapOptions::default() }).unwrap();
    let other = home.links.create_bridge("virbr0", Mac::random()).await.unwrap();
    ip(&home.host, "link add eth1 type veth peer name eth2");
    ip(&home.host, "link set eth2 master virbr0");
    let mut facts = home.facts().await;
    let refused = |facts: &Facts, bridge: &str, uplink: &str| Plan::up(facts, bridge, uplink).unwrap_err();

    let missing = refused(&facts, "br0", "eth9");
    assert_eq!(missing.to_string(), "there is no interface eth9; this host has eth0, eth2, eth1");
    for uplink in ["lo", "tap0", "virbr0"] {
        assert!(matches!(refused(&facts, "br0", uplink), Refusal::NotAnUplink { .. }), "{uplink}");
    }
    let port = refused(&facts, "br0", "eth2");
    assert!(port.to_string().starts_with("eth2 is a port of virbr0 already"), "{port}");
    let taken = refused(&facts, "virbr0", "eth0");
    assert!(
        taken.to_string().starts_with("there is a bridge of the name virbr0 that was not made here"),
        "{taken}"
    );
    assert!(matches!(refused(&facts, "eth1", "eth0"), Refusal::NotOurs { .. }));
    assert!(matches!(refused(&facts, "a b", "eth0"), Refusal::Name(_)));
    assert!(matches!(Plan::down(&facts, "virbr0", false), Err(Refusal::NotOurs { .. })));
    assert!(matches!(Plan::down(&facts, "br7", false), Err(Refusal::NoBridge(_))));

    let index = facts.link("eth0").unwrap().index;
    facts.wireless = vec![Wireless { index, mode: WirelessMode::Station, four_addresses: false }];
    let wifi = refused(&facts, "br0", "eth0");
    assert!(wifi.to_string().contains("its access point drops frames from any other MAC"), "{wifi}");
    facts.wireless[0].mode = WirelessMode::AccessPoint;
    Plan::up(&facts, "br0", "eth0").unwrap();

    ip(&home.host, "route add 198.51.100.0/24 nexthop via 10.9.0.3 dev eth0 nexthop via 10.9.0.4 dev eth0");
    let hops = refused(&home.facts().await, "br0", "eth0");
    assert!(hops.to_string().contains("has several next hops, which would be lost"), "{hops}");
    ip(&home.host, "route del 198.51.100.0/24");

    // Guests on a bridge of ours.
    let plan = Plan::up(&home.facts().await, "br0", "eth0").unwrap();
    up(&home.links, &Plan { gateway: None, ..plan }, PATIENCE).await.unwrap();
    let bridge = home.links.adopt_bridge("br0").await.unwrap();
    home.links.port_ready(tap.index(), bridge.link.index, false).await.unwrap();
    let facts = home.facts().await;
    let used = Plan::down(&facts, "br0", false).unwrap_err();
    assert!(
        used.to_string().starts_with("the bridge br0 is in use by tap0: stop those guests first"),
        "{used}"
    );
    Plan::down(&facts, "br0", true).unwrap();
    assert!(matches!(refused(&facts, "br0", "eth1"), Refusal::Unfinished(_)));
    assert_ne!(other.index, bridge.link.index);
}

#[track_caller]
fn ids(causes: &[Cause]) -> Vec<CauseId> {
    causes.iter().map(|cause| cause.id).collect()
}

#[tokio::test]
async fn firewalls_are_known_by_what_they_leave() {
    for (rules, id, words, step) in [
        (
            DOCKER,
            CauseId::DockerForwardDrop,
            "Docker has set the host's firewall",
            "iptables -I DOCKER-USER -i midge0",
        ),
        (
            "table ip filter {
                chain ufw-before-forward { }
                chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-before-forward; }
            }",
            CauseId::UfwForwardDrop,
            "ufw drops",
            "ufw route allow in on midge0",
        ),
        (
            "table inet firewalld {
                chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; reject; }
            }",
            CauseId::FirewalldForward,
            "firewalld rejects",
            "--zone=trusted --add-interface=midge0",
        ),
        (
            "table inet mine { chain passing { type filter hook forward priority 0; policy drop; }
            }",
            CauseId::ForwardDrop,
            "the chain passing in `inet mine`",
            "nft insert rule inet mine passing iifname midge0 accept",
        ),
    ] {
        let home = Home::new().with_addresses();
        sysctl(&home.host, "ipv4/ip_forward", "1");
        sysctl(&home.host, "bridge/bridge-nf-call-iptables", "0");
        let nat = Subject::Nat("midge0");
        assert_eq!(ids(&causes(&home.facts().await, nat, false)), []);
        nft(&home.host, rules);
        let found = causes(&home.facts().await, nat, false);
        assert_eq!(ids(&found), [id]);
        assert_eq!(found[0].certainty, Certainty::Likely);
        assert!(found[0].what.contains(words), "{}", found[0].what);
        assert!(found[0].next_step.contains(step), "{}", found[0].next_step);

        // What a bridge passes on is none of the firewall's business unless frames are shown to it.
        ip(&home.host, "link add br0 type bridge");
        ip(&home.host, "link set br0 up");
        ip(&home.host, "addr flush dev eth0 scope global");
        ip(&home.host, "link set eth0 master br0");
        let bridged = Subject::Bridge("br0");
        assert_eq!(ids(&causes(&home.facts().await, bridged, false)), []);
        sysctl(&home.host, "bridge/bridge-nf-call-iptables", "1");
        let found = causes(&home.facts().await, bridged, true);
        assert_eq!(ids(&found), [id, CauseId::BridgeNetfilter]);
    }
}

#[tokio::test]
async fn a_rule_set_that_lets_through_is_no_cause() {
    let home = Home::new().with_addresses();
    sysctl(&home.host, "ipv4/ip_forward", "1");
    nft(
        &home.host,
        "table inet mine {
            chain passing { type filter hook forward priority 0; policy accept; }
            chain input { type filter hook input priority 0; policy drop; }
        }",
    );
    let facts = home.facts().await;
    assert_eq!(ids(&causes(&facts, Subject::Nat("midge0"), false)), []);
    let json = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&json).unwrap(), facts);
}

#[test]
fn without_privilege_the_firewall_stays_unknown_and_the_rest_is_seen() {
    let host = namespace();
    // A new namespace takes over what the host has (net.core.devconf_inherit_init_net).
    sysctl(&host, "ipv4/ip_forward", "0");
    nft(&host, DOCKER);
    let inside = || {
        let nobody = rustix::process::Uid::from_raw(65534);
        // Of this thread alone; its capabilities go with its last uid 0 (capabilities(7)).
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(async { Facts::collect(&Links::open(&Namespace::current()).unwrap()).await.unwrap() })
    };
    let facts = host.run(inside).unwrap();
    assert_eq!(facts.filters, None);
    assert_eq!(facts.links[0].name, "lo");
    assert_eq!(
        ids(&causes(&facts, Subject::Nat("midge0"), false)),
        [CauseId::NoForwarding, CauseId::NoDefaultRoute]
    );
}

#[tokio::test]
async fn a_host_that_passes_nothing_on_or_leads_nowhere_says_so() {
    let home = Home::new();
    sysctl(&home.host, "ipv4/ip_forward", "0");
    let found = causes(&home.facts().await, Subject::Nat("midge0"), false);
    assert_eq!(ids(&found), [CauseId::NoForwarding, CauseId::NoDefaultRoute]);
    assert_eq!(found[0].next_step, "sysctl -w net.ipv4.ip_forward=1");
}

#[tokio::test]
async fn a_bridge_that_leads_nowhere_says_why() {
    let home = Home::new();
    sysctl(&home.host, "bridge/bridge-nf-call-iptables", "0");
    let bridged = Subject::Bridge("br0");
    assert_eq!(ids(&causes(&home.facts().await, bridged, false)), [CauseId::NoBridge]);

    ip(&home.host, "link add br0 type bridge");
    assert_eq!(
        ids(&causes(&home.facts().await, bridged, true)),
        [CauseId::BridgeDown, CauseId::NoUplink],
        "nothing is suspected where something is known"
    );
    ip(&home.host, "link set br0 up");
    ip(&home.host, "link set eth0 master br0");
    ip(&home.router, "link set r0 down");
    assert_eq!(ids(&causes(&home.facts().await, bridged, false)), [CauseId::UplinkWithoutCarrier]);
    ip(&home.router, "link set r0 up");
    assert_eq!(ids(&causes(&home.facts().await, bridged, false)), []);

    ip(&home.host, "addr add 10.9.0.1/24 dev eth0");
    ip(&home.host, "link set br0 type bridge stp_state 1");
    let found = causes(&home.facts().await, bridged, false);
    assert_eq!(ids(&found), [CauseId::PortHasAddress, CauseId::SpanningTree]);
    assert!(found[0].what.contains("eth0 has the address 10.9.0.1/24"), "{}", found[0].what);
    assert!(found[1].what.contains("for the first 30 s"), "{}", found[1].what);

    ip(&home.host, "addr add 10.9.0.2/24 dev br0");
    sysctl(&home.host, "ipv4/conf/br0/rp_filter", "1");
    let found = causes(&home.facts().await, bridged, false);
    assert_eq!(ids(&found), [CauseId::PortHasAddress, CauseId::SpanningTree, CauseId::ReversePathFilter]);
}

#[tokio::test]
async fn the_switch_is_suspected_only_when_nothing_else_explains_the_silence() {
    let home = Home::new();
    sysctl(&home.host, "bridge/bridge-nf-call-iptables", "0");
    ip(&home.host, "link add br0 type bridge");
    ip(&home.host, "link set br0 up");
    ip(&home.host, "link set eth0 master br0");
    let facts = home.facts().await;
    assert_eq!(ids(&causes(&facts, Subject::Bridge("br0"), false)), []);
    let found = causes(&facts, Subject::Bridge("br0"), true);
    assert_eq!(ids(&found), [CauseId::SwitchPortSecurity]);
    assert_eq!(found[0].certainty, Certainty::Suspected);
    assert!(found[0].what.contains("perhaps the switch"), "{}", found[0].what);
    assert!(found[0].next_step.contains("tcpdump -eni eth0"), "{}", found[0].next_step);
}

/// The facts of a small computer at home whose only way out is `wlan0`, a client of an access point; written down by hand, as no
/// such hardware can be had in a namespace.
#[test]
fn wifi_is_named_as_the_reason_for_a_bridge_without_a_way_out() {
    let mut facts: Facts = serde_json::from_str(include_str!("recorded/wifi.json")).unwrap();
    let found = causes(&facts, Subject::Bridge("br0"), true);
    assert_eq!(ids(&found), [CauseId::NoUplink, CauseId::WifiUplink]);
    assert!(found[1].what.contains("this host's way out is Wi-Fi (wlan0)"), "{}", found[1].what);
    assert!(matches!(Plan::up(&facts, "br1", "wlan0"), Err(Refusal::Wifi(name)) if name == "wlan0"));
    // NAT is what works there.
    assert_eq!(ids(&causes(&facts, Subject::Nat("midge0"), true)), []);
    facts.links.retain(|link| link.name != "br0");
    let found = causes(&facts, Subject::Bridge("br0"), true);
    assert_eq!(ids(&found), [CauseId::NoBridge, CauseId::WifiUplink]);
}

#[tokio::test]
async fn who_manages_the_network_is_found_by_its_files() {
    let home = Home::new().with_addresses();
    let plan = Plan::up(&home.facts().await, "br0", "eth0").unwrap();
    for (file, text, manager) in [
        ("etc/netplan/50-cloud-init.yaml".to_owned(), "network: {}", Manager::Netplan),
        (
            format!("run/NetworkManager/devices/{}", plan.index),
            "[device]\nmanaged=1\n",
            Manager::NetworkManager,
        ),
        (format!("run/systemd/netif/links/{}", plan.index), "ADMIN_STATE=configured\n", Manager::Networkd),
        ("etc/network/interfaces.d/eth0".to_owned(), "auto eth0\niface eth0 inet dhcp\n", Manager::Ifupdown),
    ] {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Manager::detect(root.path(), &plan), None);
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "# something else\n").unwrap();
        if manager != Manager::Netplan {
            assert_eq!(Manager::detect(root.path(), &plan), None, "{manager}");
        }
        std::fs::write(&path, text).unwrap();
        assert_eq!(Manager::detect(root.path(), &plan), Some(manager));
    }
}

/// The texts are reviewed as they are printed: `MIDGE_RECORD=1` writes them anew.
#[tokio::test]
async fn recipes_read_as_recorded() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let dynamic = Home::new().with_addresses();
    let fixed = Home::new();
    ip(&fixed.host, "addr add 10.9.0.1/24 dev eth0");
    ip(&fixed.host, "addr add fd00:9::1/64 dev eth0 nodad");
    ip(&fixed.host, "link set eth0 mtu 1500");
    ip(&fixed.host, "route add default via 10.9.0.254");
    ip(&fixed.host, "-6 route add default via fd00:9::fe");
    for (home, kind) in [(dynamic, "dhcp"), (fixed, "fixed")] {
        let mut plan = Plan::up(&home.facts().await, "br0", "eth0").unwrap();
        // In which order the kernel lists them is its own choice.
        plan.addresses.sort_by_key(|address| address.address);
        plan.routes.sort_by_key(|route| (route.destination, route.prefix));
        for manager in Manager::ALL {
            check_recorded(&folder.join(format!("{manager}-{kind}.txt")), &recipe(manager, &plan));
        }
        let steps: Vec<String> = plan.steps().iter().map(ToString::to_string).collect();
        check_recorded(&folder.join(format!("steps-{kind}.txt")), &(steps.join("\n") + "\n"));
    }
}

#[track_caller]
fn check_recorded(file: &std::path::Path, text: &str) {
    if std::env::var_os("MIDGE_RECORD").is_some() {
        std::fs::write(file, text).unwrap();
    }
    let recorded = std::fs::read_to_string(file).unwrap();
    assert_eq!(text, recorded, "{}", file.display());
}
