//! VMs on bridges and on midge's own network without privilege, after one set-up by root, in namespaces that the tests make.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::lan::{HOST, Lan, Namespace};
use common::{Done, Sandbox, eventually};
use serde_json::Value;

/// Whom everything is prepared for, by number: neither has a name on most systems.
const PI: u32 = 64_077;
const OTHER: u32 = 64_078;

/// A home network, its root, and a user.
struct Scene {
    root: Sandbox,
    lan: Lan,
    pi: Sandbox,
}

fn scene() -> Scene {
    let mut root = Sandbox::new();
    // Everybody may run what root installs.
    std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let lan = Lan::new(root.path());
    root.enter(&lan.host);
    let lender = lender(&root);
    root.lender_at(&lender);
    let pi = user(PI, &lan, &lender);
    Scene { root, lan, pi }
}

fn user(uid: u32, lan: &Lan, lender: &Path) -> Sandbox {
    let mut user = Sandbox::new();
    user.enter(&lan.host);
    user.become_user(uid);
    user.lender_at(lender);
    user
}

fn lender(root: &Sandbox) -> PathBuf {
    root.path().join("libexec/midge-port")
}

#[track_caller]
fn set_up(root: &Sandbox, more: &[&str]) -> String {
    let user = PI.to_string();
    root.ok(&[&["net", "setup", "--yes", "--user", user.as_str()], more].concat())
}

/// The VM's first address, as `midge ip --wait` has it, with all that is known of it.
#[track_caller]
fn address(sandbox: &Sandbox, vm: &str) -> (String, Value) {
    let found = sandbox.json(&["ip", vm, "--wait", "60s", "-4", "-o", "json"]);
    (found["addresses"][0].as_str().unwrap().to_owned(), found["details"][0].clone())
}

/// The tap of the VM's first interface.
#[track_caller]
fn tap(sandbox: &Sandbox, vm: &str) -> String {
    sandbox.run_state(vm).unwrap()["ports"][0]["tap"].as_str().unwrap().to_owned()
}

/// Each tap's name and alias.
fn taps(namespace: &Namespace) -> Vec<(String, String)> {
    let links: Value = serde_json::from_str(&namespace.ip("-json -details link")).unwrap();
    let links = links.as_array().unwrap().iter();
    let taps = links.filter(|link| link["linkinfo"]["info_kind"] == "tun");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    taps.map(|link| (text(&link["ifname"]), text(&link["ifalias"]))).collect()
}

/// The lenders that a process has started and that run.
fn lenders(of: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = format!("PPid:\t{of}\n");
    pids.filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with("Name:\tmidge-port\n") && status.contains(&parent)
    })
    .collect()
}

/// How many of the namespace's packet sockets a process has open.
fn packet_sockets(namespace: &Namespace, pid: u32) -> usize {
    let table = namespace.run(&["cat", "/proc/net/packet"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.lines().next().unwrap().ends_with("Inode"), "{table}");
    let sockets: Vec<PathBuf> = table
        .lines()
        .skip(1)
        .map(|line| format!("socket:[{}]", line.split_whitespace().next_back().unwrap()).into())
        .collect();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|is| sockets.contains(&is))).count()
}

