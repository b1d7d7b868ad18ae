//! systemd-networkd: what it says of itself in /run/systemd/netif, and the calls that have it configure an interface anew
//! (org.freedesktop.network1(5)).

use midge_identify::dbus::{self, Call, Reply};
use midge_identify::text::{Line, Text};
use midge_identify::texts;

use super::Interface;
use crate::files;
use crate::sys::{self, EEXIST, Errno, File};

const NAME: &str = "org.freedesktop.network1";
const OBJECT: &str = "/org/freedesktop/network1";
const MANAGER: &str = "org.freedesktop.network1.Manager";
/// How long the bus and networkd may take to answer, in milliseconds.
const PATIENCE: u64 = 10_000;
/// Where a link-layer address may choose an interface's configuration (systemd.network(5), netplan(5)).
const FOLDERS: [&str; 4] =
    ["/run/systemd/network", "/etc/systemd/network", "/usr/local/lib/systemd/network", "/etc/netplan"];

/// Whether it manages this interface.
pub(super) fn manages(index: u32) -> bool {
    let mut buffer = [0; 4096];
    let text = link_file(index, &mut buffer);
    !text.is_empty() && texts::value(text, "ADMIN_STATE") != Some("unmanaged")
}

/// Whether it has an address for it by DHCP.
pub(super) fn has_lease(index: u32) -> bool {
    files::with_path(format_args!("/run/systemd/netif/leases/{index}"), |path| Ok(sys::exists(path)))
        == Ok(true)
}

/// Whether a server knows the interface by its DUID: in DHCPv4, where the client's id is of that type (RFC 4361, 6.1), and in DHCPv6
/// always.
pub(super) fn uses_duid(index: u32) -> bool {
    let mut buffer = [0; 4096];
    let lease = Line::of(format_args!("/run/systemd/netif/leases/{index}"));
    let lease = lease.c_str().map_or("", |path| files::read_text(path, &mut buffer));
    if texts::value(lease, "CLIENTID").is_some_and(|id| id.starts_with("ff")) {
        return true;
    }
    let mut buffer = [0; 8192];
    texts::has_dhcpv6(files::read_text(c"/proc/net/if_inet6", &mut buffer), index)
}

fn link_file(index: u32, buffer: &mut [u8]) -> &str {
    match Line::of(format_args!("/run/systemd/netif/links/{index}")).c_str() {
        Some(path) => files::read_text(path, buffer),
        None => "",
    }
}

/// Has it forget what it knows of these interfaces and begin anew: it then switches them on, and asks for an address without naming the
/// one that it had.
pub(super) fn renew<'a>(
    interfaces: impl Iterator<Item = &'a Interface>,
    duid: Option<&str>,
) -> Result<(), Line> {
    let mut bus = None;
    for interface in interfaces {
        let changed = rename_in_files(interface)?;
        let mut buffer = [0; 4096];
        let network = texts::value(link_file(interface.index, &mut buffer), "NETWORK_FILE");
        let told = match (network, duid) {
            (Some(network), Some(duid)) => write_duid(network, duid)? && interface.duid,
            _ => false,
        };
        let bus = match &mut bus {
            Some(bus) => bus,
            None => bus.insert(Bus::connect()?),
        };
        if changed || told {
            // It configures anew what has another configuration now.
            bus.call("Reload", None)?;
        } else {
            bus.call("ReconfigureLink", i32::try_from(interface.index).ok())?;
        }
    }
    Ok(())
}

