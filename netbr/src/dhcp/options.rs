//! DHCP options: code, length, value (RFC 2132).

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpOption, DhcpOptionWriter};

use super::message::Unreadable;

/// Option codes (IANA "BOOTP Vendor Extensions and DHCP Options").
pub mod code {
    /// Filler without a length.
    pub const PAD: u8 = 0;
    /// Subnet mask (RFC 2132, 3.3).
    pub const SUBNET_MASK: u8 = 1;
    /// Routers, the preferred one first (3.5).
    pub const ROUTER: u8 = 3;
    /// Name servers (3.8).
    pub const DNS: u8 = 6;
    /// The client's name (3.14).
    pub const HOST_NAME: u8 = 12;
    /// The domain in which names are completed (3.17).
    pub const DOMAIN: u8 = 15;
    /// The interface's MTU in bytes (5.1).
    pub const MTU: u8 = 26;
    /// The subnet's broadcast address (5.3).
    pub const BROADCAST: u8 = 28;
    /// The address that a client asks for (9.1).
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Seconds that a lease lasts (9.2).
    pub const LEASE_TIME: u8 = 51;
    /// Which of the fields `file` (1) and `sname` (2) hold options, too (9.3).
    pub const OVERLOAD: u8 = 52;
    /// The kind of message (9.6).
    pub const MESSAGE_TYPE: u8 = 53;
    /// The server that answers, or that is meant (9.7).
    pub const SERVER_IDENTIFIER: u8 = 54;
    /// Codes of the options that a client wants (9.8).
    pub const PARAMETERS: u8 = 55;
    /// Why a server refuses, as text (9.9).
    pub const MESSAGE: u8 = 56;
    /// Bytes of the longest message that a client takes, IP and UDP headers counted (9.10).
    pub const MAX_SIZE: u8 = 57;
    /// Seconds after which the lease is renewed, T1 (9.11).
    pub const RENEWAL: u8 = 58;
    /// Seconds after which any server is asked, T2 (9.12).
    pub const REBINDING: u8 = 59;
    /// What sort of client this is (9.13).
    pub const VENDOR_CLASS: u8 = 60;
    /// What the client calls itself (9.14; RFC 4361: with a DUID).
    pub const CLIENT_IDENTIFIER: u8 = 61;
    /// A lease is wanted or given without an offer before (RFC 4039).
    pub const RAPID_COMMIT: u8 = 80;
    /// The client's full name (RFC 4702).
    pub const CLIENT_FQDN: u8 = 81;
    /// What a relay says of the client's place (RFC 3046).
    pub const RELAY_AGENT: u8 = 82;
    /// Routes with prefix lengths, the default route among them (RFC 3442).
    pub const CLASSLESS_ROUTES: u8 = 121;
    /// Nothing follows; without a length.
    pub const END: u8 = 255;
}

/// The fields that may hold options (RFC 2132, 9.3).
const IN_FILE: u8 = 1;
const IN_SNAME: u8 = 2;

