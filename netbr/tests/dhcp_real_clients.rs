//! The server against the clients that guests run: udhcpc, dhclient and dhcpcd, each in a namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dhcp_support;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use dhcp_support::world::{Program, Server, World, guest};
use dhcp_support::{at, ip, mac, network};
use netbr::dhcp::leases::{RowState, State};
use netbr::dhcp::server::{Event, Occasion};
use netbr::dhcp::{Leases, Network, Responder};
use netbr::nft::Nft;
use netbr::packet::Filter;
use netbr::veil::{Identity, MARK, Veil};

/// A network whose leases end after six seconds, so that a client renews one after three.
fn hasty(size: u8) -> Network {
    Network { lease_time: Duration::from_secs(6), ..network(size) }
}

async fn bound(server: &mut Server, wanted: Occasion) -> Ipv4Addr {
    let what = format!("{wanted:?}");
    server
        .event(&what, |event| match event {
            Event::Bound { address, occasion, mac, .. } if *occasion == wanted && *mac == guest() => {
                Some(*address)
            }
            _ => None,
        })
        .await
}

async fn released(server: &mut Server) -> Ipv4Addr {
    let meant = |event: &Event| match event {
        Event::Released { address, .. } => Some(*address),
        _ => None,
    };
    server.event("a release", meant).await
}

async fn exhausted(server: &mut Server) -> String {
    let meant = |event: &Event| match event {
        Event::NoAddress { mac, why } if *mac == guest() => Some(why.to_string()),
        _ => None,
    };
    server.event("that there is no address", meant).await
}

/// Leases the pool's only address to somebody else.
fn exhaust(world: &World, network: &Network) {
    let choose = |leases: &mut Leases| {
        leases.choose(network, std::time::SystemTime::now(), mac(77), None).unwrap().address
    };
    assert_eq!(world.lease_file().transaction(choose).unwrap(), ip(10));
}

fn udhcpc(world: &World, more: &[&str]) -> Program {
    let mut command = world.guest.command("udhcpc");
    command.args(["-f", "-i", "eth0", "-t", "20", "-T", "1", "-s", &world.path("script")]);
    Program::start(command.args(["-O", "mtu", "-x", "hostname:udhcpc-guest"]).args(more))
}

fn dhclient(world: &World, more: &[&str]) -> Command {
    let mut command = world.guest.command("dhclient");
    command.args(["-4", "-sf", &world.path("script"), "-lf", &world.path("dhclient.leases")]);
    command.args(["-cf", "/dev/null", "-pf", &world.path("dhclient.pid")]).args(more).arg("eth0");
    command
}

