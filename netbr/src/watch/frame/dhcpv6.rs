//! The addresses in a DHCPv6 message (RFC 8415). No more of that protocol is needed to watch it.

use std::net::Ipv6Addr;

use super::Dhcpv6;

/// More addresses than any server gives one client; the rest of a message is not read.
const MOST: usize = 16;

/// Reads what a UDP datagram to port 546 or 547 carries. Relayed messages (12, 13) tell nothing of a guest of this link.
pub(super) fn parse(bytes: &[u8]) -> Option<Dhcpv6> {
    let (&[kind, a, b, c], options) = bytes.split_first_chunk()?;
    if !(1..=11).contains(&kind) {
        return None;
    }
    let mut addresses = Vec::new();
    for (code, data) in Options(options) {
        let inner = match code {
            // IA_NA: three numbers of 4 bytes, then options (21.4). IA_TA: one (21.5).
            3 => data.get(12..),
            4 => data.get(4..),
            _ => None,
        };
        for (code, data) in Options(inner.unwrap_or_default()) {
            // IAADDR: the address, how long it is preferred, how long it is valid (21.6).
            if let (5, Some((address, rest))) = (code, data.split_first_chunk::<16>())
                && let Some(valid) = rest.get(4..8).and_then(|b| <[u8; 4]>::try_from(b).ok())
                && addresses.len() < MOST
            {
                addresses.push((Ipv6Addr::from(*address), u32::from_be_bytes(valid)));
            }
        }
    }
    Some(Dhcpv6 { kind, xid: u32::from_be_bytes([0, a, b, c]), addresses })
}

/// Options one after the other: a code and a length of two bytes each, the data (21.1). Ends where one is cut off.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d], rest) = self.0.split_first_chunk()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([c, d])))?;
        self.0 = rest;
        Some((u16::from_be_bytes([a, b]), data))
    }
}
