//! A DHCP message and the frame that carries it (RFC 2131, 2).

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpOpCode, DhcpPacket, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

pub use smoltcp::wire::DhcpMessageType as Kind;

use super::options::{Options, code};
use crate::Mac;

/// Where the options begin: behind the fixed fields and the magic cookie.
const OPTIONS: usize = 240;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const COOKIE: u32 = 0x6382_5363;

/// Bytes of the shortest message that is written. Its options' field has the 312 bytes that RFC 1541 gave it: clients made after
/// that text may read a structure of this size, and BOOTP relays drop what is shorter than 300 bytes (RFC 1542, 2.1).
pub const SHORTEST: usize = 548;
/// Bytes of the IP and UDP headers, which option 57 counts.
const HEADERS: usize = 28;
/// Everybody on the wire.
const EVERYBODY: [u8; 6] = [0xff; 6];

/// Who a frame is meant for, which its UDP port says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A server, port 67.
    Server,
    /// A client, port 68.
    Client,
}

/// Why a frame says nothing to DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Something else, or for the other side.
    #[error("not DHCP for this side")]
    Other,
    /// A checksum does not fit.
    #[error("a DHCP frame with a wrong checksum")]
    Checksum,
    /// Shorter than the fixed fields and the cookie, or than its own headers say.
    #[error("a DHCP message that is cut off")]
    Short,
    /// No magic cookie: plain BOOTP (RFC 951) or garbage.
    #[error("a BOOTP message without DHCP's options")]
    Cookie,
    /// Not of an Ethernet interface, or of none that is a single one.
    #[error("a DHCP message without the Ethernet address of a single interface")]
    HardwareAddress,
    /// A request where an answer is expected or the other way round.
    #[error("a DHCP message in the wrong direction")]
    Direction,
    /// An option that is longer than what is left of its field.
    #[error("a DHCP message whose option {0} is cut off")]
    Option(u8),
}

/// A message, its options with it. Times are in seconds, as everywhere in DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// From a client or from a server.
    pub to: Side,
    /// How many relays it passed.
    pub hops: u8,
    /// What ties answers to requests.
    pub xid: u32,
    /// Since when the client has been trying.
    pub secs: u16,
    /// The client cannot take unicast frames yet (RFC 2131, 4.1).
    pub broadcast: bool,
    /// The client's address, if it can already be reached there.
    pub ciaddr: Ipv4Addr,
    /// The address that is offered or given.
    pub yiaddr: Ipv4Addr,
    /// The next server in a boot; not the DHCP server.
    pub siaddr: Ipv4Addr,
    /// The relay through which it came.
    pub giaddr: Ipv4Addr,
    /// The client's interface.
    pub chaddr: Mac,
    /// Everything else.
    pub options: Options,
}

