//! What has no safe interface: packet sockets, offloads of a device, datagrams without a checksum.

// For `struct ifreq` and `struct sockaddr_ll`, which no crate here wraps.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Net;

/// `ETH_P_ALL` as it stands in addresses.
const ALL: u16 = 3_u16.to_be();

/// A packet socket on one interface: frames as they are (packet(7)).
pub struct Packets(OwnedFd);

impl Packets {
    pub fn open(net: &Net, interface: &str) -> Self {
        let index = index(net, interface);
        let socket = net.inside(|| {
            let all = i32::from(ALL);
            // SAFETY: no pointers; the result is checked below and owned by nobody else.
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all) }
        });
        assert!(socket >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: a descriptor that was just made.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: all zero is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = ALL;
        address.sll_ifindex = i32::try_from(index).unwrap();
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
        // SAFETY: `address` lives through the call and `length` is its length.
        let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(result, 0, "packet socket: {}", io::Error::last_os_error());
        Self(socket)
    }

    /// The frames of a tap, whose descriptor this is; with what else it puts before them.
    pub const fn of_tap(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Marks what it sends.
    pub fn mark(&self, mark: u32) {
        nix::sys::socket::setsockopt(&self.0, nix::sys::socket::sockopt::Mark, &mark).unwrap();
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = nix::unistd::write(&self.0, frame).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The first frame that `wanted` is true for.
    pub fn wait_for(&self, wanted: impl Fn(&[u8]) -> bool, time: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + time;
        let mut buffer = vec![0; 65536];
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            let mut set = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut set, PollTimeout::try_from(left).unwrap()).unwrap();
            if set[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
                let length = nix::unistd::read(&self.0, &mut buffer).unwrap();
                if wanted(&buffer[..length]) {
                    return Some(buffer[..length].to_vec());
                }
            }
        }
    }
}

/// An interface's number (`if_nametoindex(3)`).
pub fn index(net: &Net, interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: `name` is a text that ends with a zero byte.
    let index = net.inside(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
    assert_ne!(index, 0, "no {interface}");
    index
}

/// Which of a device's offloads are on (`linux/ethtool.h`): checksums and segmentation when sending, merging when receiving.
pub fn offloads(net: &Net, interface: &str, on: bool) {
    const TX_CHECKSUM: u32 = 0x17;
    const SCATTER_GATHER: u32 = 0x19;
    const TSO: u32 = 0x1f;
    const GSO: u32 = 0x24;
    const GRO: u32 = 0x2c;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let order = if on {
        [TX_CHECKSUM, SCATTER_GATHER, TSO, GSO, GRO]
    } else {
        [TSO, GSO, GRO, SCATTER_GATHER, TX_CHECKSUM]
    };
    net.inside(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for command in order {
            let mut value = Value { command, data: u32::from(on) };
            // SAFETY: all zero is a valid `ifreq`.
            let mut request: libc::ifreq = unsafe { zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
                *to = libc::c_char::from_ne_bytes([from]);
            }
            request.ifr_ifru.ifru_data = (&raw mut value).cast();
            // SAFETY: `request` and the value that it points to live through the call.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
            let error = io::Error::last_os_error();
            // Bridges have no GRO to turn off.
            assert!(
                result == 0 || error.raw_os_error() == Some(libc::EOPNOTSUPP),
                "ethtool {command:#x} on {interface}: {error}"
            );
        }
    });
}

/// Lets a UDP socket send without checksums (`SO_NO_CHECK`).
pub fn without_checksum(socket: &impl AsRawFd) {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap();
    // SAFETY: `on` lives through the call and `length` is its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            length,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Runs a closure on a thread without privileges: the kernel's credentials are a thread's.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    const NOBODY: libc::uid_t = 65534;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no pointers. The system call changes this thread only, other than the library's function.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            work()
        });
        thread.join().unwrap()
    })
}
