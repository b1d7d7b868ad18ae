//! How long after a DHCP ACK is sent by the router the watcher has published the address: through the bridge, out of the
//! guest's port, from the packet socket, through the table. `cargo bench -p midge-netbr --bench watch`, as root.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and what it cannot do ends it")]

#[path = "../tests/watch_net/mod.rs"]
mod watch_net;

use std::net::IpAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use netbr::packet::{Filter, Options, PacketSocket};
use netbr::watch::{Event, Watcher};
use watch_net::home::{Home, acknowledgement, mac};

const ROUNDS: u32 = 2_000;

fn main() {
    let home = Home::new(1);
    let (published, news) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let (socket, config) = (home.host.namespace(), home.config(0, Vec::new()));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // A thread of its own, which sleeps until a frame wakes it, as in whatever owns the port.
    std::thread::spawn(move || {
        runtime().block_on(async {
            let socket = PacketSocket::open(&socket, "p0", Options::new(Filter::addresses())).unwrap();
            let (_task, watch) = Watcher::spawn(socket, config);
            let mut events = watch.events();
            ready.send(()).unwrap();
            while let Ok(event) = events.recv().await {
                if let Event::Appeared(known) = event {
                    let _ = published.send((known.address, Instant::now()));
                }
            }
        });
    });
    is_ready.recv().unwrap();
    let mut times = runtime().block_on(async {
        let filter = Options::new(Filter::dhcp());
        let router = PacketSocket::open(&home.router.namespace(), "eth0", filter).unwrap();
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let [_, _, high, low] = round.to_be_bytes();
            let address = [10, 0, high, low];
            // Apart from each other, as leases are: a watcher that is awake anyway would be quicker.
            std::thread::sleep(Duration::from_millis(2));
            let sent = Instant::now();
            router.send(&acknowledgement(mac(1), address)).await.unwrap();
            let wait = Duration::from_secs(10);
            // The guest's own link-local address may come first.
            let published = loop {
                let (appeared, when) = news.recv_timeout(wait).unwrap();
                if appeared == IpAddr::from(address) {
                    break when;
                }
            };
            times.push(published - sent);
        }
        times
    });
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("DHCP ACK sent by the router -> address published, {ROUNDS} rounds");
    println!("median {:?}  p99 {:?}  max {:?}", at(50), at(99), at(100));
}