impl Message {
    /// A client's message with nothing but its kind.
    #[must_use]
    pub fn request(kind: Kind, chaddr: Mac, xid: u32) -> Self {
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, [u8::from(kind)]);
        let none = Ipv4Addr::UNSPECIFIED;
        Self {
            to: Side::Server,
            hops: 0,
            xid,
            secs: 0,
            broadcast: false,
            ciaddr: none,
            yiaddr: none,
            siaddr: none,
            giaddr: none,
            chaddr,
            options,
        }
    }

    /// A server's answer to it with nothing but its kind and what is always repeated (RFC 2131, table 3; RFC 6842 for option 61).
    #[must_use]
    pub fn answer(&self, kind: Kind, server: Ipv4Addr) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut answer = Self {
            to: Side::Client,
            hops: 0,
            secs: 0,
            ciaddr: if kind == Kind::Ack { self.ciaddr } else { none },
            yiaddr: none,
            siaddr: none,
            options: Options::default(),
            ..*self
        };
        answer.options.set(code::MESSAGE_TYPE, [u8::from(kind)]);
        answer.options.set(code::SERVER_IDENTIFIER, server.octets());
        if let Some(id) = self.options.get(code::CLIENT_IDENTIFIER) {
            answer.options.set(code::CLIENT_IDENTIFIER, id);
        }
        answer
    }

    /// The kind, if it says one: BOOTP's messages do not.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.options.byte(code::MESSAGE_TYPE).map(Kind::from)
    }

    /// Bytes of the longest message that the sender takes for an answer, on a link with this MTU. Less than RFC 2131's minimum
    /// is not believed.
    #[must_use]
    pub fn longest_answer(&self, mtu: u16) -> usize {
        let said = usize::from(self.options.short(code::MAX_SIZE).unwrap_or(0)).saturating_sub(HEADERS);
        said.min(usize::from(mtu).saturating_sub(HEADERS)).max(SHORTEST)
    }

    /// Reads a UDP datagram's payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let packet = DhcpPacket::new_checked(bytes).map_err(|_| Unreadable::Short)?;
        if packet.magic_number() != COOKIE {
            return Err(Unreadable::Cookie);
        }
        let to = match packet.opcode() {
            DhcpOpCode::Request => Side::Server,
            DhcpOpCode::Reply => Side::Client,
            DhcpOpCode::Unknown(_) => return Err(Unreadable::Direction),
        };
        if packet.hardware_type() != ArpHardware::Ethernet || packet.hardware_len() != 6 {
            return Err(Unreadable::HardwareAddress);
        }
        let chaddr =
            Mac::try_from(packet.client_hardware_address().0).map_err(|_| Unreadable::HardwareAddress)?;
        // The lent fields are cut out here as smoltcp would take them for text.
        let options = Options::parse(&bytes[OPTIONS..], &bytes[FILE], &bytes[SNAME])?;
        Ok(Self {
            to,
            hops: packet.hops(),
            xid: packet.transaction_id(),
            secs: packet.secs(),
            broadcast: packet.flags().contains(DhcpFlags::BROADCAST),
            ciaddr: packet.client_ip(),
            yiaddr: packet.your_ip(),
            siaddr: packet.server_ip(),
            giaddr: packet.relay_agent_ip(),
            chaddr,
            options,
        })
    }

    /// Writes it in at most `longest` bytes, and the codes of the options that found no room in them. Options are written in
    /// their order, so the important ones come first.
    #[must_use]
    pub fn encode(&self, longest: usize) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = vec![0; longest.max(SHORTEST)];
        let left_out = self.options.emit(&mut bytes[OPTIONS..]);
        let mut packet = DhcpPacket::new_unchecked(&mut bytes);
        packet.set_opcode(match self.to {
            Side::Server => DhcpOpCode::Request,
            Side::Client => DhcpOpCode::Reply,
        });
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_hops(self.hops);
        packet.set_transaction_id(self.xid);
        packet.set_secs(self.secs);
        packet.set_flags(if self.broadcast { DhcpFlags::BROADCAST } else { DhcpFlags::empty() });
        packet.set_client_ip(self.ciaddr);
        packet.set_your_ip(self.yiaddr);
        packet.set_server_ip(self.siaddr);
        packet.set_relay_agent_ip(self.giaddr);
        packet.set_client_hardware_address(EthernetAddress(self.chaddr.bytes()));
        packet.set_magic_number(COOKIE);
        // What lies behind the end mark is padding; keep no more of it than the shortest message needs.
        let used = OPTIONS + ends_at(&bytes[OPTIONS..]);
        bytes.truncate(used.max(SHORTEST));
        (bytes, left_out)
    }
}

/// How long a field of options is that was just written, its end mark counted.
fn ends_at(field: &[u8]) -> usize {
    let mut at = 0;
    while let [code, length, ..] = field[at..] {
        match code {
            code::END => break,
            code::PAD => at += 1,
            _ => at += 2 + usize::from(length),
        }
    }
    at + 1
}

