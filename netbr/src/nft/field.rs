//! Fields of packets: where they lie, and which checksums cover them.

/// What a field's place is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Ethernet's. A VLAN's tag does not count.
    Link,
    /// ARP's, IPv4's or IPv6's.
    Network,
    /// That of the protocol above IP, behind options and extension headers. Only the first fragment has it.
    Transport,
}

/// The checksums that cover a field, which must follow when it is written. Each is corrected by the difference, so one that was wrong
/// stays wrong, UDP's 0 (none) stays 0, and one that the sender leaves to its device stays to be done by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// None does.
    None,
    /// The one at this offset in the field's own header.
    At(u32),
    /// That one and, by the pseudo-header, TCP's or UDP's.
    AtAndTransport(u32),
    /// By the pseudo-header, TCP's, UDP's or ICMPv6's.
    Transport,
}

/// A field of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// What its place is counted from.
    pub header: Header,
    /// Bytes from there.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// What covers it.
    pub checksum: Checksum,
}

const fn field(header: Header, offset: u32, length: u32, checksum: Checksum) -> Field {
    Field { header, offset, length, checksum }
}

const fn link(offset: u32, length: u32) -> Field {
    field(Header::Link, offset, length, Checksum::None)
}

const fn network(offset: u32, length: u32) -> Field {
    field(Header::Network, offset, length, Checksum::None)
}

const fn transport(offset: u32, length: u32) -> Field {
    field(Header::Transport, offset, length, Checksum::None)
}

/// Ethernet's destination.
pub const ETHER_DESTINATION: Field = link(0, 6);
/// Its first three bytes.
pub const ETHER_DESTINATION_VENDOR: Field = link(0, 3);
/// Ethernet's source.
pub const ETHER_SOURCE: Field = link(6, 6);

/// ARP's hardware type, protocol type and lengths of addresses (RFC 826).
pub const ARP_TYPES: Field = network(0, 6);
/// Their value for Ethernet and IPv4.
pub const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// ARP's sender, as Ethernet knows it.
pub const ARP_SENDER_ETHER: Field = network(8, 6);
/// ARP's sender, as IPv4 knows it.
pub const ARP_SENDER_IP: Field = network(14, 4);
/// ARP's target, as Ethernet knows it.
pub const ARP_TARGET_ETHER: Field = network(18, 6);
/// ARP's target, as IPv4 knows it.
pub const ARP_TARGET_IP: Field = network(24, 4);

/// IPv4's source (RFC 791, 3.1).
pub const IPV4_SOURCE: Field = field(Header::Network, 12, 4, Checksum::AtAndTransport(10));
/// IPv4's destination.
pub const IPV4_DESTINATION: Field = field(Header::Network, 16, 4, Checksum::AtAndTransport(10));

/// IPv6's source (RFC 8200, 3), which no checksum of its own covers.
pub const IPV6_SOURCE: Field = field(Header::Network, 8, 16, Checksum::Transport);
/// IPv6's destination.
pub const IPV6_DESTINATION: Field = field(Header::Network, 24, 16, Checksum::Transport);
/// The first 13 bytes of it, which solicited-node groups have in common (RFC 4291, 2.7.1).
pub const IPV6_DESTINATION_GROUP: Field = network(24, 13);

/// The destination port of TCP and UDP.
pub const DESTINATION_PORT: Field = transport(2, 2);
/// The type of an ICMP or ICMPv6 message.
pub const ICMP_TYPE: Field = transport(0, 1);

/// The source of the IPv4 packet that an ICMP error is about (RFC 792). The checksum of that packet's header follows; ICMP's own, which
/// covers both, stays right for that reason.
pub const ICMP_ABOUT_SOURCE: Field = field(Header::Transport, 8 + 12, 4, Checksum::At(8 + 10));
/// Its destination.
pub const ICMP_ABOUT_DESTINATION: Field = field(Header::Transport, 8 + 16, 4, Checksum::At(8 + 10));

/// A field of an ICMPv6 message (RFC 4443, 2.1).
#[must_use]
pub const fn icmpv6(offset: u32, length: u32) -> Field {
    field(Header::Transport, offset, length, Checksum::At(2))
}

impl Field {
    /// The lower half of an IPv6 address: its interface identifier (RFC 4291, 2.5.1).
    #[must_use]
    pub const fn interface_id(self) -> Self {
        Self { offset: self.offset + 8, length: 8, ..self }
    }
}