#[test]
fn a_user_has_vms_on_a_bridge() {
    let Scene { root, lan, pi } = scene();
    pi.hello("one", &["--net", "bridge=br0"]);
    let unprepared = pi.fails(6, &["start", "one"]);
    assert!(
        unprepared.contains("midge net setup --user") && unprepared.contains("bridge=br0"),
        "{unprepared}"
    );

    set_up(&root, &["--net", "bridge=br0", "--taps", "2"]);
    assert_eq!(taps(&lan.host).len(), 2);
    let started = pi.run(&["start", "one", "--wait"]);
    assert_eq!(started.code, 0, "{}{}", started.stderr, pi.logs());
    assert!(!started.stderr.contains("watch"), "{}", started.stderr);
    let (one, detail) = address(&pi, "one");
    assert!(one.starts_with("10.77.1.") && detail["source"] == "dhcp", "{detail}");
    assert!(lan.router.reaches(&one) && lan.router.http(&one, 80).starts_with("HTTP/1.1 200"));
    // Nothing of it has any privilege.
    for which in ["supervisor", "qemu"] {
        let pid = pi.process("one", which).pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{PI}\t{PI}\t{PI}\t{PI}\n")), "{status}");
        assert!(status.contains("CapPrm:\t0000000000000000\n"), "{status}");
    }
    // Nor a packet socket, which could be bound to any interface: the lender keeps it, has no capability any more, and lets nobody in.
    let supervisor = pi.process("one", "supervisor").pid;
    assert_eq!(packet_sockets(&lan.host, supervisor), 0);
    let [lender] = lenders(supervisor)[..] else { panic!("{:?}", lenders(supervisor)) };
    assert_eq!(packet_sockets(&lan.host, lender), 1);
    let status = std::fs::read_to_string(format!("/proc/{lender}/status")).unwrap();
    for set in ["Inh", "Prm", "Eff", "Amb"] {
        assert!(status.contains(&format!("Cap{set}:\t0000000000000000\n")), "{status}");
    }
    let looked = Sandbox::finish(pi.as_user("ls").arg(format!("/proc/{lender}/fd")));
    assert!(looked.code != 0 && looked.stderr.contains("Permission denied"), "{looked:?}");

    pi.hello("two", &["--net", "bridge=br0"]);
    pi.hello("three", &["--net", "bridge=br0"]);
    pi.ok(&["start", "two", "--wait"]);
    assert_ne!(tap(&pi, "one"), tap(&pi, "two"));
    let full = pi.fails(6, &["start", "three"]);
    assert!(full.contains("all 2 interfaces") && full.contains("--taps"), "{full}");
    assert_eq!(pi.state("three"), "stopped");

    // Root does not take away what is in use, and says what that is.
    let used = root.fails(4, &["net", "setup", "--remove", "--yes", "--user", &PI.to_string()]);
    assert!(used.contains(&tap(&pi, "one")) && used.contains(&tap(&pi, "two")), "{used}");
    assert_eq!(taps(&lan.host).len(), 2);

    // A tap is free again with its guest, and a VM takes its own one again.
    let before = tap(&pi, "two");
    pi.ok(&["stop", "two"]);
    pi.ok(&["start", "two", "--wait"]);
    assert_eq!(tap(&pi, "two"), before);
    pi.ok(&["stop", "two"]);
    pi.ok(&["start", "three", "--wait"]);
    assert_eq!(tap(&pi, "three"), before);
    address(&pi, "three");
}