/// A message with the addresses of the frame that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The sender on the wire.
    pub ether_source: [u8; 6],
    /// The receiver on the wire.
    pub ether_destination: [u8; 6],
    /// The sender's address, often 0.0.0.0.
    pub source: Ipv4Addr,
    /// The receiver's address, often 255.255.255.255.
    pub destination: Ipv4Addr,
    /// What it says.
    pub message: Message,
}

/// What a client asked, as the server finds it on the wire.
pub type Request = Datagram;

impl Datagram {
    /// Reads an Ethernet frame that is meant for this side.
    ///
    /// The UDP checksum may be absent, or be only the part that covers the addresses: a guest or a local sender leaves the rest
    /// to its network card, which on a tap or a veth pair never comes to do it.
    pub fn parse(frame: &[u8], to: Side) -> Result<Self, Unreadable> {
        let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Unreadable::Other)?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return Err(Unreadable::Other);
        }
        let ip = Ipv4Packet::new_checked(ethernet.payload()).map_err(|_| Unreadable::Other)?;
        // Fragments are none of DHCP's: its messages fit into one frame.
        if ip.version() != 4
            || ip.next_header() != IpProtocol::Udp
            || ip.more_frags()
            || ip.frag_offset() != 0
            || ip.payload().len() < 8
        {
            return Err(Unreadable::Other);
        }
        let udp = UdpPacket::new_unchecked(ip.payload());
        if udp.dst_port() != to.port() {
            return Err(Unreadable::Other);
        }
        udp.check_len().map_err(|_| Unreadable::Short)?;
        let (source, destination) = (ip.src_addr(), ip.dst_addr());
        let checksum_fits = udp.verify_checksum(&source.into(), &destination.into())
            || udp.verify_partial_checksum(&source.into(), &destination.into());
        if !ip.verify_checksum() || !checksum_fits {
            return Err(Unreadable::Checksum);
        }
        let message = Message::parse(udp.payload())?;
        if message.to != to {
            return Err(Unreadable::Direction);
        }
        Ok(Self {
            ether_source: ethernet.src_addr().0,
            ether_destination: ethernet.dst_addr().0,
            source,
            destination,
            message,
        })
    }

    /// Writes the frame, its message in at most `longest` bytes, and the codes of the options that found no room.
    #[must_use]
    pub fn encode(&self, longest: usize) -> (Vec<u8>, Vec<u8>) {
        let (payload, left_out) = self.message.encode(longest);
        let checksums = ChecksumCapabilities::default();
        let udp = UdpRepr { src_port: self.message.to.other().port(), dst_port: self.message.to.port() };
        let ip = Ipv4Repr {
            src_addr: self.source,
            dst_addr: self.destination,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + payload.len(),
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(self.ether_source),
            dst_addr: EthernetAddress(self.ether_destination),
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut frame = vec![0; ethernet.buffer_len() + ip.buffer_len() + ip.payload_len];
        let mut at = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.emit(&mut at);
        let mut at = Ipv4Packet::new_unchecked(at.payload_mut());
        ip.emit(&mut at, &checksums);
        udp.emit(
            &mut UdpPacket::new_unchecked(at.payload_mut()),
            &self.source.into(),
            &self.destination.into(),
            payload.len(),
            |field| field.copy_from_slice(&payload),
            &checksums,
        );
        (frame, left_out)
    }

    /// A client's message to everybody, from nowhere yet.
    #[must_use]
    pub fn to_everybody(message: Message) -> Self {
        Self {
            ether_source: message.chaddr.bytes(),
            ether_destination: EVERYBODY,
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::BROADCAST,
            message,
        }
    }

    /// Addresses a server's answer as RFC 2131, 4.1 has it for a client on the same wire: to `ciaddr` where the client has one, to
    /// everybody where the client asks for that or is refused, else to the address that it is about to have, which only the
    /// Ethernet address can find.
    #[must_use]
    pub fn answer(&self, server: (Ipv4Addr, Mac), message: Message) -> Self {
        let refusal = message.kind() == Some(Kind::Nak);
        let asked = &self.message;
        let (destination, ether_destination) = if refusal {
            (Ipv4Addr::BROADCAST, EVERYBODY)
        } else if !asked.ciaddr.is_unspecified() {
            (asked.ciaddr, asked.chaddr.bytes())
        } else if asked.broadcast {
            (Ipv4Addr::BROADCAST, EVERYBODY)
        } else {
            (message.yiaddr, asked.chaddr.bytes())
        };
        let (source, mac) = server;
        Self { ether_source: mac.bytes(), ether_destination, source, destination, message }
    }
}

