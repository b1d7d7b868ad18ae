//! Looking for the signs of readiness that a guest does not announce: an SSH greeting, an open TCP port, an address.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use qmp::Monitor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::control::{Failure, FailureKind};
use super::link::{Handle, MONITOR_DEADLINE};
use super::phase::ConsoleReader;
use super::shared::Shared;
use crate::spec::{Kind, Ready};
use crate::store::Source;

/// The first pause between two attempts at a TCP port, which nothing announces: only trying tells.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a server may take to greet before it is tried anew.
const GREETING: Duration = Duration::from_secs(10);

/// Waits until the guest shows `sign`, for ever if need be: the caller bounds it.
pub(super) async fn wait_for(shared: &Rc<Shared>, handle: &Rc<Handle>, sign: &Ready) -> Result<(), Failure> {
    match sign {
        Ready::Agent => {
            handle.agent.up().await;
            Ok(())
        }
        Ready::Ip => {
            let mut snapshot = shared.snapshot.subscribe();
            let _ = snapshot.wait_for(|s| !s.run.addresses.is_empty()).await;
            Ok(())
        }
        Ready::Ssh => retry(shared, handle, 22, greets_as_ssh).await,
        Ready::Tcp(port) => retry(shared, handle, *port, stays_open).await,
        Ready::Serial(pattern) => console_shows(shared, pattern).await,
    }
}

/// Tries a port of the guest until `good` says that it is.
async fn retry<F>(
    shared: &Rc<Shared>,
    handle: &Rc<Handle>,
    port: u16,
    good: impl Fn(Reached, Monitor) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = bool>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        // Asked for anew each time: a guest may get another address while it is waited for.
        let reached = reach(shared, handle, port).await?;
        if good(reached, handle.monitor()?).await {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether an SSH server greets (RFC 4253, section 4.2).
async fn greets_as_ssh(reached: Reached, _monitor: Monitor) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(reached.address()).await.ok()?;
        let mut start = [0; 4];
        stream.read_exact(&mut start).await.ok()?;
        (&start == b"SSH-").then_some(())
    };
    matches!(tokio::time::timeout(GREETING, greeting).await, Ok(Some(())))
}

/// Whether the guest accepts a connection.
///
/// QEMU's user-mode network accepts on the host's side before it has asked the guest, so a successful connect(2) says
/// nothing. It closes the connection when the guest refuses, and lists it as established, under the forwarded port, when
/// the guest accepts.
async fn stays_open(reached: Reached, monitor: Monitor) -> bool {
    let address = reached.address();
    let connected = tokio::time::timeout(GREETING, TcpStream::connect(address)).await;
    let Ok(Ok(mut stream)) = connected else { return false };
    if let Reached::Guest(_) = reached {
        return true;
    }
    let mut byte = [0; 1];
    let mut pause = Duration::from_millis(2);
    let asked = tokio::time::Instant::now();
    while asked.elapsed() < GREETING {
        tokio::select! {
            // A server that speaks first, or a refusal.
            read = stream.read(&mut byte) => return matches!(read, Ok(1)),
            () = tokio::time::sleep(pause) => {}
        }
        let Ok(table) = monitor.human("info usernet", MONITOR_DEADLINE).await else { return false };
        if connections(&table).any(|c| c.state == "ESTABLISHED" && c.source_port == address.port()) {
            return true;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    false
}

/// Whether the console shows a pattern, from the beginning of the run on.
async fn console_shows(shared: &Rc<Shared>, pattern: &str) -> Result<(), Failure> {
    let pattern = regex::bytes::Regex::new(pattern).map_err(|e| {
        Failure::new(FailureKind::Usage, format!("`{pattern}` is not a regular expression: {e}"))
    })?;
    // Listening first and reading what was before second, nothing is missed; what is seen twice does no harm.
    let mut live = shared.console.listen();
    let mut reader = ConsoleReader::new(Kind::Auto, Some(pattern));
    let mut shows = |bytes: &[u8]| reader.push(bytes).contains(&super::phase::Sign::Ready);
    if let Ok(before) = std::fs::read(shared.dir().console_log())
        && shows(&before)
    {
        return Ok(());
    }
    while let Some(bytes) = live.recv().await {
        if shows(&bytes) {
            return Ok(());
        }
    }
    std::future::pending().await
}

/// Where a TCP port of the guest is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// At the guest's own address.
    Guest(SocketAddr),
    /// At a port of this host that QEMU's user-mode network forwards.
    Forwarded(SocketAddr),
}

impl Reached {
    pub(super) const fn address(self) -> SocketAddr {
        match self {
            Self::Guest(address) | Self::Forwarded(address) => address,
        }
    }
}

/// Where a TCP port of the guest is reached: at its own address where it has one that this host can reach, else through its
/// user-mode network. A guest that has neither yet is waited for.
pub(super) async fn reach(shared: &Rc<Shared>, handle: &Rc<Handle>, port: u16) -> Result<Reached, Failure> {
    let own = |run: &crate::store::RunState| {
        let port_of = |net| run.ports.iter().any(|port| port.net == net);
        // What the guest told of itself may be behind QEMU's user-mode network.
        let by_port = |source| !matches!(source, Source::Agent | Source::Console);
        let heard =
            |address| run.heard.iter().any(|h| h.address == address && port_of(h.net) && by_port(h.source));
        run.addresses.iter().copied().find(|address| heard(*address))
    };
    let known = own(&shared.snapshot.borrow().run);
    if let Some(address) = known {
        return Ok(Reached::Guest((address, port).into()));
    }
    if let Some(netdev) = handle.user_netdev() {
        return forward(&handle.monitor()?, netdev, port).await.map(Reached::Forwarded);
    }
    if shared.snapshot.borrow().run.ports.is_empty() {
        let why = format!("the guest's port {port} cannot be reached: the VM has no network");
        return Err(Failure::new(FailureKind::WrongState, why)
            .hint("`midge set NAME --net nat` (or user) gives it one, while it is stopped"));
    }
    let mut changes = shared.snapshot.subscribe();
    let found = changes.wait_for(|s| own(&s.run).is_some() || s.run.qemu.is_none()).await;
    match found.ok().and_then(|s| own(&s.run)) {
        Some(address) => Ok(Reached::Guest((address, port).into())),
        None => Err(Failure::new(FailureKind::WrongState, "the guest has ended")),
    }
}

/// A port of this host that leads to a TCP port of the guest through its user-mode network, made where there is none.
async fn forward(monitor: &Monitor, netdev: &str, port: u16) -> Result<SocketAddr, Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Other, format!("cannot forward a port to the guest's port {port}: {e}"))
    };
    if let Some(address) = forwarded(monitor, port).await? {
        return Ok(address);
    }
    let command = format!("hostfwd_add {netdev} tcp:127.0.0.1:0-:{port}");
    let said = monitor.human(&command, MONITOR_DEADLINE).await.map_err(|e| failed(&e))?;
    match forwarded(monitor, port).await? {
        Some(address) => Ok(address),
        None if said.trim().is_empty() => Err(failed(&"QEMU does not list it")),
        None => Err(Failure::new(
            FailureKind::HostUnfit,
            format!("the guest's port {port} cannot be reached: {}", said.trim()),
        )
        .hint("the VM needs a user-mode network (`--net user`) for this")),
    }
}

