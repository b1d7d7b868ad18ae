//! The questions that a guest is asked: ARP requests and neighbour solicitations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};

use crate::Mac;

const BROADCAST: [u8; 6] = [0xff; 6];

/// Who asks: best the host itself, with the addresses that its bridge has.
///
/// A question from an address is a plain one. Without an address it is a *probe* (RFC 5227, RFC 4862), which a guest that is
/// just trying an address out takes for a rival and gives the address up; so such a question waits until that must be over, ten
/// seconds. Some guests, smoltcp's among them, never answer a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The MAC that asks and is answered: the bridge's own.
    pub mac: Mac,
    /// The bridge's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The bridge's link-local IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

impl Asker {
    /// Whether a question of the address's family can be asked by name.
    pub(super) const fn named(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.ipv4.is_some(),
            IpAddr::V6(_) => self.ipv6.is_some(),
        }
    }

    /// Whether the address is its own.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4 == Some(address),
            IpAddr::V6(address) => self.ipv6 == Some(address),
        }
    }

    /// The frame that asks who has an address, as a probe or by name, of one guest or of all behind the port.
    pub(super) fn question(&self, address: IpAddr, probe: bool, guest: Option<Mac>) -> Vec<u8> {
        match address {
            IpAddr::V4(target) => {
                let sender = self.ipv4.filter(|_| !probe).unwrap_or(Ipv4Addr::UNSPECIFIED);
                arp(self.mac, sender, target, guest)
            }
            IpAddr::V6(target) => solicitation(self.mac, self.ipv6.filter(|_| !probe), target, guest),
        }
    }
}

fn frame(source: Mac, destination: [u8; 6], ethertype: EthernetProtocol, payload: usize) -> Vec<u8> {
    let repr = EthernetRepr {
        src_addr: EthernetAddress(source.bytes()),
        dst_addr: EthernetAddress(destination),
        ethertype,
    };
    let mut bytes = vec![0; EthernetFrame::<&[u8]>::buffer_len(payload)];
    repr.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes
}

fn arp(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr, guest: Option<Mac>) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.bytes()),
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let destination = guest.map_or(BROADCAST, Mac::bytes);
    let mut bytes = frame(mac, destination, EthernetProtocol::Arp, repr.buffer_len());
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
    repr.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    bytes
}

fn solicitation(mac: Mac, sender: Option<Ipv6Addr>, target: Ipv6Addr, guest: Option<Mac>) -> Vec<u8> {
    // The group of all nodes whose addresses end like this one (RFC 4291, 2.7.1).
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let source = sender.unwrap_or(Ipv6Addr::UNSPECIFIED);
    // A probe does not say whom to answer (RFC 4861, 4.3).
    let lladdr = sender.map(|_| EthernetAddress(mac.bytes()).into());
    let body = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr });
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: group,
        next_header: IpProtocol::Icmpv6,
        payload_len: body.buffer_len(),
        hop_limit: 255,
    };
    let destination = guest.map_or([0x33, 0x33, 0xff, a, b, c], Mac::bytes);
    let mut bytes = frame(mac, destination, EthernetProtocol::Ipv6, ip.buffer_len() + body.buffer_len());
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
    let mut packet = Ipv6Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet);
    let mut message = Icmpv6Packet::new_unchecked(packet.payload_mut());
    body.emit(&source, &group, &mut message, &ChecksumCapabilities::default());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::frame::{Arp, Neighbor, Observation, parse};

    const MAC: Mac = Mac::local([0, 0, 1]);
    const GUEST: Mac = Mac::local([0, 0, 2]);
    const HOST4: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
    const HOST6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    #[test]
    fn questions_are_what_they_should_be() {
        let asker = Asker { mac: MAC, ipv4: Some(HOST4), ipv6: Some(HOST6) };
        let target = Ipv4Addr::new(192, 168, 7, 9);
        for (probe, sender) in [(false, HOST4), (true, Ipv4Addr::UNSPECIFIED)] {
            let asked = parse(&asker.question(target.into(), probe, Some(GUEST))).unwrap();
            let arp = Arp { reply: false, sender_mac: MAC, sender, target };
            assert_eq!((asked.source, asked.destination), (MAC, GUEST.bytes()));
            assert_eq!(asked.observation, Observation::Arp(arp));
        }
        let target: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        for (probe, source) in [(false, HOST6), (true, Ipv6Addr::UNSPECIFIED)] {
            let asked = parse(&asker.question(target.into(), probe, None)).unwrap();
            assert_eq!(asked.destination, [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
            assert_eq!(asked.observation, Observation::Neighbor(Neighbor::Solicitation { source, target }));
        }
    }
}