/// dhcpcd knows its folders by name, so it gets its own ones mounted there (`ip netns exec` made the mount namespace).
///
/// It runs without privilege separation, which it has where there is no user `dhcpcd`: with it, 9.4.1 loses a signal that
/// comes while a hook runs, as its manager waits for the hook in an event loop that knows no signals.
fn dhcpcd(world: &World, more: &str) -> Program {
    let (kept, users, script) = (world.path("dhcpcd"), world.path("users"), world.path("script"));
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(&users, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    let text = format!(
        "mkdir -p /run/dhcpcd /var/lib/dhcpcd && mount -t tmpfs -o mode=755 tmpfs /run/dhcpcd && \
         mount --bind {kept} /var/lib/dhcpcd && mount --bind {users} /etc/passwd && \
         exec dhcpcd -B -4 -f /dev/null -c {script} --noipv4ll --noarp -o domain_name_servers,domain_name,interface_mtu,routers {more} eth0"
    );
    Program::start(world.guest.command("sh").args(["-c", &text]))
}

#[tokio::test]
async fn udhcpc_obtains_renews_releases_and_comes_back() {
    let network = network(20);
    let mut world = World::new(&network);
    let mut server = world.serve(&network);
    let client = udhcpc(&world, &[]);
    let address = bound(&mut server, Occasion::Selecting).await;
    let told = world.told(&["bound"]).await;
    assert_eq!(
        told,
        format!(
            "bound address={address} router=10.77.0.1 dns=9.9.9.9 10.77.0.1 domain=guests.test mtu=1400 server=10.77.0.1"
        )
    );
    let row = &world.lease_file().read().unwrap().list(at(0))[0];
    assert_eq!((row.mac, row.hostname.as_deref()), (guest(), Some("udhcpc-guest")));
    // SIGUSR1 has it renew, SIGUSR2 release.
    client.signal("USR1");
    assert_eq!(bound(&mut server, Occasion::Renewing).await, address);
    world.told(&["renew"]).await;
    client.signal("USR2");
    assert_eq!(released(&mut server).await, address);
    world.told(&["deconfig"]).await;
    drop(client);
    // It knows no INIT-REBOOT: it asks for the address that it is told it had.
    server.stop().await;
    let mut server = world.serve(&network);
    let _client = udhcpc(&world, &["-r", &address.to_string()]);
    assert_eq!(bound(&mut server, Occasion::Selecting).await, address);
}

#[tokio::test]
async fn dhclient_obtains_renews_reboots_and_releases() {
    let network = hasty(20);
    let mut world = World::new(&network);
    let mut server = world.serve(&network);
    let client = Program::start(&mut dhclient(&world, &["-d"]));
    let address = bound(&mut server, Occasion::Selecting).await;
    assert!(world.told(&["BOUND"]).await.starts_with(&format!("BOUND address={address} router=10.77.0.1 ")));
    assert_eq!(bound(&mut server, Occasion::Renewing).await, address);
    world.told(&["RENEW"]).await;
    client.kill();
    server.stop().await;
    // Both come back: the guest remembers its lease, the server its guest.
    let mut server = world.serve(&network);
    let client = Program::start(&mut dhclient(&world, &["-d"]));
    assert_eq!(bound(&mut server, Occasion::Reboot).await, address);
    world.told(&["REBOOT"]).await;
    let _release = Program::start(&mut dhclient(&world, &["-r", "-d"]));
    assert_eq!(released(&mut server).await, address);
    assert_eq!(world.lease_file().read().unwrap().get(guest()).unwrap().state, State::Released);
    drop(client);
}

#[tokio::test]
async fn dhcpcd_obtains_renews_reboots_and_releases() {
    let network = network(20);
    let mut world = World::new(&network);
    let mut server = world.serve(&network);
    let client = dhcpcd(&world, "");
    let address = bound(&mut server, Occasion::Selecting).await;
    let told = world.told(&["BOUND"]).await;
    assert!(told.starts_with(&format!("BOUND address={address} ")), "{told}");
    client.signal("USR1");
    assert_eq!(bound(&mut server, Occasion::Renewing).await, address);
    world.told(&["RENEW"]).await;
    // Without a release, and both come back.
    client.end("TERM").await;
    server.stop().await;
    let mut server = world.serve(&network);
    let client = dhcpcd(&world, "");
    assert_eq!(bound(&mut server, Occasion::Reboot).await, address);
    world.told(&["REBOOT"]).await;
    client.signal("ALRM");
    assert_eq!(released(&mut server).await, address);
}

#[tokio::test]
async fn dhcpcd_obtains_by_rapid_commit() {
    let network = network(20);
    let mut world = World::new(&network);
    let mut server = world.serve(&network);
    let _client = dhcpcd(&world, "-o rapid_commit");
    let address = bound(&mut server, Occasion::RapidCommit).await;
    let told = world.told(&["BOUND"]).await;
    assert!(told.starts_with(&format!("BOUND address={address} ")), "{told}");
}

#[tokio::test]
async fn an_exhausted_pool_is_said_whoever_asks() {
    let network = network(1);
    let world = World::new(&network);
    exhaust(&world, &network);
    let mut server = world.serve(&network);
    let text = "the pool 10.77.0.10-10.77.0.10 has 1 addresses and none left: 1 leased or offered, 0 reserved, 0 in use by something \
                else; widen the pool, remove guests, or wait for a lease to end";
    let client = udhcpc(&world, &[]);
    assert_eq!(exhausted(&mut server).await, text);
    client.kill();
    let client = Program::start(&mut dhclient(&world, &["-d"]));
    assert_eq!(exhausted(&mut server).await, text);
    client.kill();
    let _client = dhcpcd(&world, "");
    assert_eq!(exhausted(&mut server).await, text);
}

#[tokio::test]
async fn an_address_that_a_neighbour_uses_is_not_given() {
    let network = network(20);
    let mut world = World::new(&network);
    let choice = Leases::default().choose(&network, at(0), guest(), None).unwrap();
    let _neighbour = world.neighbour(mac(9), choice.address);
    let mut server = world.serve(&network);
    let _client = udhcpc(&world, &[]);
    let conflict = server
        .event("the conflict", |event| match event {
            Event::Conflict { address, holder, .. } => Some((*address, *holder)),
            _ => None,
        })
        .await;
    assert_eq!(conflict, (choice.address, mac(9)));
    let address = bound(&mut server, Occasion::Selecting).await;
    assert_ne!(address, choice.address);
    assert!(world.told(&["bound"]).await.starts_with(&format!("bound address={address} ")));
    let rows = world.lease_file().read().unwrap().list(std::time::SystemTime::now());
    assert!(rows.iter().any(|row| (row.address, row.state) == (choice.address, RowState::Avoided)));
}

#[tokio::test]
async fn an_address_that_was_prepared_is_offered_without_a_probe() {
    let network = network(20);
    let world = World::new(&network);
    let choice = Leases::default().choose(&network, at(0), guest(), None).unwrap();
    let _neighbour = world.neighbour(mac(9), choice.address);
    let mut responder = Responder::new(network.clone(), world.lease_file(), [guest()]);
    let wire = world.host.socket("br0", Filter::addresses());
    let address = responder.prepare(guest(), &wire).await.unwrap();
    assert_ne!(address, choice.address);
    assert_eq!(responder.prepare(guest(), &wire).await.unwrap(), address);
    assert!(world.lease_file().read().unwrap().get(guest()).unwrap().probed);
    let mut server = world.serve_with(responder);
    let _client = udhcpc(&world, &[]);
    assert_eq!(bound(&mut server, Occasion::Selecting).await, address);
}

#[tokio::test]
async fn a_veiled_guest_keeps_the_lease_that_it_believes_in() {
    // The guest believes that a router gave it its lease, which is there but knows nothing of that.
    let believed = Network {
        router: Some(ip(254)),
        dns: vec![ip(254)],
        ..Network::new("10.77.0.0/24".parse().unwrap(), ip(254), mac(200))
    };
    let mut world = World::new(&network(20));
    let _router = world.neighbour(mac(200), ip(254));
    let inner = ip(123);
    // Nobody on the bridge knows it by its own names, and its requests do not get there.
    let veil = Veil {
        port: "p1".to_owned(),
        inner: Identity { mac: guest(), ipv4: Some(inner), ipv6: Vec::new() },
        outer: Identity { mac: mac(77), ipv4: Some(ip(77)), ipv6: Vec::new() },
    };
    veil.raise(&mut Nft::open(&world.host.namespace()).unwrap()).unwrap();
    let responder = Responder::fixed(believed, guest(), inner).unwrap();
    let mut server = world.serve_marked(responder, Some(MARK));
    let client = dhcpcd(&world, "");
    assert_eq!(bound(&mut server, Occasion::Selecting).await, inner);
    let told = world.told(&["BOUND"]).await;
    assert!(told.starts_with("BOUND address=10.77.0.123 router=10.77.0.254 dns=10.77.0.254 "), "{told}");
    client.signal("USR1");
    let renewed = server
        .event("a renewal", |event| match event {
            Event::Bound { address, occasion: Occasion::Renewing | Occasion::Rebinding, .. } => {
                Some(*address)
            }
            _ => None,
        })
        .await;
    assert_eq!(renewed, inner);
    world.told(&["RENEW"]).await;
    client.end("TERM").await;
    let client = dhcpcd(&world, "");
    assert_eq!(bound(&mut server, Occasion::Reboot).await, inner);
    world.told(&["REBOOT"]).await;
    client.signal("ALRM");
    assert_eq!(released(&mut server).await, inner);
    drop(client);
    // Not even a release ends it.
    let _client = udhcpc(&world, &["-r", "10.77.0.50"]);
    assert_eq!(bound(&mut server, Occasion::Selecting).await, inner);
}
