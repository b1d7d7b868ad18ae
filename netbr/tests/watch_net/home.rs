//! A home network: a bridge on the host, a router with a DHCP server, guests behind ports of the bridge.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use netbr::Mac;
use netbr::packet::{Direction, Filter, Options, PacketSocket};
use netbr::watch::{Address, Asker, Event, Saved, TableConfig, Watch, WatchError, Watcher, WatcherConfig};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use super::{Net, within};

/// Configures the interface as `udhcpc`, or `dhclient`, says. Neither may touch the host's files, as its usual script would.
const SCRIPT: &str = r#"#!/bin/sh
case "$1$reason" in
    deconfig | EXPIRE | FAIL | RELEASE | STOP) ip addr flush dev "$interface" scope global ;;
    bound | renew) ip addr replace "$ip/$mask" dev "$interface" ;;
    BOUND | RENEW | REBIND | REBOOT) ip addr replace "$new_ip_address/24" dev "$interface" ;;
    BOUND6 | RENEW6 | REBIND6) ip addr replace "$new_ip6_address/64" dev "$interface" ;;
    PREINIT) ip link set "$interface" up ;;
esac
if [ -n "$router$new_routers" ]; then
    ip route replace default via "${router:-$new_routers}" dev "$interface"
fi
exit 0
"#;

/// The network. `host` has the bridge `br0` with 192.168.50.2, `router` has 192.168.50.1; guests have nothing yet.
pub struct Home {
    pub host: Net,
    pub router: Net,
    pub guests: Vec<Net>,
    pub dir: tempfile::TempDir,
    dhcp: Option<usize>,
}

/// A watched port.
pub struct Watched {
    pub watch: Watch,
    pub events: broadcast::Receiver<Event>,
    pub task: JoinHandle<Result<(), WatchError>>,
}

pub fn mac(number: u8) -> Mac {
    Mac::local([0x50, 0, number])
}

impl Home {
    /// With so many guests: interface `eth0`, port `pN` of the bridge.
    pub fn new(guests: u8) -> Self {
        let macs: Vec<_> = (1..=guests).map(mac).collect();
        Self::with_macs(&macs)
    }

    pub fn with_macs(macs: &[Mac]) -> Self {
        let (host, router) = (Net::new(), Net::new());
        host.ip("link add br0 address 52:54:00:50:ff:02 type bridge");
        host.ip("link set br0 up");
        host.ip("addr add 192.168.50.2/24 dev br0");
        let mut home =
            Self { host, router, guests: Vec::new(), dir: tempfile::tempdir().unwrap(), dhcp: None };
        home.plug(&home.router, "pr", "52:54:00:50:ff:01");
        home.router.ip("addr add 192.168.50.1/24 dev eth0");
        for (number, mac) in macs.iter().enumerate() {
            let guest = Net::new();
            home.plug(&guest, &format!("p{number}"), &mac.to_string());
            home.guests.push(guest);
        }
        let script = home.dir.path().join("script");
        fs::write(&script, SCRIPT).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        home
    }

