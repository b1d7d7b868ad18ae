//! An identity of its own for a guest that runs: what a resumed Debian is given, and that nothing is believed of one whose agent fails. It
//! boots once, on a home network whose router gives it addresses.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use common::lan::Lan;
use common::{PATIENCE, Sandbox};
use serde_json::Value;
use supervisor::identity::{ItemName, Nic, RandomSeed, Renew, Report, State, Wanted};
use supervisor::seed;
use supervisor::store::Home;
use supervisor::vm;
use supervisor::vm::control::{ClientError, Failure, FailureKind, Reply, Request};

/// How long the guest may take. It is emulated, on a machine that may be busy.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long one may take whose agent never answers.
const SHORT: Duration = Duration::from_secs(5);

#[test]
fn a_running_debian_becomes_another_machine_or_nothing_is_believed_of_it() {
    let mut sandbox = Sandbox::with_debian();
    let lan = Lan::new(sandbox.path());
    sandbox.enter(&lan.host);
    sandbox.ok(&["create", "deb", "--image", "debian:12", "--net", "bridge=br0"]);
    sandbox.ok(&["start", "deb", "--wait"]);
    sandbox.ok(&["wait", "deb", "ssh"]);
    let guest = Guest { sandbox: &sandbox, lan: &lan };

    guest.becomes_another_machine();
    guest.may_be_given_a_part_of_an_identity();
    guest.must_have_the_address_that_is_demanded();
    guest.keeps_no_address_that_is_not_leased();
    guest.may_use_another_client();
    guest.says_what_it_lacks();
    guest.is_not_believed_when_it_lies();
    guest.is_given_up_when_its_agent_dies();
    guest.is_given_up_when_its_agent_hangs();
}

/// The guest `deb`.
struct Guest<'a> {
    sandbox: &'a Sandbox,
    lan: &'a Lan,
}

