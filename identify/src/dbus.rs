//! One call over D-Bus: the messages of it (D-Bus Specification, "Message Protocol"). Starting busctl or networkctl for it would take
//! longer than all the rest together.

use crate::text::Text;

/// Where the system bus listens.
pub const SOCKET: &[u8] = b"/run/dbus/system_bus_socket";
/// Says who is there, which for root is enough, and that messages follow ("Authentication Protocol"; `30` is user 0).
pub const HELLO: &[u8] = b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n";
/// The bus's answer begins with it.
pub const WELCOME: &[u8] = b"OK ";

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A message being written, low byte first.
#[derive(Debug, Default)]
pub struct Call(Text<512>);

impl Call {
    /// A call without arguments, or with a number.
    pub fn new(
        serial: u32,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        argument: Option<i32>,
    ) -> Self {
        let mut fields = Self::default();
        fields.text(PATH, b'o', path);
        fields.text(INTERFACE, b's', interface);
        fields.text(MEMBER, b's', member);
        fields.text(DESTINATION, b's', destination);
        if argument.is_some() {
            fields.align(8);
            fields.0.push(&[SIGNATURE, 1, b'g', 0, 1, b'i', 0]);
        }
        let mut call = Self::default();
        call.0.push(&[b'l', CALL, 0, 1]);
        call.number(if argument.is_some() { 4 } else { 0 });
        call.number(serial);
        call.number(fields.0.bytes().len() as u32);
        call.0.push(fields.0.bytes());
        call.align(8);
        if let Some(argument) = argument {
            call.0.push(&argument.to_le_bytes());
        }
        call
    }

    /// As it is sent.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// A field of the header: its code, and a variant that is a text. The array of them begins at 16, so their places in it and in the
    /// message are aligned alike.
    fn text(&mut self, code: u8, kind: u8, value: &str) {
        self.align(8);
        self.0.push(&[code, 1, kind, 0]);
        self.number(value.len() as u32);
        self.0.push(value.as_bytes());
        self.0.push(&[0]);
    }

    fn number(&mut self, value: u32) {
        self.0.push(&value.to_le_bytes());
    }

    fn align(&mut self, to: usize) {
        while !self.0.bytes().len().is_multiple_of(to) {
            self.0.push(&[0]);
        }
    }
}

/// A message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The answer to the call of this number.
    Done(u32),
    /// The call of this number was refused, for a reason of this name.
    Refused(u32, &'a str),
    /// Something else.
    Other,
}

/// The first message of what came, and how long it is; none where it is not whole.
pub fn reply(bytes: &[u8]) -> Option<(Reply<'_>, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (body, fields) = (number(4)? as usize, number(12)? as usize);
    let header = fields.checked_add(16)?.checked_next_multiple_of(8)?;
    let length = header.checked_add(body)?;
    bytes.get(..length)?;
    let fields = &bytes[16..16 + fields];
    let (mut serial, mut name) = (None, "");
    let mut at = 0usize;
    while let Some([code, 1, kind, 0]) = fields.get(at..).and_then(|rest| rest.first_chunk()) {
        at += 4;
        let Some(value) = value(fields, at, *kind) else { break };
        match *code {
            REPLY_SERIAL => serial = value.try_into().ok().map(u32::from_le_bytes),
            ERROR_NAME => name = core::str::from_utf8(value).unwrap_or_default(),
            _ => {}
        }
        let end = value.as_ptr().addr() - fields.as_ptr().addr() + value.len();
        at = (end + usize::from(*kind != b'u')).next_multiple_of(8);
    }
    let reply = match (bytes[0], bytes[1], serial) {
        (b'l', RETURN, Some(serial)) => Reply::Done(serial),
        (b'l', ERROR, Some(serial)) => Reply::Refused(serial, name),
        _ => Reply::Other,
    };
    Some((reply, length))
}

/// A value of a header's field, without the zero that ends a text.
fn value(fields: &[u8], at: usize, kind: u8) -> Option<&[u8]> {
    let rest = fields.get(at..)?;
    match kind {
        b'u' => rest.get(..4),
        b's' | b'o' => {
            let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
            rest.get(4..)?.get(..length)
        }
        b'g' => rest.get(1..)?.get(..usize::from(*rest.first()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_as_the_specification_has_it() {
        let call = Call::new(2, "a.b", "/c", "d.e", "F", Some(7));
        let expected: &[&[u8]] = &[
            b"l\x01\0\x01\x04\0\0\0\x02\0\0\0\x47\0\0\0",
            b"\x01\x01o\0\x02\0\0\0/c\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0d.e\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0F\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0",
            b"\x08\x01g\0\x01i\0\0",
            b"\x07\0\0\0",
        ];
        assert_eq!(call.bytes(), expected.concat());
    }

    #[test]
    fn answers_are_told_apart() {
        // A refusal's header: error name, reply serial, signature, sender; the body is a text.
        let name = "org.x.No";
        let mut fields = Call::default();
        fields.text(ERROR_NAME, b's', name);
        fields.align(8);
        fields.0.push(&[REPLY_SERIAL, 1, b'u', 0, 9, 0, 0, 0]);
        fields.0.push(&[SIGNATURE, 1, b'g', 0, 1, b's', 0]);
        fields.text(7, b's', "org.x");
        let mut message = Call::default();
        message.0.push(b"l\x03\x01\x01\x07\0\0\0\x01\0\0\0");
        message.number(fields.0.bytes().len() as u32);
        message.0.push(fields.0.bytes());
        message.align(8);
        message.0.push(b"\x02\0\0\0no\0");
        let bytes = [message.bytes(), b"more"].concat();
        assert_eq!(reply(&bytes), Some((Reply::Refused(9, name), bytes.len() - 4)));
        for length in 0..bytes.len() - 4 {
            assert_eq!(reply(&bytes[..length]), None, "{length}");
        }
        let call = Call::new(1, "a", "/b", "c", "d", None);
        assert_eq!(reply(call.bytes()), Some((Reply::Other, call.bytes().len())));
        assert_eq!(reply(&[0xff; 64]), None);
    }
}
