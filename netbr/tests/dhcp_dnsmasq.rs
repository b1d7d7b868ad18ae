//! The client against dnsmasq, the server of most home routers, which runs in a namespace of its own behind a bridge.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on panics, and shows why"
)]

mod dhcp_support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use dhcp_support::world::{Net, Program, World, guest, within};
use dhcp_support::{ip, mac, network};
use netbr::dhcp::Lease;
use netbr::dhcp::client::{Client, ClientError, Command, Event, Identity, Loss};
use netbr::packet::{Filter, PacketSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Long enough for a busy machine; the client is through as soon as the server answers.
const WITHIN: Duration = Duration::from_secs(60);

/// The router 10.77.0.254, on the bridge of a host that has no address itself.
struct Home {
    world: World,
    router: Net,
}

impl Home {
    fn new() -> Self {
        let world = World::new(&network(20));
        world.host.ip("addr flush dev br0");
        let router = world.neighbour(mac(254), ip(254));
        let script = world.path("leases-script");
        let text = format!("#!/bin/sh\necho \"$1 $2 $3 $4\" > {}\n", world.path("news"));
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Self { world, router }
    }

    /// Starts dnsmasq for a range. It tells `add`, `old` (on each renewal) and `del` with MAC, address and name.
    fn dnsmasq(&self, first: Ipv4Addr, more: &[&str]) -> Program {
        let last = Ipv4Addr::from_bits(first.to_bits() + 9);
        let mut command = self.router.command("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"]);
        command.args(["--user=root", "--pid-file=", "--interface=eth0", "--no-ping"]);
        command.args(["--script-on-renewal", "--dhcp-scriptuser=root", "--domain=home.test"]);
        command.arg(format!("--dhcp-script={}", self.world.path("leases-script")));
        command.arg(format!("--dhcp-leasefile={}", self.world.path("dnsmasq.leases")));
        command.arg(format!("--dhcp-range={first},{last},2m"));
        let mut program = Program::start(command.args(more).stderr(Stdio::piped()));
        // It says its range when it listens.
        let mut said = BufReader::new(program.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains("DHCP, IP range")), "dnsmasq does not start");
        std::thread::spawn(move || said.for_each(|line| eprintln!("{line}")));
        program
    }

    fn socket(&self) -> PacketSocket {
        self.world.host.socket("br0", Filter::addresses())
    }

    fn client(&self) -> Client {
        Client::new(self.socket(), identity())
    }

    /// Whether dnsmasq has a lease of this address down.
    fn has(&self, address: Ipv4Addr) -> bool {
        let text = fs::read_to_string(self.world.path("dnsmasq.leases")).unwrap_or_default();
        text.contains(&format!("{} {address} ", guest()))
    }
}

fn identity() -> Identity {
    // The bridge's own MAC.
    let check_as = Some(network(20).server_mac);
    Identity { hostname: Some("clone".to_owned()), ..Identity::new(guest(), check_as) }
}

