//! A laboratory of network namespaces, made by a test and removed when it ends, whichever way.

// Each test crate uses its part of it.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

pub mod frames;
pub mod sys;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use netbr::Namespace;

/// How long anything may take that should happen at once.
pub const SOON: Duration = Duration::from_secs(5);

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A network namespace of `ip netns`, removed on drop with all that is in it.
pub struct Net {
    name: String,
    pub namespace: Namespace,
}

impl Net {
    pub fn new(what: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "tests in network namespaces need root: run them as root");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("midge-nft-{}-{number}-{what}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let net = Self { namespace: Namespace::named(&name).unwrap(), name };
        net.ip("link set lo up");
        // Addresses are usable at once, as nobody else has them.
        net.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        net.write("/proc/sys/net/ipv6/conf/default/router_solicitations", "0");
        // A new namespace takes over what the host has (net.core.devconf_inherit_init_net).
        net.write("/proc/sys/net/ipv4/ip_forward", "0");
        net
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a program in it; it must succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        assert!(
            output.status.success(),
            "{program} {arguments:?} in {}: {}{}",
            self.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        need(program);
        let inside = ["netns", "exec", &self.name, program];
        Command::new("ip").args(inside).args(arguments).output().unwrap()
    }

    /// `ip` with arguments between spaces.
    pub fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<_> = ["-n", &self.name].into_iter().chain(arguments.split(' ')).collect();
        run("ip", &arguments)
    }

    /// Adds a ruleset by nft(8).
    pub fn nft(&self, ruleset: &str) {
        self.run("nft", &[ruleset]);
    }

    /// What nft(8) lists.
    pub fn ruleset(&self) -> String {
        self.run("nft", &["list", "ruleset"])
    }

    /// Runs a closure on a thread in it.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }

    pub fn write(&self, path: &str, text: &str) {
        self.inside(|| std::fs::write(path, text)).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        self.inside(|| std::fs::read_to_string(path)).unwrap()
    }

    /// A pair of veth interfaces, one end here and one there; both up.
    pub fn veth(&self, here: &str, there: &Self, name: &str) {
        self.ip(&format!("link add {here} type veth peer name {name} netns {}", there.name));
        self.ip(&format!("link set {here} up"));
        there.ip(&format!("link set {name} up"));
    }

    pub fn ping(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        let program = if address.is_ipv4() { "ping" } else { "ping6" };
        self.output("busybox", &[program, "-c", "1", "-W", "2", &address.to_string()]).status.success()
    }

    /// How many packets were received here with a wrong checksum, of any protocol.
    pub fn checksum_errors(&self) -> u64 {
        let text = self.inside(|| {
            ["snmp", "snmp6"]
                .map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
        });
        let mut errors = 0;
        let mut lines = text[0].lines();
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let pairs = names.split(' ').zip(values.split(' '));
            errors += pairs
                .filter(|(name, _)| matches!(*name, "InCsumErrors" | "InHdrErrors"))
                .map(|(_, value)| value.parse::<u64>().unwrap())
                .sum::<u64>();
        }
        errors
            + text[1]
                .lines()
                .filter(|line| line.contains("CsumErrors"))
                .map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap())
                .sum::<u64>()
    }

    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        self.inside(|| TcpListener::bind(address)).unwrap()
    }

    pub fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let stream = self.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    }

    pub fn udp(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.inside(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn need(program: &str) {
    let found = std::env::var("PATH")
        .unwrap_or_default()
        .split(':')
        .any(|d| std::path::Path::new(d).join(program).exists())
        || ["/sbin", "/usr/sbin"].iter().any(|d| std::path::Path::new(d).join(program).exists());
    assert!(found, "this test needs `{program}`: `make setup-tests` installs it");
}

fn run(program: &str, arguments: &[&str]) -> String {
    need(program);
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes in which any that are lost, doubled or exchanged are noticed.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0]).collect()
}

/// Sends `length` bytes each way over a connection of `from` to `to`'s listener, who answers with the address that it sees.
pub fn talk(from: &Net, to: &Net, bound: SocketAddr, reached: SocketAddr, length: usize) -> IpAddr {
    let listener = to.listen(bound);
    let port = listener.local_addr().unwrap().port();
    let sent = pattern(length);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            listener.set_nonblocking(false).unwrap();
            let (mut stream, peer) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut received = vec![0; length];
            stream.read_exact(&mut received).unwrap();
            assert!(received == sent, "bytes were changed on the way");
            stream.write_all(&received).unwrap();
            peer.ip()
        });
        let mut reached = reached;
        reached.set_port(port);
        let mut stream = match from.connect(reached) {
            Ok(stream) => stream,
            Err(error) => {
                // So that the server's thread ends.
                drop(to.connect(SocketAddr::new(
                    if bound.is_ipv4() {
                        [127, 0, 0, 1].into()
                    } else {
                        std::net::Ipv6Addr::LOCALHOST.into()
                    },
                    port,
                )));
                let _ = server.join();
                panic!("{reached} from {}: {error}", from.name);
            }
        };
        stream.write_all(&sent).unwrap();
        let mut received = vec![0; length];
        stream.read_exact(&mut received).unwrap();
        assert!(received == sent, "bytes were changed on the way back");
        server.join().unwrap()
    })
}

/// Sends a datagram and its answer; gives the address that the receiver saw.
pub fn exchange_datagrams(from: &UdpSocket, to: &UdpSocket, reached: SocketAddr, length: usize) -> IpAddr {
    let sent = pattern(length);
    let mut buffer = vec![0; 65536];
    from.send_to(&sent, reached).unwrap();
    let (received, peer) =
        to.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{length} bytes to {reached}: {e}"));
    assert!(buffer[..received] == sent);
    to.send_to(&sent, peer).unwrap();
    let (received, answerer) =
        from.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{length} bytes back from {reached}: {e}"));
    assert!(buffer[..received] == sent);
    assert_eq!(answerer.ip(), reached.ip());
    peer.ip()
}