/// Options in the order in which they first came, each code once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// Reads the options' own field and, as option 52 says, those lent by `file` and `sname`.
    ///
    /// An option that comes in pieces is put together in this order (RFC 3396, 5 and 7). A missing end mark is forgiven:
    /// there are clients that fill the field to its last byte.
    pub fn parse(options: &[u8], file: &[u8], sname: &[u8]) -> Result<Self, Unreadable> {
        let mut found = Self::default();
        found.read(options)?;
        let overload = found.byte(code::OVERLOAD).unwrap_or(0);
        if overload & IN_FILE != 0 {
            found.read(file)?;
        }
        if overload & IN_SNAME != 0 {
            found.read(sname)?;
        }
        Ok(found)
    }

    fn read(&mut self, mut field: &[u8]) -> Result<(), Unreadable> {
        loop {
            field = match field {
                [] | [code::END, ..] => return Ok(()),
                [code::PAD, rest @ ..] => rest,
                [code, length, rest @ ..] => {
                    let (value, rest) =
                        rest.split_at_checked((*length).into()).ok_or(Unreadable::Option(*code))?;
                    match self.0.iter_mut().find(|(known, _)| known == code) {
                        Some((_, start)) => start.extend_from_slice(value),
                        None => self.0.push((*code, value.to_vec())),
                    }
                    rest
                }
                [code] => return Err(Unreadable::Option(*code)),
            }
        }
    }

    /// Writes the options and the end mark into `field` in their order, and returns the codes of those that found no room.
    ///
    /// A value over 255 bytes is cut into pieces (RFC 3396, 6).
    pub(super) fn emit(&self, field: &mut [u8]) -> Vec<u8> {
        let mut room = field.len().saturating_sub(1);
        let mut left_out = Vec::new();
        let mut writer = DhcpOptionWriter::new(field);
        for (code, value) in &self.0 {
            let pieces = value.len().div_ceil(usize::from(u8::MAX)).max(1);
            let needed = value.len() + 2 * pieces;
            if needed > room {
                left_out.push(*code);
                continue;
            }
            room -= needed;
            let mut rest = value.as_slice();
            for _ in 0..pieces {
                let (data, more) = rest.split_at(rest.len().min(u8::MAX.into()));
                rest = more;
                // There is room: that was counted above, and no piece is longer than its length field can say.
                let _ = writer.emit(DhcpOption { kind: *code, data });
            }
        }
        let _ = writer.end();
        left_out
    }

    /// The value of an option.
    #[must_use]
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find_map(|(known, value)| (*known == code).then_some(value.as_slice()))
    }

    /// Sets an option: in its place if it is there, else as the last.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((code, value.into())),
        }
    }

    /// The codes and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    /// A value of one byte.
    #[must_use]
    pub fn byte(&self, code: u8) -> Option<u8> {
        self.fixed(code).map(|[byte]| byte)
    }

    /// A value of two bytes.
    #[must_use]
    pub fn short(&self, code: u8) -> Option<u16> {
        self.fixed(code).map(u16::from_be_bytes)
    }

    /// A value of four bytes.
    #[must_use]
    pub fn long(&self, code: u8) -> Option<u32> {
        self.fixed(code).map(u32::from_be_bytes)
    }

    /// A value that is one address.
    #[must_use]
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.fixed::<4>(code).map(Ipv4Addr::from)
    }

    /// A value that is a list of addresses; empty where there is none.
    #[must_use]
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let (whole, _) = self.get(code).unwrap_or_default().as_chunks::<4>();
        whole.iter().copied().map(Ipv4Addr::from).collect()
    }

    /// A value that is text; NULs at its end do not count (RFC 2132, 2).
    #[must_use]
    pub fn text(&self, code: u8) -> Option<&str> {
        std::str::from_utf8(self.get(code)?).ok().map(|text| text.trim_end_matches('\0'))
    }

    fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_and_lent_fields_are_put_together_in_order() {
        let options = [12, 2, b'a', b'b', 52, 1, 3, 0, 0, 255, 9, 9];
        let file = [12, 1, b'c', 60, 1, 7, 255];
        let sname = [12, 1, b'd', 0];
        let found = Options::parse(&options, &file, &sname).unwrap();
        assert_eq!(found.text(code::HOST_NAME), Some("abcd"));
        assert_eq!(found.get(code::VENDOR_CLASS), Some(&[7][..]));
    }

    #[test]
    fn fields_that_are_not_lent_are_not_read() {
        let found = Options::parse(&[53, 1, 1, 255], &[12, 200], &[12, 200]).unwrap();
        assert_eq!(found.iter().count(), 1);
    }

    #[test]
    fn an_option_that_is_cut_off_is_named() {
        assert_eq!(Options::parse(&[53, 1, 1, 12, 4, b'a'], &[], &[]), Err(Unreadable::Option(12)));
        assert_eq!(Options::parse(&[53], &[], &[]), Err(Unreadable::Option(53)));
    }

    #[test]
    fn what_finds_no_room_is_left_out_whole_and_said() {
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, [5]);
        options.set(code::DOMAIN, vec![b'x'; 20]);
        options.set(code::MTU, [5, 220]);
        let mut field = [0; 8];
        assert_eq!(options.emit(&mut field), [code::DOMAIN]);
        assert_eq!(field, [53, 1, 5, 26, 2, 5, 220, 255]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::btree_map(1..255_u8, prop::collection::vec(any::<u8>(), 0..600), 0..6)) {
            let mut options = Options::default();
            for (code, value) in values {
                if code != code::OVERLOAD {
                    options.set(code, value);
                }
            }
            let mut field = vec![0; 4096];
            prop_assert_eq!(options.emit(&mut field), Vec::<u8>::new());
            prop_assert_eq!(Options::parse(&field, &[], &[]).unwrap(), options);
        }
    }
}
