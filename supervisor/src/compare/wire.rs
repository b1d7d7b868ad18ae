//! A guest as its network sees it: pings and ports.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::results::Ports;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many ports are tried at once.
const AT_ONCE: usize = 128;
/// UDP services worth asking for; a Linux answers for one closed port in a second, so that all ports would take days (icmp(7),
/// `icmp_ratelimit`).
pub const UDP_PORTS: [u16; 18] =
    [7, 53, 67, 68, 69, 111, 123, 137, 161, 500, 514, 520, 1194, 1900, 4500, 5353, 5355, 51820];
/// How often a UDP port is asked before it counts as silent.
const UDP_ROUNDS: usize = 8;

/// Round trips of ICMP echoes, in milliseconds, one after the other; those that nobody answered are missing.
///
/// # Errors
/// When there may be no socket for it: that takes root, or a group of `net.ipv4.ping_group_range` (icmp(7)).
pub fn ping(guest: Ipv4Addr, count: u16) -> io::Result<Vec<f64>> {
    let open = |kind| rustix::net::socket(AddressFamily::INET, kind, Some(ipproto::ICMP));
    let (socket, raw) = match open(SocketType::DGRAM) {
        Ok(socket) => (socket, false),
        Err(_) => (open(SocketType::RAW)?, true),
    };
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddr::from((guest, 0)))?;
    let mut trips = Vec::new();
    for sequence in 1..=count {
        let echo = echo(std::process::id(), sequence);
        let sent = Instant::now();
        rustix::net::send(&socket, &echo, SendFlags::empty())?;
        let mut buffer = [0; 256];
        // Others' answers come to a raw socket, too.
        while let Some(left) = PATIENCE.checked_sub(sent.elapsed()) {
            sockopt::set_socket_timeout(
                &socket,
                sockopt::Timeout::Recv,
                Some(left.max(Duration::from_millis(1))),
            )?;
            let read = match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((read, _)) => read,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            };
            let answer = &buffer[..read.min(buffer.len())];
            // A raw socket hands the IP header over, whose length is in its first byte (raw(7)).
            let header = if raw { usize::from(answer.first().map_or(0, |b| b & 0xf)) * 4 } else { 0 };
            if answer.get(header..).is_some_and(|icmp| answers(icmp, &echo, raw)) {
                trips.push(sent.elapsed().as_secs_f64() * 1000.0);
                break;
            }
        }
    }
    Ok(trips)
}

/// An echo request (RFC 792) with 56 bytes of data, as ping(8) sends.
fn echo(process: u32, sequence: u16) -> Vec<u8> {
    let [.., high, low] = process.to_be_bytes();
    let [first, second] = sequence.to_be_bytes();
    let mut packet = vec![8, 0, 0, 0, high, low, first, second];
    packet.extend([0x6d; 56]);
    // The Internet checksum (RFC 1071); the length is even.
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    #[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let checksum = !(folded as u16);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Whether this is the echo's reply. On a datagram socket the kernel puts an identifier of its own into both.
fn answers(icmp: &[u8], echo: &[u8], raw: bool) -> bool {
    let same = |range: std::ops::Range<usize>| {
        icmp.get(range.clone()).is_some() && icmp.get(range.clone()) == echo.get(range)
    };
    icmp.first() == Some(&0) && same(6..8) && (!raw || same(4..6))
}

/// Which TCP ports of a guest accept connections: all of them where the guest refuses what is closed, the first 1024 where it is silent
/// about it, since each of those costs a second.
pub fn tcp(guest: IpAddr) -> io::Result<Ports> {
    runtime()?.block_on(async {
        // High ports, far from any service's.
        let probes = try_ports(guest, (0..16).map(|i| 61_001 + i * 101)).await;
        if probes.closed == 0 {
            return Ok(try_ports(guest, 1..=1024).await);
        }
        Ok(try_ports(guest, 1..=u16::MAX).await)
    })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn try_ports(guest: IpAddr, ports: impl Iterator<Item = u16>) -> Ports {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut tries = JoinSet::new();
    let mut found = Ports::default();
    let mut count = |tried: Option<Result<(u16, io::Result<()>), _>>| {
        let Some(Ok((port, answer))) = tried else { return };
        found.tried += 1;
        match answer {
            Ok(()) => found.open.push(port),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => found.closed += 1,
            Err(_) => found.silent += 1,
        }
    };
    for port in ports {
        // Nobody closes it.
        let Ok(permit) = Arc::clone(&gate).acquire_owned().await else { break };
        tries.spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, TcpStream::connect((guest, port))).await;
            drop(permit);
            (port, answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(drop))
        });
        while let Some(tried) = tries.try_join_next() {
            count(Some(tried));
        }
    }
    while let Some(tried) = tries.join_next().await {
        count(Some(tried));
    }
    found.open.sort_unstable();
    found
}

