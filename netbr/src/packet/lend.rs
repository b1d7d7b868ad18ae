//! Lending what a packet socket receives and sends to a process without privilege.
//!
//! Only CAP_NET_RAW opens packet sockets. Who owns a tap (TUNSETOWNER, `Documentation/networking/tuntap.rst`) sends and receives all of its
//! frames anyway, by attaching to it; so the frames of a packet socket on it, behind a filter, give its owner nothing that he could not
//! have, and a small program that has this one capability may pass them on to him.
//!
//! The socket itself it may not hand out: the capability is asked for when a packet socket is made and never again, so whoever has one
//! binds it to any interface with bind(2), or sends out of any with sendto(2) and another `sll_ifindex` (packet(7); `packet_bind` and
//! `packet_snd` in `net/packet/af_packet.c`). So the lender keeps it, and nobody may take it from the lender, neither by ptrace(2) nor by
//! pidfd_getfd(2).
//!
//! **The relay** is a pair of Unix sockets of the type SOCK_SEQPACKET (unix(7)). The borrower sends frames as they are. The lender's
//! messages begin with a byte that tells what they are: first of all [`HELLO`], alone, then frames, [`FROM_GUEST`] or [`TO_GUEST`], and
//! [`DOWN`], alone, when the interface goes down. Either ends by closing its end.

use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, recvmsg};
use nix::unistd::getuid;
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::{Direction, Filter, Options, PacketError, Received, error, explain, name_of, open, transmit};
use crate::Namespace;
use crate::link::{LinkError, Links};

/// A frame that came in from the guest follows.
const FROM_GUEST: u8 = 0;
/// A frame that went out to the guest follows.
const TO_GUEST: u8 = 1;
/// The interface went down.
const DOWN: u8 = 2;
/// The relay works.
const HELLO: u8 = 0xff;

/// Room for the longest frame: no interface has a longer MTU than 65535 bytes for what is no segment to be cut up, and
/// the filter lets none of those pass.
const LONGEST: usize = 1 << 16;

