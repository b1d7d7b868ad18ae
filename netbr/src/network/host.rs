//! What the host must do for a network besides: pass packets on, and leave forwarded ports alone.

use std::fs;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

use super::error::NatError;
use super::{Forward, Protocol};
use crate::Namespace;

/// Whether the host passes packets on (Documentation/networking/ip-sysctl.rst, `ip_forward`).
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether packets are passed on.
pub(super) fn forwards(namespace: &Namespace) -> Result<bool, NatError> {
    let text = namespace.run(|| fs::read_to_string(FORWARD))?;
    let text = text.map_err(|source| NatError::File { operation: "read", path: FORWARD.into(), source })?;
    Ok(text.trim() != "0")
}

/// Lets packets be passed on.
pub(super) fn forward(namespace: &Namespace) -> Result<(), NatError> {
    write(namespace, FORWARD, "1")
}

/// Lets packets with an address of 127.0.0.0/8 go out by a bridge, so that 127.0.0.1 leads to guests as well. That such packets do not
/// come in by it is up to the table.
pub(super) fn route_localnet(namespace: &Namespace, bridge: &str) -> Result<(), NatError> {
    write(namespace, &format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")
}

fn write(namespace: &Namespace, path: &str, value: &str) -> Result<(), NatError> {
    namespace.run(|| fs::write(path, value))?.map_err(|source| NatError::File {
        operation: "write",
        path: path.into(),
        source,
    })
}

/// Checks that no program listens where ports are to be forwarded: it would be cut off without a word.
pub(super) fn check_ports(namespace: &Namespace, forwards: &[Forward]) -> Result<(), NatError> {
    namespace.run(|| forwards.iter().try_for_each(check_port))?
}

/// Tries the port. TCP's is not listened on, so nobody is ever let in.
fn check_port(forward: &Forward) -> Result<(), NatError> {
    let tried = || {
        let kind = match forward.protocol {
            Protocol::Tcp => SockType::Stream,
            Protocol::Udp => SockType::Datagram,
        };
        let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
        if forward.protocol == Protocol::Tcp {
            // Connections that have ended lately do not count, only sockets that listen (socket(7)).
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        }
        bind(socket.as_raw_fd(), &SockaddrIn::from(forward.host()))
    };
    match tried() {
        Ok(()) => Ok(()),
        Err(Errno::EADDRINUSE) => Err(NatError::Listening { forward: *forward }),
        Err(Errno::EADDRNOTAVAIL) => Err(NatError::NotHere { forward: *forward, address: forward.host_addr }),
        Err(errno) => Err(NatError::Port { forward: *forward, source: errno.into() }),
    }
}
