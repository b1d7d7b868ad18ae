//! Pools: clones that are ready before somebody wants them, and that nobody gets twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use common::{Sandbox, eventually};
use serde_json::Value;
use supervisor::host::proc::{ProcessId, Signal};

const SNAPSHOT: &str = "src@ready";

/// A sandbox with a snapshot of `hello`, whose VM is gone.
fn saved() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.hello("src", &[]);
    sandbox.ok(&["start", "src", "--wait"]);
    sandbox.ok(&["snapshot", "save", SNAPSHOT]);
    sandbox.ok(&["rm", "--force", "src"]);
    sandbox
}

/// As [`saved`], with so many spares ready.
fn pooled(size: u32) -> Sandbox {
    let sandbox = saved();
    set(&sandbox, size, &["--wait"]);
    sandbox
}

fn set(sandbox: &Sandbox, size: u32, flags: &[&str]) {
    let size = size.to_string();
    sandbox.ok(&[&["pool", "set", SNAPSHOT, "--size", &size, "--identity", "none"], flags].concat());
}

fn clone(sandbox: &Sandbox, name: &str, flags: &[&str]) -> Value {
    sandbox.json(&[&["clone", SNAPSHOT, name, "--identity", "none", "-o", "json"], flags].concat())
}

/// The only pool, as `pool ls` has it.
fn listed(sandbox: &Sandbox) -> Value {
    sandbox.json(&["pool", "ls", "-o", "json"])
}