impl Side {
    const fn port(self) -> u16 {
        match self {
            Self::Server => 67,
            Self::Client => 68,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 3] = [0xaa, 0, 1];

    fn discover() -> Datagram {
        Datagram::to_everybody(Message::request(Kind::Discover, Mac::local(MAC), 7))
    }

    #[test]
    fn options_are_found_in_the_fields_that_are_lent_to_them() {
        let (mut bytes, _) = discover().message.encode(0);
        bytes[OPTIONS..OPTIONS + 7].copy_from_slice(&[53, 1, 1, 52, 1, 3, 255]);
        bytes[FILE.start..FILE.start + 5].copy_from_slice(&[12, 2, b'f', b'i', 255]);
        bytes[SNAME.start..SNAME.start + 5].copy_from_slice(&[12, 2, b's', b'n', 255]);
        assert_eq!(Message::parse(&bytes).unwrap().options.text(code::HOST_NAME), Some("fisn"));
        bytes[OPTIONS + 5] = 2;
        assert_eq!(Message::parse(&bytes).unwrap().options.text(code::HOST_NAME), Some("sn"));
    }

    /// As a guest sends it that leaves checksums to its virtual network card.
    #[test]
    fn a_checksum_that_covers_the_addresses_only_is_enough_and_a_wrong_one_is_not() {
        let (mut frame, _) = discover().encode(0);
        let length = u16::try_from(frame.len() - 34).unwrap();
        // RFC 768's pseudo header: 0.0.0.0, 255.255.255.255, protocol 17, length; 0xffff twice add nothing.
        frame[40..42].copy_from_slice(&(17 + length).to_be_bytes());
        assert!(Datagram::parse(&frame, Side::Server).is_ok());
        frame[40..42].fill(0);
        assert!(Datagram::parse(&frame, Side::Server).is_ok(), "none at all");
        frame[41] = 1;
        assert_eq!(Datagram::parse(&frame, Side::Server), Err(Unreadable::Checksum));
    }

    #[test]
    fn what_is_not_for_this_side_or_not_whole_is_named() {
        let (frame, _) = discover().encode(0);
        assert_eq!(Datagram::parse(&frame, Side::Client), Err(Unreadable::Other));
        assert_eq!(Datagram::parse(&frame[..300], Side::Server), Err(Unreadable::Other));
        let (bytes, _) = discover().message.encode(0);
        let changed = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            Message::parse(&bytes).unwrap_err()
        };
        assert_eq!(Message::parse(&bytes[..239]), Err(Unreadable::Short));
        assert_eq!(changed(0, 3), Unreadable::Direction);
        assert_eq!(changed(1, 6), Unreadable::HardwareAddress);
        assert_eq!(changed(2, 16), Unreadable::HardwareAddress);
        assert_eq!(changed(28, 0x01), Unreadable::HardwareAddress);
        assert_eq!(changed(236, 0), Unreadable::Cookie);
        let mut cut_off = bytes;
        cut_off[OPTIONS + 3] = code::PAD;
        cut_off[SHORTEST - 1] = code::DNS;
        assert_eq!(Message::parse(&cut_off), Err(Unreadable::Option(code::DNS)));
    }
}