    fn plug(&self, net: &Net, port: &str, mac: &str) {
        let name = &net.name;
        self.host.ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {name}"));
        self.host.ip(&format!("link set {port} master br0 up"));
        net.ip("link set eth0 up");
        net.wait_up(&["eth0"]);
        self.host.wait_up(&[port]);
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts the router's DHCP server, or another one in its place that knows nothing of the first one's leases.
    pub fn serve(&mut self, options: &[&str]) {
        if let Some(old) = self.dhcp.take() {
            self.router.stop(old);
        }
        let leases = self.path("leases");
        let _ = fs::remove_file(&leases);
        let (leases, pid) =
            (format!("--dhcp-leasefile={leases}"), format!("--pid-file={}", self.path("pid")));
        let mut words =
            vec!["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"];
        words.extend(["--port=0", "--interface=eth0", "--bind-dynamic", "--no-ping", "--user=root"]);
        words.extend(["--dhcp-authoritative", "--log-facility=-", "--quiet-dhcp", &leases, &pid]);
        words.extend(options);
        let server = self.router.spawn(&words);
        // It says which addresses it gives once its sockets are open.
        self.router.wait_for_line(server, "IP range");
        self.dhcp = Some(server);
    }

    /// `udhcpc` for a guest; it gives its address back when it is told to (SIGUSR2).
    pub fn udhcpc(&mut self, guest: usize) -> usize {
        let script = self.path("script");
        // Asks at once again, and every second, until it is answered: the server may still be starting.
        self.guests[guest]
            .spawn(&["busybox", "udhcpc", "-f", "-i", "eth0", "-s", &script, "-t", "100", "-T", "1"])
    }

    pub fn watch(&self, guest: usize) -> Watched {
        self.watch_known(guest, Vec::new())
    }

    pub fn config(&self, guest: usize, known: Vec<Saved>) -> WatcherConfig {
        let link = self.guests[guest].ip("-br link show dev eth0");
        let own = link.split_whitespace().nth(2).unwrap().parse().unwrap();
        let asker = Asker {
            mac: "52:54:00:50:ff:02".parse().unwrap(),
            ipv4: Some("192.168.50.2".parse().unwrap()),
            ipv6: Some("fe80::5054:ff:fe50:ff02".parse().unwrap()),
        };
        WatcherConfig {
            table: TableConfig { macs: vec![own], siblings: Vec::new(), asker },
            namespace: self.host.namespace(),
            known,
        }
    }

    pub fn socket(&self, guest: usize) -> PacketSocket {
        let options = Options::new(Filter::addresses());
        PacketSocket::open(&self.host.namespace(), &format!("p{guest}"), options).unwrap()
    }

    /// A watched port, and every frame that goes through it, told once the table knows it.
    pub fn watch_frames(&self, guest: usize) -> (Watched, mpsc::UnboundedReceiver<(Direction, Vec<u8>)>) {
        let (sender, frames) = mpsc::unbounded_channel();
        let (watcher, watch) = Watcher::new(self.socket(guest), self.config(guest, Vec::new()));
        let hook = move |direction: Direction, frame: &[u8]| {
            let _ = sender.send((direction, frame.to_vec()));
            Vec::new()
        };
        let task = tokio::spawn(watcher.with_hook(hook).run());
        let events = watch.events();
        (Watched { watch, events, task }, frames)
    }

    pub fn watch_known(&self, guest: usize, known: Vec<Saved>) -> Watched {
        let (task, watch) = Watcher::spawn(self.socket(guest), self.config(guest, known));
        let events = watch.events();
        Watched { watch, events, task }
    }
}

impl Watched {
    /// Waits for an event, and drops those before it.
    pub async fn event<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        within(async {
            loop {
                match self.events.recv().await {
                    Ok(event) => {
                        if let Some(found) = wanted(event) {
                            return found;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => panic!("the watcher has ended"),
                }
            }
        })
        .await
    }

    pub async fn ipv4_appeared(&mut self) -> Address {
        let wanted = |event| match event {
            Event::Appeared(address) if address.address.is_ipv4() => Some(address),
            _ => None,
        };
        self.event(wanted).await
    }

    pub async fn confirmed(&mut self, address: std::net::IpAddr) -> Address {
        let wanted = |event| match event {
            Event::Confirmed(known) if known.address == address => Some(known),
            _ => None,
        };
        self.event(wanted).await
    }
}

/// A DHCPACK for a guest, in a frame from the router.
pub fn acknowledgement(guest: Mac, yiaddr: [u8; 4]) -> Vec<u8> {
    let mut message = vec![2, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend(yiaddr);
    message.extend([0; 8]);
    message.extend(guest.bytes());
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 5, 51, 4, 0, 0, 0x0e, 0x10, 54, 4, 192, 168, 50, 1, 255]);
    let len = |extra: usize| u16::try_from(message.len() + extra).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0];
    header.extend(len(28));
    header.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 50, 1, 255, 255, 255, 255]);
    // A bridge whose frames go through iptables drops packets with a wrong one.
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = guest.bytes().to_vec();
    frame.extend([0x52, 0x54, 0, 0x50, 0xff, 1, 8, 0]);
    frame.extend(header);
    frame.extend([0, 67, 0, 68]);
    frame.extend(len(8));
    frame.extend([0, 0]);
    frame.extend(&message);
    frame
}
