//! A home network in namespaces of its own: a host with a bridge, on which midge runs, and a router with a DHCP server.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::eventually;

/// The host's and the router's addresses, and what the router's server gives.
pub const HOST: &str = "10.77.1.2";
pub const ROUTER: &str = "10.77.1.1";

/// Two namespaces, joined by a cable from the host's bridge `br0` to the router. Dropping it removes both.
pub struct Lan {
    pub host: Namespace,
    pub router: Namespace,
    dnsmasq: Option<Child>,
    folder: PathBuf,
}

/// A network namespace of a test's own.
pub struct Namespace(String);

impl Namespace {
    /// One with nothing but a loopback interface.
    pub fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("midge-{role}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// `ip` with these words, inside.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        let words: Vec<&str> = ["-n", self.0.as_str()].into_iter().chain(words.split_whitespace()).collect();
        run("ip", &words)
    }

    /// Several commands of ip(8), a line each, in one go.
    #[track_caller]
    pub fn batch(&self, commands: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.0, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A program inside, ready for arguments.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a program inside to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words[0]).args(&words[1..]).output().unwrap()
    }

    /// Whether an address answers ping within a while.
    pub fn reaches(&self, address: &str) -> bool {
        self.run(&["ping", "-n", "-c", "1", "-W", "10", address]).status.success()
    }

    /// The whole HTTP answer from there to a request for `/`.
    pub fn http(&self, address: &str, port: u16) -> String {
        self.http_get(address, port, "/")
    }

    /// The whole HTTP answer from there to a request for `path`.
    pub fn http_get(&self, address: &str, port: u16, path: &str) -> String {
        let script = "exec 3<>/dev/tcp/$0/$1 && printf 'GET %s HTTP/1.0\\r\\n\\r\\n' \"$2\" >&3 && cat <&3";
        let output = self
            .command("timeout")
            .args(["20", "bash", "-c", script, address, &port.to_string(), path])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

impl Lan {
    /// The network, with a router that answers DHCP.
    pub fn new(folder: &Path) -> Self {
        let mut lan = Self::without_dhcp(folder);
        lan.serve("10.77.1.100,10.77.1.200,1h");
        lan
    }

    /// The network, with a router that answers no DHCP.
    pub fn without_dhcp(folder: &Path) -> Self {
        let (host, router) = (Namespace::new("host"), Namespace::new("router"));
        host.batch(&format!(
            "link add br0 type bridge\n\
             link set br0 address 02:00:00:00:00:02\n\
             link set br0 up\n\
             address add {HOST}/24 dev br0\n\
             link add lan0 type veth peer name lan0 netns {}\n\
             link set lan0 master br0\n\
             link set lan0 up\n\
             route add default via {ROUTER}\n",
            router.name()
        ));
        router.batch(&format!("address add {ROUTER}/24 dev lan0\nlink set lan0 up\n"));
        Self { host, router, dnsmasq: None, folder: folder.to_owned() }
    }

    /// Lets the router give addresses from this range, in place of what it gave before.
    pub fn serve(&mut self, range: &str) {
        self.stop_serving();
        let log = self.folder.join("dnsmasq.log");
        let child = self
            .router
            .command("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--pid-file="])
            .args([
                "--interface=lan0",
                "--bind-interfaces",
                "--dhcp-authoritative",
                "--no-ping",
                "--user=root",
            ])
            .arg(format!("--dhcp-range={range}"))
            .arg(format!("--dhcp-leasefile={}", self.leases().display()))
            .args(["--log-dhcp", "--log-facility=-"])
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.dnsmasq = Some(child);
        eventually("the DHCP server is up", || {
            fs::read_to_string(&log)
                .is_ok_and(|text| text.contains("DHCP, IP range") || text.contains("DHCP, sockets"))
        });
    }

    pub fn stop_serving(&mut self) {
        if let Some(mut child) = self.dnsmasq.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where the router writes down who has which address (dnsmasq(8), `--dhcp-leasefile`).
    pub fn leases(&self) -> PathBuf {
        self.folder.join("dnsmasq.leases")
    }

    /// The router forgets all leases, and gives others.
    pub fn renumber(&mut self, range: &str) {
        self.stop_serving();
        let _ = fs::remove_file(self.leases());
        self.serve(range);
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.stop_serving();
    }
}

#[track_caller]
fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
