//! What a network adds to the start of a guest: `midge start --wait` of the unikernel `hello` on QEMU's user-mode network, on
//! midge's own and on a bridge, each until it says `[init done]`, which is when it has its address. They take turns.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::lan::Lan;
use crate::common::{PATIENCE, Sandbox};
use crate::support::{Report, Samples, Watched, rounds};

const SIGN: &str = "[init done]";

pub fn measure(report: &mut Report) {
    let mut sandbox = Sandbox::new();
    let lan = Lan::without_dhcp(sandbox.path());
    sandbox.enter(&lan.host);
    for (vm, net) in [("user", "user"), ("nat", "nat")] {
        sandbox.ok(&["create", vm, "--image", "hello", "--machine", "microvm", "--net", net]);
    }
    let named = |what: &str| Samples::new(format!("start to `[init done]`, {what}"), "ms");
    let mut user = named("user-mode network");
    let mut first = named("midge's own network, made for it");
    let mut next = named("midge's own network, there already");
    for round in 0..=rounds(20) {
        let alone = [start(&sandbox, "user"), start(&sandbox, "nat")];
        // A second guest keeps the network.
        if round == 0 {
            sandbox.hello("keeper", &["--net", "nat"]);
        }
        sandbox.ok(&["start", "keeper"]);
        let joined = start(&sandbox, "nat");
        sandbox.ok(&["kill", "keeper"]);
        // The first round fills the caches, and the guest has a lease only after it.
        if round > 0 {
            user.time(alone[0]);
            first.time(alone[1]);
            next.time(joined);
        }
    }
    let adds = [
        first.minus(&user, "start to `[init done]`, midge's own network adds, made for it"),
        next.minus(&user, "start to `[init done]`, midge's own network adds, there already"),
    ];
    for samples in [user, first, next].into_iter().chain(adds) {
        report.row(samples);
    }
}

fn start(sandbox: &Sandbox, vm: &str) -> Duration {
    let log = sandbox.vm_file(vm, "console.log");
    let _ = fs::remove_file(&log);
    let watched = Watched::new(&log);
    let mut command = sandbox.midge();
    command.args(["start", vm, "--wait", "-q"]).stdout(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().unwrap();
    let took = watched.wait_for(SIGN, PATIENCE) - begun;
    assert!(child.wait().unwrap().success(), "{}", sandbox.logs());
    sandbox.ok(&["kill", vm]);
    took
}