/// Why nothing is lent.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// The interface cannot be looked at.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Only a tap's owner is lent a socket on it.
    #[error("{interface} is no tap of the user {uid}: `midge net setup` makes such")]
    NotOwner {
        /// The interface.
        interface: String,
        /// Who asked.
        uid: u32,
    },
    /// The socket cannot be made, or its interface is gone.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The lender cannot be run.
    #[error("cannot run {program}: `sudo midge net setup --user $USER` installs it")]
    Run {
        /// The program.
        program: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The lender refused.
    #[error("{program} lends no packet socket: {said}")]
    Refused {
        /// The program.
        program: String,
        /// What it wrote.
        said: String,
    },
    /// The lender cannot protect what it has.
    #[error("cannot give up what only opening a packet socket takes")]
    Confine(#[source] io::Error),
    /// Frames are passed over a Unix socket that keeps messages apart.
    #[error("the standard input is no Unix socket of the type SOCK_SEQPACKET: only midge runs this")]
    NoRelay,
    /// Frames cannot be passed on.
    #[error("cannot pass frames on")]
    Relay(#[source] io::Error),
}

/// Opens a packet socket on a tap of the calling user's, by his real id, for passing its frames on `to` him. Its filter lets pass what
/// tells addresses.
///
/// The calling thread has no capability afterwards, and nobody without one may trace the process: it is to be the only thread of a process
/// that does nothing else. Must be called on a tokio runtime.
pub async fn lend(interface: &str, to: OwnedFd) -> Result<Relay, LendError> {
    let namespace = Namespace::current();
    let uid = getuid().as_raw();
    let links = Links::open(&namespace)?;
    let mine = |link: &crate::link::Link| link.tap().is_some_and(|tap| tap.owner == Some(uid));
    let not_owner = || LendError::NotOwner { interface: interface.to_owned(), uid };
    let before = links.get(interface).await?.filter(mine).ok_or_else(not_owner)?;
    // Before there is something to take: without capabilities only this keeps the user's other processes from tracing this one
    // (PR_SET_DUMPABLE(2const)), and what an exec sets it to is up to `fs.suid_dumpable`.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| LendError::Confine(e.into()))?;
    let options = Options { lock_filter: true, ..Options::new(Filter::addresses()) };
    let socket = open(&namespace, interface, options)?;
    give_up_capabilities().map_err(LendError::Confine)?;
    // It was bound by name: what has the name now must be what was looked at.
    links.get(interface).await?.filter(|now| mine(now) && now.index == before.index).ok_or_else(not_owner)?;
    let relay = socket_domain(&to).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && socket_type(&to).is_ok_and(|kind| kind == SocketType::SEQPACKET);
    if !relay {
        return Err(LendError::NoRelay);
    }
    Ok(Relay { socket, peer: to, interface: interface.to_owned(), index: before.index })
}

/// Gives up all capabilities of the calling thread for ever, the ambient ones too, as they are always permitted ones (capabilities(7)).
fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// A lender's packet socket, and the way to who borrows it.
#[derive(Debug)]
pub struct Relay {
    socket: OwnedFd,
    peer: OwnedFd,
    interface: String,
    index: u32,
}

impl Relay {
    /// Passes frames on, until the borrower closes his end or the interface is gone. Blocks.
    ///
    /// A frame is dropped where the borrower has no room for it, or the interface refuses it: as on any network.
    pub fn run(self) -> Result<(), LendError> {
        let mut buf = vec![0; 1 + LONGEST];
        transmit(&self.peer, &[HELLO]).map_err(LendError::Relay)?;
        // Whether the borrower has yet to be told.
        let mut down = false;
        loop {
            let room = if down { PollFlags::POLLOUT } else { PollFlags::empty() };
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.peer.as_fd(), PollFlags::POLLIN | room),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                polled => polled.map_err(|e| LendError::Relay(e.into()))?,
            };
            let [from_interface, from_peer] = fds.map(|fd| fd.any() != Some(false));
            if from_peer && self.send_next(&mut buf)?.is_none() {
                return Ok(());
            }
            if from_interface {
                down |= self.receive_next(&mut buf)?;
            }
            if down {
                down = transmit(&self.peer, &[DOWN]).is_err();
            }
        }
    }

    /// Sends the borrower's next frame, if any, or says by `None` that he has ended. The socket is bound to the one interface,
    /// and no address is given with what is sent, so it goes out there or nowhere.
    fn send_next(&self, buf: &mut [u8]) -> Result<Option<()>, LendError> {
        match recv(self.peer.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::ECONNRESET) => Ok(None),
            Ok(len) => {
                if transmit(&self.socket, &buf[..len]).is_err() {
                    // It may be down, full, or find the frame too long; all that matters is whether it is there.
                    name_of(&self.socket, self.index, &self.interface)?;
                }
                Ok(Some(()))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Some(())),
            Err(e) => Err(LendError::Relay(e.into())),
        }
    }

    /// Passes the interface's next frame on, if any, and says whether the interface has gone down instead.
    fn receive_next(&self, buf: &mut [u8]) -> Result<bool, LendError> {
        match super::receive(&self.socket, &mut buf[1..]) {
            Ok(received) => {
                buf[0] = match received.direction {
                    Direction::FromGuest => FROM_GUEST,
                    Direction::ToGuest => TO_GUEST,
                };
                // One who has ended is noticed where his frames are received.
                let _ = transmit(&self.peer, &buf[..=received.len]);
                Ok(false)
            }
            Err(none) if none.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => match explain(&self.socket, self.index, &self.interface, &e, "receive a frame") {
                // Frames come again when it is up again.
                PacketError::Down { .. } => Ok(true),
                other => Err(other.into()),
            },
        }
    }
}

/// What a lender passes on, for [`PacketSocket::relayed`](super::PacketSocket::relayed). The lender ends with it.
#[derive(Debug)]
pub struct Borrowed {
    pub(super) socket: OwnedFd,
    pub(super) lender: Lender,
    pub(super) interface: String,
    pub(super) index: u32,
}

/// A lender's process, ended and reaped when dropped. That is allowed though it began with a capability: its real user is the
/// borrower's (kill(2)).
#[derive(Debug)]
pub(super) struct Lender(Child);

