//! Rules: what packets they match, and what is done to those.

use super::field::{Checksum, Field, Header};

/// One rule: its expressions are evaluated in order, until one does not match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    pub(super) expressions: Vec<Expression>,
    pub(super) comment: Option<String>,
}

/// One of the kernel's registers of 16 bytes (`enum nft_registers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    /// The first.
    One = 1,
    /// The second.
    Two = 2,
}

/// What a rule is made of, one for each of the kernel's expressions (`linux/netfilter/nf_tables.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Reads what is known of a packet besides its bytes.
    Meta(Meta, Register),
    /// Reads from a packet; does not match when that is not there.
    Load(Field, Register),
    /// Writes to a packet and corrects the checksums that the field says.
    Store(Field, Register),
    /// Matches when a register holds these bytes, or does not.
    Compare(Register, Equality, Vec<u8>),
    /// Leaves only the bits of a register that the mask has.
    Mask(Register, Vec<u8>),
    /// Matches when a register's bytes are in a set.
    InSet(Register, &'static str),
    /// Replaces a register's bytes by their value in a map; does not match when they are not there.
    Translate(Register, &'static str),
    /// Puts bytes into a register.
    Immediate(Register, Vec<u8>),
    /// Puts the kind of the destination address, as routing sees it, into a register.
    DestinationKind(Register),
    /// Reads what connection tracking knows.
    Connection(Connection, Register),
    /// Gives the connection the destination address in one register and the port in the other; IPv4.
    Dnat {
        /// Has the address.
        address: Register,
        /// Has the port.
        port: Register,
    },
    /// Gives the connection the source address of the device that it leaves by.
    Masquerade,
    /// Counts packets and bytes.
    Counter,
    /// Ends the rule.
    Verdict(Verdict),
}

/// Whether what is compared must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Equality {
    /// It must.
    Equal,
    /// It must not.
    Different,
}

/// What is known of a packet besides its bytes (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    /// The EtherType, without a VLAN's.
    Protocol,
    /// The mark of the socket that it was sent by, or what rules made of it.
    Mark,
    /// The name of the device that it came in by.
    InputName,
    /// The name of the device that it goes out by.
    OutputName,
    /// IPv4 or IPv6, in tables for both.
    Family,
    /// The protocol above IP.
    Transport,
}

/// What connection tracking knows (`enum nft_ct_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// Bits: see [`ESTABLISHED_OR_RELATED`].
    State,
    /// Bits: see [`DESTINATION_REWRITTEN`].
    Status,
}

/// `NF_CT_STATE_BIT` of established and of related packets (`nf_conntrack_common.h`).
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
/// `IPS_DST_NAT` (`nf_conntrack_common.h`).
const DESTINATION_REWRITTEN: u32 = 1 << 5;
/// `RTN_LOCAL` (`linux/rtnetlink.h`).
const LOCAL: u32 = 2;
/// The length of a device's name with what fills it up (`IFNAMSIZ`).
const NAME: usize = 16;

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this base chain; those of other tables still see it.
    Accept,
    /// It is no more.
    Drop,
    /// The rules of a chain are tried, then the ones behind this rule.
    Jump(&'static str),
    /// The rules of a chain are tried instead of the ones behind this rule.
    Goto(&'static str),
}

/// The protocols above IP that rules name (IANA, "Protocol Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// ICMP for IPv4.
    Icmp = 1,
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// ICMP for IPv6.
    Icmpv6 = 58,
}

/// The EtherTypes that rules name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum EtherType {
    /// IPv4.
    Ipv4 = 0x0800,
    /// ARP.
    Arp = 0x0806,
    /// Reverse ARP.
    Rarp = 0x8035,
    /// IPv6.
    Ipv6 = 0x86dd,
}

const ONE: Register = Register::One;
const TWO: Register = Register::Two;

