//! Talking with the kernel about interfaces (rtnetlink(7)).

use midge_identify::netlink::{
    self, Address, Link, Message, NLMSG_DONE, NLMSG_ERROR, RTM_NEWADDR, RTM_NEWLINK,
};
use midge_identify::request::Nic;
use midge_identify::text::Line;
use midge_identify::texts;

use crate::sys::{Errno, File};

/// How long the kernel may take to answer, in milliseconds: it answers at once.
const PATIENCE: u64 = 5000;
/// Room for a datagram: the kernel makes those of a dump two pages long, or as long as one interface needs (Linux,
/// net/netlink/af_netlink.c, `netlink_dump`).
const DATAGRAM: usize = 16 << 10;
const ETIMEDOUT: Errno = Errno(110);
const EPROTO: Errno = Errno(71);

/// A socket.
#[derive(Debug)]
pub(super) struct Route(File);

impl Route {
    /// One that hears of these groups.
    pub(super) fn open(groups: u32) -> Result<Self, Errno> {
        File::route_socket(groups).map(Self)
    }

    /// Has something changed.
    pub(super) fn ask(&self, mut message: Message) -> Result<(), Errno> {
        self.0.write(message.bytes())?;
        self.answers(|_, _| {})
    }

    /// The interface that has, or has been given, this link-layer address.
    pub(super) fn find(&mut self, nic: &Nic) -> Result<(u32, Line), Line> {
        let mut found: Option<(u32, Line, bool)> = None;
        let read = self.0.write(Message::links().bytes()).and_then(|()| {
            self.answers(|kind, body| {
                let Some(link) = Link::of(body).filter(|l| kind == RTM_NEWLINK && !l.is_virtual) else {
                    return;
                };
                // Found under its new address, this was done before, up to some point; the old one counts more.
                let is_old = link.mac == nic.old;
                if is_old || (link.mac == nic.new && !found.as_ref().is_some_and(|(_, _, old)| *old)) {
                    found = Some((link.index, Line::of(format_args!("{}", link.name)), is_old));
                }
            })
        });
        if let Err(e) = read {
            return Err(Line::of(format_args!("cannot list the interfaces: {e}")));
        }
        found
            .map(|(index, name, _)| (index, name))
            .ok_or_else(|| Line::of(format_args!("no interface is {}", texts::mac(nic.old).str())))
    }

    /// Hands each IPv4 address of an interface over.
    pub(super) fn each_address(&self, interface: u32, mut what: impl FnMut(Address)) -> Result<(), Errno> {
        self.0.write(Message::addresses().bytes())?;
        self.answers(|kind, body| {
            let address = Address::of(body).filter(|a| kind == RTM_NEWADDR && a.interface == interface);
            address.into_iter().for_each(&mut what);
        })
    }

    /// Takes an interface's IPv4 addresses from it. Those of IPv6 went when it was switched off.
    pub(super) fn forget_addresses(&self, interface: u32) -> Result<(), Errno> {
        // Each round removes one; a machine with more of them than this is not put in order by one more round.
        for _ in 0..64 {
            let mut next = None;
            self.each_address(interface, |address| next = next.or(Some(address)))?;
            let Some(address) = next else { break };
            match self.ask(Message::forget(&address)) {
                // Whoever manages the interface may have been quicker.
                Ok(()) | Err(Errno(EADDRNOTAVAIL)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Waits for addresses that come, for at most so many milliseconds.
    pub(super) fn addresses(&self, milliseconds: u64, mut what: impl FnMut(Address)) -> Result<(), Errno> {
        if !self.0.wait(milliseconds) {
            return Ok(());
        }
        let mut datagram = [0; DATAGRAM];
        let length = self.0.read(&mut datagram)?;
        for message in netlink::incoming(&datagram[..length]).filter(|m| m.kind == RTM_NEWADDR) {
            Address::of(message.body).into_iter().for_each(&mut what);
        }
        Ok(())
    }

    /// Hands each message of an answer over, until it ends.
    fn answers(&self, mut what: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        let mut datagram = [0; DATAGRAM];
        loop {
            if !self.0.wait(PATIENCE) {
                return Err(ETIMEDOUT);
            }
            let length = self.0.read(&mut datagram)?;
            for message in netlink::incoming(&datagram[..length]) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        return match netlink::error(message.body) {
                            Some(0) => Ok(()),
                            Some(number) => Err(Errno(number)),
                            None => Err(EPROTO),
                        };
                    }
                    kind => what(kind, message.body),
                }
            }
        }
    }
}

const EADDRNOTAVAIL: i32 = 99;
