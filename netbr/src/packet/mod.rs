//! A packet socket on one interface (packet(7)), with a kernel filter.
//!
//! **What it sees.** The kernel shows a packet socket the frames that come in *before* nftables' `ingress` hook of the
//! device, and those that go out *after* its `egress` hook (`__netif_receive_skb_core` and `dev_queue_xmit_nit` in
//! `net/core/dev.c`). On a port whose frames are rewritten by those hooks it therefore shows the guest's own view: the
//! addresses that the guest believes in, both ways.
//!
//! **What it does not see.** Its own sends. Who needs them accounted for must do so itself.
//!
//! A checksum in a frame of this very host may not be filled in yet, as hardware would do that last; so none are checked.

mod filter;
mod lend;
mod sys;

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::sockopt::Mark;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrStorage, getsockname, recvmsg, send,
    setsockopt, socket,
};
use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::sockopt::{socket_domain, socket_type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use filter::Filter;
pub use lend::{Borrowed, LendError, Relay, borrow, lend};

use crate::ns::{Namespace, NamespaceError};
use lend::Lender;

/// The longest frame that [`Filter::addresses`] lets pass on an interface of the usual MTU, with room to spare: a buffer
/// of so many bytes cuts off no DHCP message.
pub const FRAME_ROOM: usize = 2048;

/// Why a packet socket does not work.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// CAP_NET_RAW is needed in the namespace's user namespace.
    #[error(
        "may not open a packet socket on {interface}: that needs CAP_NET_RAW, so run as root or be handed the socket"
    )]
    NotPermitted {
        /// The interface.
        interface: String,
    },
    /// The kernel was built without packet sockets (CONFIG_PACKET), or its module is not there.
    #[error("cannot open a packet socket on {interface}: this kernel has none; load its module `af_packet`")]
    Unsupported {
        /// The interface.
        interface: String,
    },
    /// There is no such interface in the namespace, or it was deleted.
    #[error("there is no network interface {interface}")]
    Gone {
        /// The interface.
        interface: String,
    },
    /// The interface is down; it may also be about to be deleted, as the kernel takes one down first.
    #[error("the network interface {interface} is down: set it up to go on")]
    Down {
        /// The interface.
        interface: String,
    },
    /// The descriptor handed over is something else.
    #[error("the descriptor handed over for watching an interface is no packet socket bound to one")]
    NotAPacketSocket,
    /// Any other refusal.
    #[error("cannot {operation} on {interface}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The interface.
        interface: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// How a packet socket is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What the kernel lets pass.
    pub filter: Filter,
    /// Whether the filter is fixed for the socket's life (`SO_LOCK_FILTER`, socket(7)): for a socket that goes to a
    /// process with fewer privileges.
    pub lock_filter: bool,
    /// Whether sends skip the interface's queueing discipline (`PACKET_QDISC_BYPASS`, packet(7)): a little quicker, but a full
    /// queue drops instead of holding back. nftables' `egress` hook sees such frames all the same (`packet_xmit` in
    /// `net/packet/af_packet.c`): what is sent on a port that rewrites frames is always rewritten.
    pub bypass_queue: bool,
    /// A mark for all that is sent (`SO_MARK`, socket(7)), by which rules of nftables know it: on a veiled port
    /// [`veil::MARK`](crate::veil::MARK) lets frames reach the guest as they are.
    pub mark: Option<u32>,
}

impl Options {
    /// A filter, neither locked nor bypassing anything.
    #[must_use]
    pub const fn new(filter: Filter) -> Self {
        Self { filter, lock_filter: false, bypass_queue: false, mark: None }
    }
}

/// Which way a frame went through the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It came in: on a port, from the guest behind it.
    FromGuest,
    /// It went out (`PACKET_OUTGOING`): on a port, to the guest behind it.
    ToGuest,
}

/// A frame as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// How many bytes of it lie in the buffer.
    pub len: usize,
    /// How many bytes it had.
    pub frame_len: usize,
    /// Which way it went.
    pub direction: Direction,
}

impl Received {
    /// Whether the buffer was too short for it.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.len < self.frame_len
    }
}

/// What an interface says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Set up by its owner (`IFF_UP`).
    pub up: bool,
    /// Somebody is at the other end (`IFF_RUNNING`): for a tap, a program has opened it.
    pub running: bool,
}

/// Makes a packet socket without a runtime: for a privileged helper that hands the descriptor over.
///
/// The filter is in place before the socket is bound, and an unbound one of protocol 0 receives nothing: not one frame that
/// the filter would refuse is ever queued.
pub fn open(namespace: &Namespace, interface: &str, options: Options) -> Result<OwnedFd, PacketError> {
    namespace.run(|| open_here(interface, options))?
}