fn spares(sandbox: &Sandbox) -> Vec<PathBuf> {
    let folder = sandbox.home().join("pools").join(SNAPSHOT).join("spares");
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The state that a spare's supervisor has written.
fn spare_state(sandbox: &Sandbox, spare: &std::path::Path) -> Option<Value> {
    let run = sandbox.run_dir().join("spares").join(spare.file_name().unwrap());
    serde_json::from_str(&fs::read_to_string(run.join("state.json")).ok()?).ok()
}

fn kill(process: &Value) {
    let process: ProcessId = serde_json::from_value(process.clone()).unwrap();
    if let Some(fd) = process.open().unwrap() {
        fd.signal(Signal::KILL).unwrap();
        assert!(fd.wait_for(common::PATIENCE).unwrap());
    }
}

/// Waits until so many spares can be claimed, by their own word: nothing here asks for them.
fn full(sandbox: &Sandbox, size: usize) {
    let ready = |spare: &PathBuf| {
        let Some(state) = spare_state(sandbox, spare) else { return false };
        let supervisor: ProcessId = serde_json::from_value(state["supervisor"].clone()).unwrap();
        state["spare"]["ready"] == true && supervisor.is_alive()
    };
    eventually("the pool is full", || spares(sandbox).iter().filter(|spare| ready(spare)).count() == size);
}

#[test]
fn a_claimed_clone_is_a_vm_like_any_other_and_the_pool_fills_again() {
    let sandbox = pooled(2);
    let pool = listed(&sandbox);
    assert_eq!(
        (&pool["size"], &pool["ready"], &pool["identity"]),
        (&2.into(), &2.into(), &"none".into()),
        "{pool}"
    );
    assert!(pool["memory_bytes"].as_u64().unwrap() > 0, "{pool}");
    assert_eq!(sandbox.ok(&["ls", "-o", "json"]), "", "spares are no VMs yet");
    let before = spares(&sandbox);
    let refused = sandbox.fails(4, &["snapshot", "rm", SNAPSHOT]);
    assert!(refused.contains("pool rm src@ready"), "{refused}");

    let one = clone(&sandbox, "one", &["--ttl", "1h"]);
    assert_eq!(one["begun"], "pool", "{one}");
    let inspected = sandbox.inspect("one");
    assert_eq!(inspected["state"], "running");
    assert_eq!(inspected["record"]["id"], one["id"]);
    assert_eq!(inspected["record"]["macs"], one["macs"]);
    assert!(!inspected["run"]["expires"].is_null(), "{inspected}");
    let spare = before.iter().find(|spare| !spare.exists()).expect("one spare became the VM");
    assert!(sandbox.events("one").iter().any(|event| {
        event["event"] == "claimed" && event["spare"] == spare.file_name().unwrap().to_str().unwrap()
    }));
    full(&sandbox, 2);
    assert_eq!(spares(&sandbox).len(), 2);

    sandbox.ok(&["pause", "one"]);
    sandbox.ok(&["resume", "one"]);
    sandbox.kill("one", "supervisor");
    sandbox.ok(&["wait", "one"]);
    sandbox.ok(&["snapshot", "save", "one@later"]);
    sandbox.ok(&["clone", "one@later", "other", "--identity", "none", "--rm"]);
    sandbox.ok(&["kill", "other"]);
    sandbox.ok(&["stop", "one"]);
    assert_eq!(sandbox.inspect("one")["record"]["spec"]["ttl_seconds"], 3600);
    sandbox.ok(&["start", "one", "--wait"]);
    sandbox.ok(&["rm", "--force", "one"]);

    let short = clone(&sandbox, "short", &["--rm"]);
    assert_eq!(short["begun"], "pool");
    sandbox.ok(&["kill", "short"]);
    eventually("it is removed", || !sandbox.vm_file("short", "vm.json").exists());

    sandbox.ok(&["pool", "rm", SNAPSHOT]);
    assert_eq!(sandbox.ok(&["pool", "ls", "-o", "json"]), "");
    assert_eq!(fs::read_dir(sandbox.home().join("pools")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(sandbox.run_dir().join("spares")).unwrap().count(), 0);
    sandbox.ok(&["snapshot", "rm", "one@later", SNAPSHOT]);
    eventually("no process is left", || sandbox.processes().is_empty());
}

#[test]
fn fifty_claims_at_once_get_fifty_clones() {
    const CLAIMS: usize = 50;
    let sandbox = pooled(8);
    let before = spares(&sandbox);
    let running: Vec<_> = (0..CLAIMS)
        .map(|n| sandbox.spawn(&["clone", SNAPSHOT, &format!("c{n}"), "--identity", "none", "-o", "json"]))
        .collect();
    let clones: Vec<Value> = running
        .into_iter()
        .map(|command| {
            let done = command.wait();
            assert_eq!(done.code, 0, "{}{}", done.stderr, sandbox.logs());
            serde_json::from_str(&done.stdout).unwrap()
        })
        .collect();
    let distinct = |what: &dyn Fn(&Value) -> String| clones.iter().map(what).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(&|clone| clone["id"].to_string()), CLAIMS);
    assert_eq!(distinct(&|clone| clone["macs"].to_string()), CLAIMS);
    let qemus = distinct(&|clone| sandbox.process(clone["name"].as_str().unwrap(), "qemu").pid.to_string());
    assert_eq!(qemus, CLAIMS);
    // Each spare that was there is one VM, by its id; none is lost.
    let ids: Vec<String> =
        clones.iter().map(|clone| clone["id"].as_str().unwrap().replace('-', "")).collect();
    for spare in before.iter().filter(|spare| !spare.exists()) {
        let id = spare.file_name().unwrap().to_str().unwrap().strip_prefix("spare-").unwrap().to_owned();
        assert_eq!(ids.iter().filter(|found| found.starts_with(&id)).count(), 1, "{id}");
    }
    let claimed = clones.iter().filter(|clone| clone["begun"] == "pool").count();
    assert!(claimed >= before.len(), "{claimed} of {}", before.len());
}

#[test]
fn a_name_that_is_taken_costs_no_spare() {
    let sandbox = pooled(1);
    let before = spares(&sandbox);
    clone(&sandbox, "other", &["--no-pool"]);
    let refused = sandbox.fails(4, &["clone", SNAPSHOT, "other", "--identity", "none"]);
    assert!(refused.contains("exists already"), "{refused}");
    // Its folder comes only after the command has looked.
    let wanted = ["clone", SNAPSHOT, "x", "-n", "2", "--identity", "none", "-o", "json"];
    assert_eq!(spares(&sandbox), before);
    let lines = sandbox.ok(&wanted);
    assert!(lines.lines().next().unwrap().contains("\"begun\":\"pool\""), "{lines}");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    // Another identity than the spares have is made anew.
    full(&sandbox, 1);
    let anew = sandbox.json(&["clone", SNAPSHOT, "y", "--identity", "network", "-o", "json"]);
    assert_eq!(anew["begun"], "memory", "{anew}");
}

#[test]
fn killed_spares_and_refills_are_made_good() {
    let sandbox = pooled(2);
    // A supervisor: its spare cannot be claimed, and goes.
    let first = spares(&sandbox).remove(0);
    let state = spare_state(&sandbox, &first).unwrap();
    kill(&state["supervisor"]);
    assert_eq!(listed(&sandbox)["ready"], 1);
    full(&sandbox, 2);
    assert!(!first.exists());
    let qemu: ProcessId = serde_json::from_value(state["qemu"].clone()).unwrap();
    assert!(!qemu.is_alive(), "its QEMU is ended");

    // A guest: its supervisor takes it away.
    let second = spares(&sandbox).remove(0);
    kill(&spare_state(&sandbox, &second).unwrap()["qemu"]);
    eventually("it removes itself", || !second.exists());
    sandbox.ok(&["pool", "ls"]);
    full(&sandbox, 2);

    // A refill, as soon as it has begun with a spare.
    sandbox.ok(&["pool", "rm", SNAPSHOT]);
    set(&sandbox, 3, &[]);
    eventually("a spare is begun", || !spares(&sandbox).is_empty());
    for pid in sandbox.processes() {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.contains("refill") {
            kill(&serde_json::to_value(ProcessId::of(pid).unwrap()).unwrap());
        }
    }
    sandbox.ok(&["pool", "ls"]);
    full(&sandbox, 3);
    assert_eq!(spares(&sandbox).len(), 3);

    // Fewer, and another snapshot of that name.
    set(&sandbox, 1, &["--wait"]);
    let last = spares(&sandbox);
    assert_eq!(last.len(), 1);
    clone(&sandbox, "src", &["--no-pool"]);
    sandbox.ok(&["snapshot", "save", "--replace", SNAPSHOT]);
    let one = clone(&sandbox, "one", &[]);
    assert_eq!(one["begun"], "memory", "a spare of what was saved before is none of this");
    eventually("the old one goes", || !last[0].exists());
    full(&sandbox, 1);

    // What is left of a removal that was cut short.
    fs::remove_file(sandbox.home().join("pools").join(SNAPSHOT).join("pool.json")).unwrap();
    let cleared = sandbox.ok(&["gc"]);
    assert!(cleared.contains("spare of a removed pool"), "{cleared}");
    assert!(spares(&sandbox).is_empty());
}

#[test]
fn a_claim_that_was_cut_short_is_put_right_by_the_next_command() {
    let sandbox = pooled(1);
    let spare = spares(&sandbox).remove(0);
    let state = spare_state(&sandbox, &spare).unwrap();
    kill(&state["supervisor"]);
    // What a supervisor leaves that is killed between its two steps.
    fs::create_dir_all(sandbox.home().join("vms")).unwrap();
    fs::rename(&spare, sandbox.home().join("vms/half")).unwrap();
    sandbox.ok(&["wait", "half"]);
    let inspected = sandbox.inspect("half");
    assert_eq!(
        (&inspected["state"], &inspected["run"]["qemu"]),
        (&"running".into(), &state["qemu"]),
        "{inspected}"
    );
    assert!(!sandbox.run_dir().join("spares").join(spare.file_name().unwrap()).exists());
    sandbox.ok(&["rm", "--force", "half"]);
}

#[test]
fn a_spare_whose_supervisor_is_killed_while_it_is_claimed_is_no_half_clone() {
    for point in ["claim.begun", "claim.renamed", "claim.run-renamed", "claim.noted"] {
        let sandbox = saved();
        let mut set = sandbox.midge();
        set.args(["pool", "set", SNAPSHOT, "--size", "1", "--identity", "none", "--wait"]);
        let done = Sandbox::finish(set.env("MIDGE_FAULT", format!("supervisor:{point}")));
        assert_eq!(done.code, 0, "{}", done.stderr);
        let [spare] = &spares(&sandbox)[..] else { panic!("one spare") };
        let state = spare_state(&sandbox, spare).unwrap();
        let one = sandbox.run(&["clone", SNAPSHOT, "one", "--identity", "none", "-o", "json"]);
        if point == "claim.begun" {
            assert!(one.stdout.contains("\"begun\":\"memory\""), "{} {}", one.stdout, one.stderr);
            sandbox.ok(&["rm", "--force", "one"]);
        } else {
            assert_eq!(one.code, 1, "{point}: {} {}", one.stdout, one.stderr);
            assert!(!sandbox.vm_file("one", "vm.json").exists(), "{point}");
        }
        full(&sandbox, 1);
        sandbox.ok(&["pool", "rm", SNAPSHOT]);
        let qemu: ProcessId = serde_json::from_value(state["qemu"].clone()).unwrap();
        assert!(!qemu.is_alive(), "{point}");
        assert_eq!(sandbox.ok(&["gc"]), "", "{point}");
        sandbox.ok(&["snapshot", "rm", SNAPSHOT]);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sandbox = saved();
    let identity = ["--identity", "none"];
    for size in ["0", "1001", "many"] {
        sandbox.fails(2, &[&["pool", "set", SNAPSHOT, "--size", size], &identity[..]].concat());
    }
    sandbox.fails(3, &["pool", "set", "src@other", "--size", "1"]);
    let full = sandbox.fails(2, &["pool", "set", SNAPSHOT, "--size", "1"]);
    assert!(full.contains("--identity network"), "{full}");
    sandbox.fails(3, &["pool", "rm", SNAPSHOT]);
    assert!(!sandbox.home().join("pools").exists(), "nothing is made of a refusal");
    // A bound that no spare fits into.
    let short = sandbox.fails(
        8,
        &[&["pool", "set", SNAPSHOT, "--size", "2", "--memory", "1M", "--wait"], &identity[..]].concat(),
    );
    assert!(short.contains("of their 1M"), "{short}");
    let pool = listed(&sandbox);
    assert!(pool["note"].as_str().unwrap().contains("of their 1M"), "{pool}");
    assert_eq!(pool["ready"], 0);
    sandbox.ok(&["pool", "rm", SNAPSHOT]);
}

#[test]
fn spares_of_a_whole_system_are_machines_of_their_own_before_they_are_claimed() {
    let sandbox = Sandbox::with_debian();
    sandbox.ok(&["create", "deb", "--image", "debian:12", "--memory", "512M"]);
    sandbox.ok(&["start", "deb", "--wait"]);
    sandbox.ok(&["snapshot", "save", "deb@up"]);
    sandbox.ok(&["rm", "--force", "deb"]);
    sandbox.ok(&["pool", "set", "deb@up", "--size", "2", "--wait"]);
    let looks = |name: &str| {
        let claimed = sandbox.json(&["clone", "deb@up", name, "-o", "json"]);
        assert_eq!(claimed["begun"], "pool", "{claimed}");
        assert_eq!(claimed["identity"]["items"]["mac"]["state"], "done", "{claimed}");
        assert!(!claimed["addresses"].as_array().unwrap().is_empty(), "{claimed}");
        sandbox.ok(&["wait", name]);
        let items = &sandbox.inspect(name)["run"]["identity"]["items"];
        for item in ["mac", "hostname", "machine-id", "ssh-host-keys", "random-seed", "clock"] {
            assert_eq!(items[item]["state"], "done", "{item}: {items}");
        }
        let script =
            "hostname; cat /etc/machine-id /sys/class/net/e*/address /etc/ssh/ssh_host_ed25519_key.pub";
        let seen = sandbox.ok(&["exec", name, "--", "sh", "-c", script]);
        let lines: Vec<String> = seen.lines().map(ToOwned::to_owned).collect();
        assert_eq!(lines[0], name);
        assert_eq!(lines[2], claimed["macs"][0].as_str().unwrap());
        lines
    };
    let (one, two) = (looks("one"), looks("two"));
    for (a, b) in one.iter().zip(&two) {
        assert_ne!(a, b);
    }
}
