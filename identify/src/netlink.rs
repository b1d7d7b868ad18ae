//! Messages of rtnetlink(7): the few that are sent, and what is read of those that come (Linux, include/uapi/linux/rtnetlink.h,
//! if_link.h, if_addr.h). Numbers are in the machine's own order.

/// The type of an error, or of a confirmation, which is error 0.
pub const NLMSG_ERROR: u16 = 2;
/// The type of the last message of an answer of several.
pub const NLMSG_DONE: u16 = 3;
/// An interface.
pub const RTM_NEWLINK: u16 = 16;
/// An address that is there.
pub const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
/// The group that hears of IPv4 addresses.
pub const RTMGRP_IPV4_IFADDR: u32 = 0x10;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const RT_SCOPE_UNIVERSE: u8 = 0;
/// Lengths are rounded up to it.
const ALIGN: usize = 4;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A message to the kernel.
#[derive(Debug)]
pub struct Message {
    bytes: [u8; 64],
    length: usize,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut message = Self { bytes: [0; 64], length: HEADER };
        message.bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        message
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length = (self.length + bytes.len()).next_multiple_of(ALIGN);
        self
    }

    fn attribute(self, kind: u16, value: &[u8]) -> Self {
        let length = (value.len() + 4) as u16;
        let mut head = [0; 4];
        head[..2].copy_from_slice(&length.to_ne_bytes());
        head[2..].copy_from_slice(&kind.to_ne_bytes());
        self.put(&head).put(value)
    }

    /// `struct ifinfomsg`.
    fn link(self, index: u32, flags: u32, change: u32) -> Self {
        self.put(&[0; 4]).put(&index.to_ne_bytes()).put(&flags.to_ne_bytes()).put(&change.to_ne_bytes())
    }

    /// Asks for all interfaces.
    pub fn links() -> Self {
        Self::new(RTM_GETLINK, NLM_F_DUMP).link(0, 0, 0)
    }

    /// Asks for all IPv4 addresses.
    pub fn addresses() -> Self {
        Self::new(RTM_GETADDR, NLM_F_DUMP).put(&[AF_INET, 0, 0, 0]).put(&[0; 4])
    }

    /// Switches an interface on or off.
    pub fn switch(index: u32, up: bool) -> Self {
        Self::new(RTM_NEWLINK, NLM_F_ACK).link(index, if up { IFF_UP } else { 0 }, IFF_UP)
    }

    /// Gives an interface a link-layer address.
    pub fn set_mac(index: u32, mac: [u8; 6]) -> Self {
        Self::new(RTM_NEWLINK, NLM_F_ACK).link(index, 0, 0).attribute(IFLA_ADDRESS, &mac)
    }

    /// Takes an address from its interface.
    pub fn forget(address: &Address) -> Self {
        Self::new(RTM_DELADDR, NLM_F_ACK)
            .put(&[AF_INET, address.prefix, 0, 0])
            .put(&address.interface.to_ne_bytes())
            .attribute(IFA_LOCAL, &address.ip)
    }

    /// As it is sent.
    pub fn bytes(&mut self) -> &[u8] {
        let length = self.length as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        &self.bytes[..self.length]
    }
}

/// A message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// `RTM_…` or `NLMSG_…`.
    pub kind: u16,
    /// What follows its header.
    pub body: &'a [u8],
}

/// The messages of a datagram; what is not whole ends them.
pub fn incoming(mut datagram: &[u8]) -> impl Iterator<Item = Incoming<'_>> {
    core::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(Incoming { kind, body })
    })
}

/// The error number in an [`NLMSG_ERROR`]; 0 confirms.
pub fn error(body: &[u8]) -> Option<i32> {
    Some(-i32::from_ne_bytes(*body.first_chunk()?))
}

/// The attributes after a fixed part of `skip` bytes.
fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or_default();
    core::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        // The upper two bits are flags.
        Some((kind & 0x3fff, value))
    })
}

/// An Ethernet interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link<'a> {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub mac: [u8; 6],
    /// A bridge, VLAN or the like, which takes its address from another interface.
    pub is_virtual: bool,
}

impl<'a> Link<'a> {
    /// Of an [`RTM_NEWLINK`]; none where it has no Ethernet address.
    pub fn of(body: &'a [u8]) -> Option<Self> {
        let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
        let (mut mac, mut name, mut is_virtual) = (None, "", false);
        for (kind, value) in attributes(body, 16) {
            match kind {
                IFLA_ADDRESS => mac = value.try_into().ok(),
                IFLA_IFNAME => {
                    name = core::str::from_utf8(value).unwrap_or_default().trim_end_matches('\0');
                }
                IFLA_LINKINFO => is_virtual = true,
                _ => {}
            }
        }
        Some(Self { index, name, mac: mac?, is_virtual })
    }
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address {
    /// The interface's number.
    pub interface: u32,
    /// The address.
    pub ip: [u8; 4],
    /// The length of its network's part.
    pub prefix: u8,
    /// It is there for ever: it was set, not leased.
    pub is_permanent: bool,
}

impl Address {
    /// Of an [`RTM_NEWADDR`]; none where it is no IPv4 address that others can reach.
    pub fn of(body: &[u8]) -> Option<Self> {
        const IFA_F_PERMANENT: u8 = 0x80;
        let [family, prefix, flags, scope] = *body.first_chunk()?;
        let interface = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
        if family != AF_INET || scope != RT_SCOPE_UNIVERSE {
            return None;
        }
        let find = |wanted| attributes(body, 8).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let ip = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?.try_into().ok()?;
        Some(Self { interface, ip, prefix, is_permanent: flags & IFA_F_PERMANENT != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_forgotten_reads_as_the_one_that_was_there() {
        let address = Address { interface: 7, ip: [10, 0, 2, 15], prefix: 24, is_permanent: false };
        let mut message = Message::forget(&address);
        let bytes = message.bytes().to_vec();
        let read: Vec<_> = incoming(&bytes).collect();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].kind, Address::of(read[0].body)), (RTM_DELADDR, Some(address)));
    }

    #[test]
    fn a_link_is_known_by_its_address() {
        let mut message = Message::set_mac(3, [2, 0, 0, 0, 0, 9]);
        let mut bytes = message.bytes().to_vec();
        let link = Link::of(&bytes[HEADER..]).unwrap();
        assert_eq!((link.index, link.mac, link.is_virtual, link.name), (3, [2, 0, 0, 0, 0, 9], false, ""));
        bytes.extend([9, 0, 3, 0]);
        bytes.extend(b"eth0\0\0\0\0");
        bytes.extend([4, 0, 18, 0x80]);
        let link = Link::of(&bytes[HEADER..]).unwrap();
        assert_eq!((link.name, link.is_virtual), ("eth0", true));
    }

    #[test]
    fn pieces_of_messages_are_no_messages() {
        let mut message = Message::switch(1, true);
        let whole = message.bytes().to_vec();
        for length in 0..whole.len() {
            assert_eq!(incoming(&whole[..length]).count(), 0, "{length}");
        }
        let zeros = [0; 64];
        assert_eq!(incoming(&zeros).count(), 0);
        assert_eq!(attributes(&zeros, 0).count(), 0);
        let two = [whole.clone(), whole].concat();
        assert_eq!(incoming(&two).count(), 2);
        assert_eq!(error(&(-17i32).to_ne_bytes()), Some(17));
        assert_eq!(error(&[1, 2]), None);
    }
}