impl Guest<'_> {
    fn becomes_another_machine(&self) {
        let mac = self.sandbox.inspect("deb")["record"]["macs"][0].as_str().unwrap().to_owned();
        // What is a machine's own besides what every guest has: a configuration that is chosen by its link-layer address and that calls it
        // by its DUID, its name among the hosts, a key of another kind, saved random numbers, and a clock that is wrong.
        self.shell(&format!(
            "printf '[Match]\nMACAddress={mac}\n[Network]\nDHCP=yes\n[DHCPv4]\nClientIdentifier=duid\n' \
             > /etc/systemd/network/10-mac.network; networkctl reload
             echo '127.0.1.1 deb.home deb' >> /etc/hosts
             ssh-keygen -q -t ecdsa -N '' -f /etc/ssh/ssh_host_ecdsa_key
             echo seed > /var/lib/systemd/random-seed
             date -s '1 hour ago'"
        ));
        self.wait_for_duid();
        let (before, lease) = (self.facts(), self.leases());
        let key = fs::read_to_string(self.sandbox.vm_file("deb", "known_hosts")).unwrap();

        let wanted = self.everything(&mac, "52:54:00:1d:00:01");
        let report = self.identify(&wanted, DEADLINE).unwrap();
        assert!(report.confirmed(), "{report:?}");
        let mut names: Vec<ItemName> = report.items.keys().copied().collect();
        names.sort_unstable();
        let mut all = wanted.items();
        all.sort_unstable();
        assert_eq!(names, all);
        for (name, item) in &report.items {
            let stays = *name == ItemName::BootId;
            assert_eq!(
                item.state,
                if stays { State::NotApplicable } else { State::Done },
                "{name:?} {item:?}"
            );
        }

        let after = self.facts();
        assert_eq!(after["boot_id"], before["boot_id"]);
        assert_eq!(after["boot_id"], report.boot_id.to_string());
        assert_eq!(after["mac"], "52:54:00:1d:00:01");
        for name in ["hostname", "etc_hostname", "proc_hostname"] {
            assert_eq!((&before[name], &after[name]), (&"deb".into(), &"other".into()), "{name}");
        }
        assert!(after["hosts"].as_str().unwrap().contains("deb.home other\n"), "{}", after["hosts"]);
        for name in ["machine_id", "dbus_id"] {
            assert_eq!(after[name], wanted.machine_id.unwrap().simple().to_string(), "{name}");
        }
        for name in ["machine_id", "ip", "client_id", "duid", "host_key"] {
            assert_ne!(before[name], after[name], "{name}");
        }
        // By RFC 4361: an id of the interface, then the DUID.
        let client = after["client_id"].as_str().unwrap();
        let duid = after["duid"].as_str().unwrap().rsplit(':').next().unwrap();
        assert!(client.starts_with("ff") && client.ends_with(duid), "{client} {duid}");
        assert_eq!(after["host_keys"], "ssh_host_ed25519_key ssh_host_ed25519_key.pub");
        assert_eq!(after["left"], "", "a piece of the program is left");
        assert_ne!(after["journal"], "", "the journal is found");
        assert_eq!(after["failed"], "", "units failed");

        // The router gave the address to the new machine, and was told nothing in the name of the old one.
        let ip: IpAddr = after["ip"].as_str().unwrap().parse().unwrap();
        assert_eq!(report.addresses, [ip]);
        let leases = self.leases();
        assert!(leases.contains(&format!("52:54:00:1d:00:01 {ip} other")), "{leases}");
        assert!(leases.contains(lease.trim()), "{lease} was given back: {leases}");

        // Whoever connects meets the key that midge knows it by.
        let known = fs::read_to_string(self.sandbox.vm_file("deb", "known_hosts")).unwrap();
        assert_ne!(known, key);
        let scanned = self.lan.host.run(&["ssh-keyscan", "-T", "60", &ip.to_string()]);
        let scanned = String::from_utf8(scanned.stdout).unwrap();
        assert_eq!(scanned.trim(), known.trim().replace("deb", &ip.to_string()), "one key, and this one");

        let told = report.clock_offset.unwrap();
        let bound = told.us.unsigned_abs() + told.uncertain_us;
        let offset = self.clock_offset();
        assert!(offset.0 <= Duration::from_micros(bound) + offset.1, "{offset:?} and {told:?}");
        assert!(bound < 1_000_000, "{told:?}");
    }

    /// As one that was paused with an identity, and is claimed under another name.
    fn may_be_given_a_part_of_an_identity(&self) {
        let before = self.facts();
        self.shell("date -s 'tomorrow'");
        let report = self.identify(&part(), DEADLINE).unwrap();
        assert!(report.confirmed() && report.items.len() == 4, "{report:?}");
        let after = self.facts();
        assert_eq!(after["hostname"], "third");
        for name in ["mac", "ip", "machine_id", "host_key", "duid", "boot_id"] {
            assert_eq!(before[name], after[name], "{name}");
        }
        let (offset, uncertain) = self.clock_offset();
        assert!(offset <= Duration::from_secs(1) + uncertain, "{offset:?}");
    }

    fn must_have_the_address_that_is_demanded(&self) {
        // From here on as the image has it: by DHCP under the link-layer address.
        self.shell("rm /etc/systemd/network/10-mac.network; networkctl reload");
        common::eventually("a lease by its link-layer address", || {
            self.facts()["client_id"].as_str().is_some_and(|id| id.starts_with("01"))
        });
        let mut wanted = renewed("52:54:00:1d:00:01", "52:54:00:1d:00:02", SHORT);
        wanted.nics[0].address = Some([192, 0, 2, 1].into());
        let report = self.identify(&wanted, DEADLINE).unwrap();
        assert!(!report.confirmed());
        assert_eq!(report.items[&ItemName::Mac].state, State::Done, "{report:?}");
        assert_eq!(report.items[&ItemName::Address].state, State::Failed, "{report:?}");

        // Where somebody else hears of the address, it is not waited for.
        let mut wanted = renewed("52:54:00:1d:00:02", "52:54:00:1d:00:03", SHORT);
        wanted.renew = Some(Renew { within_ms: None });
        let mut report = self.identify(&wanted, DEADLINE).unwrap();
        assert_eq!(report.items[&ItemName::Address].state, State::Pending, "{report:?}");
        assert!(!report.confirmed());
        report.settle(Ok(&[IpAddr::from([10, 0, 0, 1])]));
        assert!(report.confirmed(), "{report:?}");

        // Nobody has this one any more.
        let report = self.identify(&renewed("52:54:00:1d:00:01", "52:54:00:1d:00:09", SHORT), DEADLINE);
        let report = report.unwrap();
        assert_eq!(report.items[&ItemName::Mac].state, State::Failed, "{report:?}");
        assert!(report.unconfirmed().contains("no interface is 52:54:00:1d:00:01"), "{report:?}");
    }

    fn keeps_no_address_that_is_not_leased(&self) {
        self.shell(
            "printf '[Match]\nType=ether\n[Network]\nAddress=198.51.100.7/24\n' \
             > /etc/systemd/network/05-static.network; networkctl reload",
        );
        common::eventually("the address is set", || self.facts()["ip"] == "198.51.100.7");
        let wanted = renewed("52:54:00:1d:00:03", "52:54:00:1d:00:04", SHORT);
        let report = self.identify(&wanted, DEADLINE).unwrap();
        assert!(report.unconfirmed().contains("is set in the guest"), "{report:?}");
        self.shell("rm /etc/systemd/network/05-static.network; networkctl reload");
    }

    fn may_use_another_client(&self) {
        let folder = common::dhclient(self.sandbox.path());
        self.sandbox.ok(&["cp", "-r", folder.to_str().unwrap(), "deb:/opt"]);
        // It runs under the name of what loads it.
        self.shell(
            "cd /opt/dhclient; mv dhclient client; mv loader dhclient; : > conf; : > leases
             mkdir -p /run/systemd/network
             printf '[Match]\nType=ether\n[Link]\nUnmanaged=yes\n' > /run/systemd/network/05-none.network
             networkctl reload
             ip -4 addr flush dev $(ls /sys/class/net | grep -v lo)
             /opt/dhclient/dhclient --library-path /opt/dhclient /opt/dhclient/client -4 -1 -cf /opt/dhclient/conf \
                 -lf /opt/dhclient/leases -pf /opt/dhclient/pid -sf /opt/dhclient/script \
                 $(ls /sys/class/net | grep -v lo) 2>&1",
        );
        let (before, leases) = (self.facts(), self.leases());
        let wanted = renewed("52:54:00:1d:00:04", "52:54:00:1d:00:05", DEADLINE / 2);
        let report = self.identify(&wanted, DEADLINE).unwrap();
        assert!(report.confirmed(), "{report:?}");
        assert!(report.items[&ItemName::Dhcp].detail.contains("dhclient"), "{report:?}");
        let after = self.facts();
        assert_eq!(after["mac"], "52:54:00:1d:00:05");
        assert_ne!(before["ip"], after["ip"]);
        let ip = after["ip"].as_str().unwrap();
        assert!(self.leases().contains(&format!("52:54:00:1d:00:05 {ip}")), "{}", self.leases());
        assert!(leases.lines().all(|line| self.leases().contains(line)), "a lease was given back: {leases}");
        let kept = self.shell("cat /opt/dhclient/leases");
        assert!(kept.contains(ip) && !kept.contains(before["ip"].as_str().unwrap()), "{kept}");
        self.shell(
            "kill $(cat /opt/dhclient/pid); rm /run/systemd/network/05-none.network; networkctl reload",
        );
    }

    fn says_what_it_lacks(&self) {
        self.shell("mount -o remount,noexec /run");
        let failure = self.refused(DEADLINE);
        self.shell("mount -o remount,exec /run");
        assert_eq!(failure.kind, FailureKind::Agent);
        assert!(failure.message.contains("Permission denied"), "{failure:?}");

        self.shell("rm /run/midge-identify-*; mv /usr/bin/install /usr/bin/install.away");
        let failure = self.refused(DEADLINE);
        self.shell("mv /usr/bin/install.away /usr/bin/install");
        assert_eq!(failure.kind, FailureKind::Agent);
        assert!(failure.message.contains("install") && failure.message.contains("not found"), "{failure:?}");
        assert!(self.identify(&part(), DEADLINE).unwrap().confirmed());
    }

    fn is_not_believed_when_it_lies(&self) {
        self.replace_program("cat > /dev/null; echo all is well");
        let failure = self.refused(DEADLINE);
        assert_eq!(failure.kind, FailureKind::Agent);
        assert!(failure.message.contains("not believed"), "{failure:?}");
    }

    fn is_given_up_when_its_agent_dies(&self) {
        self.replace_program("kill -KILL $(pidof qemu-ga); exec sleep 1000");
        let start = Instant::now();
        let failure = self.refused(PATIENCE);
        assert_eq!(failure.kind, FailureKind::Agent, "{failure:?}");
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        // systemd starts it anew, and all can be well.
        self.sandbox.ok(&["wait", "deb", "agent"]);
        self.shell("rm /run/midge-identify-*");
        assert!(self.identify(&part(), DEADLINE).unwrap().confirmed());
    }

    fn is_given_up_when_its_agent_hangs(&self) {
        self.replace_program("kill -STOP $(pidof qemu-ga)");
        let start = Instant::now();
        let failure = self.refused(SHORT);
        assert_eq!(failure.kind, FailureKind::Timeout, "{failure:?}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    }

    /// Puts a script in the place of the program, which is there since it ran first.
    fn replace_program(&self, script: &str) {
        self.shell(&format!("cat > $(ls /run/midge-identify-*) <<'END'\n#!/bin/sh\n{script}\nEND\n"));
    }

    /// Everything that a clone is given.
    fn everything(&self, old: &str, new: &str) -> Wanted {
        let folder = self.sandbox.home().join("vms/deb");
        for file in [seed::HOST_KEY, seed::HOST_PUBLIC_KEY] {
            fs::remove_file(folder.join(file)).unwrap();
        }
        Wanted {
            hostname: Some("other".to_owned()),
            machine_id: Some(uuid::Uuid::new_v4()),
            host_key: Some(seed::ensure_host_key(&folder, "deb").unwrap()),
            seed: Some(RandomSeed::fresh().unwrap()),
            clock: true,
            ..renewed(old, new, DEADLINE / 2)
        }
    }

    /// Asks the VM's supervisor.
    fn identify(&self, wanted: &Wanted, within: Duration) -> Result<Report, Failure> {
        let home = Home::new(self.sandbox.home(), self.sandbox.run_dir());
        let mut client = vm::connect(&home, &home.vm("deb")).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        let within_ms = u64::try_from(within.as_millis()).unwrap();
        client.send(&Request::Identify { wanted: Box::new(wanted.clone()), within_ms }).unwrap();
        match client.receive() {
            Ok(Reply::Done { value }) => Ok(serde_json::from_value(value).unwrap()),
            Err(ClientError::Refused(failure)) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(&self, within: Duration) -> Failure {
        self.identify(&part(), within).unwrap_err()
    }

    /// Runs a script in the guest; its output.
    #[track_caller]
    fn shell(&self, script: &str) -> String {
        self.sandbox.ok(&["exec", "deb", "--", "sh", "-ec", script])
    }

    /// What the guest is, as it says itself.
    #[track_caller]
    fn facts(&self) -> Value {
        let script = r#"
            say() { printf '%s\0%s\0' "$1" "$2"; }
            name=$(ls /sys/class/net | grep -v lo)
            index=$(cat /sys/class/net/$name/ifindex)
            value() { sed -n "s/^$2=//p" /run/systemd/netif/$1/$index 2> /dev/null || true; }
            say mac "$(cat /sys/class/net/$name/address)"
            say ip "$(ip -4 -o addr show dev $name scope global | sed 's/.*inet \([0-9.]*\).*/\1/')"
            say hostname "$(hostname)"
            say etc_hostname "$(cat /etc/hostname)"
            say proc_hostname "$(cat /proc/sys/kernel/hostname)"
            say hosts "$(cat /etc/hosts; echo .)"
            say machine_id "$(cat /etc/machine-id)"
            say dbus_id "$(cat /var/lib/dbus/machine-id)"
            say boot_id "$(cat /proc/sys/kernel/random/boot_id)"
            say client_id "$(value leases CLIENTID)"
            say duid "$(value links DHCP6_CLIENT_DUID)"
            say host_key "$(cat /etc/ssh/ssh_host_ed25519_key.pub)"
            say host_keys "$(cd /etc/ssh; echo ssh_host_*)"
            say left "$(ls -d /run/midge-identify*.new 2> /dev/null)"
            say journal "$(journalctl -q -n 1 -o cat)"
            say failed "$(systemctl --failed --no-legend --plain)"
        "#;
        let text = self.sandbox.ok(&["exec", "deb", "--", "sh", "-c", script]);
        let mut words = text.split('\0');
        let mut facts = serde_json::Map::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            facts.insert(name.to_owned(), value.into());
        }
        facts.into()
    }

    /// Waits until the guest has its address under the name of its DUID.
    fn wait_for_duid(&self) {
        common::eventually("a lease by DUID", || {
            self.facts()["client_id"].as_str().is_some_and(|id| id.starts_with("ff"))
        });
    }

    /// What the router has leased: a line each of link-layer address, address, and name.
    fn leases(&self) -> String {
        let text = fs::read_to_string(self.lan.leases()).unwrap();
        let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words.filter(|w| w.len() > 3).map(|w| w[1..4].join(" ")).collect::<Vec<_>>().join("\n")
    }

    /// How far the guest's clock is from this host's, and by how much that may be wrong.
    fn clock_offset(&self) -> (Duration, Duration) {
        let (before, start) = (SystemTime::now(), Instant::now());
        let told: u64 = self.shell("date +%s%N").trim().parse().unwrap();
        let half = start.elapsed() / 2;
        let host = before.duration_since(SystemTime::UNIX_EPOCH).unwrap() + half;
        (Duration::from_nanos(told).abs_diff(host), half)
    }
}

/// What a machine is given that has everything but its name.
fn part() -> Wanted {
    let seed = Some(RandomSeed::fresh().unwrap());
    Wanted { hostname: Some("third".to_owned()), clock: true, seed, ..Wanted::default() }
}

/// Another link-layer address, and what comes with it.
fn renewed(old: &str, new: &str, within: Duration) -> Wanted {
    let nic = Nic { old: old.parse().unwrap(), new: new.parse().unwrap(), address: None };
    Wanted { nics: vec![nic], renew: Some(Renew::within(within)), ..Wanted::default() }
}