async fn forwarded(monitor: &Monitor, port: u16) -> Result<Option<SocketAddr>, Failure> {
    let table = monitor
        .human("info usernet", MONITOR_DEADLINE)
        .await
        .map_err(|e| Failure::new(FailureKind::Other, format!("cannot list the forwarded ports: {e}")))?;
    let found = connections(&table).find(|c| c.state == "HOST_FORWARD" && c.destination_port == port);
    Ok(found.map(|c| {
        let address = if c.source.is_unspecified() { std::net::Ipv4Addr::LOCALHOST } else { c.source };
        SocketAddr::from((address, c.source_port))
    }))
}

/// A line of `info usernet`.
#[derive(Debug, PartialEq, Eq)]
struct Connection {
    state: String,
    source: std::net::Ipv4Addr,
    source_port: u16,
    destination_port: u16,
}

/// The TCP connections in libslirp's table (`slirp_connection_info`):
///
/// ```text
///   Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
///   TCP[HOST_FORWARD]  14       127.0.0.1 34567       10.0.2.15    22     0     0
/// ```
fn connections(table: &str) -> impl Iterator<Item = Connection> {
    table.lines().filter_map(|line| {
        let (state, rest) = line.trim().strip_prefix("TCP[")?.split_once(']')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let [_fd, source, source_port, _destination, destination_port, ..] = fields.as_slice() else {
            return None;
        };
        Some(Connection {
            state: state.to_owned(),
            // `*` stands for any address.
            source: source.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
            source_port: source_port.parse().ok()?,
            destination_port: destination_port.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_qemu_10_is_read() {
        let table = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  TCP[ESTABLISHED]   21       127.0.0.1 40322       10.0.2.15    80     0     0\r\n  TCP[HOST_FORWARD]  14               * 34567       10.0.2.15    22     0     0\r\n  UDP[236 sec]       18       10.0.2.15 45512        10.0.2.3    53     0     0\r\n";
        let found: Vec<_> = connections(table).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].source_port, found[0].state.as_str()), (40322, "ESTABLISHED"));
        assert_eq!((found[1].source_port, found[1].destination_port), (34567, 22));
        assert!(found[1].source.is_unspecified());
    }
}
