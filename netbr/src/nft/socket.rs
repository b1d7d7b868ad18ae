//! The socket: batches go out, answers come in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

use rustix::net::netdevice::name_to_index;

use super::batch::Batch;
use super::error::NftError;
use super::model::{Family, Table};
use super::wire::{self, ACK, BATCH_BEGIN, BATCH_END, DONE, DUMP, DUMP_INTERRUPTED, ERROR, Message};
use crate::Namespace;

/// As much as the kernel puts into one datagram (`NLMSG_GOODSIZE` is at most 8 KiB; dumps use up to 32 KiB where there is room).
const DATAGRAM: usize = 32 * 1024;
/// How often a listing that was changed while it was read is begun again.
const DUMP_TRIES: usize = 8;

/// nftables of one network namespace.
///
/// Keep it open where time matters: when it is closed, the kernel waits until what was deleted lately is freed (some milliseconds, a
/// grace period of RCU), whoever deleted it; changes themselves take a fraction of one.
#[derive(Debug)]
pub struct Nft {
    socket: OwnedFd,
    sequence: u32,
}

impl Nft {
    /// Opens nftables of a namespace. No privilege is needed for that.
    pub fn open(namespace: &Namespace) -> Result<Self, NftError> {
        let socket = namespace
            .run(|| {
                socket(
                    AddressFamily::Netlink,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::NetlinkNetFilter,
                )
            })?
            .map_err(|errno| NftError::socket(errno, "open a netlink socket for nftables"))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a table with all that is in it, in place of the one of that name if there is one. Between the two no packet passes by
    /// neither.
    pub fn put(&mut self, table: &Table) -> Result<(), NftError> {
        if !self.exists(table.family, &table.name)? {
            let mut batch = Batch::new();
            batch.create(table);
            match self.apply(&batch) {
                Err(NftError::Refused { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        let mut batch = Batch::new();
        batch.replace(table);
        self.apply(&batch)
    }

    /// Deletes a table with all that is in it. It is no error when there is none.
    pub fn remove(&mut self, family: Family, table: &str) -> Result<(), NftError> {
        if !self.exists(family, table)? {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete(family, table);
        self.apply(&batch)
    }

    /// Makes all changes of a batch, or none.
    pub fn apply(&mut self, batch: &Batch) -> Result<(), NftError> {
        let Some(last) = batch.steps.len().checked_sub(1) else { return Ok(()) };
        // Linux 6.16 and later take a chain on a device that is not there, and wait for one of that name.
        for step in &batch.steps {
            if let Some(device) = &step.device
                && name_to_index(&self.socket, device).is_err()
            {
                return Err(NftError::NoDevice { operation: step.does.clone(), device: device.clone() });
            }
        }
        // Messages are numbered: the beginning has `first`, the step with index i `first + 1 + i`.
        let first = self.sequence.wrapping_add(1);
        let number =
            |index: usize| first.wrapping_add(1).wrapping_add(u32::try_from(index).unwrap_or(u32::MAX));
        let mut bytes = Message::batch(BATCH_BEGIN).finish(first, 0);
        for (index, step) in batch.steps.iter().enumerate() {
            // One acknowledgement is enough, as errors are told in any case; one for each would fill the socket.
            let flags = if index == last { ACK } else { 0 };
            bytes.extend(step.message.clone().finish(number(index), flags));
        }
        self.sequence = number(last + 1);
        bytes.extend(Message::batch(BATCH_END).finish(self.sequence, 0));

        self.send(&bytes, &batch.steps[0].does)?;
        let mut acknowledged = false;
        let mut failed: Option<(usize, Errno)> = None;
        let mut buffer = vec![0; DATAGRAM];
        // The kernel has answered when the sending returns.
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(NftError::socket(errno, &batch.steps[0].does)),
            };
            for message in wire::messages(&buffer[..length]).filter(|m| m.kind == ERROR) {
                let index = message.sequence.wrapping_sub(first);
                // What is answered to the beginning is about the whole.
                let index = usize::try_from(index).unwrap_or(0).saturating_sub(1);
                match message.errno() {
                    0 => acknowledged |= message.sequence == number(last),
                    errno if index <= last && failed.is_none_or(|(earlier, _)| index < earlier) => {
                        failed = Some((index, Errno::from_raw(errno)));
                    }
                    _ => {}
                }
            }
        }
        match failed {
            Some((index, errno)) => Err(NftError::step(errno, &batch.steps[index])),
            None if acknowledged => Ok(()),
            None => Err(NftError::Silent { operation: batch.steps[last].does.clone() }),
        }
    }

    fn send(&self, bytes: &[u8], operation: &str) -> Result<(), NftError> {
        // A batch is one datagram, and the default room for one is 208 KiB. It may be exceeded by those who may change nftables.
        if bytes.len() > 64 * 1024 {
            setsockopt(&self.socket, sockopt::SndBufForce, &(2 * bytes.len()))
                .map_err(|errno| NftError::socket(errno, operation))?;
        }
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NftError::socket(errno, operation)),
            }
        }
    }

    /// Asks for a listing and gives each entry's family and attributes to `entry`.
    pub(super) fn dump<T>(
        &mut self,
        request: &Message,
        operation: &str,
        mut entry: impl FnMut(u8, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NftError> {
        for _ in 0..DUMP_TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            self.send(&request.clone().finish(self.sequence, DUMP), operation)?;
            let mut entries = Vec::new();
            let mut buffer = vec![0; DATAGRAM];
            let mut interrupted = false;
            let mut done = false;
            while !done {
                let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => length,
                    Err(Errno::EINTR) => continue,
                    Err(Errno::EAGAIN) => return Err(NftError::Silent { operation: operation.to_owned() }),
                    Err(errno) => return Err(NftError::socket(errno, operation)),
                };
                for message in wire::messages(&buffer[..length]).filter(|m| m.sequence == self.sequence) {
                    interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                    match message.kind {
                        ERROR | DONE if message.errno() != 0 => {
                            match Errno::from_raw(message.errno()) {
                                Errno::EINTR | Errno::EAGAIN => interrupted = true,
                                // A family or a table that is not there has nothing to list.
                                Errno::ENOENT | Errno::EAFNOSUPPORT => {}
                                errno => return Err(NftError::socket(errno, operation)),
                            }
                            done = true;
                        }
                        ERROR | DONE => done = true,
                        _ => {
                            if let Some((family, attributes)) = message.nftables() {
                                entries.extend(entry(family, attributes));
                            }
                        }
                    }
                }
            }
            if !interrupted {
                return Ok(entries);
            }
        }
        Err(NftError::Refused { operation: operation.to_owned(), source: Errno::EINTR.into() })
    }
}
