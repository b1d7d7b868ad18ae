//! Lending a packet socket to a process without privilege.
//!
//! Only CAP_NET_RAW opens packet sockets. Who owns a tap (TUNSETOWNER, `Documentation/networking/tuntap.rst`) sends and receives all of its
//! frames anyway, by attaching to it; so a packet socket on it, with a filter that cannot be changed any more, gives its owner
//! nothing that he could not have, and a small program that has this one capability may hand one out to him.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::getuid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{Filter, Options, PacketError, open};
use crate::Namespace;
use crate::link::{LinkError, Links};

/// Why no packet socket is lent.
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
    /// The socket cannot be made.
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
    /// The socket cannot be handed over.
    #[error("cannot hand a packet socket over")]
    HandOver(#[source] io::Error),
}

/// Opens a packet socket on a tap of the calling user's, by his real id, and hands it over `to`. Its filter lets pass what tells
/// addresses, and is locked.
///
/// Must be called on a tokio runtime.
pub async fn lend(interface: &str, to: &UnixStream) -> Result<(), LendError> {
    let namespace = Namespace::current();
    let uid = getuid().as_raw();
    let links = Links::open(&namespace)?;
    let mine = |link: &crate::link::Link| link.tap().is_some_and(|tap| tap.owner == Some(uid));
    let not_owner = || LendError::NotOwner { interface: interface.to_owned(), uid };
    let before = links.get(interface).await?.filter(mine).ok_or_else(not_owner)?;
    let options = Options { lock_filter: true, ..Options::new(Filter::addresses()) };
    let socket = open(&namespace, interface, options)?;
    // It was bound by name: what has the name now must be what was looked at.
    links.get(interface).await?.filter(|now| mine(now) && now.index == before.index).ok_or_else(not_owner)?;
    send_fd(to, &socket).map_err(|e| LendError::HandOver(e.into()))
}

/// Asks a lender, a program that calls [`lend`] with its one argument and its standard input, for a socket on `interface`.
pub fn borrow(lender: &Path, interface: &str) -> Result<OwnedFd, LendError> {
    let program = || lender.display().to_string();
    let (ours, theirs) = UnixStream::pair().map_err(LendError::HandOver)?;
    let child = Command::new(lender)
        .arg(interface)
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let output = child
        .and_then(std::process::Child::wait_with_output)
        .map_err(|source| LendError::Run { program: program(), source })?;
    // It has ended: what it sent is in the socket's buffer.
    match receive_fd(&ours).map_err(|e| LendError::HandOver(e.into()))? {
        Some(socket) if output.status.success() => Ok(socket),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(LendError::Refused { program: program(), said })
        }
    }
}

fn send_fd(to: &UnixStream, fd: &OwnedFd) -> rustix::io::Result<()> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(to, &[IoSlice::new(b"!")], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

fn receive_fd(from: &UnixStream) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    match recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
        Ok(_) => {}
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        Err(e) => return Err(e),
    }
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_goes_over_and_nothing_is_told_apart() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(receive_fd(&other).unwrap().is_none());
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        send_fd(&one, &file).unwrap();
        assert!(receive_fd(&other).unwrap().is_some());
        drop(one);
        assert!(receive_fd(&other).unwrap().is_none());
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
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(matches!(lend("lo", &ours).await, Err(LendError::NotOwner { .. })));
    }
}
