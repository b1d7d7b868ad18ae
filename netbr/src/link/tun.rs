//! The ioctls of /dev/net/tun that a tap is made by (Documentation/networking/tuntap.rst, linux/if_tun.h).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use crate::Mac;

/// Where every tap comes from.
pub(super) const DEVICE: &str = "/dev/net/tun";

/// The flags of a queue.
pub(super) const TAP: i32 = libc::IFF_TAP | libc::IFF_NO_PI;
pub(super) const VNET_HDR: i32 = libc::IFF_VNET_HDR;
pub(super) const MULTI_QUEUE: i32 = libc::IFF_MULTI_QUEUE;
/// Fail with EBUSY where the interface is there already, rather than to attach to it.
pub(super) const EXCLUSIVE: i32 = libc::IFF_TUN_EXCL;
/// Only answered, never asked for: the interface outlives its descriptors.
pub(super) const PERSIST: i32 = libc::IFF_PERSIST;

nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_read_bad!(tungetiff, libc::TUNGETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(tunsetpersist, libc::TUNSETPERSIST);
nix::ioctl_write_int_bad!(tunsetowner, libc::TUNSETOWNER);
nix::ioctl_write_int_bad!(tunsetgroup, libc::TUNSETGROUP);
nix::ioctl_write_ptr_bad!(siocsifhwaddr, libc::SIOCSIFHWADDR, libc::ifreq);

/// One queue of a tap, or a descriptor that is to become one.
#[derive(Debug)]
pub(super) struct Queue(File);

impl Queue {
    /// Opens the device in the network namespace of the calling thread, in which the tap then is.
    ///
    /// It does not block, as QEMU wants it; it is closed when another program is executed.
    pub(super) fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE).map(Self)
    }

    /// Makes it a queue of the interface `name`, which is made unless it is there.
    pub(super) fn attach(&self, name: &str, flags: i32) -> io::Result<()> {
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = short(flags)?;
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which `request` is and stays for the call.
        unsafe { tunsetiff(self.0.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// The flags of the interface that it is a queue of.
    pub(super) fn flags(&self) -> io::Result<i32> {
        let mut request = request("");
        // SAFETY: TUNGETIFF writes a `struct ifreq`, which `request` is and stays for the call.
        unsafe { tungetiff(self.0.as_raw_fd(), &raw mut request) }?;
        // SAFETY: every bit pattern is an integer, and TUNGETIFF sets this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        // The topmost flag (IFF_TUN_EXCL) is the sign bit.
        Ok(i32::from(flags.cast_unsigned()))
    }

    /// Sets whether the interface stays when nobody has it open.
    pub(super) fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes a number, no pointer.
        unsafe { tunsetpersist(self.0.as_raw_fd(), i32::from(persistent)) }?;
        Ok(())
    }

    /// Sets who may attach to it without CAP_NET_ADMIN.
    pub(super) fn set_owner(&self, uid: u32) -> io::Result<()> {
        // SAFETY: TUNSETOWNER takes a number, no pointer.
        unsafe { tunsetowner(self.0.as_raw_fd(), uid.cast_signed()) }?;
        Ok(())
    }

    /// Sets which group may.
    pub(super) fn set_group(&self, gid: u32) -> io::Result<()> {
        // SAFETY: TUNSETGROUP takes a number, no pointer.
        unsafe { tunsetgroup(self.0.as_raw_fd(), gid.cast_signed()) }?;
        Ok(())
    }

    /// Sets the interface's address.
    pub(super) fn set_mac(&self, mac: Mac) -> io::Result<()> {
        let mut request = request("");
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (to, from) in address.sa_data.iter_mut().zip(mac.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_hwaddr = address;
        // SAFETY: SIOCSIFHWADDR reads a `struct ifreq`, which `request` is and stays for the call.
        unsafe { siocsifhwaddr(self.0.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }
}

/// A request that is zero but for the name, which the caller has checked to be short enough.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: `struct ifreq` holds numbers, and pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

/// The flags as the 16 bits that they are; the topmost one is the sign.
fn short(flags: i32) -> io::Result<libc::c_short> {
    let flags = u16::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(flags.cast_signed())
}