fn open_here(interface: &str, options: Options) -> Result<OwnedFd, PacketError> {
    let failed = |operation| move |errno: Errno| error(errno, operation, interface);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(failed("open a packet socket"))?;
    sys::attach_filter(socket.as_fd(), options.filter.program())
        .map_err(failed("attach a filter to a packet socket"))?;
    if options.lock_filter {
        sys::lock_filter(socket.as_fd()).map_err(failed("lock the filter of a packet socket"))?;
    }
    if options.bypass_queue {
        sys::bypass_queue(socket.as_fd()).map_err(failed("let a packet socket bypass the queue"))?;
    }
    if let Some(mark) = options.mark {
        setsockopt(&socket, Mark, &mark).map_err(failed("mark what is sent by a packet socket"))?;
    }
    let index = name_to_index(&socket, interface)
        .map_err(|e| error(Errno::from_raw(e.raw_os_error()), "look up the index", interface))?;
    sys::bind(socket.as_fd(), index).map_err(failed("bind a packet socket"))?;
    Ok(socket)
}

fn error(errno: Errno, operation: &'static str, interface: &str) -> PacketError {
    let interface = interface.to_owned();
    match errno {
        Errno::EPERM | Errno::EACCES => PacketError::NotPermitted { interface },
        Errno::EAFNOSUPPORT => PacketError::Unsupported { interface },
        Errno::ENODEV | Errno::ENXIO => PacketError::Gone { interface },
        Errno::ENETDOWN => PacketError::Down { interface },
        other => PacketError::Io { operation, interface, source: other.into() },
    }
}

/// What went wrong with a packet socket bound to the interface of this index; `fd` is any socket of its namespace.
fn explain(
    fd: impl AsFd,
    index: u32,
    interface: &str,
    failure: &io::Error,
    operation: &'static str,
) -> PacketError {
    match error(Errno::from_raw(failure.raw_os_error().unwrap_or(0)), operation, interface) {
        // A deleted interface goes down first, and nothing tells of the second step.
        PacketError::Down { .. }
            if matches!(name_of(fd, index, interface), Err(PacketError::Gone { .. })) =>
        {
            PacketError::Gone { interface: interface.to_owned() }
        }
        other => other,
    }
}

/// The name now of the interface of this index, or [`PacketError::Gone`]; `fd` is any socket of its namespace.
fn name_of(fd: impl AsFd, index: u32, interface: &str) -> Result<String, PacketError> {
    index_to_name(fd, index)
        .map_err(|e| error(Errno::from_raw(e.raw_os_error()), "look up the name", interface))
}

/// A packet socket bound to one interface, or the frames of one that a lender keeps ([`borrow`]), for use on a tokio runtime.
#[derive(Debug)]
pub struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
    interface: String,
    index: u32,
    /// Who has the packet socket, where `fd` is only the way to it. Dropped after `fd`.
    lender: Option<Lender>,
}

impl PacketSocket {
    /// Opens one; see [`open`]. Must be called on a tokio runtime with I/O enabled.
    pub fn open(namespace: &Namespace, interface: &str, options: Options) -> Result<Self, PacketError> {
        Self::from_fd(open(namespace, interface, options)?)
    }

