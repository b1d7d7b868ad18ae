//! A Debian guest that is on the home network and on midge's own at once: how it gets its addresses, keeps them, gives them back, and
//! what midge knows of that. It boots once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::thread;

use common::lan::{HOST, Lan, ROUTER};
use common::{Sandbox, eventually};
use serde_json::Value;

/// The interfaces of the guest, in the order of its `--net`.
const LAN: usize = 0;
const NAT: usize = 1;

#[test]
fn a_debian_on_two_networks_is_known_on_both_whatever_it_does_to_its_addresses() {
    let mut sandbox = Sandbox::with_debian();
    let lan = Lan::new(sandbox.path());
    sandbox.enter(&lan.host);
    let nets = ["--net", "bridge=br0", "--net", "nat", "-p", "0.0.0.0:2222:22"];
    sandbox.ok(&[&["create", "deb", "--image", "debian:12"], &nets[..]].concat());
    sandbox.ok(&["start", "deb", "--wait"]);
    let guest = Guest::of(&sandbox, &lan);

    guest.has_an_address_of_each_network();
    guest.is_reached_by_every_verb();
    guest.is_behind_the_hosts_address_on_nat();
    guest.renews();
    guest.may_call_itself_by_a_duid();
    guest.may_have_an_address_in_silence();
    guest.may_use_another_client();

    sandbox.ok(&["stop", "deb"]);
    assert_eq!(sandbox.last_end("deb").unwrap()["cause"], "powered-off");
}

/// The guest `deb`.
struct Guest<'a> {
    sandbox: &'a Sandbox,
    lan: &'a Lan,
    /// What it calls its interfaces.
    interfaces: [String; 2],
}

impl<'a> Guest<'a> {
    fn of(sandbox: &'a Sandbox, lan: &'a Lan) -> Self {
        let links: Value =
            serde_json::from_str(&sandbox.ok(&["exec", "deb", "--", "ip", "-json", "link"])).unwrap();
        let macs = sandbox.inspect("deb")["record"]["macs"].clone();
        let name = |net: usize| {
            let link = links.as_array().unwrap().iter().find(|link| link["address"] == macs[net]);
            link.unwrap()["ifname"].as_str().unwrap().to_owned()
        };
        Self { sandbox, lan, interfaces: [name(LAN), name(NAT)] }
    }

    /// Runs a script in the guest; its output.
    #[track_caller]
    fn shell(&self, script: &str) -> String {
        self.sandbox.ok(&["exec", "deb", "--", "sh", "-ec", script])
    }

    /// What midge knows now of an interface's IPv4 addresses that became known in this way.
    fn known(&self, net: usize, source: &str) -> Vec<Value> {
        let done = self.sandbox.run(&["ip", "deb", "-4", "--source", source, "-o", "json"]);
        let Ok(found) = serde_json::from_str::<Value>(&done.stdout) else { return Vec::new() };
        let details = found["details"].as_array().unwrap().iter();
        details.filter(|detail| detail["interface"] == net).cloned().collect()
    }

    /// The address that a DHCP server gave to an interface, when the guest itself has answered for it.
    fn leased(&self, net: usize) -> String {
        let mut address = String::new();
        eventually("the address is given and confirmed", || {
            let found = self.known(net, "dhcp");
            let confirmed = found.iter().find(|detail| detail["confirmed"] == true);
            confirmed.is_some_and(|detail| {
                detail["address"].as_str().unwrap().clone_into(&mut address);
                true
            })
        });
        address
    }

    /// Whether it was noticed, after the first `before` events, that an interface has lost an address.
    fn lost(&self, before: usize, net: usize, address: &str) -> bool {
        self.sandbox.events("deb")[before..].iter().any(|event| {
            let it = event["net"] == net && event["address"] == address;
            it && event["event"] == "address-lost" && event["why"] == "released"
        })
    }

    /// The lease of midge's own network.
    fn lease(&self) -> Value {
        self.sandbox.json(&["net", "leases", "-o", "json"])
    }

    /// How midge's own server came to give the address each time, in its own words.
    fn given(&self) -> Vec<String> {
        let log = fs::read_to_string(self.sandbox.vm_file("deb", "midge.log")).unwrap();
        let given = log.lines().filter(|line| line.contains(" has ") && line.ends_with(')'));
        given.map(|line| line.rsplit_once('(').unwrap().1.trim_end_matches(')').to_owned()).collect()
    }

