//! Namespaces with real programs: a bridge that this process serves, and a guest's interface behind a port of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netbr::dhcp::server::Event;
use netbr::dhcp::{LeaseFile, Network, Responder};
use netbr::packet::{Filter, Options, PacketSocket};
use netbr::{Mac, Namespace};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a test waits for what must come: only a broken one waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must come.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: nothing in {PATIENCE:?}"))
}

/// Runs a program to its end, which must be a good one.
pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("cannot run `{program}` ({e}): run `make setup-tests`"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} (these tests need root): {error}");
}

fn ip(arguments: &str) {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>());
}

/// A network namespace that goes when it is dropped, with all that runs in it.
pub struct Net(pub String);

impl Net {
    pub fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Self(format!("netbr-dhcp-{}-{number}-{role}", std::process::id()));
        ip(&format!("netns add {}", net.0));
        net.ip("link set lo up");
        net
    }

    /// `ip` in the namespace.
    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }

    pub fn namespace(&self) -> Namespace {
        Namespace::named(&self.0).unwrap()
    }

    /// A program in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    pub fn socket(&self, interface: &str, filter: Filter) -> PacketSocket {
        PacketSocket::open(&self.namespace(), interface, Options::new(filter)).unwrap()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let pids = Command::new("ip").args(["netns", "pids", &self.0]).output();
        for pid in String::from_utf8_lossy(&pids.map(|o| o.stdout).unwrap_or_default()).split_whitespace() {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A program that ends when it is dropped.
pub struct Program(pub Child);

impl Program {
    /// Starts it; what it says goes to the test's own output.
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?} ({e}): run `make setup-tests`")))
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &[&format!("-{signal}"), &self.0.id().to_string()]);
    }

    /// Has it end by itself and waits for that.
    pub async fn end(mut self, signal: &str) {
        self.signal(signal);
        let ended = tokio::task::spawn_blocking(move || self.0.wait().map(drop));
        within("its end", ended).await.unwrap().unwrap();
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The MAC of the guest's interface.
pub fn guest() -> Mac {
    super::mac(1)
}

/// A bridge `br0` with the server's address, and a guest's `eth0` behind its port `p1`.
pub struct World {
    pub host: Net,
    pub guest: Net,
    pub folder: tempfile::TempDir,
    news: Lines<BufReader<pipe::Receiver>>,
}

impl World {
    pub fn new(network: &Network) -> Self {
        let (host, guest) = (Net::new("host"), Net::new("guest"));
        host.ip(&format!("link add br0 address {} type bridge forward_delay 0", network.server_mac));
        host.ip(&format!("addr add {}/{} dev br0", network.server, network.subnet.prefix()));
        host.ip("link set br0 up");
        let guest_mac = self::guest();
        host.ip(&format!("link add p1 type veth peer name eth0 address {guest_mac} netns {}", guest.0));
        host.ip("link set p1 master br0 up");
        guest.ip("link set eth0 up");
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("news");
        run("mkfifo", &[fifo.to_str().unwrap()]);
        // Open for both, so that it does not end with each writer.
        let news = pipe::OpenOptions::new().read_write(true).open_receiver(&fifo).unwrap();
        let script = folder.path().join("script");
        fs::write(&script, script_text(&fifo)).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        // dhcpcd's hooks run as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { host, guest, folder, news: BufReader::new(news).lines() }
    }

    /// A neighbour on the bridge who has an address already.
    pub fn neighbour(&self, mac: Mac, address: std::net::Ipv4Addr) -> Net {
        let net = Net::new("neighbour");
        let port = format!("p{}", address.octets()[3]);
        self.host.ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {}", net.0));
        self.host.ip(&format!("link set {port} master br0 up"));
        net.ip(&format!("addr add {address}/24 dev eth0"));
        net.ip("link set eth0 up");
        net
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn lease_file(&self) -> LeaseFile {
        LeaseFile::open(&self.folder.path().join("leases.json")).unwrap()
    }

    /// Serves the guest's port as its supervisor would.
    pub fn serve(&self, network: &Network) -> Server {
        self.serve_with(Responder::new(network.clone(), self.lease_file(), [guest()]))
    }

    pub fn serve_with(&self, responder: Responder) -> Server {
        self.serve_marked(responder, None)
    }

    /// The same by frames that bear a mark.
    pub fn serve_marked(&self, mut responder: Responder, mark: Option<u32>) -> Server {
        let options = Options { mark, ..Options::new(Filter::dhcp()) };
        let port = PacketSocket::open(&self.host.namespace(), "p1", options).unwrap();
        let wire = self.host.socket("br0", Filter::addresses());
        let (tell, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let tell = |event| drop(tell.send(event));
            let Err(error) = responder.serve(&port, Some(&wire), tell).await;
            panic!("{error}");
        });
        Server { task, events }
    }

    /// The next thing that a client's script says that begins with one of these words.
    pub async fn told(&mut self, words: &[&str]) -> String {
        within(&format!("the client's {words:?}"), async {
            loop {
                let line = self.news.next_line().await.unwrap().unwrap();
                if words.contains(&line.split(' ').next().unwrap_or_default()) {
                    return line;
                }
            }
        })
        .await
    }
}

/// A server that runs.
pub struct Server {
    task: JoinHandle<()>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Server {
    /// The next event that is one of those meant.
    pub async fn event<T>(&mut self, what: &str, mut meant: impl FnMut(&Event) -> Option<T>) -> T {
        let mut others = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = self.events.recv().await.expect("the server runs");
                if let Some(found) = meant(&event) {
                    return found;
                }
                others.push(event);
            }
        });
        let found = found.await.ok();
        found.unwrap_or_else(|| panic!("{what}: nothing in {PATIENCE:?}, only {others:?}"))
    }

    pub async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// What the three clients run when something happens. It sets the address, as their own scripts do, and touches nothing else.
fn script_text(news: &Path) -> String {
    let news: PathBuf = news.to_owned();
    format!(
        r#"#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
what=${{reason:-$1}}
address=${{new_ip_address:-$ip}}
case $what in
bound | renew | BOUND | RENEW | REBIND | REBOOT) ip addr replace "$address/24" dev "$interface" ;;
deconfig | EXPIRE | RELEASE | FAIL) ip -4 addr flush dev "$interface" ;;
esac
echo "$what address=$address router=${{new_routers:-$router}} dns=${{new_domain_name_servers:-$dns}} domain=${{new_domain_name:-$domain}} mtu=${{new_interface_mtu:-$mtu}} server=${{new_dhcp_server_identifier:-$serverid}}" > {}
"#,
        news.display()
    )
}