    /// Takes over one that [`open`] made, here or in another process. Must be called on a tokio runtime with I/O enabled.
    ///
    /// The flags that the descriptor needs here, close-on-exec and non-blocking, are set whatever they were.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, PacketError> {
        let packet = socket_domain(&fd).is_ok_and(|domain| domain == rustix::net::AddressFamily::PACKET)
            && socket_type(&fd).is_ok_and(|kind| kind == rustix::net::SocketType::RAW);
        if !packet {
            return Err(PacketError::NotAPacketSocket);
        }
        let address =
            getsockname::<SockaddrStorage>(fd.as_raw_fd()).map_err(|_| PacketError::NotAPacketSocket)?;
        let index = address.as_link_addr().and_then(|link| u32::try_from(link.ifindex()).ok()).unwrap_or(0);
        if index == 0 {
            return Err(PacketError::NotAPacketSocket);
        }
        let interface = index_to_name(&fd, index)
            .map_err(|_| PacketError::Gone { interface: format!("with the index {index}") })?;
        let io = |source: io::Error| PacketError::Io {
            operation: "set up a packet socket",
            interface: interface.clone(),
            source,
        };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|e| io(e.into()))?;
        let status = fcntl(&fd, FcntlArg::F_GETFL).map_err(|e| io(e.into()))?;
        let status = OFlag::from_bits_retain(status) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(status)).map_err(|e| io(e.into()))?;
        let fd = sys::register(fd).map_err(io)?;
        Ok(Self { fd, interface, index, lender: None })
    }

    /// Takes frames from a lender's packet socket and gives it some to send. Must be called on a tokio runtime with I/O enabled.
    ///
    /// All works as with a socket of one's own, but that what was sent has only reached the lender, which drops what the
    /// interface refuses. When the lender ends, everything fails, with [`PacketError::Gone`] where the interface is gone.
    pub fn relayed(borrowed: Borrowed) -> Result<Self, PacketError> {
        let Borrowed { socket, lender, interface, index } = borrowed;
        match sys::register(socket) {
            Ok(fd) => Ok(Self { fd, interface, index, lender: Some(lender) }),
            Err(source) => Err(PacketError::Io { operation: "set up a relay of frames", interface, source }),
        }
    }

    /// The interface's name when the socket was taken over.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The interface's index, which stays when it is renamed.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Waits for a frame and copies it into `buf`, as much of it as fits.
    ///
    /// [`PacketError::Down`] is reported once when the interface goes down; frames come again when it is set up again.
    /// Cancelling loses no frame.
    // A packet socket whose interface goes down polls as failed, and not as readable.
    pub async fn recv(&self, buf: &mut [u8]) -> Result<Received, PacketError> {
        loop {
            let ready = self.fd.ready(Interest::READABLE | Interest::ERROR).await;
            let mut guard = ready.map_err(|source| self.io("wait for frames", source))?;
            match guard.try_io(|fd| self.receive(fd.get_ref(), buf)) {
                Ok(Ok(received)) => return Ok(received),
                Ok(Err(failure)) => return Err(self.failure(&failure, "receive a frame")),
                Err(_would_block) => {}
            }
        }
    }

    /// A frame that is already there, if any.
    pub fn try_recv(&self, buf: &mut [u8]) -> Result<Option<Received>, PacketError> {
        match self.fd.try_io(Interest::READABLE | Interest::ERROR, |fd| self.receive(fd, buf)) {
            Ok(received) => Ok(Some(received)),
            Err(none) if none.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(failure) => Err(self.failure(&failure, "receive a frame")),
        }
    }

    /// Sends a whole Ethernet frame out of the interface, and waits where the socket's buffer is full.
    pub async fn send(&self, frame: &[u8]) -> Result<(), PacketError> {
        self.may_relay(frame)?;
        let sent = self.fd.async_io(Interest::WRITABLE, |fd| transmit(fd, frame)).await;
        sent.map_err(|failure| self.failure(&failure, "send a frame"))
    }

    /// Sends a whole Ethernet frame if there is room now, and says whether there was.
    pub fn try_send(&self, frame: &[u8]) -> Result<bool, PacketError> {
        self.may_relay(frame)?;
        match self.fd.try_io(Interest::WRITABLE, |fd| transmit(fd, frame)) {
            Ok(()) => Ok(true),
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(failure) => Err(self.failure(&failure, "send a frame")),
        }
    }

    /// Whether the interface is up and has a carrier, now.
    pub fn link_state(&self) -> Result<LinkState, PacketError> {
        let name = self.current_name()?;
        sys::link_flags(self.fd.as_fd(), &name)
            .map(|(up, running)| LinkState { up, running })
            .map_err(|errno| error(errno, "read the flags", &self.interface))
    }

    /// The interface's name now, or [`PacketError::Gone`].
    fn current_name(&self) -> Result<String, PacketError> {
        name_of(&self.fd, self.index, &self.interface)
    }

    fn receive(&self, fd: &OwnedFd, buf: &mut [u8]) -> io::Result<Received> {
        if self.lender.is_some() { lend::receive(fd, buf) } else { receive(fd, buf) }
    }

    /// Refuses what a packet socket would refuse at once, where a lender has it, which answers nothing.
    fn may_relay(&self, frame: &[u8]) -> Result<(), PacketError> {
        if self.lender.is_none() {
            return Ok(());
        }
        // An empty message would be the relay's end (recv(2)).
        if frame.is_empty() {
            return Err(self.io("send a frame", Errno::EINVAL.into()));
        }
        if self.link_state()?.up {
            Ok(())
        } else {
            Err(PacketError::Down { interface: self.interface.clone() })
        }
    }

    fn failure(&self, failure: &io::Error, operation: &'static str) -> PacketError {
        if self.lender.is_some() && lend::is_end(failure) {
            let source = io::ErrorKind::UnexpectedEof.into();
            // The lender ends with the interface.
            return self.current_name().err().unwrap_or_else(|| self.io("use the relay of frames", source));
        }
        explain(&self.fd, self.index, &self.interface, failure, operation)
    }

    fn io(&self, operation: &'static str, source: io::Error) -> PacketError {
        PacketError::Io { operation, interface: self.interface.clone(), source }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn receive(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<Received> {
    let room = buf.len();
    let mut parts = [IoSliceMut::new(buf)];
    // MSG_TRUNC: the length of the whole frame is wanted, also of one that does not fit (recv(2)).
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let message = loop {
        match recvmsg::<LinkAddr>(fd.as_raw_fd(), &mut parts, None, flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let outgoing = message.address.is_some_and(|from| from.pkttype() == nix::libc::PACKET_OUTGOING);
    let direction = if outgoing { Direction::ToGuest } else { Direction::FromGuest };
    Ok(Received { len: message.bytes.min(room), frame_len: message.bytes, direction })
}

/// Sends one message without waiting.
fn transmit(fd: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    loop {
        match send(fd.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}
