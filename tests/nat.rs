//! midge's own network, in namespaces that the tests make.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::lan::{HOST, Lan, Namespace, ROUTER};
use common::{Sandbox, eventually};
use serde_json::Value;

/// A sandbox in the host's namespace of a home network.
fn home_network() -> (Sandbox, Lan) {
    let mut sandbox = Sandbox::new();
    let lan = Lan::without_dhcp(sandbox.path());
    sandbox.enter(&lan.host);
    (sandbox, lan)
}

#[track_caller]
fn address(sandbox: &Sandbox, vm: &str) -> String {
    sandbox.ok(&["ip", vm, "--wait", "60s", "-4"]).trim().to_owned()
}

fn has_network(host: &Namespace) -> bool {
    host.run(&["ip", "link", "show", "dev", "midge0"]).status.success()
}

fn ruleset(host: &Namespace) -> String {
    String::from_utf8(host.run(&["nft", "list", "ruleset"]).stdout).unwrap()
}

fn nft(host: &Namespace, rule: &str) {
    let done = host.run(&[&["nft"][..], &rule.split(' ').collect::<Vec<_>>()].concat());
    assert!(done.status.success(), "{rule}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_default_network_of_root_comes_with_its_first_vm_and_goes_with_its_last() {
    let (sandbox, lan) = home_network();
    nft(&lan.host, "add table ip others");
    let before = ruleset(&lan.host);
    sandbox.hello("one", &["-p", "8080:80", "-p", "0.0.0.0:8081:80"]);
    assert!(!has_network(&lan.host));
    sandbox.ok(&["start", "one", "--wait"]);
    assert!(has_network(&lan.host));
    let one = address(&sandbox, "one");
    let found = sandbox.json(&["ip", "one", "-o", "json"]);
    assert_eq!(found["details"][0]["source"], "dhcp", "{found}");
    sandbox.hello("two", &[]);
    sandbox.ok(&["start", "two", "--wait"]);
    let two = address(&sandbox, "two");
    assert_ne!(one, two);

    // From the host: at its own address and at the forwarded port. From the home network: at the one that is open to all.
    for (from, to, port, answers) in [
        (&lan.host, one.as_str(), 80, true),
        (&lan.host, "127.0.0.1", 8080, true),
        (&lan.host, "127.0.0.1", 8081, true),
        (&lan.router, HOST, 8081, true),
        (&lan.router, HOST, 8080, false),
    ] {
        let page = from.http(to, port);
        assert_eq!(page.starts_with("HTTP/1.1 200"), answers, "{to}:{port}: {page}");
    }
    let networks = sandbox.ok(&["net", "ls"]);
    let own = networks.lines().find(|line| line.starts_with("midge0")).unwrap();
    assert!(own.contains("nat") && own.ends_with("one two"), "{networks}");

    sandbox.ok(&["stop", "one"]);
    assert!(has_network(&lan.host), "the other one is still there");
    assert!(!lan.host.http("127.0.0.1", 8080).starts_with("HTTP"));
    sandbox.ok(&["stop", "two"]);
    eventually("the network is gone", || !has_network(&lan.host));
    assert_eq!(ruleset(&lan.host), before);

    // Each keeps its address.
    sandbox.ok(&["start", "two", "one", "--wait"]);
    assert_eq!((address(&sandbox, "one"), address(&sandbox, "two")), (one.clone(), two));
    sandbox.ok(&["rm", "--force", "two"]);
    let leases = sandbox.ok(&["net", "leases"]);
    assert!(leases.contains(&one) && leases.contains("one") && !leases.contains("two"), "{leases}");
}

#[test]
fn a_wanted_address_is_given_and_two_vms_cannot_want_one() {
    let (sandbox, _lan) = home_network();
    sandbox.hello("first", &[]);
    sandbox.ok(&["start", "first", "--wait"]);
    let any = address(&sandbox, "first");
    let wanted = format!("{}.77", any.rsplit_once('.').unwrap().0);
    sandbox.hello("fixed", &["--net", &format!("nat,ip={wanted}")]);
    sandbox.ok(&["start", "fixed", "--wait"]);
    assert_eq!(address(&sandbox, "fixed"), wanted);
    sandbox.hello("rival", &["--net", &format!("nat,ip={wanted}")]);
    let refused = sandbox.fails(2, &["start", "rival"]);
    assert!(refused.contains(&wanted), "{refused}");
    sandbox.hello("lost", &["--net", "nat,ip=192.0.2.1"]);
    let outside = sandbox.fails(2, &["start", "lost"]);
    assert!(outside.contains("192.0.2.1"), "{outside}");
}

#[test]
fn only_forwarded_ports_are_reached_from_outside() {
    let (sandbox, lan) = home_network();
    // Also from a machine that knows the way to the guests.
    sandbox.hello("web", &[]);
    sandbox.ok(&["start", "web", "--wait"]);
    let web = address(&sandbox, "web");
    let subnet = format!("{}.0/24", web.rsplit_once('.').unwrap().0);
    lan.router.ip(&format!("route add {subnet} via {HOST}"));
    assert!(!lan.router.http(&web, 80).starts_with("HTTP"));
    assert!(lan.host.reaches(ROUTER) && lan.host.http(&web, 80).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_port_that_is_taken_is_refused_before_the_start() {
    let (sandbox, lan) = home_network();
    sandbox.hello("one", &["-p", "8080:80"]);
    sandbox.hello("two", &["-p", "8080:80"]);
    sandbox.ok(&["start", "one", "--wait"]);
    let taken = sandbox.fails(6, &["start", "two"]);
    assert!(taken.contains("8080"), "{taken}");
    assert_eq!(sandbox.state("two"), "stopped");
    sandbox.ok(&["stop", "one"]);
    sandbox.ok(&["start", "two", "--wait"]);
    assert!(lan.host.http("127.0.0.1", 8080).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_killed_supervisor_is_replaced_and_goes_on_answering() {
    let (sandbox, lan) = home_network();
    sandbox.hello("web", &["-p", "8080:80"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let before = address(&sandbox, "web");
    sandbox.kill("web", "supervisor");
    assert_eq!(address(&sandbox, "web"), before);
    // A guest that boots again asks anew, and the new supervisor answers.
    lan.host.http_get(&before, 80, "/reset");
    eventually("the guest is up again", || lan.host.http(&before, 80).starts_with("HTTP/1.1 200"));
    sandbox.ok(&["stop", "web"]);
    eventually("the network is gone", || !has_network(&lan.host));
}

#[test]
fn what_killed_vms_left_of_the_network_is_cleared_by_the_next() {
    let (sandbox, lan) = home_network();
    sandbox.hello("gone", &["-p", "8080:80"]);
    sandbox.ok(&["start", "gone", "--wait"]);
    sandbox.kill("gone", "supervisor");
    sandbox.kill("gone", "qemu");
    assert!(has_network(&lan.host), "nobody was there to remove it");
    sandbox.hello("next", &["-p", "8080:80"]);
    sandbox.ok(&["start", "next", "--wait"]);
    assert!(lan.host.http("127.0.0.1", 8080).starts_with("HTTP/1.1 200"));
    sandbox.ok(&["stop", "next"]);
    eventually("the network is gone", || !has_network(&lan.host));
}

#[test]
fn docker_in_the_way_is_said_at_the_start() {
    let (sandbox, lan) = home_network();
    for rule in [
        "add table ip filter",
        "add chain ip filter DOCKER-USER",
        "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
    ] {
        nft(&lan.host, rule);
    }
    let docker = ruleset(&lan.host);
    sandbox.hello("web", &[]);
    let started = sandbox.run(&["start", "web", "--wait"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    assert!(started.stderr.contains("DOCKER-USER -i midge0"), "{}", started.stderr);
    assert!(
        ruleset(&lan.host).starts_with(docker.trim_end()) || ruleset(&lan.host).contains(docker.trim_end())
    );
    let checked = sandbox.run(&["net", "check"]).stdout;
    assert!(checked.contains("docker-forward-drop"), "{checked}");
}

#[test]
fn a_restart_by_policy_gets_its_network_again() {
    let (sandbox, lan) = home_network();
    sandbox.hello("web", &["-p", "8080:80", "--restart", "always"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let before = address(&sandbox, "web");
    lan.host.http_get(&before, 80, "/exit?code=3");
    eventually("it was started again", || sandbox.run_state("web").is_some_and(|run| run["restarts"] == 1));
    assert_eq!(address(&sandbox, "web"), before);
    eventually("the port leads to it", || lan.host.http("127.0.0.1", 8080).starts_with("HTTP/1.1 200"));
    let state: Value = sandbox.run_state("web").unwrap();
    assert_eq!(state["ports"][0]["bridge"], "midge0");
}

#[test]
fn a_guest_can_have_two_interfaces_there_and_many_start_at_once() {
    let (sandbox, lan) = home_network();
    sandbox.hello("two", &["--net", "nat", "--net", "nat", "-p", "8080:80"]);
    let names: Vec<String> = (0..6).map(|n| format!("vm{n}")).collect();
    for name in &names {
        sandbox.hello(name, &[]);
    }
    let mut started = vec![sandbox.spawn(&["start", "two", "--wait"])];
    started.extend(names.iter().map(|name| sandbox.spawn(&["start", name, "--wait"])));
    for start in started {
        let done = start.wait();
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    let state: Value = sandbox.run_state("two").unwrap();
    assert_eq!(
        (&state["ports"][0]["bridge"], &state["ports"][1]["bridge"]),
        (&"midge0".into(), &"midge0".into())
    );
    for name in names.iter().map(String::as_str).chain(["two"]) {
        let at = address(&sandbox, name);
        assert!(lan.host.http(&at, 80).starts_with("HTTP/1.1 200"), "{name} at {at}");
    }
    assert!(lan.host.http("127.0.0.1", 8080).starts_with("HTTP/1.1 200"));
    sandbox.ok(&["rm", "--force", "--all"]);
    eventually("the network is gone", || !has_network(&lan.host));
}

#[test]
fn a_start_that_is_refused_leaves_no_network() {
    let (sandbox, lan) = home_network();
    sandbox.hello("lost", &["--net", "nat,ip=192.0.2.1"]);
    sandbox.fails(2, &["start", "lost"]);
    assert!(!has_network(&lan.host));
    assert_eq!(ruleset(&lan.host), "");
}