impl Drop for Lender {
    fn drop(&mut self) {
        // It fails only where it has ended and was reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks a lender, a program that calls [`lend`] with its one argument and its standard input, for the frames of `interface`.
///
/// Blocks until the lender says that they come, or ends.
pub fn borrow(lender: &Path, interface: &str) -> Result<Borrowed, LendError> {
    let program = || lender.display().to_string();
    let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| LendError::Relay(e.into()))?;
    let child = Command::new(lender)
        .arg(interface)
        .env_clear()
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    // What was set for it, and with it our copy of its end of the relay, is closed now: when it ends, that is seen.
    let mut lender = Lender(child.map_err(|source| LendError::Run { program: program(), source })?);
    let mut first = [0; 2];
    let len = loop {
        match recv(socket.as_raw_fd(), &mut first, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            other => break other.unwrap_or(0),
        }
    };
    if first[..len] == [HELLO] {
        let index = name_to_index(&socket, interface)
            .map_err(|e| error(Errno::from_raw(e.raw_os_error()), "look up the index", interface))?;
        return Ok(Borrowed { socket, lender, interface: interface.to_owned(), index });
    }
    if len > 0 {
        // It goes on with what is no relay.
        let _ = lender.0.kill();
    }
    let mut said = Vec::new();
    if let Some(stderr) = &mut lender.0.stderr {
        stderr.read_to_end(&mut said).map_err(|source| LendError::Run { program: program(), source })?;
    }
    let said = match String::from_utf8_lossy(&said).trim() {
        "" => "it does not say why; `sudo midge net setup --user $USER` installs the one of this version"
            .to_owned(),
        said => said.to_owned(),
    };
    Err(LendError::Refused { program: program(), said })
}

/// A lender's next message, without waiting; [`DOWN`] is the error that a packet socket has then, ENETDOWN.
pub(super) fn receive(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<Received> {
    let room = buf.len();
    let mut kind = [0];
    // MSG_TRUNC: the length of the whole frame is wanted, also of one that does not fit (recv(2)).
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let len = loop {
        let mut parts = [IoSliceMut::new(&mut kind), IoSliceMut::new(buf)];
        match recvmsg::<()>(fd.as_raw_fd(), &mut parts, None, flags) {
            Err(Errno::EINTR) => {}
            other => break other?.bytes,
        }
    };
    let direction = match (len, kind) {
        (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
        (_, [DOWN]) => return Err(Errno::ENETDOWN.into()),
        (_, [TO_GUEST]) => Direction::ToGuest,
        _ => Direction::FromGuest,
    };
    let frame_len = len - 1;
    Ok(Received { len: frame_len.min(room), frame_len, direction })
}

/// Whether the lender at the other end has ended.
pub(super) fn is_end(failure: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(failure.kind(), UnexpectedEof | BrokenPipe | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sched::{CloneFlags, unshare};

    use super::super::{PacketSocket, Received};
    use super::*;

    /// An ARP frame, told apart by a number.
    fn arp(number: u8) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([0x52, 0x54, 0, 0, 0, 1, 8, 6]);
        frame.extend([number; 28]);
        frame
    }

    fn run(words: &str) {
        let mut words = words.split(' ');
        assert!(Command::new(words.next().unwrap()).args(words).status().unwrap().success());
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    async fn next(socket: &PacketSocket, buf: &mut [u8]) -> Result<Received, PacketError> {
        tokio::time::timeout(Duration::from_secs(20), socket.recv(buf)).await.unwrap()
    }

    /// Runs a test on a thread of its own in a network namespace of its own, with a cable from `one` to `two`.
    fn with_cable(test: impl AsyncFnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("run the tests as root");
            // Quiet: no addresses of its own that it would announce.
            run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
            run("ip link add one type veth peer name two");
            run("ip link set one up");
            run("ip link set two up");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        });
        thread.join().unwrap();
    }

    /// It bypasses the queue, which drops for a moment after the other end was set up. Others see nothing of what it sends then.
    fn bypassing(interface: &str) -> OwnedFd {
        let options = Options { bypass_queue: true, ..Options::new(Filter::addresses()) };
        open(&Namespace::current(), interface, options).unwrap()
    }

    /// A relay on `two` by a thread of this process; `sleep` stands for the lender's process, of which only the end matters here.
    fn relay() -> (PacketSocket, std::thread::JoinHandle<Result<(), LendError>>) {
        let (ours, peer) = pair();
        let socket = bypassing("two");
        let index = name_to_index(&socket, "two").unwrap();
        let relay = Relay { socket, peer, interface: "two".to_owned(), index };
        let thread = std::thread::spawn(|| relay.run());
        let mut first = [0; 2];
        assert_eq!(recv(ours.as_raw_fd(), &mut first, MsgFlags::empty()).unwrap(), 1);
        assert_eq!(first[0], HELLO);
        let lender = Lender(Command::new("sleep").arg("600").spawn().unwrap());
        let borrowed = Borrowed { socket: ours, lender, interface: "two".to_owned(), index };
        (PacketSocket::relayed(borrowed).unwrap(), thread)
    }

    #[test]
    fn frames_are_passed_on_both_ways_until_the_borrower_ends() {
        with_cable(async || {
            let (socket, thread) = relay();
            let pid = socket.lender.as_ref().unwrap().0.id();
            let one = PacketSocket::from_fd(bypassing("one")).unwrap();
            let options = Options::new(Filter::addresses());
            let two = PacketSocket::open(&Namespace::current(), "two", options).unwrap();
            let mut buf = [0; 100];
            assert_eq!(socket.try_recv(&mut buf).unwrap(), None);

            one.send(&arp(1)).await.unwrap();
            let received = next(&socket, &mut buf).await.unwrap();
            assert_eq!(received, Received { len: 42, frame_len: 42, direction: Direction::FromGuest });
            assert_eq!(buf[..42], arp(1));
            two.send(&arp(2)).await.unwrap();
            let received = next(&socket, &mut buf[..20]).await.unwrap();
            assert_eq!(received, Received { len: 20, frame_len: 42, direction: Direction::ToGuest });
            assert_eq!(buf[..20], arp(2)[..20]);
            next(&one, &mut buf).await.unwrap();

            // What no interface takes ends nothing.
            assert!(matches!(socket.send(&[]).await, Err(PacketError::Io { .. })));
            socket.send(&[1]).await.unwrap();
            socket.send(&[1; 9000]).await.unwrap();
            assert!(socket.try_send(&arp(3)).unwrap());
            assert_eq!(next(&one, &mut buf).await.unwrap().direction, Direction::FromGuest);
            assert_eq!(buf[..42], arp(3));

            drop(socket);
            thread.join().unwrap().unwrap();
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is reaped");
        });
    }

    #[test]
    fn an_interface_that_goes_down_or_away_is_told_apart() {
        with_cable(async || {
            let (socket, thread) = relay();
            let mut buf = [0; 100];
            run("ip link set two down");
            assert!(matches!(next(&socket, &mut buf).await, Err(PacketError::Down { .. })));
            assert!(matches!(socket.try_send(&arp(1)), Err(PacketError::Down { .. })));
            run("ip link set two up");
            let one = PacketSocket::from_fd(bypassing("one")).unwrap();
            one.send(&arp(2)).await.unwrap();
            next(&socket, &mut buf).await.unwrap();
            assert_eq!(buf[..42], arp(2));

            run("ip link del two");
            assert!(matches!(
                next(&socket, &mut buf).await,
                Err(PacketError::Gone { .. } | PacketError::Down { .. })
            ));
            assert!(matches!(socket.send(&arp(3)).await, Err(PacketError::Gone { .. })));
            drop(socket);
            // It may have seen how the interface went down, or only that it is gone.
            assert!(matches!(
                thread.join().unwrap(),
                Ok(()) | Err(LendError::Packet(PacketError::Gone { .. }))
            ));
        });
    }

    #[test]
    fn a_lender_that_ends_is_no_interface_that_is_gone() {
        with_cable(async || {
            let (ours, theirs) = pair();
            let index = name_to_index(&ours, "two").unwrap();
            let lender = Lender(Command::new("sleep").arg("600").spawn().unwrap());
            let borrowed = Borrowed { socket: ours, lender, interface: "two".to_owned(), index };
            let socket = PacketSocket::relayed(borrowed).unwrap();
            drop(theirs);
            let mut buf = [0; 100];
            for failure in
                [next(&socket, &mut buf).await.unwrap_err(), socket.send(&arp(1)).await.unwrap_err()]
            {
                assert_eq!(failure.to_string(), "cannot use the relay of frames on two");
            }
            run("ip link del two");
            assert!(matches!(next(&socket, &mut buf).await, Err(PacketError::Gone { .. })));
        });
    }

    #[test]
    fn capabilities_are_given_up_for_ever() {
        // They are a thread's own.
        let thread = std::thread::spawn(|| {
            let before = rustix::thread::capabilities(None).unwrap();
            assert!(before.permitted.contains(CapabilitySet::NET_RAW), "run the tests as root");
            give_up_capabilities().unwrap();
            assert!(set_capabilities(None, before).is_err());
            let refused = open(&Namespace::current(), "lo", Options::new(Filter::addresses()));
            assert!(matches!(refused, Err(PacketError::NotPermitted { .. })));
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_lender_that_lends_nothing_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let lender = folder.path().join("lender");
        std::fs::write(&lender, "#!/bin/sh\necho \"$1 is not yours\" >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&lender, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = borrow(&lender, "tap0").unwrap_err();
        assert!(error.to_string().ends_with("lends no packet socket: tap0 is not yours"), "{error}");
        let error = borrow(&folder.path().join("missing"), "tap0").unwrap_err();
        assert!(matches!(error, LendError::Run { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_loopback_is_nobodys_tap() {
        let (_ours, theirs) = pair();
        assert!(matches!(lend("lo", theirs).await, Err(LendError::NotOwner { .. })));
    }
}