/// A client that keeps a lease, and what it tells.
struct Running {
    task: JoinHandle<Result<(), ClientError>>,
    commands: mpsc::Sender<Command>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Running {
    fn new(client: Client, lease: Lease) -> Self {
        let (commands, receiver) = mpsc::channel(1);
        let (tell, events) = mpsc::unbounded_channel();
        let task =
            tokio::spawn(async move { client.run(lease, receiver, |event| drop(tell.send(event))).await });
        Self { task, commands, events }
    }

    async fn event(&mut self) -> Event {
        within("an event", self.events.recv()).await.expect("the client runs")
    }

    /// Has it renew, and gives back the lease as it is then.
    async fn renew(&mut self) -> Lease {
        self.commands.send(Command::Renew).await.unwrap();
        match self.event().await {
            Event::Renewed(lease) => lease,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_lease_is_obtained_renewed_and_released() {
    let mut home = Home::new();
    let _dnsmasq = home.dnsmasq(ip(10), &["--dhcp-option=option:mtu,1420"]);
    let lease = home.client().obtain(WITHIN).await.unwrap();
    let address = lease.address;
    assert!((ip(10)..=ip(19)).contains(&address));
    assert_eq!((lease.mac, lease.prefix, lease.lasts), (guest(), 24, 120));
    assert_eq!((lease.server, lease.server_mac), (ip(254), mac(254)));
    assert_eq!((&lease.routers[..], &lease.domain), (&[ip(254)][..], &Some("home.test".to_owned())));
    assert_eq!(lease.mtu, Some(1420));
    assert!(lease.ends().unwrap() > SystemTime::now());
    assert_eq!(home.world.told(&["add"]).await, format!("add {} {address} clone", guest()));
    assert!(home.has(address));
    // Another process goes on with it.
    let lease: Lease = serde_json::from_str(&serde_json::to_string(&lease).unwrap()).unwrap();
    let mut running = Running::new(home.client(), lease.clone());
    let renewed = running.renew().await;
    assert_eq!(renewed.address, address);
    assert!(renewed.obtained >= lease.obtained);
    assert_eq!(home.world.told(&["old"]).await, format!("old {} {address} clone", guest()));
    running.commands.send(Command::Release).await.unwrap();
    within("the end", running.task).await.unwrap().unwrap();
    assert_eq!(home.world.told(&["del"]).await, format!("del {} {address} clone", guest()));
    assert!(!home.has(address));
}

#[tokio::test]
async fn a_client_that_can_be_reached_renews_by_unicast() {
    let mut home = Home::new();
    let _dnsmasq = home.dnsmasq(ip(10), &[]);
    let who = Identity { reachable: true, check_as: Some(guest()), ..identity() };
    let client = || {
        let socket = home.world.guest.socket("eth0", Filter::addresses());
        Client::new(socket, who.clone())
    };
    let lease = client().obtain(WITHIN).await.unwrap();
    // What answers ARP for the address: here the guest itself.
    home.world.guest.ip(&format!("addr add {}/24 dev eth0", lease.address));
    let mut running = Running::new(client(), lease.clone());
    assert_eq!(running.renew().await.address, lease.address);
    // Whoever stops without a word leaves the lease to others.
    drop(running.commands);
    within("the end", running.task).await.unwrap().unwrap();
    client().release(lease.clone()).await.unwrap();
    assert_eq!(home.world.told(&["del"]).await, format!("del {} {} clone", guest(), lease.address));
}

#[tokio::test]
async fn a_lease_whose_time_to_renew_has_come_is_renewed_at_once() {
    let mut home = Home::new();
    let _dnsmasq = home.dnsmasq(ip(10), &[]);
    let lease = home.client().obtain(WITHIN).await.unwrap();
    let older = Lease { obtained: lease.obtained - 90, ..lease.clone() };
    let mut running = Running::new(home.client(), older);
    let Event::Renewed(renewed) = running.event().await else { panic!("no renewal") };
    assert_eq!(renewed.address, lease.address);
    home.world.told(&["old"]).await;
}

#[tokio::test]
async fn a_renumbered_router_is_followed() {
    let home = Home::new();
    let dnsmasq = home.dnsmasq(ip(10), &[]);
    let lease = home.client().obtain(WITHIN).await.unwrap();
    dnsmasq.kill();
    home.router.ip("addr flush dev eth0");
    home.router.ip("addr add 10.78.0.254/24 dev eth0");
    let mut running = Running::new(home.client(), lease.clone());
    let _dnsmasq = home.dnsmasq(Ipv4Addr::new(10, 78, 0, 10), &[]);
    running.commands.send(Command::Renew).await.unwrap();
    let refused = running.event().await;
    let Event::Refused { server, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(server, Some(Ipv4Addr::new(10, 78, 0, 254)));
    assert_eq!(running.event().await, Event::Lost { address: lease.address, why: Loss::Refused });
    let Event::Bound(new) = running.event().await else { panic!("no new lease") };
    assert_eq!(netbr::dhcp::Subnet::of(new.address, 24).to_string(), "10.78.0.0/24");
}

#[tokio::test]
async fn a_lease_is_had_in_one_exchange_where_the_server_gives_it_so() {
    let mut home = Home::new();
    let _dnsmasq = home.dnsmasq(ip(10), &["--dhcp-rapid-commit"]);
    let who = Identity { rapid_commit: true, ..identity() };
    let lease = Client::new(home.socket(), who).obtain(WITHIN).await.unwrap();
    assert_eq!(home.world.told(&["add"]).await, format!("add {} {} clone", guest(), lease.address));
}

#[tokio::test]
async fn without_a_server_it_is_said_that_nobody_answers() {
    let home = Home::new();
    let error = home.client().obtain(Duration::from_millis(1500)).await.unwrap_err();
    assert!(matches!(error, ClientError::NoAnswer { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "no DHCP server answered 52:54:00:aa:00:01 on br0 within 1.5 s: is one running there, and does the bridge reach it?"
    );
}

#[tokio::test]
async fn an_address_that_a_neighbour_uses_is_declined() {
    let mut home = Home::new();
    let _dnsmasq = home.dnsmasq(ip(10), &["--dhcp-host=52:54:00:aa:00:01,10.77.0.15"]);
    let _neighbour = home.world.neighbour(mac(9), ip(15));
    let error = home.client().obtain(Duration::from_secs(5)).await.unwrap_err();
    let ClientError::Conflict { address, holder, .. } = error else { panic!("{error:?}") };
    assert_eq!((address, holder), (ip(15), mac(9)));
    home.world.told(&["del"]).await;
    assert!(!home.has(ip(15)));
}