    fn has_an_address_of_each_network(&self) {
        let (home, own) = (self.leased(LAN), self.leased(NAT));
        assert!(home.starts_with("10.77.1."), "{home}");
        let lease = self.lease();
        assert_eq!((&lease["address"], &lease["state"]), (&own.as_str().into(), &"bound".into()));
        assert_eq!((&lease["vm"], &lease["hostname"]), (&"deb".into(), &"deb".into()));
        // What was heard on the ports is what the guest itself says.
        let agent = self.sandbox.json(&["ip", "deb", "-4", "--source", "agent", "-o", "json"]);
        let mut told: Vec<&str> =
            agent["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        told.sort_unstable();
        let mut heard = [home.as_str(), own.as_str()];
        heard.sort_unstable();
        assert_eq!(told, heard);
        // Each on its own interface, and on no other: Linux answers for all of its addresses on each.
        for (net, address) in [(LAN, &home), (NAT, &own)] {
            for detail in ["dhcp", "arp"].iter().flat_map(|source| self.known(1 - net, source)) {
                assert_ne!(detail["address"], address.as_str(), "{detail}");
            }
        }
        // It was heard before anybody was asked.
        let events = self.sandbox.events("deb");
        let mut ipv4 =
            events.iter().filter(|event| event["address"].as_str().is_some_and(|a| !a.contains(':')));
        assert_eq!(ipv4.next().unwrap()["source"], "dhcp");
    }

    fn is_reached_by_every_verb(&self) {
        let (sandbox, home) = (self.sandbox, self.leased(LAN));
        assert!(self.lan.router.reaches(&home));
        assert!(sandbox.ok(&["ls"]).contains(&home));
        let hosts = sandbox.ok(&["hosts"]);
        assert!(hosts.contains(&format!("{home}\tdeb")), "{hosts}");
        sandbox.ok(&["wait", "deb", "ssh"]);
        // The guest sees this host's own address, so it was not led through QEMU.
        let client = sandbox.ok(&["ssh", "deb", "--", "echo", "$SSH_CONNECTION"]);
        assert!(client.starts_with(&format!("{HOST} ")), "{client}");
        assert!(client.contains(&format!(" {home} 22")), "{client}");
        let file = sandbox.path().join("sent");
        fs::write(&file, "over").unwrap();
        sandbox.ok(&["cp", file.to_str().unwrap(), "deb:/root/sent"]);
        assert_eq!(sandbox.ok(&["exec", "deb", "--", "cat", "/root/sent"]), "over");
        // The same ways by SSH at that address, with the command's own code.
        let greets = [
            "exec",
            "--via",
            "ssh",
            "-e",
            "GREETING=it's me",
            "deb",
            "--",
            "sh",
            "-c",
            "echo $GREETING; exit 7",
        ];
        let greeted = sandbox.run(&greets);
        assert_eq!((greeted.code, greeted.stdout.as_str()), (7, "it's me\n"), "{}", greeted.stderr);
        sandbox.ok(&["cp", "--via", "ssh", file.to_str().unwrap(), "deb:/root/sent again"]);
        let back = sandbox.path().join("back");
        sandbox.ok(&["cp", "--via", "ssh", "deb:/root/sent again", back.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&back).unwrap(), "over");
    }

    fn is_behind_the_hosts_address_on_nat(&self) {
        // From outside, the host's port leads to the guest.
        let router = netbr::Namespace::named(self.lan.router.name()).unwrap();
        let door = router.run(|| TcpStream::connect((HOST, 2222))).unwrap().unwrap();
        let mut banner = String::new();
        BufReader::new(door).read_line(&mut banner).unwrap();
        assert!(banner.starts_with("SSH-2.0-"), "{banner}");

        // And the guest, which has a way of its own to the router, is sent by the other one.
        let listener = router.run(|| TcpListener::bind((ROUTER, 0))).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = thread::spawn(move || listener.accept().unwrap().1.ip());
        let gateway = self.shell(&format!("ip -4 route show default dev {}", self.interfaces[NAT]));
        let gateway = gateway.split(' ').nth(2).unwrap();
        let route = format!("{ROUTER}/32 via {gateway} dev {} metric 1", self.interfaces[NAT]);
        self.shell(&format!("ip route add {route}"));
        self.sandbox.ok(&["exec", "deb", "--", "bash", "-c", &format!("exec 3<>/dev/tcp/{ROUTER}/{port}")]);
        assert_eq!(accepted.join().unwrap(), HOST.parse::<IpAddr>().unwrap());
        self.shell(&format!("ip route delete {route}"));
    }

    fn renews(&self) {
        assert_eq!(self.given(), ["new"]);
        let (before, address) = (self.lease(), self.leased(NAT));
        self.shell(&format!("networkctl renew {}", self.interfaces[NAT]));
        eventually("the lease is renewed", || self.given() == ["new", "renewed"]);
        assert_eq!(self.leased(NAT), address);
        let ends = |lease: &Value| lease["ends"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(ends(&self.lease()) > ends(&before), "{before}");
    }

    fn may_call_itself_by_a_duid(&self) {
        let own = self.leased(NAT);
        let before = self.sandbox.events("deb").len();
        self.shell(
            "drop=/run/systemd/network/80-midge.network.d; mkdir -p $drop\n\
             printf '[DHCPv4]\\nClientIdentifier=duid\\n' > $drop/duid.conf\n\
             networkctl reload",
        );
        // It gives back what it had by its old name, and gets another address of the home network by its new one.
        eventually("the router knows it by its DUID", || {
            let leases = fs::read_to_string(self.lan.leases()).unwrap_or_default();
            // RFC 4361, 6.1: its client identifiers are of type 255.
            leases.lines().any(|line| line.contains(" deb ff:"))
        });
        eventually("the old lease is given back", || self.lost(before, NAT, &own));
        let home = self.leased(LAN);
        assert!(self.lan.router.reaches(&home), "{home}");
        let leases = fs::read_to_string(self.lan.leases()).unwrap();
        assert!(leases.contains(&format!(" {home} deb ff:")), "{home}: {leases}");
        // midge's own server goes by the MAC.
        assert_eq!(self.leased(NAT), own);
    }

    fn may_have_an_address_in_silence(&self) {
        const SILENT: &str = "10.77.1.77";
        let home = self.leased(LAN);
        let before = self.sandbox.events("deb").len();
        self.leave_alone(LAN);
        eventually("the lease is given back", || self.lost(before, LAN, &home));
        self.shell(&format!("ip address add {SILENT}/24 dev {}", self.interfaces[LAN]));
        let known = || self.known(LAN, "arp").iter().any(|detail| detail["address"] == SILENT);
        assert!(!known(), "it was not silent");
        // Its agent comes anew and tells of it; then the guest is asked on its port.
        self.shell("systemd-run --quiet --no-block --collect systemctl restart qemu-guest-agent");
        eventually("the silent address is known", known);
        assert!(self.sandbox.ok(&["ls"]).contains(SILENT));
        assert!(self.lan.router.reaches(SILENT));
        self.sandbox.ok(&["wait", "deb", "agent"]);
    }

    fn may_use_another_client(&self) {
        let own = self.leased(NAT);
        let before = self.sandbox.events("deb").len();
        self.leave_alone(NAT);
        eventually("networkd gives its lease back", || self.lost(before, NAT, &own));
        assert_eq!(self.lease()["state"], "released");

        let folder = common::dhclient(self.sandbox.path());
        self.sandbox.ok(&["cp", "-r", folder.to_str().unwrap(), "deb:/opt"]);
        // It renews after two seconds rather than half an hour.
        self.shell("echo 'supersede dhcp-renewal-time 2;' > /opt/dhclient/conf; : > /opt/dhclient/leases");
        let given = self.given().len();
        let client = |flags: &str| {
            self.shell(&format!(
                "cd /opt/dhclient; ./loader --library-path . ./dhclient -4 {flags} -cf conf -lf leases -pf pid \
                 -sf /opt/dhclient/script {} 2>&1",
                self.interfaces[NAT]
            ))
        };
        client("-1");
        eventually("it has renewed", || self.given()[given..].starts_with(&["new".into(), "renewed".into()]));
        assert_eq!((self.lease()["state"].as_str(), self.leased(NAT)), (Some("bound"), own.clone()));
        let before = self.sandbox.events("deb").len();
        client("-r");
        eventually("it has given its lease back", || self.lost(before, NAT, &own));
        assert_eq!(self.lease()["state"], "released");
    }

    /// Keeps systemd-networkd from an interface from now on.
    fn leave_alone(&self, net: usize) {
        let name = &self.interfaces[net];
        self.shell(&format!(
            "printf '[Match]\\nName={name}\\n[Link]\\nUnmanaged=yes\\n' > /run/systemd/network/10-{name}.network\n\
             networkctl reload"
        ));
    }
}
