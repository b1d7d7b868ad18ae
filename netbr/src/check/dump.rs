//! One question to a netlink family that rtnetlink does not speak, asked and answered at once.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr};

/// `struct nlmsghdr` (netlink(7)): length, type, flags, sequence number, port.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Sends one request and returns the payload of each message of the answer.
///
/// It blocks, but not for long: the kernel answers while it is asked. `flags` must ask for an end of the answer: NLM_F_DUMP
/// ends with a message of its own, NLM_F_ACK with an acknowledgement.
pub(super) fn ask(
    protocol: isize,
    message_type: u16,
    flags: u16,
    payload: &[u8],
) -> io::Result<Vec<Vec<u8>>> {
    let socket = Socket::new(protocol)?;
    let mut request = Vec::with_capacity(HEADER + payload.len());
    let length = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
    request.extend(length.to_ne_bytes());
    request.extend(message_type.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(payload);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;

    let mut answer = Vec::new();
    loop {
        let (datagram, _kernel) = socket.recv_from_full()?;
        if take(&datagram, &mut answer)? {
            return Ok(answer);
        }
    }
}

/// Takes the messages of a datagram; true when the answer is complete.
fn take(mut datagram: &[u8], answer: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while let Some((header, rest)) = datagram.split_at_checked(HEADER) {
        let length = usize::try_from(word(header, 0)).map_err(io::Error::other)?;
        let payload = length.checked_sub(HEADER).and_then(|length| rest.get(..length));
        let payload = payload
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut off"))?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            DONE => return Ok(true),
            ERROR => {
                // Zero or a negative error number.
                return match payload.get(..4).map(|code| word(code, 0).cast_signed()) {
                    Some(0) => Ok(true),
                    Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    None => Err(io::ErrorKind::InvalidData.into()),
                };
            }
            _ => answer.push(payload.to_vec()),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Four bytes as a number, in the machine's order; zero where they are missing.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The attributes in `bytes`, each with its number; what is cut off ends them.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    let attributes = NlasIterator::new(bytes).map_while(Result::ok);
    attributes.map(|nla: NlaBuffer<_>| (nla.kind(), nla.value().to_vec()))
}

/// An attribute as it is sent (netlink(7)): length, number, value, filled up to four bytes.
pub(super) fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), number.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A text that ends with a zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_hang(datagram in proptest::collection::vec(any::<u8>(), 0..128)) {
            let mut answer = Vec::new();
            let _ = take(&datagram, &mut answer);
            let _ = attributes(&datagram).count();
        }

        #[test]
        fn attributes_are_read_as_they_are_sent(number in 0..64_u16, value in proptest::collection::vec(any::<u8>(), 0..32)) {
            let bytes = attribute(number, &value);
            prop_assert_eq!(attributes(&bytes).collect::<Vec<_>>(), vec![(number, value)]);
        }
    }
}
