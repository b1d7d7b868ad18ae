//! What the network costs: how soon an address is known, what a port and a veil take, what a veil lets through, and what a
//! network adds to the start of a guest. Everything happens in network namespaces of the bench's own, for which it must be root.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and what it cannot do ends it")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of samples and milliseconds are small"
)]
#![allow(unreachable_pub, missing_docs, reason = "what benches and tests share is not an interface")]

mod address;
#[path = "../../tests/common/mod.rs"]
mod common;
mod port;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod throughput;

use std::process::{Command, Stdio};

use support::Report;

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(port::ALONE) {
        return port::alone(&words.next().unwrap());
    }
    assert!(nix::unistd::geteuid().is_root(), "this bench makes network namespaces: run it as root");
    let mut report = Report::new("net");
    if has(&mut report, "dnsmasq") {
        address::measure(&mut report);
    }
    port::measure(&mut report);
    if has(&mut report, "iperf3") {
        throughput::measure(&mut report);
    }
    start::measure(&mut report);
    report.finish();
}

/// Whether a program that only some rows need is there. Where it is not, the report says so.
fn has(report: &mut Report, program: &str) -> bool {
    let run = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if run.is_err() {
        report.line(format!("left out: what needs {program}, which scripts/setup.sh --tests installs"));
    }
    run.is_ok()
}