#[test]
fn a_user_has_vms_on_the_own_network() {
    let Scene { root, lan, pi } = scene();
    pi.hello("one", &["--net", "nat", "-p", "8080:80", "-p", "0.0.0.0:8081:80"]);
    let unprepared = pi.fails(6, &["start", "one"]);
    assert!(unprepared.contains("--net nat") && unprepared.contains("midge0"), "{unprepared}");
    let said = set_up(&root, &["--net", "nat", "--taps", "2"]);
    let prepared: Vec<&str> = said.lines().map(|line| line.rsplit_once(' ').unwrap().1).collect();
    assert_eq!(prepared.len(), 2, "{said}");

    pi.ok(&["start", "one", "--wait"]);
    let (one, detail) = address(&pi, "one");
    assert_eq!(detail["source"], "dhcp", "{detail}");
    assert!(prepared.contains(&one.as_str()), "{one}: {said}");
    for (from, to, port, answers) in [
        (&lan.host, one.as_str(), 80, true),
        (&lan.host, "127.0.0.1", 8080, true),
        (&lan.router, HOST, 8081, true),
        (&lan.router, HOST, 8080, false),
    ] {
        let page = from.http(to, port);
        assert_eq!(page.starts_with("HTTP/1.1 200"), answers, "{to}:{port}: {page}");
    }

    // Root's VM is on the same network, with an address of its own kind, and when it goes the network stays.
    root.hello("rooted", &["--net", "nat"]);
    root.ok(&["start", "rooted", "--wait"]);
    let (rooted, _) = address(&root, "rooted");
    assert!(!prepared.contains(&rooted.as_str()));
    root.ok(&["stop", "rooted"]);
    assert!(lan.host.http(&one, 80).starts_with("HTTP/1.1 200"));
    root.hello("greedy", &["--net", &format!("nat,ip={}", prepared[1])]);
    let refused = root.fails(2, &["start", "greedy"]);
    assert!(refused.contains(prepared[1]) && refused.contains("prepared"), "{refused}");

    // A port that is taken is refused before the start; the address is the user's to choose among the prepared ones.
    pi.hello("two", &["--net", "nat", "-p", "8080:80"]);
    let taken = pi.fails(6, &["start", "two"]);
    assert!(taken.contains("8080"), "{taken}");
    assert_eq!(pi.state("two"), "stopped");
    pi.ok(&["rm", "two"]);
    pi.hello("two", &["--net", "nat,ip=192.0.2.1"]);
    let outside = pi.fails(2, &["start", "two"]);
    assert!(prepared.iter().all(|address| outside.contains(address)), "{outside}");
    let free = prepared.iter().find(|address| **address != one).unwrap();
    pi.ok(&["set", "two", "--net", &format!("nat,ip={free}")]);
    pi.ok(&["start", "two", "--wait"]);
    assert_eq!(address(&pi, "two").0, *free);

    // The next supervisor, and the next run, know the same address and forward the same ports.
    let [lender] = lenders(pi.process("one", "supervisor").pid)[..] else { panic!("one lender") };
    pi.kill("one", "supervisor");
    eventually("its lender ends", || {
        std::fs::read(format!("/proc/{lender}/cmdline")).unwrap_or_default().is_empty()
    });
    assert_eq!(address(&pi, "one").0, one);
    assert!(lan.host.http("127.0.0.1", 8080).starts_with("HTTP/1.1 200"));
    pi.ok(&["restart", "one"]);
    assert_eq!(address(&pi, "one").0, one);
    eventually("the port leads to it", || lan.host.http("127.0.0.1", 8080).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_restart_by_policy_listens_on_the_same_ports_with_the_only_tap() {
    let Scene { root, lan, pi } = scene();
    set_up(&root, &["--net", "nat", "--taps", "1"]);
    pi.hello("web", &["--net", "nat", "-p", "8080:80", "--restart", "always"]);
    pi.ok(&["start", "web", "--wait"]);
    let (before, _) = address(&pi, "web");
    lan.host.http_get(&before, 80, "/exit?code=3");
    eventually("it was started again", || pi.run_state("web").is_some_and(|run| run["restarts"] == 1));
    assert_eq!(address(&pi, "web").0, before);
    eventually("the port leads to it", || lan.host.http("127.0.0.1", 8080).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_prepared_for_one_user_is_of_no_use_to_another() {
    let Scene { root, lan, pi } = scene();
    set_up(&root, &["--net", "bridge=br0", "--taps", "1"]);
    let name = taps(&lan.host)[0].0.clone();
    let other = user(OTHER, &lan, &lender(&root));
    other.hello("web", &["--net", "bridge=br0"]);
    let refused = other.fails(6, &["start", "web"]);
    assert!(refused.contains("midge net setup"), "{refused}");
    // Neither by the kernel's own means nor by the lender.
    let netdev = format!("tap,id=net0,ifname={name},script=no,downscript=no");
    let mut attach = other.as_user("qemu-system-x86_64");
    let attached = Sandbox::finish(attach.args(["-M", "none", "-display", "none", "-netdev", &netdev]));
    assert!(attached.code != 0 && attached.stderr.contains("Operation not permitted"), "{attached:?}");
    let lend = |who: &Sandbox, path: &Path, words: &[&str]| -> Done {
        Sandbox::finish(who.as_user(path.to_str().unwrap()).args(words))
    };
    let stranger = lend(&other, &lender(&root), &[&name]);
    assert!(stranger.code == 1 && stranger.stderr.contains("is no tap of the user"), "{stranger:?}");
    let owner = lend(&pi, &lender(&root), &[&name]);
    assert!(owner.code == 1 && owner.stderr.contains("SOCK_SEQPACKET"), "{owner:?}");
    for bad in ["lo", "br0", "../x", ""] {
        let refused = lend(&pi, &lender(&root), &[bad]);
        assert!(refused.code == 1 && !refused.stderr.contains("panicked"), "{bad}: {refused:?}");
    }
    // It is a lender whatever it is asked, and nothing at all by another name.
    for words in [&["ls"][..], &["--help"], &[], &["net", "ls"]] {
        let refused = lend(&pi, &lender(&root), words);
        assert!(refused.code == 1 && refused.stdout.is_empty(), "{words:?}: {refused:?}");
    }
    let link = root.path().join("libexec/midge");
    std::fs::hard_link(lender(&root), &link).unwrap();
    let linked = lend(&pi, &link, &["version"]);
    assert!(linked.code == 1 && linked.stdout.is_empty() && linked.stderr.contains("rights"), "{linked:?}");
    // A copy has no capability, and lends nothing.
    let copy = pi.path().join("user/midge-port");
    std::fs::copy(lender(&root), &copy).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    let copied = lend(&pi, &copy, &[&name]);
    assert!(copied.code == 1 && copied.stderr.contains("CAP_NET_RAW"), "{copied:?}");
}

#[test]
fn a_vm_without_a_lender_runs_and_says_what_is_missing() {
    let Scene { root, lan, pi } = scene();
    set_up(&root, &["--net", "bridge=br0", "--taps", "1"]);
    std::fs::remove_file(lender(&root)).unwrap();
    pi.hello("web", &["--net", "bridge=br0"]);
    let started = pi.run(&["start", "web"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    assert!(
        started.stderr.contains("will not be known") && started.stderr.contains("midge net setup"),
        "{}",
        started.stderr
    );
    eventually("it runs", || pi.state("web") == "running");
    drop(lan);
}

#[test]
fn a_set_up_is_repeated_grows_and_leaves_nothing() {
    let Scene { root, lan, pi } = scene();
    let nothing = (taps(&lan.host), lan.host.ip("-brief link"), ruleset(&lan.host));
    let name = PI.to_string();
    // Asking needs somebody to answer, and changes nothing.
    let asked = root.fails(2, &["net", "setup", "--user", &name]);
    assert!(
        asked.contains("8 taps on br0") && asked.contains("cap_net_raw") && asked.contains("--yes"),
        "{asked}"
    );
    assert_eq!(nothing, (taps(&lan.host), lan.host.ip("-brief link"), ruleset(&lan.host)));
    let unprivileged = pi.fails(6, &["net", "setup", "--user", &name, "--yes"]);
    assert!(unprivileged.contains("CAP_NET_ADMIN") && unprivileged.contains("sudo"), "{unprivileged}");
    let unknown = root.fails(3, &["net", "setup", "--user", "no-such-user", "--yes"]);
    assert!(unknown.contains("no-such-user"), "{unknown}");
    let missing = root.fails(6, &["net", "setup", "--user", &name, "--net", "bridge=br9", "--yes"]);
    assert!(missing.contains("no bridge `br9`"), "{missing}");
    root.fails(2, &["net", "setup", "--user", &name, "--net", "user", "--yes"]);
    assert_eq!(nothing, (taps(&lan.host), lan.host.ip("-brief link"), ruleset(&lan.host)));

    let first = set_up(&root, &["--taps", "2"]);
    let before = taps(&lan.host);
    assert_eq!(before.len(), 4, "two on each: {before:?}");
    assert_eq!(set_up(&root, &["--taps", "2"]), first);
    assert_eq!(taps(&lan.host), before);
    let more = set_up(&root, &["--taps", "3", "--net", "nat"]);
    assert_eq!(taps(&lan.host).len(), 5);
    let said: Vec<&str> = first.lines().filter(|line| line.contains("midge0")).collect();
    assert_eq!(more.lines().take(2).collect::<Vec<_>>(), said);
    for (tap, alias) in taps(&lan.host) {
        assert!(alias.starts_with(&format!("midge for {name}")) && tap.starts_with("mg-"), "{tap}: {alias}");
    }
    let file = std::fs::metadata(lender(&root)).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (0, 0, 0o755));
    let capability = std::process::Command::new("/usr/sbin/getcap").arg(lender(&root)).output();
    if let Ok(capability) = capability {
        let text = String::from_utf8_lossy(&capability.stdout).into_owned();
        assert!(text.contains("cap_net_raw=ep"), "{text}");
    }

    // Only what is named goes, then all of it.
    root.ok(&["net", "setup", "--remove", "--yes", "--user", &name, "--net", "bridge=br0"]);
    assert_eq!(taps(&lan.host).len(), 3);
    assert!(lender(&root).exists());
    for _ in 0..2 {
        root.ok(&["net", "setup", "--remove", "--yes", "--user", &name]);
        let left = lan.host.ip("-brief link");
        assert_eq!(nothing, (taps(&lan.host), left, ruleset(&lan.host)));
        assert!(!lender(&root).exists());
    }
}

#[test]
fn a_unit_makes_it_again_at_every_boot_where_systemd_runs() {
    let Scene { root, lan, pi } = scene();
    let units = root.path().join("units");
    std::fs::create_dir(&units).unwrap();
    // In a mount namespace of its own the command finds a host that runs systemd, or none, and units that are the test's.
    let with_systemd = |runs: bool, words: &[&str]| {
        let booted = if runs { "mkdir -p /run/systemd/system" } else { "true" };
        let script = format!(
            "set -e; mkdir -p /etc/systemd/system; mount --bind \"$1\" /etc/systemd/system; mount -t tmpfs midge-test /run; \
             {booted}; shift; exec \"$@\""
        );
        let mut command = lan.host.command("sh");
        command.args(["-c", &script, "sh"]).arg(&units).arg(env!("CARGO_BIN_EXE_midge")).args(words);
        command.env("MIDGE_HOME", root.home()).env("MIDGE_RUN", root.run_dir());
        command.env("MIDGE_PORT", lender(&root));
        Sandbox::finish(&mut command)
    };
    let name = PI.to_string();
    let words = ["net", "setup", "--yes", "--user", &name, "--taps", "1", "--net", "bridge=br0", "--boot"];
    let without = with_systemd(false, &words);
    assert!(without.code == 6 && without.stderr.contains("systemd"), "{without:?}");
    assert!(taps(&lan.host).is_empty() && !lender(&root).exists());

    let done = with_systemd(true, &words);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let unit = format!("midge-net-{name}.service");
    assert!(done.stdout.ends_with(&format!("/etc/systemd/system/{unit}\n")), "{}", done.stdout);
    let text = std::fs::read_to_string(units.join(&unit)).unwrap();
    let wish = std::fs::read_link(units.join("multi-user.target.wants").join(&unit)).unwrap();
    assert_eq!(wish, Path::new("/etc/systemd/system").join(&unit));
    // After a boot the kernel knows nothing of it: the unit's own command makes the same again.
    let before = taps(&lan.host);
    lan.host.ip(&format!("link delete {}", before[0].0));
    let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let again: Vec<&str> = start.split(' ').skip(1).collect();
    assert_eq!(with_systemd(true, &again).code, 0);
    assert_eq!(taps(&lan.host), before);

    let removed = with_systemd(true, &["net", "setup", "--remove", "--yes", "--user", &name]);
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    assert!(!units.join(&unit).exists() && taps(&lan.host).is_empty());
    assert_eq!(std::fs::read_dir(units.join("multi-user.target.wants")).unwrap().count(), 0);
    drop(pi);
}

#[test]
fn the_doctor_says_what_a_user_can_have() {
    let Scene { root, lan, pi } = scene();
    let network = || {
        let report: Value = serde_json::from_str(&pi.run(&["doctor", "-o", "json"]).stdout).unwrap();
        report["checks"].as_array().unwrap().iter().find(|c| c["id"] == "network").unwrap().clone()
    };
    let before = network();
    assert!(before["status"] == "warn" && before["next"].as_str().unwrap().contains("net setup"), "{before}");
    set_up(&root, &["--net", "bridge=br0", "--taps", "3"]);
    let after = network();
    assert!(after["status"] == "ok" && after["summary"].as_str().unwrap().contains("br0 (3"), "{after}");
    drop(lan);
}

fn ruleset(host: &Namespace) -> String {
    String::from_utf8(host.run(&["nft", "list", "ruleset"]).stdout).unwrap()
}
