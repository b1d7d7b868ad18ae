//! Real DHCP clients and a real home router: the address is known from the answer on the wire, and confirmed by the guest.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod watch_net;

use std::net::IpAddr;

use netbr::watch::frame::{self, Observation};
use netbr::watch::{Address, Event, LikelyCause, LostWhy, NoAddress, Source, Want};
use nix::sys::signal::Signal;
use watch_net::home::{Home, Watched, mac};
use watch_net::within;

const POOL: &str = "--dhcp-range=192.168.50.100,192.168.50.150,255.255.255.0,1h";
const OTHER_POOL: &str = "--dhcp-range=192.168.50.200,192.168.50.250,255.255.255.0,1h";

fn within_pool(address: IpAddr, first: u8, last: u8) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [192, 168, 50] && (first..=last).contains(&v4.octets()[3]))
}

/// The address comes from the server's answer, and the guest confirms it.
async fn leased(port: &mut Watched, first: u8, last: u8) -> IpAddr {
    let known = port.ipv4_appeared().await;
    assert_eq!((known.source, known.confirmed, known.mac), (Source::Dhcp, false, mac(1)));
    assert!(within_pool(known.address, first, last), "{known:?}");
    assert_eq!(known.server, Some("192.168.50.1".parse().unwrap()));
    let lease = known.lease_end.unwrap() - known.first_seen;
    assert_eq!(lease.as_secs(), 3600);
    let confirmed = port.confirmed(known.address).await;
    assert!(confirmed.confirmed);
    assert_eq!(port.watch.addresses()[0].address, known.address);
    assert_eq!(port.watch.why(true, Want::Any), None);
    known.address
}

#[tokio::test]
async fn udhcpc_gets_an_address_and_gives_it_back() {
    let mut home = Home::new(1);
    home.serve(&[POOL]);
    let mut port = home.watch(0);
    let client = home.udhcpc(0);
    let address = leased(&mut port, 100, 150).await;
    home.guests[0].signal(client, Signal::SIGUSR2);
    let lost = |event| {
        matches!(event, Event::Lost { address: gone, why: LostWhy::Released } if gone == address)
            .then_some(())
    };
    port.event(lost).await;
    assert!(port.watch.addresses().iter().all(|known| known.address != address));
}

#[tokio::test]
async fn dhclient_gets_an_address() {
    let mut home = Home::new(1);
    home.serve(&[POOL]);
    let mut port = home.watch(0);
    let (script, leases, pid) = (home.path("script"), home.path("client"), home.path("client-pid"));
    home.guests[0].spawn(&["dhclient", "-d", "-4", "-sf", &script, "-lf", &leases, "-pf", &pid, "eth0"]);
    leased(&mut port, 100, 150).await;
}

/// It tries each address out by ARP probes before it uses it, and identifies itself by a DUID.
#[tokio::test]
async fn dhcpcd_gets_an_address_and_is_not_disturbed_while_it_tries_it_out() {
    let mut home = Home::new(1);
    home.serve(&[POOL]);
    let mut port = home.watch(0);
    // Its folders are private to it: `ip netns exec` runs a program in a mount namespace of its own.
    let own = "mkdir -p /run/dhcpcd /var/lib/dhcpcd && mount -t tmpfs own /run/dhcpcd && mount -t tmpfs own /var/lib/dhcpcd";
    let run = format!(
        "{own} && exec dhcpcd --nobackground --ipv4only --duid --config /dev/null --script /bin/true eth0"
    );
    home.guests[0].spawn(&["sh", "-c", &run]);
    leased(&mut port, 100, 150).await;
}

#[tokio::test]
async fn a_dhcpv6_client_gets_an_address() {
    let mut home = Home::new(1);
    // The client needs its link-local address at once, so that is not tried out.
    home.guests[0].exec("sysctl -qw net.ipv6.conf.eth0.accept_dad=0");
    home.guests[0].ip("link set eth0 down");
    home.guests[0].ip("link set eth0 up");
    home.guests[0].wait_up(&["eth0"]);
    home.router.ip("addr add 2001:db8:52::1/64 dev eth0 nodad");
    home.serve(&["--dhcp-range=2001:db8:52::100,2001:db8:52::1ff,64,1h"]);
    let mut port = home.watch(0);
    let (script, leases, pid) = (home.path("script"), home.path("client"), home.path("client-pid"));
    home.guests[0].spawn(&["dhclient", "-d", "-6", "-sf", &script, "-lf", &leases, "-pf", &pid, "eth0"]);
    let wanted = |event| match event {
        Event::Appeared(known) if known.source == Source::Dhcpv6 => Some(known),
        _ => None,
    };
    let known = port.event(wanted).await;
    assert!(known.address.to_string().starts_with("2001:db8:52::1"), "{known:?}");
    assert_eq!((known.lease_end.unwrap() - known.first_seen).as_secs(), 3600);
    port.confirmed(known.address).await;
}

#[tokio::test]
async fn a_router_that_gives_other_addresses_after_a_reboot_is_followed() {
    let mut home = Home::new(1);
    home.serve(&[POOL]);
    let mut port = home.watch(0);
    let client = home.udhcpc(0);
    let old = leased(&mut port, 100, 150).await;
    home.serve(&[OTHER_POOL]);
    home.guests[0].signal(client, Signal::SIGUSR1);
    let lost = |event| match event {
        Event::Lost { address, why: LostWhy::Refused | LostWhy::Replaced } if address == old => Some(()),
        _ => None,
    };
    port.event(lost).await;
    let new = port.ipv4_appeared().await;
    assert!(within_pool(new.address, 200, 250), "{new:?}");
    port.confirmed(new.address).await;
    assert!(port.watch.addresses().iter().all(|known| known.address != old));
}

#[tokio::test]
async fn nobody_answers() {
    let mut home = Home::new(1);
    let (port, mut frames) = home.watch_frames(0);
    assert_eq!(port.watch.why(false, Want::Any), Some(NoAddress::NotRunning));
    assert_eq!(port.watch.why(true, Want::Ipv4).unwrap().code(), "no-dhcp-request");
    home.udhcpc(0);
    let mut asked = 0;
    while asked < 3 {
        let (_, bytes) = within(frames.recv()).await.unwrap();
        let told = frame::parse(&bytes).map(|frame| frame.observation);
        asked += u32::from(matches!(told, Some(Observation::Dhcp(_))));
    }
    let why = port.watch.why(true, Want::Ipv4).unwrap();
    // It goes on asking meanwhile.
    assert!(
        matches!(why, NoAddress::NoDhcpAnswer { requests: 3.., offered: false, refused: false }),
        "{why:?}"
    );
    assert!(why.likely().contains(&LikelyCause::DockerForwardDrop));
    home.guests[0].ip("link set eth0 down");
    home.host.wait_links(|| port.watch.why(true, Want::Ipv4) == Some(NoAddress::NoLink));
    assert!(port.watch.addresses().iter().all(Address::is_link_local));
}
