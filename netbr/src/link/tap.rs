//! Taps: interfaces whose frames a program, here QEMU, reads and writes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::tun::{self, Queue};
use super::{LinkError, Reason, TapState, check_name};
use crate::{Mac, Namespace};

/// What a tap is to be like.
#[derive(Debug, Clone, Default)]
pub struct TapOptions {
    /// Its name, such as one of [`tap_name`](super::tap_name).
    pub name: String,
    /// The guest's MAC, of which the tap's own is made (see [`Tap::create`]).
    pub guest: Option<Mac>,
    /// Who may attach to it without CAP_NET_ADMIN.
    pub owner: Option<u32>,
    /// Which group may; with an owner, both must match.
    pub group: Option<u32>,
    /// A virtio-net header before each frame, so that a guest's offloads (checksums, segmentation) reach the host. QEMU looks whether a
    /// descriptor has it (TUNGETIFF) and sets the header's length itself.
    pub vnet_hdr: bool,
    /// How many queues, one descriptor each; more than one needs `queues=` on the guest's NIC. 0 counts as 1.
    pub queues: u16,
    /// Whether it stays when nobody has it open.
    pub persistent: bool,
}

/// A tap, open. Unless it is persistent, the kernel removes it when the last copy of its descriptors is closed.
#[derive(Debug)]
pub struct Tap {
    name: String,
    index: u32,
    queues: Vec<OwnedFd>,
}

impl Tap {
    /// Makes a tap, which is down and in no bridge yet ([`Links::port_ready`](super::Links::port_ready) does that).
    ///
    /// Its own MAC is the guest's (or a random one) with `fe` as its first byte, as libvirt does it: it differs from the
    /// guest's, and no bridge whose MAC is not pinned picks it up, as they take the lowest.
    pub fn create(namespace: &Namespace, options: &TapOptions) -> Result<Self, LinkError> {
        const MAKE: &str = "make the tap";
        let name = &options.name;
        check_name(name)?;
        let failed = |source| LinkError::failed(MAKE, name, source);
        namespace.run(|| {
            let first = open(MAKE, name)?;
            let flags = flags(options.vnet_hdr, options.queues > 1);
            // Without it an interface of that name would be taken over, whoever it belongs to; the kernel says EBUSY then.
            first.attach(name, flags | tun::EXCLUSIVE).map_err(|source| match failed(source) {
                LinkError::Failed { operation, interface, reason: Reason::Busy, source } => {
                    LinkError::Failed { operation, interface, reason: Reason::Exists, source }
                }
                other => other,
            })?;
            first.set_mac(own_mac(options.guest.unwrap_or_else(Mac::random))).map_err(failed)?;
            if let Some(uid) = options.owner {
                first.set_owner(uid).map_err(failed)?;
            }
            if let Some(gid) = options.group {
                first.set_group(gid).map_err(failed)?;
            }
            let index = index_of(name).map_err(failed)?;
            let more = more_queues(MAKE, name, flags, options.queues)?;
            if options.persistent {
                // Last, so that nothing stays of a tap that could not be made.
                first.set_persistent(true).map_err(failed)?;
            }
            Ok(Self::of(name, index, first, more))
        })?
    }

    /// Attaches to a persistent tap. Its owner needs no privilege for it.
    ///
    /// How many queues it takes (`queues` > 1 or not) must be as it was made; whether it has virtio-net headers is set anew.
    pub fn open_persistent(
        namespace: &Namespace,
        name: &str,
        vnet_hdr: bool,
        queues: u16,
    ) -> Result<Self, LinkError> {
        const ATTACH: &str = "attach to the tap";
        check_name(name)?;
        let failed = |source| LinkError::failed(ATTACH, name, source);
        namespace.run(|| {
            // Asked first, as the kernel would try to make it.
            let index = index_of(name).map_err(failed)?;
            let first = open(ATTACH, name)?;
            let flags = flags(vnet_hdr, queues > 1);
            first.attach(name, flags).map_err(failed)?;
            if first.flags().map_err(failed)? & tun::PERSIST == 0 {
                // It vanished in between and was made anew just now, or it belongs to a program that has it open.
                return Err(failed(Errno::ENODEV.into()));
            }
            let more = more_queues(ATTACH, name, flags, queues)?;
            Ok(Self::of(name, index, first, more))
        })?
    }

    /// Removes a persistent tap that nobody has open, as [`Links::stale_taps`](super::Links::stale_taps) found it; [`Reason::Busy`]
    /// when somebody has attached to it in the meantime. Its owner needs no privilege for it.
    pub fn remove_persistent(namespace: &Namespace, name: &str, found: &TapState) -> Result<(), LinkError> {
        const REMOVE: &str = "remove the tap";
        let failed = |source| LinkError::failed(REMOVE, name, source);
        if found.open {
            return Err(failed(Errno::EBUSY.into()));
        }
        // With the flags that it has: attaching to a tap of several queues succeeds also when it is in use, and sets them.
        let queues = if found.multi_queue { 2 } else { 1 };
        namespace.run(|| {
            index_of(name).map_err(failed)?;
            let queue = open(REMOVE, name)?;
            queue.attach(name, flags(found.vnet_hdr, queues > 1)).map_err(failed)?;
            queue.set_persistent(false).map_err(failed)
        })?
    }

    fn of(name: &str, index: u32, first: Queue, more: Vec<Queue>) -> Self {
        let queues = std::iter::once(first).chain(more).map(Queue::into_fd).collect();
        Self { name: name.to_owned(), index, queues }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// One descriptor for each queue, to be handed to QEMU as `fd=` or, several, as `fds=` of `-netdev tap`.
    pub fn fds(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(AsFd::as_fd)
    }

    /// The descriptors themselves.
    #[must_use]
    pub fn into_fds(self) -> Vec<OwnedFd> {
        self.queues
    }
}

fn flags(vnet_hdr: bool, multi_queue: bool) -> i32 {
    let mut flags = tun::TAP;
    if vnet_hdr {
        flags |= tun::VNET_HDR;
    }
    if multi_queue {
        flags |= tun::MULTI_QUEUE;
    }
    flags
}

/// All queues but the first.
fn more_queues(
    operation: &'static str,
    name: &str,
    flags: i32,
    queues: u16,
) -> Result<Vec<Queue>, LinkError> {
    let attach = |_| {
        let queue = open(operation, name)?;
        queue.attach(name, flags).map_err(|source| LinkError::failed(operation, name, source))?;
        Ok(queue)
    };
    (1..queues).map(attach).collect()
}

/// Opens the device; where it is missing, so is the module (or a container was not given it).
fn open(operation: &'static str, name: &str) -> Result<Queue, LinkError> {
    Queue::open().map_err(|source| {
        let reason = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => Reason::Unsupported,
            Some(Errno::EACCES | Errno::EPERM) => Reason::DeviceClosed,
            _ => Reason::of(&source),
        };
        let source = io::Error::new(source.kind(), Opening(source));
        LinkError::Failed { operation, interface: name.to_owned(), reason, source }
    })
}

/// Says which file it was about, which the interface's name does not.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}", tun::DEVICE)]
struct Opening(#[source] io::Error);

fn index_of(name: &str) -> io::Result<u32> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(netdevice::name_to_index(socket, name)?)
}

fn own_mac(guest: Mac) -> Mac {
    let mut bytes = guest.bytes();
    bytes[0] = 0xfe;
    // `fe` makes it a unicast address whatever follows.
    Mac::try_from(bytes).unwrap_or(guest)
}
