//! What a veiled port lets through against a bare one: a guest that is a namespace behind a veth pair, and iperf3.

use std::process::{Child, Stdio};
use std::time::Duration;

use netbr::nft::Nft;
use netbr::veil::{Identity, Veil};
use netbr::{Mac, Namespace};
use serde_json::Value;

use crate::common::lan::{self, Lan, ROUTER};
use crate::common::{Sandbox, eventually};
use crate::support::{Report, Samples, rounds};

/// For each run of iperf3.
const SECONDS: u32 = 1;

pub fn measure(report: &mut Report) {
    let sandbox = Sandbox::new();
    let lan = Lan::without_dhcp(sandbox.path());
    let guest = lan::Namespace::new("guest");
    let (inner, outer) = (identity(0x77), identity(0x78));
    lan.host.batch(&format!(
        "link add tap0 type veth peer name eth0 netns {}\nlink set tap0 master br0\nlink set tap0 up\n",
        guest.name()
    ));
    guest.batch(&format!(
        "link set eth0 address {}\nlink set eth0 up\naddress add {}/24 dev eth0\n",
        inner.mac,
        inner.ipv4.unwrap()
    ));
    let _server = Server::start(&lan.router, &guest);
    let mut nft = Nft::open(&Namespace::named(lan.host.name()).unwrap()).unwrap();
    let veil = Veil { port: "tap0".to_owned(), inner, outer };
    for (direction, flags) in [("from the guest", &[][..]), ("to the guest", &["--reverse"])] {
        let named = |what: &str| Samples::new(format!("throughput {direction}, {what}"), "Gbit/s");
        let (mut bare, mut veiled) = (named("bare port"), named("veiled port"));
        let mut ratio = Samples::new(format!("throughput {direction}, veiled to bare"), "");
        for _ in 0..rounds(20) {
            bare.push(gigabits(&guest, flags));
            veil.raise(&mut nft).unwrap();
            veiled.push(gigabits(&guest, flags));
            veil.lower(&mut nft).unwrap();
            ratio.push(veiled.last() / bare.last());
        }
        report.promise_at_least(
            &format!("throughput {direction}, veiled port to bare port"),
            ratio.median(),
            0.95,
        );
        report.row(bare);
        report.row(veiled);
        report.row(ratio);
    }
}

fn identity(low: u8) -> Identity {
    Identity {
        mac: Mac::local([0, 0, low]),
        ipv4: Some([10, 77, 1, low].into()),
        ipv6: vec![format!("fd77::{low:x}").parse().unwrap()],
    }
}

/// What iperf3 says that got through from the guest to the router, or the other way round.
fn gigabits(guest: &lan::Namespace, flags: &[&str]) -> f64 {
    let seconds = SECONDS.to_string();
    let words = [&["iperf3", "--json", "--client", ROUTER, "--time", &seconds][..], flags].concat();
    let output = guest.run(&words);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.unwrap_or_else(|| panic!("iperf3: {said}")) / 1e9
}

/// An iperf3 that waits for clients. Dropping it ends it.
struct Server(Child);

impl Server {
    fn start(router: &lan::Namespace, guest: &lan::Namespace) -> Self {
        let mut command = router.command("iperf3");
        let server = Self(command.args(["--server"]).stdout(Stdio::null()).spawn().unwrap());
        let from = Namespace::named(guest.name()).unwrap();
        eventually("iperf3 listens", || {
            let address = format!("{ROUTER}:5201").parse().unwrap();
            from.run(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)))
                .unwrap()
                .is_ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