/// The DUID is made of the machine-id when networkd starts, and starting it anew takes an emulated guest half a second. So it is set
/// for the interface instead, in a file that the next boot does not see: then the machine-id is the new one anyway. Having networkd read
/// its files costs a good part of the whole, so it does where the interface is known by its DUID; elsewhere whenever it next does.
fn write_duid(network: &str, duid: &str) -> Result<bool, Line> {
    let Some(name) = network.rsplit('/').next().filter(|name| name.ends_with(".network")) else {
        return Ok(false);
    };
    let failed = |e: Errno| Line::of(format_args!("cannot set the DUID for {name}: {e}"));
    for folder in [format_args!("/run/systemd/network"), format_args!("/run/systemd/network/{name}.d")] {
        match files::with_path(folder, sys::make_folder) {
            Ok(()) | Err(EEXIST) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let text = Text::<512>::of(format_args!(
        "# By midge: of the machine-id that this machine was given while it ran.\n\
         [DHCPv4]\nDUIDType=vendor\nDUIDRawData={duid}\n[DHCPv6]\nDUIDType=vendor\nDUIDRawData={duid}\n"
    ));
    let path = format_args!("/run/systemd/network/{name}.d/90-midge-identity.conf");
    files::with_path(path, |path| files::write(path, &[text.bytes()], 0o644)).map_err(failed)?;
    Ok(true)
}

/// Writes the new link-layer address for the old one where a configuration is chosen by it.
fn rename_in_files(interface: &Interface) -> Result<bool, Line> {
    let (old, new) = (texts::mac(interface.nic.old), texts::mac(interface.nic.new));
    let mut changed = false;
    let mut problem = None;
    for folder in FOLDERS {
        // A folder that is missing chooses nothing.
        let _ = files::with_path(format_args!("{folder}"), |path| {
            files::each(path, |name| {
                if !matches!(name.rsplit('.').next(), Some("network" | "link" | "yaml")) {
                    return;
                }
                let done = files::with_path(format_args!("{folder}/{name}"), |path| {
                    let mut buffer = [0; 16 << 10];
                    let length = files::read(path, &mut buffer)?.len();
                    let text = &mut buffer[..length];
                    if texts::replace_mac(text, old.str(), new.str()) {
                        File::read_write(path)?.write_over(text)?;
                        changed = true;
                    }
                    Ok(())
                });
                if let Err(e) = done {
                    problem =
                        Some(Line::of(format_args!("cannot put the new address into {folder}/{name}: {e}")));
                }
            })
        });
    }
    problem.map_or(Ok(changed), Err)
}

/// A connection to the system bus.
struct Bus {
    socket: File,
    serial: u32,
    buffer: [u8; 4096],
    filled: usize,
    welcomed: bool,
}

impl Bus {
    fn connect() -> Result<Self, Line> {
        let failed = |e| Line::of(format_args!("systemd-networkd cannot be told without D-Bus: {e}"));
        let socket = File::connect(dbus::SOCKET).map_err(failed)?;
        let hello = Call::new(
            1,
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "Hello",
            None,
        );
        let mut first = Text::<1024>::default();
        first.push(dbus::HELLO);
        first.push(hello.bytes());
        socket.write(first.bytes()).map_err(failed)?;
        Ok(Self { socket, serial: 1, buffer: [0; 4096], filled: 0, welcomed: false })
    }

    /// Calls a method of networkd's, and waits for its answer.
    fn call(&mut self, member: &str, argument: Option<i32>) -> Result<(), Line> {
        self.serial += 1;
        let call = Call::new(self.serial, NAME, OBJECT, MANAGER, member, argument);
        let failed = |e| Line::of(format_args!("systemd-networkd cannot be told to {member}: {e}"));
        self.socket.write(call.bytes()).map_err(failed)?;
        let given_up = sys::now() + PATIENCE;
        let ours = self.serial;
        loop {
            while let Some((reply, length)) = self.next() {
                let answer = match reply {
                    Reply::Done(serial) if serial == ours => Some(Ok(())),
                    Reply::Refused(serial, why) if serial == ours => {
                        Some(Err(Line::of(format_args!("systemd-networkd refuses to {member}: {why}"))))
                    }
                    _ => None,
                };
                self.drop_first(length);
                if let Some(answer) = answer {
                    return answer;
                }
            }
            let left = given_up.saturating_sub(sys::now());
            if self.filled == self.buffer.len() || !self.socket.wait(left) {
                return Err(Line::of(format_args!("systemd-networkd did not answer to {member}")));
            }
            let more = self.socket.read(&mut self.buffer[self.filled..]).map_err(failed)?;
            if more == 0 {
                return Err(Line::of(format_args!("the bus hung up on {member}")));
            }
            self.filled += more;
        }
    }

    /// The first message that is whole; before all messages comes the bus's welcome.
    fn next(&mut self) -> Option<(Reply<'_>, usize)> {
        if !self.welcomed {
            let end = self.buffer[..self.filled].iter().position(|byte| *byte == b'\n')?;
            if !self.buffer.starts_with(dbus::WELCOME) {
                return None;
            }
            self.drop_first(end + 1);
            self.welcomed = true;
        }
        dbus::reply(&self.buffer[..self.filled])
    }

    fn drop_first(&mut self, length: usize) {
        self.buffer.copy_within(length..self.filled, 0);
        self.filled -= length;
    }
}
