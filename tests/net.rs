//! Guests on bridges, in namespaces that the tests make.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::lan::{HOST, Lan, Namespace, ROUTER};
use common::{Sandbox, eventually};
use serde_json::Value;

/// A sandbox in the host's namespace of a home network.
fn home_network() -> (Sandbox, Lan) {
    let mut sandbox = Sandbox::new();
    let lan = Lan::new(sandbox.path());
    sandbox.enter(&lan.host);
    (sandbox, lan)
}

/// The VM's first address, as `midge ip --wait` has it, with all that is known of it.
#[track_caller]
fn address(sandbox: &Sandbox, vm: &str) -> (String, Value) {
    let found = sandbox.json(&["ip", vm, "--wait", "60s", "-4", "-o", "json"]);
    (found["addresses"][0].as_str().unwrap().to_owned(), found["details"][0].clone())
}

/// Waits until the guest itself has answered for its address.
fn confirmed(sandbox: &Sandbox, vm: &str) {
    eventually("the address is confirmed", || {
        let found = sandbox.json(&["ip", vm, "--wait", "60s", "-4", "-o", "json"]);
        found["details"][0]["confirmed"] == true
    });
}

/// The names of the taps in a namespace.
fn taps(namespace: &Namespace) -> Vec<String> {
    let links: Value = serde_json::from_str(&namespace.ip("-json -details link")).unwrap();
    let links = links.as_array().unwrap().iter();
    let taps = links.filter(|link| link["linkinfo"]["info_kind"] == "tun");
    taps.map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_guest_on_a_bridge_is_a_machine_of_the_home_network() {
    let (sandbox, lan) = home_network();
    sandbox.hello("web", &["--net", "bridge=br0"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let (address, detail) = address(&sandbox, "web");
    assert!(address.starts_with("10.77.1."), "{address}");
    assert_eq!(detail["source"], "dhcp", "{detail}");
    confirmed(&sandbox, "web");
    assert!(lan.router.reaches(&address));
    assert!(lan.host.http(&address, 80).starts_with("HTTP/1.1 200"));
    assert!(lan.router.http(&address, 80).starts_with("HTTP/1.1 200"));

    // Every verb that shows or uses an address has the same one.
    assert!(sandbox.ok(&["ls"]).contains(&address));
    assert_eq!(sandbox.ok(&["hosts", "--domain", "lan"]), format!("{address}\tweb.lan web\n"));
    let config = sandbox.path().join("ssh");
    std::fs::write(&config, sandbox.ok(&["ssh-config"])).unwrap();
    let read = lan.host.run(&["ssh", "-F", config.to_str().unwrap(), "-G", "web"]);
    let read = String::from_utf8_lossy(&read.stdout).into_owned();
    assert!(read.contains(&format!("hostname {address}\n")) && read.contains("user root\n"), "{read}");
    sandbox.ok(&["wait", "web", "tcp:80", "--timeout", "60s"]);
    let networks = sandbox.json(&["net", "ls", "-o", "json"]);
    assert_eq!((&networks["name"], &networks["taps"]), (&Value::from("br0"), &Value::from(1)));
    assert_eq!(networks["vms"][0], "web");
    assert_eq!(networks["uplinks"][0], "lan0");
    assert!(sandbox.events("web").iter().any(|e| e["event"] == "address" && e["source"] == "dhcp"));

    // With the guest goes its port.
    assert_eq!(taps(&lan.host).len(), 1);
    sandbox.ok(&["stop", "web"]);
    eventually("the tap is gone", || taps(&lan.host).is_empty());
}

#[test]
fn a_killed_supervisor_is_replaced_and_the_address_is_known_again() {
    let (sandbox, lan) = home_network();
    sandbox.hello("web", &["--net", "bridge=br0"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let (before, _) = address(&sandbox, "web");
    confirmed(&sandbox, "web");
    sandbox.kill("web", "supervisor");
    // The guest says nothing by itself now: it is asked.
    let (after, detail) = address(&sandbox, "web");
    assert_eq!(before, after);
    assert_eq!(detail["source"], "dhcp", "{detail}");
    confirmed(&sandbox, "web");
    assert!(lan.router.reaches(&after));
}

#[test]
fn a_guest_that_boots_again_on_a_renumbered_network_is_found_at_its_new_address() {
    let (sandbox, mut lan) = home_network();
    sandbox.hello("web", &["--net", "bridge=br0"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let (before, _) = address(&sandbox, "web");
    lan.renumber("10.77.1.10,10.77.1.19,1h");
    lan.host.http_get(&before, 80, "/reset");
    eventually("the new address", || {
        let done = sandbox.run(&["ip", "web", "-4"]);
        done.code == 0 && done.stdout.trim() != before
    });
    let (after, detail) = address(&sandbox, "web");
    let last: u8 = after.rsplit('.').next().unwrap().parse().unwrap();
    assert!((10..20).contains(&last), "{after}");
    assert_eq!(detail["source"], "dhcp");
    assert!(lan.router.reaches(&after));
    assert!(
        sandbox.events("web").iter().any(|e| e["event"] == "address-lost" && e["address"] == before.as_str())
    );
}

#[test]
fn an_address_that_does_not_come_is_explained() {
    let mut sandbox = Sandbox::new();
    let lan = Lan::without_dhcp(sandbox.path());
    sandbox.enter(&lan.host);
    sandbox.hello("asks", &["--net", "bridge=br0"]);
    let stopped = sandbox.fails(4, &["ip", "asks"]);
    assert!(stopped.contains("not running"), "{stopped}");
    sandbox.ok(&["start", "asks"]);
    let unanswered = sandbox.fails(5, &["ip", "asks", "--wait", "3s"]);
    assert!(unanswered.contains("no-dhcp-answer"), "{unanswered}");
    assert!(unanswered.contains("midge net check br0"), "{unanswered}");

    // A guest that stands still asks nobody.
    sandbox.hello("mute", &["--net", "bridge=br0"]);
    sandbox.ok(&["start", "mute"]);
    sandbox.ok(&["pause", "mute"]);
    sandbox.kill("mute", "supervisor");
    let silent = sandbox.fails(5, &["ip", "mute", "--wait", "1s"]);
    assert!(silent.contains("no-dhcp-request") || silent.contains("no-dhcp-answer"), "{silent}");

    // A tap that is torn away while QEMU runs.
    let torn = sandbox.run_state("asks").unwrap()["ports"][0]["tap"].as_str().unwrap().to_owned();
    lan.host.ip(&format!("link delete {torn}"));
    eventually("the loss is noticed", || sandbox.events("asks").iter().any(|e| e["event"] == "port-lost"));
    let unplugged = sandbox.fails(5, &["ip", "asks", "--wait", "1s"]);
    assert!(unplugged.contains("no-link"), "{unplugged}");
    assert_eq!(sandbox.state("asks"), "running");
}

#[test]
fn two_guests_with_one_mac_are_told_apart_from_a_healthy_network() {
    let (sandbox, lan) = home_network();
    // Two users' VMs: in one home midge refuses the second.
    let mut other = Sandbox::new();
    other.enter(&lan.host);
    let net = "bridge=br0,mac=52:54:00:77:77:77";
    sandbox.hello("one", &["--net", net]);
    sandbox.ok(&["start", "one", "--wait"]);
    let (_, _) = address(&sandbox, "one");
    other.hello("two", &["--net", net]);
    other.ok(&["start", "two"]);
    eventually("the conflict is noticed", || {
        let told = |sandbox: &Sandbox, vm: &str| {
            sandbox
                .events(vm)
                .iter()
                .any(|e| e["event"] == "mac-conflict" || e["event"] == "address-conflict")
        };
        told(&sandbox, "one") || told(&other, "two")
    });
}

#[test]
fn a_guest_can_be_on_two_networks() {
    let (sandbox, lan) = home_network();
    lan.host.batch("link add br1 type bridge\nlink set br1 up\n");
    sandbox.hello("web", &["--net", "bridge=br0", "--net", "bridge=br1"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let (address, detail) = address(&sandbox, "web");
    assert_eq!(detail["interface"], 0);
    assert!(lan.router.reaches(&address));
    assert_eq!(taps(&lan.host).len(), 2);
    let state = sandbox.run_state("web").unwrap();
    assert_eq!((&state["ports"][0]["bridge"], &state["ports"][1]["bridge"]), (&"br0".into(), &"br1".into()));
}

#[test]
fn fifty_guests_share_a_bridge() {
    let (sandbox, lan) = home_network();
    let names: Vec<String> = (0..50).map(|n| format!("vm{n}")).collect();
    for name in &names {
        sandbox.hello(name, &["--net", "bridge=br0"]);
    }
    let mut all = vec!["start"];
    all.extend(names.iter().map(String::as_str));
    sandbox.ok(&all);
    let mut addresses: Vec<String> = names.iter().map(|name| address(&sandbox, name).0).collect();
    assert_eq!(taps(&lan.host).len(), 50);
    assert!(lan.router.reaches(&addresses[0]) && lan.router.reaches(&addresses[49]));
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 50, "{addresses:?}");
    sandbox.ok(&["rm", "--force", "--all"]);
    assert_eq!(taps(&lan.host), [] as [&str; 0]);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_started() {
    let (sandbox, lan) = home_network();
    sandbox.hello("web", &["--net", "bridge=br9"]);
    let missing = sandbox.fails(6, &["start", "web"]);
    assert!(missing.contains("no bridge `br9`") && missing.contains("midge net up br9"), "{missing}");
    assert_eq!(sandbox.state("web"), "stopped");
    sandbox.ok(&["set", "web", "--net", "bridge=lan0"]);
    let wrong = sandbox.fails(6, &["start", "web"]);
    assert!(wrong.contains("lan0") && wrong.contains("not a bridge"), "{wrong}");
    let ports = sandbox.fails(2, &["create", "x", "--image", "hello", "--net", "bridge=br0", "-p", "80:80"]);
    assert!(ports.contains("--publish"), "{ports}");
    sandbox.ok(&["set", "web", "--net", "bridge=br0"]);
    sandbox.ok(&["start", "web", "--wait"]);
    assert_eq!(taps(&lan.host).len(), 1);
}

/// A namespace whose `eth0` leads to a router, as the host of a home network has it before there is a bridge.
fn plain_host(with_router: bool) -> (Namespace, Namespace) {
    let (host, router) = (Namespace::new("host"), Namespace::new("router"));
    host.batch(&format!(
        "link add eth0 type veth peer name lan0 netns {}\n\
         link set eth0 address 02:00:00:00:00:02\n\
         link set eth0 up\n\
         address add {HOST}/24 dev eth0\n",
        router.name()
    ));
    router.batch(&format!(
        "link set lan0 up\n{}",
        if with_router { format!("address add {ROUTER}/24 dev lan0\n") } else { String::new() }
    ));
    host.ip(&format!("route add default via {ROUTER} metric 100"));
    (host, router)
}

/// What there is, without the counters that change by themselves.
fn picture(namespace: &Namespace) -> String {
    let links = namespace.ip("-brief link");
    format!("{links}{}{}", namespace.ip("-4 -o address"), namespace.ip("route"))
}

#[test]
fn an_uplink_is_put_into_a_bridge_and_taken_out_again() {
    let (host, router) = plain_host(true);
    let mut sandbox = Sandbox::new();
    sandbox.enter(&host);
    let before = picture(&host);
    // Asking needs somebody to answer.
    let asked = sandbox.fails(2, &["net", "up", "br0", "--uplink", "eth0"]);
    assert!(asked.contains("move 10.77.1.2/24 to br0") && asked.contains("--yes"), "{asked}");
    let printed = sandbox.ok(&["net", "up", "br0", "--uplink", "eth0", "--print", "networkd"]);
    assert!(printed.contains("[Bridge]") || printed.contains("Kind=bridge"), "{printed}");
    assert_eq!(picture(&host), before);

    assert_eq!(sandbox.ok(&["net", "up", "br0", "--uplink", "eth0", "--yes"]), "br0\n");
    assert!(host.ip("-o address show dev br0").contains(HOST));
    assert!(host.ip("-o link show dev br0").contains("02:00:00:00:00:02"));
    assert!(host.ip("route").contains(&format!("default via {ROUTER} dev br0")));
    assert!(host.reaches(ROUTER) && router.reaches(HOST));
    let again = sandbox.fails(4, &["net", "up", "br0", "--uplink", "eth0", "--yes"]);
    assert!(again.contains("already"), "{again}");

    sandbox.hello("web", &["--net", "bridge=br0"]);
    sandbox.ok(&["start", "web"]);
    let used = sandbox.fails(4, &["net", "down", "br0", "--yes"]);
    assert!(used.contains("stop those guests first"), "{used}");
    sandbox.ok(&["kill", "web"]);
    eventually("the tap is gone", || taps(&host).is_empty());
    sandbox.ok(&["net", "down", "br0", "--yes"]);
    assert_eq!(picture(&host), before);
    assert!(host.reaches(ROUTER));
}

#[test]
fn a_bridge_without_a_gateway_behind_it_is_taken_back() {
    let (host, _router) = plain_host(false);
    let mut sandbox = Sandbox::new();
    sandbox.enter(&host);
    let before = picture(&host);
    let failed = sandbox.fails(6, &["net", "up", "br0", "--uplink", "eth0", "--yes"]);
    assert!(failed.contains("did not answer through br0"), "{failed}");
    assert_eq!(picture(&host), before);
}

#[test]
fn a_change_that_is_killed_half_way_is_put_back_by_the_next_command() {
    let (host, _router) = plain_host(false);
    let mut sandbox = Sandbox::new();
    sandbox.enter(&host);
    let before = picture(&host);
    let change = sandbox.run_dir().join("net/br0.change");
    let command = sandbox.spawn(&["net", "up", "br0", "--uplink", "eth0", "--yes"]);
    eventually("it waits for the gateway", || {
        host.run(&["ip", "-o", "address", "show", "dev", "br0"])
            .stdout
            .windows(9)
            .any(|w| w == HOST.as_bytes())
    });
    // The command may go: its worker goes on. The worker is killed, too.
    let worker = worker_of(&change);
    drop(command);
    worker.signal(supervisor::host::proc::Signal::KILL).unwrap();
    assert!(worker.wait_for(common::PATIENCE).unwrap());
    let refused = sandbox.fails(3, &["net", "down", "br1", "--yes"]);
    assert!(refused.contains("br1"), "{refused}");
    assert_eq!(picture(&host), before);
    assert!(!change.exists());
}

/// The process that carries out a change: the one whose standard input is the change's lock.
fn worker_of(change: &std::path::Path) -> supervisor::host::proc::PidFd {
    let lock = change.with_extension("lock");
    let holds = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/fd/0")).is_ok_and(|file| file == lock);
    let pid = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(holds)
        .expect("a worker holds the lock");
    supervisor::host::proc::PidFd::open(pid).unwrap().unwrap()
}

/// Makes the rules that Docker leaves.
fn docker(host: &Namespace) {
    for rule in [
        "add table ip filter",
        "add chain ip filter DOCKER-USER",
        "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
    ] {
        assert!(host.run(&[&["nft"][..], &rule.split(' ').collect::<Vec<_>>()].concat()).status.success());
    }
}

#[test]
fn what_keeps_guests_from_the_network_is_found() {
    let (sandbox, lan) = home_network();
    let fit = sandbox.run(&["net", "check", "br0", "-o", "json"]);
    let report: Value = serde_json::from_str(&fit.stdout).unwrap();
    assert_eq!((fit.code, &report["fit"]), (0, &Value::from(true)), "{report}");
    docker(&lan.host);
    let text = sandbox.run(&["net", "check", "br0"]).stdout;
    assert!(text.contains("docker-forward-drop") && text.contains("next: "), "{text}");
    let missing = sandbox.run(&["net", "check", "br9"]);
    assert!(missing.code == 6 && missing.stdout.contains("no-bridge"), "{missing:?}");
}
