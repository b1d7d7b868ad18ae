//! Netlink messages and attributes as nf_tables speaks them: `struct nlmsghdr` and `struct nlattr` (netlink(7)) in the machine's byte
//! order, `struct nfgenmsg` (`linux/netfilter/nfnetlink.h`) and numbers inside of attributes in the network's.

use super::Family;

/// `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// `struct nlmsghdr` and `struct nfgenmsg`, which every message here begins with.
const FULL_HEADER: usize = HEADER + 4;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;

/// Flags of messages (netlink(7)).
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
/// A dump that was changed while it was read.
pub(super) const DUMP_INTERRUPTED: u16 = 0x10;

/// Kinds of messages (netlink(7), `linux/netfilter/nfnetlink.h`).
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;
/// The part of nfnetlink that nf_tables is, the upper byte of its messages' kinds.
pub(super) const NFTABLES: u8 = 10;

/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 0x8000;

/// One message, being written.
#[derive(Debug, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A message of nf_tables: `kind` is one of `enum nf_tables_msg_types`.
    pub(super) fn new(kind: u8, flags: u16, family: Family) -> Self {
        Self::raw(u16::from_be_bytes([NFTABLES, kind]), flags, family as u8, 0)
    }

    /// What begins and ends a batch.
    pub(super) fn batch(kind: u16) -> Self {
        Self::raw(kind, 0, 0, u16::from(NFTABLES))
    }

    fn raw(kind: u16, flags: u16, family: u8, resource: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        Self(bytes)
    }

    /// An attribute of bytes as they are.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // What is too long for an attribute's 16 bits of length is written with the greatest length; the kernel refuses it.
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A text, ended by a zero byte. nf_tables takes a device's name without one for a pattern of names that begin so.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds the attributes that `inside` writes.
    pub(super) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = self.bytes(kind | NESTED, &[]);
        self = inside(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// The message's bytes with its length, its number in a sequence and further flags.
    pub(super) fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = flags | u16::from_ne_bytes([self.0[6], self.0[7]]);
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// One message, as received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// What follows `struct nlmsghdr`.
    pub(super) body: &'a [u8],
}

impl<'a> Received<'a> {
    /// The family and the attributes of a message of nf_tables.
    pub(super) fn nftables(self) -> Option<(u8, &'a [u8])> {
        let attributes = self.body.get(FULL_HEADER - HEADER..)?;
        Some((*self.body.first()?, attributes))
    }

    /// The error number of an `ERROR` or `DONE` message, 0 for an acknowledgement.
    pub(super) fn errno(self) -> i32 {
        number(self.body, i32::from_ne_bytes).map_or(0, i32::saturating_neg)
    }
}

/// The messages of a datagram. What is cut off or senseless ends them.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(datagram, u32::from_ne_bytes)?).ok()?;
        let message = datagram.get(..length).filter(|m| m.len() >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: number(&message[4..], u16::from_ne_bytes)?,
            flags: number(&message[6..], u16::from_ne_bytes)?,
            sequence: number(&message[8..], u32::from_ne_bytes)?,
            body: &message[HEADER..],
        })
    })
}

/// Kinds and values of attributes. What is cut off or senseless ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number(bytes, u16::from_ne_bytes)?);
        let kind = number(bytes.get(2..)?, u16::from_ne_bytes)? & !NESTED;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// The text of the first attribute of a kind, without its zero byte.
pub(super) fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(bytes, kind)?;
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(&value[..end]).into_owned())
}

/// The number in the first attribute of a kind.
pub(super) fn be32(bytes: &[u8], kind: u16) -> Option<u32> {
    number(attribute(bytes, kind)?, u32::from_be_bytes)
}

fn number<const N: usize, T>(bytes: &[u8], read: impl FnOnce([u8; N]) -> T) -> Option<T> {
    bytes.first_chunk().map(|chunk| read(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Message::new(3, CREATE, Family::Netdev)
            .text(1, "table")
            .nest(4, |m| m.number(1, 7).bytes(2, &[1, 2, 3]))
            .finish(42, ACK);
        assert_eq!(bytes.len() % 4, 0);
        let message = messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.flags, message.sequence), (0x0a03, REQUEST | CREATE | ACK, 42));
        let (family, inside) = message.nftables().unwrap();
        assert_eq!(family, 5);
        assert_eq!(text(inside, 1).as_deref(), Some("table"));
        let nested = attribute(inside, 4).unwrap();
        assert_eq!(be32(nested, 1), Some(7));
        assert_eq!(attribute(nested, 2), Some(&[1, 2, 3][..]));
    }

    #[test]
    fn an_error_message_has_its_number() {
        let mut bytes = Message::batch(ERROR).finish(1, 0);
        bytes[HEADER..].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(messages(&bytes).next().unwrap().errno(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_on(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for message in messages(&bytes).take(1000) {
                message.errno();
                if let Some((_, inside)) = message.nftables() {
                    prop_assert!(attributes(inside).count() <= inside.len() / ATTRIBUTE + 1);
                }
            }
            prop_assert!(attributes(&bytes).take(1000).count() <= bytes.len() / ATTRIBUTE + 1);
            prop_assert!(messages(&bytes).take(1000).count() <= bytes.len() / HEADER + 1);
        }
    }
}