/// Which of [`UDP_PORTS`] answer, and which the guest says are closed. Silence says nothing: the service may not like the question.
pub fn udp(guest: IpAddr) -> io::Result<Ports> {
    runtime()?.block_on(async {
        let mut tries = JoinSet::new();
        for port in UDP_PORTS {
            tries.spawn(async move { (port, ask(guest, port).await) });
        }
        let mut found = Ports::default();
        while let Some(tried) = tries.join_next().await {
            let Ok((port, answer)) = tried else { continue };
            found.tried += 1;
            match answer {
                Ok(true) => found.open.push(port),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => found.closed += 1,
                _ => found.silent += 1,
            }
        }
        found.open.sort_unstable();
        Ok(found)
    })
}

/// Whether a UDP port answers anything at all; that it is closed comes as an error (udp(7), `ECONNREFUSED`).
async fn ask(guest: IpAddr, port: u16) -> io::Result<bool> {
    let any: IpAddr =
        if guest.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect((guest, port)).await?;
    let mut buffer = [0; 16];
    for _ in 0..UDP_ROUNDS {
        socket.send(b"\0").await?;
        if let Ok(answer) = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
            return answer.map(|_| true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket as StdUdp};

    use super::*;

    #[test]
    fn an_echo_is_one() {
        let echo = echo(0x1234_5678, 7);
        let sum: u32 = echo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "with its checksum it adds up to all ones");
        let mut reply = echo.clone();
        reply[0] = 0;
        assert!(answers(&reply, &echo, true) && !answers(&echo, &echo, true));
        reply[5] ^= 1;
        assert!(!answers(&reply, &echo, true) && answers(&reply, &echo, false));
        reply[7] ^= 1;
        assert!(!answers(&reply, &echo, false) && !answers(&reply[..6], &echo, false));
    }

    /// The loopback interface answers pings.
    #[test]
    fn this_host_answers_pings() {
        match ping(Ipv4Addr::LOCALHOST, 5) {
            Ok(trips) => assert!(trips.len() == 5 && trips.iter().all(|ms| *ms > 0.0), "{trips:?}"),
            Err(e) => assert!(!nix::unistd::Uid::effective().is_root(), "root may ping: {e}"),
        }
    }

    #[test]
    fn open_and_closed_ports_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let found =
            runtime().unwrap().block_on(try_ports(Ipv4Addr::LOCALHOST.into(), [port, closed].into_iter()));
        assert_eq!(found, Ports { tried: 2, open: vec![port], closed: 1, silent: 0 });
    }

    #[test]
    fn a_udp_port_that_answers_is_known() {
        let server = StdUdp::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let answerer = std::thread::spawn(move || {
            let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"x", from).unwrap();
        });
        let guest = Ipv4Addr::LOCALHOST.into();
        assert!(runtime().unwrap().block_on(ask(guest, port)).unwrap());
        answerer.join().unwrap();
        let error = runtime().unwrap().block_on(ask(guest, port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
