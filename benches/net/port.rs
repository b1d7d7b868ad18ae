//! A port of a bridge, made and watched as a guest's is, and a veil on it.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use netbr::link::{Links, Tap, TapOptions};
use netbr::nft::Nft;
use netbr::packet::{Filter, Options, PacketSocket};
use netbr::veil::{Identity, Veil};
use netbr::watch::{Asker, TableConfig, Watch, Watcher, WatcherConfig};
use netbr::{Mac, Namespace};

use crate::common::lan;
use crate::has;
use crate::support::{Report, Samples, rounds};

/// The word that makes the bench do nothing but this, to be looked at from outside.
pub const ALONE: &str = "--ports-alone";

/// Whoever asks on the bridge.
const BRIDGE: [u8; 3] = [0, 0, 2];
const GUEST: [u8; 3] = [0, 0, 0x77];
const ADDRESS: [u8; 4] = [10, 77, 1, 77];

pub fn measure(report: &mut Report) {
    let host = bridge();
    let mut ready = Samples::new("port: tap made, up, in the bridge and watched", "ms");
    let mut veiled = Samples::new("port: veil on it", "ms");
    in_namespace(host.name(), 10 * rounds(20), |port, veil| {
        ready.time(port);
        veiled.time(veil);
    });
    report.promise("bridge port ready", ready.median(), 3.0, "ms");
    report.promise("veil on it, more", veiled.median(), 3.0, "ms");
    report.row(ready);
    report.row(veiled);
    if has(report, "strace") {
        let started = programs(host.name());
        report.promise("programs started for ports and veils", started as f64, 0.0, "programs");
    }
}

/// Makes ports and veils for somebody who looks on.
pub fn alone(namespace: &str) {
    in_namespace(namespace, 3, |_, _| ());
}

/// How many programs such a run starts, itself aside (strace(1)).
fn programs(namespace: &str) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=execve,execveat", "-o"])
        .args([&trace, &std::env::current_exe().unwrap()])
        .args([ALONE, namespace])
        .status()
        .unwrap();
    assert!(status.success(), "the run under strace failed: {status}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let calls = trace.lines().filter(|line| line.contains("execve")).count();
    assert!(calls > 0, "strace saw not even the run itself: {trace}");
    calls - 1
}

/// A namespace with a bridge.
fn bridge() -> lan::Namespace {
    let host = lan::Namespace::new("ports");
    let mac = Mac::local(BRIDGE);
    host.batch(&format!(
        "link add br0 address {mac} type bridge\nlink set br0 up\naddress add {}/24 dev br0\n",
        lan::HOST
    ));
    host
}

/// Makes port after port there, and tells how long each and its veil took.
fn in_namespace(name: &str, rounds: usize, mut each: impl FnMut(Duration, Duration) + Send) {
    let namespace = Namespace::named(name).unwrap();
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // The first round fills the caches.
            for round in 0..=rounds {
                let (port, veil) = one(round).await;
                if round > 0 {
                    each(port, veil);
                }
            }
        });
    };
    namespace.run(work).unwrap();
}

/// One port from nothing, that is with a netlink socket of its own each, as every supervisor needs one.
async fn one(round: usize) -> (Duration, Duration) {
    let namespace = Namespace::current();
    let mac = Mac::local(GUEST);
    let name = format!("tap{round}");

    let begun = Instant::now();
    let links = Links::open(&namespace).unwrap();
    let bridge = links.get("br0").await.unwrap().unwrap();
    let options = TapOptions {
        name: name.clone(),
        guest: Some(mac),
        vnet_hdr: true,
        queues: 1,
        ..TapOptions::default()
    };
    let tap = Tap::create(&namespace, &options).unwrap();
    links.port_ready(tap.index(), bridge.index, false).await.unwrap();
    let socket = PacketSocket::open(&namespace, &name, Options::new(Filter::addresses())).unwrap();
    let asker = Asker { mac: Mac::local(BRIDGE), ipv4: Some(lan::HOST.parse().unwrap()), ipv6: None };
    let table = TableConfig { macs: vec![mac], siblings: Vec::new(), asker };
    let config = WatcherConfig { table, namespace: namespace.clone(), known: Vec::new() };
    let (watcher, watch) = Watcher::spawn(socket, config);
    // It is running when it has had its turn.
    tokio::task::yield_now().await;
    let port = begun.elapsed();

    let begun = Instant::now();
    let mut nft = Nft::open(&namespace).unwrap();
    let identity = |low: u8| Identity {
        mac: Mac::local([0, 0, low]),
        ipv4: Some([10, 77, 1, low].into()),
        ipv6: vec![format!("fd77::{low:x}").parse().unwrap()],
    };
    let veil = Veil { port: name.clone(), inner: identity(0x77), outer: identity(0x78) };
    veil.raise(&mut nft).unwrap();
    let veiled = begun.elapsed();

    let link = links.get(&name).await.unwrap().unwrap();
    assert_eq!(link.master, Some(bridge.index));
    speaks(&tap, watch).await;
    veil.lower(&mut nft).unwrap();
    watcher.await.unwrap().unwrap();
    (port, veiled)
}

/// Lets the guest say its address, and waits until the watch has heard it. The watch ends then.
async fn speaks(tap: &Tap, watch: Watch) {
    let mut frame = vec![0; VIRTIO_HEADER];
    frame.extend([0xff; 6]);
    let mac = Mac::local(GUEST).bytes();
    frame.extend(mac);
    // An announcement (RFC 5227, 3): ARP for Ethernet and IPv4, a request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(ADDRESS);
    frame.extend([0; 6]);
    frame.extend(ADDRESS);
    let fd = tap.fds().next().unwrap().as_fd().try_clone_to_owned().unwrap();
    std::fs::File::from(fd).write_all(&frame).unwrap();
    let mut changes = watch.changes();
    let heard =
        changes.wait_for(|addresses| addresses.iter().any(|a| a.address == std::net::IpAddr::from(ADDRESS)));
    heard.await.unwrap();
}

/// `struct virtio_net_hdr` (linux/virtio_net.h), which a tap takes before each frame unless it is told of a longer one.
const VIRTIO_HEADER: usize = 10;
