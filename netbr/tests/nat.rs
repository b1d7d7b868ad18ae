//! NAT networks in a namespace with an uplink to a LAN; guests are namespaces behind veth pairs, with static addresses.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod nft_lab;

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use netbr::network::{DnsChoice, Firewall, Forward, NatConfig, NatError, NatNetwork, Protocol};
use netbr::nft::Nft;
use netbr::veil::{Identity, Veil};
use netbr::{Mac, Namespace};
use nft_lab::frames::{ether, udp4};
use nft_lab::sys::Packets;
use nft_lab::{Net, exchange_datagrams, talk};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Rules as Docker makes them for its own.
const DOCKER: &str = "
table ip filter {
    chain DOCKER-USER {
    }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        oifname docker0 ct state established,related accept
        iifname docker0 accept
    }
}
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.17.0.0/16 oifname != docker0 counter masquerade
    }
}
";

struct Lab {
    host: Net,
    lan: Net,
    state: tempfile::TempDir,
}

struct Guest {
    net: Net,
    ip: Ipv4Addr,
}

impl Lab {
    fn new() -> Self {
        let (host, lan) = (Net::new("host"), Net::new("lan"));
        host.veth("eth0", &lan, "eth0");
        host.ip(&format!("addr add {UPLINK}/24 dev eth0"));
        lan.ip(&format!("addr add {LAN}/24 dev eth0"));
        Self { host, lan, state: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> &Path {
        self.state.path()
    }

    async fn ensure(&self, config: &NatConfig) -> Result<NatNetwork, NatError> {
        NatNetwork::ensure(&self.host.namespace, self.state(), config).await
    }

    /// A guest on a network's bridge, with the address of that number in its subnet.
    fn guest(&self, network: &NatNetwork, number: u8) -> Guest {
        let plan = network.plan();
        let net = Net::new("guest");
        let port = format!("{}-{number}", plan.name);
        self.host.veth(&port, &net, "eth0");
        self.host.ip(&format!("link set {port} master {}", plan.name));
        let ip = Ipv4Addr::from_bits(plan.subnet.base().to_bits() + u32::from(number));
        net.ip(&format!("addr add {ip}/{} dev eth0", plan.subnet.prefix()));
        net.ip(&format!("route add default via {}", plan.router));
        Guest { net, ip }
    }

    /// Whether bridged packets pass the rules for routed ones, where br_netfilter is loaded.
    fn bridge_netfilter(&self, on: bool) {
        let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if self.host.inside(|| Path::new(path).exists()) {
            self.host.write(path, if on { "1" } else { "0" });
        }
    }

    fn names(&self) -> String {
        self.host.ip("-br link")
    }
}

fn config(name: &str) -> NatConfig {
    NatConfig { name: name.to_owned(), dns: DnsChoice::None, ..NatConfig::default() }
}

fn forward(protocol: Protocol, host: Ipv4Addr, port: u16, guest: &Guest) -> Forward {
    Forward { protocol, host_addr: host, host_port: port, guest_ip: guest.ip, guest_port: port + 1 }
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// Connects to a forwarded port; gives the address that the guest sees.
fn reached(from: &Net, to: SocketAddr, guest: &Guest, port: u16) -> std::io::Result<IpAddr> {
    let listener = guest.net.listen(at(Ipv4Addr::UNSPECIFIED, port));
    let _stream = from.connect(to)?;
    Ok(listener.accept()?.1.ip())
}

#[tokio::test]
async fn guests_reach_the_lan_and_are_reached_by_forwarded_ports() {
    let lab = Lab::new();
    let mut network = lab.ensure(&config("midge0")).await.unwrap();
    assert!(network.plan().switched_forwarding_on);
    let (one, other) = (lab.guest(&network, 10), lab.guest(&network, 11));
    let all = Ipv4Addr::UNSPECIFIED;
    network
        .add_user(
            "one",
            &[
                forward(Protocol::Tcp, all, 8080, &one),
                forward(Protocol::Udp, all, 8080, &one),
                forward(Protocol::Tcp, Ipv4Addr::LOCALHOST, 8090, &one),
                forward(Protocol::Tcp, UPLINK, 8100, &one),
            ],
        )
        .await
        .unwrap();

    // Out, with the host's address.
    assert!(one.net.ping(LAN) && one.net.ping(UPLINK) && one.net.ping(network.plan().router));
    assert_eq!(talk(&one.net, &lab.lan, ANY, at(LAN, 0), 1 << 20), IpAddr::from(UPLINK));
    assert_eq!(talk(&one.net, &other.net, ANY, at(other.ip, 0), 1 << 20), IpAddr::from(one.ip));

    // In, by ports that are forwarded on all addresses.
    let router = network.plan().router;
    assert_eq!(reached(&lab.lan, at(UPLINK, 8080), &one, 8081).unwrap(), IpAddr::from(LAN));
    assert_eq!(reached(&lab.host, at(UPLINK, 8080), &one, 8081).unwrap(), IpAddr::from(UPLINK));
    assert_eq!(reached(&lab.host, at(Ipv4Addr::LOCALHOST, 8080), &one, 8081).unwrap(), IpAddr::from(router));
    // A guest by way of the host.
    assert_eq!(reached(&other.net, at(UPLINK, 8080), &one, 8081).unwrap(), IpAddr::from(router));
    // And the one that the port leads to, if the bridge does not take the packet over once it is rewritten: it returns none by
    // the port that it came by.
    lab.bridge_netfilter(false);
    assert_eq!(reached(&one.net, at(UPLINK, 8080), &one, 8081).unwrap(), IpAddr::from(router));
    assert_eq!(reached(&other.net, at(UPLINK, 8080), &one, 8081).unwrap(), IpAddr::from(router));
    lab.bridge_netfilter(true);
    let server = one.net.udp(at(Ipv4Addr::UNSPECIFIED, 8081));
    for (from, to) in [(&lab.lan, UPLINK), (&lab.host, Ipv4Addr::LOCALHOST), (&other.net, UPLINK)] {
        exchange_datagrams(&from.udp(ANY), &server, at(to, 8080), 1000);
    }

    // On one address only.
    assert!(reached(&lab.host, at(Ipv4Addr::LOCALHOST, 8090), &one, 8091).is_ok());
    let refused = reached(&lab.lan, at(UPLINK, 8090), &one, 8091).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(reached(&lab.lan, at(UPLINK, 8100), &one, 8101).is_ok());
    let refused = reached(&lab.host, at(Ipv4Addr::LOCALHOST, 8100), &one, 8101).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    // Nothing else from outside, though the LAN knows the way.
    lab.lan.ip(&format!("route add {} via {UPLINK}", network.plan().subnet));
    assert_eq!(reached(&lab.lan, at(one.ip, 8081), &one, 8081).unwrap_err().kind(), ErrorKind::TimedOut);

    // What is no longer wanted is gone.
    network.add_user("one", &[]).await.unwrap();
    let refused = reached(&lab.lan, at(UPLINK, 8080), &one, 8081).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn guests_do_not_reach_what_the_host_has_for_itself() {
    let lab = Lab::new();
    let network = lab.ensure(&config("midge0")).await.unwrap();
    let guest = lab.guest(&network, 10);
    let plan = network.plan();
    let frames = Packets::open(&guest.net, "eth0");
    let me = guest.net.read("/proc/net/arp");
    assert!(me.contains("IP address"), "{me}");
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    let send = |from, to, port, text: &[u8]| {
        frames.send(&ether(plan.mac.bytes(), mac, 0x0800, &udp4(from, to, port, text)));
    };
    let service = lab.host.udp(at(Ipv4Addr::UNSPECIFIED, 7777));
    let mut buffer = [0; 64];
    let localhost = Ipv4Addr::LOCALHOST;
    send(guest.ip, localhost, 7777, b"to the loopback");
    send(localhost, plan.router, 7777, b"from the loopback");
    send(guest.ip, plan.router, 7777, b"to the router");
    let length = service.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"to the router");
    // It is the table that keeps the first away.
    lab.host.nft("flush chain inet midge-nat-midge0 guard");
    send(guest.ip, localhost, 7777, b"to the loopback");
    let length = service.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"to the loopback");

    // The host says nothing about DHCP, where nobody of its own listens; about other ports it does.
    let ask = |port| {
        let socket = guest.net.udp(ANY);
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.connect(at(plan.router, port)).unwrap();
        socket.send(b"?").unwrap();
        socket.recv(&mut [0; 8]).unwrap_err().kind()
    };
    assert_eq!(ask(9), ErrorKind::ConnectionRefused);
    assert_eq!(ask(67), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn the_last_user_takes_all_of_it_along_and_nothing_of_others() {
    let lab = Lab::new();
    lab.host.nft(DOCKER);
    let (before, links) = (lab.host.ruleset(), lab.names());
    let mut networks =
        [lab.ensure(&config("midge0")).await.unwrap(), lab.ensure(&config("midge1")).await.unwrap()];
    assert_ne!(networks[0].plan().subnet, networks[1].plan().subnet);
    assert_eq!(NatNetwork::list(lab.state()).unwrap(), ["midge0", "midge1"]);
    for network in &mut networks {
        network.add_user("one", &[]).await.unwrap();
        network.add_user("two", &[]).await.unwrap();
        network.add_user("one", &[]).await.unwrap();
    }
    assert!(lab.host.ruleset().starts_with(&before), "{}", lab.host.ruleset());
    let [mut first, mut second] = networks;
    first.remove_user("one").await.unwrap();
    let users: Vec<_> = first.describe().await.unwrap().users.into_iter().map(|user| user.id).collect();
    assert_eq!(users, ["two"]);
    first.remove_user("two").await.unwrap();
    first.remove_user("two").await.unwrap();
    assert!(!lab.names().contains("midge0") && lab.names().contains("midge1"));
    assert!(NatNetwork::open(&lab.host.namespace, lab.state(), "midge0").await.unwrap().is_none());

    assert!(second.sweep(|_| true).await.unwrap().is_empty());
    assert_eq!(second.sweep(|id| id == "two").await.unwrap(), ["one"]);
    assert_eq!(second.sweep(|_| false).await.unwrap(), ["two"]);
    assert_eq!((lab.host.ruleset(), lab.names()), (before, links));
    assert!(NatNetwork::list(lab.state()).unwrap().is_empty());
    // Others may rely on it by now.
    assert_eq!(lab.host.read("/proc/sys/net/ipv4/ip_forward").trim(), "1");
}

#[tokio::test]
async fn two_networks_do_not_reach_each_other() {
    let lab = Lab::new();
    let networks =
        [lab.ensure(&config("midge0")).await.unwrap(), lab.ensure(&config("midge1")).await.unwrap()];
    assert!(!networks[1].plan().switched_forwarding_on);
    let guests = [lab.guest(&networks[0], 10), lab.guest(&networks[1], 10)];
    for guest in &guests {
        assert!(guest.net.ping(LAN));
    }
    assert!(!guests[0].net.ping(guests[1].ip) && !guests[1].net.ping(guests[0].ip));
}

#[tokio::test]
async fn what_was_interrupted_is_put_right() {
    let lab = Lab::new();
    let mut network = lab.ensure(&config("midge0")).await.unwrap();
    let guest = lab.guest(&network, 10);
    network.add_user("one", &[forward(Protocol::Tcp, UPLINK, 8080, &guest)]).await.unwrap();
    let (ruleset, plan) = (lab.host.ruleset(), network.plan().clone());
    let whole = |lab: &Lab| {
        assert_eq!(lab.host.ruleset(), ruleset);
        let address = format!("{}/{}", plan.router, plan.subnet.prefix());
        assert!(lab.host.ip("-4 addr show dev midge0").contains(&address));
    };
    // As a kill would leave it in the middle of making or removing: each time another process goes on from there.
    for harm in ["link del midge0", "addr flush dev midge0", "link set midge0 down"] {
        lab.host.ip(harm);
        let again = lab.ensure(&config("midge0")).await.unwrap();
        assert_eq!((again.plan().subnet, again.plan().mac), (plan.subnet, plan.mac), "{harm}");
        whole(&lab);
    }
    lab.host.nft("delete table inet midge-nat-midge0");
    lab.ensure(&config("midge0")).await.unwrap();
    whole(&lab);
    lab.host.nft("flush chain inet midge-nat-midge0 forward");
    lab.ensure(&config("midge0")).await.unwrap();
    whole(&lab);
    // Whoever empties the directory takes the users along, not the network.
    std::fs::remove_dir_all(lab.state()).unwrap();
    let again = lab.ensure(&config("midge0")).await.unwrap();
    assert_eq!((again.plan().subnet, again.plan().mac), (plan.subnet, plan.mac));
    network.add_user("one", &[forward(Protocol::Tcp, UPLINK, 8080, &guest)]).await.unwrap();
    whole(&lab);
    // The last one left while this one was about to come.
    NatNetwork::open(&lab.host.namespace, lab.state(), "midge0")
        .await
        .unwrap()
        .unwrap()
        .sweep(|_| false)
        .await
        .unwrap();
    assert_eq!(lab.host.ruleset(), "");
    network.add_user("one", &[forward(Protocol::Tcp, UPLINK, 8080, &guest)]).await.unwrap();
    whole(&lab);
}

#[tokio::test]
async fn many_come_and_go_at_once() {
    let lab = Lab::new();
    let before = (lab.host.ruleset(), lab.names());
    let mut threads = Vec::new();
    for number in 0..8 {
        let (namespace, state) = (lab.host.namespace.clone(), lab.state().to_owned());
        threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut network = NatNetwork::ensure(&namespace, &state, &config("midge0")).await.unwrap();
                for _ in 0..5 {
                    network.add_user(&format!("user{number}"), &[]).await.unwrap();
                    network.remove_user(&format!("user{number}")).await.unwrap();
                }
            });
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    // Somebody's network without users may be left: whoever sweeps removes it.
    if let Some(mut network) = NatNetwork::open(&lab.host.namespace, lab.state(), "midge0").await.unwrap() {
        network.sweep(|_| true).await.unwrap();
    }
    assert_eq!((lab.host.ruleset(), lab.names()), before);
}

#[tokio::test]
async fn subnets_that_the_host_knows_are_avoided() {
    let lab = Lab::new();
    lab.host.ip("addr add 10.77.0.5/25 dev eth0");
    lab.host.ip(&format!("route add 10.77.1.0/30 via {LAN}"));
    let network = lab.ensure(&config("midge0")).await.unwrap();
    assert_eq!(network.plan().subnet.to_string(), "10.77.2.0/24");
    assert_eq!(network.dhcp().server, Ipv4Addr::new(10, 77, 2, 1));

    let wanted = |subnet: &str| NatConfig { subnet: Some(subnet.parse().unwrap()), ..config("midge1") };
    let error = lab.ensure(&wanted("10.77.0.0/24")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "10.77.0.0/24 collides with the address 10.77.0.5/25 of eth0: choose another subnet, or none so that a free one is found"
    );
    assert!(matches!(lab.ensure(&wanted("10.78.0.0/31")).await, Err(NatError::Size { .. })));
    assert!(!lab.names().contains("midge1"));
    let mut network = lab.ensure(&wanted("10.78.0.0/16")).await.unwrap();
    // Without users it may still move.
    network = match lab.ensure(&wanted("10.79.0.0/28")).await {
        Ok(moved) => moved,
        Err(error) => panic!("{error} after {:?}", network.plan()),
    };
    assert!(!lab.host.ip("-4 addr show dev midge1").contains("10.78."));
    network.add_user("one", &[]).await.unwrap();
    assert_eq!(lab.ensure(&config("midge1")).await.unwrap().plan().subnet.to_string(), "10.79.0.0/28");
    let error = lab.ensure(&wanted("10.78.0.0/16")).await.unwrap_err();
    assert!(matches!(&error, NatError::InUse { users, .. } if users == "one"), "{error}");
    // A VPN came up where the unused network was.
    lab.host.ip(&format!("route add 10.0.0.0/8 via {LAN}"));
    assert_eq!(lab.ensure(&config("midge0")).await.unwrap().plan().subnet.to_string(), "172.30.77.0/24");
}

#[tokio::test]
async fn an_interface_of_somebody_else_is_left_alone() {
    let lab = Lab::new();
    lab.host.ip("link add midge0 type bridge");
    let before = lab.host.ip("-d link show dev midge0");
    let error = lab.ensure(&config("midge0")).await.unwrap_err();
    assert!(matches!(error, NatError::Taken { .. }), "{error}");
    assert!(NatNetwork::list(lab.state()).unwrap().is_empty());
    assert_eq!(lab.host.ip("-d link show dev midge0"), before);
    assert_eq!(lab.host.ruleset(), "");
    // Nor a table whose name a network has.
    lab.host.nft("table inet filter {\n chain mine {\n }\n}");
    let before = lab.host.ruleset();
    lab.ensure(&config("filter")).await.unwrap().sweep(|_| false).await.unwrap();
    assert_eq!(lab.host.ruleset(), before);
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused() {
    let lab = Lab::new();
    let mut network = lab.ensure(&config("midge0")).await.unwrap();
    let mut second = lab.ensure(&config("midge1")).await.unwrap();
    let guest = lab.guest(&network, 10);
    let elsewhere = lab.guest(&second, 10);
    let local = Ipv4Addr::LOCALHOST;
    let _listener = lab.host.listen(at(local, 2222));
    let _socket = lab.host.udp(at(local, 2222));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for address in [local, Ipv4Addr::UNSPECIFIED] {
            let error =
                network.add_user("one", &[forward(protocol, address, 2222, &guest)]).await.unwrap_err();
            assert!(matches!(error, NatError::Listening { .. }), "{error}");
        }
        network.add_user("one", &[forward(protocol, UPLINK, 2222, &guest)]).await.unwrap();
    }
    let wanted = forward(Protocol::Tcp, Ipv4Addr::UNSPECIFIED, 8080, &guest);
    network.add_user("one", &[wanted]).await.unwrap();
    network.add_user("one", &[wanted]).await.unwrap();
    let error =
        second.add_user("two", &[forward(Protocol::Tcp, UPLINK, 8080, &elsewhere)]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the port cannot be forwarded (TCP 192.0.2.1:8080 -> 10.77.1.10:8081): it leads to one on midge0 already; choose another port"
    );
    let error = second.add_user("two", &[wanted]).await.unwrap_err();
    assert!(matches!(error, NatError::Outside { .. }), "{error}");
    let error = network.add_user("two", &[forward(Protocol::Tcp, LAN, 1, &guest)]).await.unwrap_err();
    assert!(matches!(error, NatError::NotHere { .. }), "{error}");
    // What was refused left nothing, and what was there is there still.
    let users = network.describe().await.unwrap().users;
    assert_eq!(
        users.iter().map(|user| (&*user.id, &user.forwards[..])).collect::<Vec<_>>(),
        [("one", &[wanted][..])]
    );
    assert!(reached(&lab.lan, at(UPLINK, 8080), &guest, 8081).is_ok());
}

#[tokio::test]
async fn a_firewall_that_keeps_packets_is_named_with_its_remedy() {
    let lab = Lab::new();
    let mut network = lab.ensure(&config("midge0")).await.unwrap();
    let guest = lab.guest(&network, 10);
    assert!(guest.net.ping(LAN));
    assert!(network.obstacles().unwrap().is_empty());
    lab.host.nft(DOCKER);
    assert!(!guest.net.ping(LAN));
    let obstacles = network.describe().await.unwrap().obstacles;
    assert_eq!(obstacles.len(), 1);
    assert_eq!(obstacles[0].by, Firewall::Docker);
    assert_eq!(
        obstacles[0].to_string(),
        "Docker's rules drop what guests on midge0 send and get (chain FORWARD of the table ip filter): \
         `iptables -I DOCKER-USER -i midge0 -j ACCEPT && iptables -I DOCKER-USER -o midge0 -j ACCEPT`"
    );
    // What iptables makes of the remedy.
    lab.host.nft("insert rule ip filter DOCKER-USER iifname midge0 counter accept");
    assert_eq!(network.obstacles().unwrap().len(), 1);
    lab.host.nft("insert rule ip filter DOCKER-USER oifname midge0 counter accept");
    assert!(network.obstacles().unwrap().is_empty());
    assert!(guest.net.ping(LAN));

    // Another's, with the remedy as it is written.
    lab.host.nft("table inet wall {\n chain way { type filter hook forward priority 10; policy drop;\n }\n}");
    let obstacles = network.obstacles().unwrap();
    assert_eq!((obstacles.len(), obstacles[0].by), (1, Firewall::Other));
    assert!(!guest.net.ping(LAN));
    lab.host.run("sh", &["-c", &obstacles[0].remedy()]);
    assert!(network.obstacles().unwrap().is_empty());
    assert!(guest.net.ping(LAN));
}

#[tokio::test]
async fn isolated_guests_reach_the_lan_but_not_each_other() {
    let lab = Lab::new();
    let network = lab.ensure(&NatConfig { isolated: true, ..config("midge0") }).await.unwrap();
    let (one, other) = (lab.guest(&network, 10), lab.guest(&network, 11));
    for number in [10, 11] {
        lab.host.run("bridge", &["link", "set", "dev", &format!("midge0-{number}"), "isolated", "on"]);
    }
    assert!(one.net.ping(LAN) && other.net.ping(LAN));
    assert!(!one.net.ping(other.ip));
    // Nor by way of the host.
    lab.bridge_netfilter(false);
    for (guest, other) in [(&one, &other), (&other, &one)] {
        guest.net.ip(&format!("route add {}/32 via {}", other.ip, network.plan().router));
    }
    assert!(!one.net.ping(other.ip));
}

#[tokio::test]
async fn veiled_guests_with_one_identity_share_a_network() {
    let lab = Lab::new();
    let mut network = lab.ensure(&config("midge0")).await.unwrap();
    let mut nft = Nft::open(&lab.host.namespace).unwrap();
    let base = network.plan().subnet.base().to_bits();
    let ip = |number: u8| Ipv4Addr::from_bits(base + u32::from(number));
    let identity =
        |number| Identity { mac: Mac::local([0, 0, number]), ipv4: Some(ip(number)), ipv6: Vec::new() };
    let guests = [10, 11].map(|number| {
        let port = format!("midge0-{number}");
        let net = Net::new("clone");
        lab.host.veth(&port, &net, "eth0");
        net.ip(&format!("link set eth0 address {}", identity(99).mac));
        Veil { port: port.clone(), inner: identity(99), outer: identity(number) }.raise(&mut nft).unwrap();
        lab.host.ip(&format!("link set {port} master midge0"));
        net.ip(&format!("addr add {}/24 dev eth0", ip(99)));
        net.ip(&format!("route add default via {}", network.plan().router));
        // To the network, it is who the veil makes it.
        Guest { net, ip: ip(number) }
    });
    for (guest, port) in guests.iter().zip([8010, 8020]) {
        let forwards = [forward(Protocol::Tcp, Ipv4Addr::UNSPECIFIED, port, guest)];
        network.add_user(&port.to_string(), &forwards).await.unwrap();
    }
    for (guest, port) in guests.iter().zip([8010, 8020]) {
        assert!(guest.net.ping(LAN));
        assert_eq!(talk(&guest.net, &lab.lan, ANY, at(LAN, 0), 1 << 20), IpAddr::from(UPLINK));
        assert_eq!(reached(&lab.lan, at(UPLINK, port), guest, port + 1).unwrap(), IpAddr::from(LAN));
        let router = network.plan().router;
        assert_eq!(
            reached(&lab.host, at(Ipv4Addr::LOCALHOST, port), guest, port + 1).unwrap(),
            IpAddr::from(router)
        );
    }
    assert_eq!(
        talk(&guests[0].net, &guests[1].net, ANY, at(guests[1].ip, 0), 1 << 20),
        IpAddr::from(guests[0].ip)
    );
}

/// What [`a_kill_at_any_moment_is_put_right`] kills: with these in its environment, it makes and removes a network until then.
const VICTIM: [&str; 2] = ["MIDGE_TEST_VICTIM_NAMESPACE", "MIDGE_TEST_VICTIM_STATE"];

#[tokio::test]
async fn a_kill_at_any_moment_is_put_right() {
    if let [Ok(namespace), Ok(state)] = VICTIM.map(std::env::var) {
        let namespace = Namespace::named(&namespace).unwrap();
        println!("begins");
        loop {
            let mut network =
                NatNetwork::ensure(&namespace, Path::new(&state), &config("midge0")).await.unwrap();
            network.add_user("victim", &[]).await.unwrap();
            network.remove_user("victim").await.unwrap();
        }
    }
    let lab = Lab::new();
    let before = (lab.host.ruleset(), lab.names());
    let mut network = lab.ensure(&config("midge0")).await.unwrap();
    network.add_user("one", &[]).await.unwrap();
    let whole = lab.host.ruleset();
    network.remove_user("one").await.unwrap();
    for microseconds in (0..30_000).step_by(1500) {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_kill_at_any_moment_is_put_right", "--nocapture"])
            .envs(VICTIM.into_iter().zip([lab.host.name(), lab.state().to_str().unwrap()]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("begins")));
        std::thread::sleep(Duration::from_micros(microseconds));
        victim.kill().unwrap();
        victim.wait().unwrap();

        let mut network = lab.ensure(&config("midge0")).await.unwrap();
        network.add_user("one", &[]).await.unwrap();
        let subnet = network.plan().subnet.to_string();
        let seen = lab.host.ruleset();
        assert_eq!(seen.replace(&subnet, "10.77.0.0/24"), whole, "after {microseconds} us");
        let address = format!("{}/24", network.plan().router);
        assert!(lab.host.ip("-4 addr show dev midge0").contains(&address));
        network.sweep(|_| false).await.unwrap();
        assert_eq!((lab.host.ruleset(), lab.names()), before, "after {microseconds} us");
    }
}
