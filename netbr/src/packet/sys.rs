//! What packet sockets need that no safe function does: system calls that nix and rustix have none for, and the runtime's
//! registration, which wants a promise about the descriptor.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{LinkAddr, SockaddrLike};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Attaches a classic BPF program (socket(7), `SO_ATTACH_FILTER`).
pub(super) fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `filter` points to `len` instructions that outlive the call; the kernel copies them and writes none.
    unsafe { set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }
}

/// Makes the filter permanent (socket(7), `SO_LOCK_FILTER`).
pub(super) fn lock_filter(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the option takes an int.
    unsafe { set::<c_int>(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, &1) }
}

/// Lets sends skip the queueing discipline (packet(7), `PACKET_QDISC_BYPASS`).
pub(super) fn bypass_queue(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the option takes an int.
    unsafe { set::<c_int>(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1) }
}

/// # Safety
/// `value` must be what the option takes.
unsafe fn set<T>(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> Result<(), Errno> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the pointer and the length are those of a live value; the caller vouches for its type.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const *value).cast(), len) };
    Errno::result(result).map(drop)
}

/// Binds a packet socket to an interface for frames of all protocols (packet(7)).
pub(super) fn bind(fd: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    let half = |value: c_int| u16::try_from(value).map_err(|_| Errno::EINVAL);
    let address = libc::sockaddr_ll {
        sll_family: half(libc::AF_PACKET)?,
        sll_protocol: half(libc::ETH_P_ALL)?.to_be(),
        sll_ifindex: c_int::try_from(index).map_err(|_| Errno::ENODEV)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the pointer and the length are those of a live address of the family that it names.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) };
    nix::sys::socket::bind(fd.as_raw_fd(), &address.ok_or(Errno::EINVAL)?)
}

/// Whether an interface is up and running (netdevice(7), `SIOCGIFFLAGS`), in the socket's own namespace.
pub(super) fn link_flags(fd: BorrowedFd<'_>, name: &str) -> Result<(bool, bool), Errno> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // The last byte stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the request is a live `ifreq` with a terminated name, which is what this ioctl reads and writes.
    unsafe { get_flags(fd.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the call that just succeeded has written the flags.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok((flags & libc::IFF_UP != 0, flags & libc::IFF_RUNNING != 0))
}

nix::ioctl_readwrite_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);

/// Registers a descriptor with the runtime, for reading and writing.
pub(super) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and the same until it is dropped, which the `AsyncFd` that now owns it does last.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::WRITABLE) }
        .map_err(Into::into)
}
