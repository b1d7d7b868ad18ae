//! Guests on bridges and on midge's own network, in namespaces that the tests make.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::Sandbox;
use common::lan::Lan;

#[test]
fn a_guest_on_a_bridge_is_a_machine_of_the_home_network() {
    let mut sandbox = Sandbox::new();
    let lan = Lan::new(sandbox.path());
    sandbox.enter(&lan.host);
    sandbox.hello("web", &["--net", "bridge=br0"]);
    sandbox.ok(&["start", "web", "--wait"]);
    let found = sandbox.json(&["ip", "web", "--wait", "30s", "-o", "json"]);
    let address = found["addresses"][0].as_str().unwrap();
    assert!(address.starts_with("10.77.1."), "{found}");
    assert!(lan.router.reaches(address));
    assert!(lan.host.http(address, 80).starts_with("HTTP/1.1 200"));
}