impl Rule {
    /// A rule that matches all packets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, expressions: impl IntoIterator<Item = Expression>) -> Self {
        self.expressions.extend(expressions);
        self
    }

    /// Says what the rule is for, to those who list it. At most 127 bytes are kept.
    #[must_use]
    pub fn comment(mut self, text: &str) -> Self {
        // nft(8) reads at most 128 with the zero byte (NFTNL_UDATA_COMMENT_MAXLEN).
        let end = text.floor_char_boundary(127);
        self.comment = Some(text[..end].to_owned());
        self
    }

    /// Packets whose field has this value.
    #[must_use]
    pub fn is(self, field: Field, value: &[u8]) -> Self {
        self.with([Expression::Load(field, ONE), Expression::Compare(ONE, Equality::Equal, value.to_vec())])
    }

    /// Packets whose field has not this value.
    #[must_use]
    pub fn is_not(self, field: Field, value: &[u8]) -> Self {
        self.with([
            Expression::Load(field, ONE),
            Expression::Compare(ONE, Equality::Different, value.to_vec()),
        ])
    }

    /// Packets whose field's value is in a set.
    #[must_use]
    pub fn is_in(self, field: Field, set: &'static str) -> Self {
        self.with([Expression::Load(field, ONE), Expression::InSet(ONE, set)])
    }

    /// Packets whose field, an IPv4 address, is in a subnet.
    #[must_use]
    pub fn is_in_subnet(self, field: Field, network: std::net::Ipv4Addr, prefix: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        self.with([
            Expression::Load(field, ONE),
            Expression::Mask(ONE, mask.to_be_bytes().to_vec()),
            Expression::Compare(ONE, Equality::Equal, (network.to_bits() & mask).to_be_bytes().to_vec()),
        ])
    }

    /// Replaces a field's value by the map's value for it. Does not match packets whose value the map does not have.
    #[must_use]
    pub fn rewrite(self, field: Field, map: &'static str) -> Self {
        self.write(field, field, map)
    }

    /// Replaces one value of a field. Does not match packets with another. Quicker than a map of one element.
    #[must_use]
    pub fn replace(self, field: Field, old: &[u8], new: &[u8]) -> Self {
        self.is(field, old).with([Expression::Immediate(ONE, new.to_vec()), Expression::Store(field, ONE)])
    }

    /// Gives a field the map's value for another field. Does not match packets whose value the map does not have.
    #[must_use]
    pub fn write(self, field: Field, key: Field, map: &'static str) -> Self {
        self.with([
            Expression::Load(key, ONE),
            Expression::Translate(ONE, map),
            Expression::Store(field, ONE),
        ])
    }

    /// Packets of an EtherType.
    #[must_use]
    pub fn ether_type(self, ether_type: EtherType) -> Self {
        self.meta(Meta::Protocol, Equality::Equal, (ether_type as u16).to_be_bytes().to_vec())
    }

    /// Packets of a protocol above IP.
    #[must_use]
    pub fn transport(self, transport: Transport) -> Self {
        self.meta(Meta::Transport, Equality::Equal, vec![transport as u8])
    }

    /// Packets with a mark (`SO_MARK`, socket(7)).
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        self.meta(Meta::Mark, Equality::Equal, mark.to_ne_bytes().to_vec())
    }

    /// Packets of IPv4, in a table of the family `inet`.
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.meta(Meta::Family, Equality::Equal, vec![super::Family::Ip as u8])
    }

    /// Packets that came in by a device.
    #[must_use]
    pub fn input(self, device: &str) -> Self {
        self.meta(Meta::InputName, Equality::Equal, padded(device))
    }

    /// Packets that did not come in by a device.
    #[must_use]
    pub fn not_input(self, device: &str) -> Self {
        self.meta(Meta::InputName, Equality::Different, padded(device))
    }

    /// Packets that go out by a device.
    #[must_use]
    pub fn output(self, device: &str) -> Self {
        self.meta(Meta::OutputName, Equality::Equal, padded(device))
    }

    /// Packets that do not go out by a device.
    #[must_use]
    pub fn not_output(self, device: &str) -> Self {
        self.meta(Meta::OutputName, Equality::Different, padded(device))
    }

    fn meta(self, key: Meta, equality: Equality, value: Vec<u8>) -> Self {
        self.with([Expression::Meta(key, ONE), Expression::Compare(ONE, equality, value)])
    }

    /// Packets whose destination is an address of this host.
    #[must_use]
    pub fn destination_is_local(self) -> Self {
        let local = LOCAL.to_ne_bytes().to_vec();
        self.with([Expression::DestinationKind(ONE), Expression::Compare(ONE, Equality::Equal, local)])
    }

    /// Packets of connections that were seen before, and errors about them.
    #[must_use]
    pub fn established(self) -> Self {
        self.connection(Connection::State, ESTABLISHED_OR_RELATED)
    }

    /// Packets of connections whose destination was rewritten.
    #[must_use]
    pub fn destination_rewritten(self) -> Self {
        self.connection(Connection::Status, DESTINATION_REWRITTEN)
    }

    fn connection(self, key: Connection, bits: u32) -> Self {
        self.with([
            Expression::Connection(key, ONE),
            Expression::Mask(ONE, bits.to_ne_bytes().to_vec()),
            Expression::Compare(ONE, Equality::Different, vec![0; 4]),
        ])
    }

    /// Gives the connection another destination.
    #[must_use]
    pub fn dnat(self, to: std::net::SocketAddrV4) -> Self {
        self.with([
            Expression::Immediate(ONE, to.ip().octets().to_vec()),
            Expression::Immediate(TWO, to.port().to_be_bytes().to_vec()),
            Expression::Dnat { address: ONE, port: TWO },
        ])
    }

    /// Gives the connection the source address of the device that it leaves by.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.with([Expression::Masquerade])
    }

    /// Counts the packets that come this far.
    #[must_use]
    pub fn count(self) -> Self {
        self.with([Expression::Counter])
    }

    /// Decides about the packets that come this far.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.with([Expression::Verdict(verdict)])
    }

    /// Lets them pass this base chain.
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// Drops them.
    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }
}

/// Names of devices are compared with what fills them up, or `tap1` would match `tap10`.
fn padded(device: &str) -> Vec<u8> {
    let mut bytes = device.as_bytes().to_vec();
    bytes.resize(NAME.max(bytes.len()), 0);
    bytes
}

impl Field {
    /// The values of `NFTA_PAYLOAD_CSUM_TYPE`, `_OFFSET` and `_FLAGS` that its checksums need.
    pub(super) const fn checksum_attributes(self) -> (u32, u32, u32) {
        // NFT_PAYLOAD_CSUM_INET, NFT_PAYLOAD_L4CSUM_PSEUDOHDR
        match self.checksum {
            Checksum::None => (0, 0, 0),
            Checksum::At(offset) => (1, offset, 0),
            Checksum::AtAndTransport(offset) => (1, offset, 1),
            Checksum::Transport => (0, 0, 1),
        }
    }

    /// The number of `enum nft_payload_bases`.
    pub(super) const fn header_number(self) -> u32 {
        match self.header {
            Header::Link => 0,
            Header::Network => 1,
            Header::Transport => 2,
        }
    }
}
