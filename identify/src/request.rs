//! What the program is asked for, on its standard input: on a command line, others in the guest would see it.
//!
//! A request is a row of fields, each `NAME LENGTH\n`, then so many bytes, then `\n`.

/// The most interfaces that a request may have.
pub const MOST_NICS: usize = 8;

/// An interface that is to have another address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nic {
    /// What it has.
    pub old: [u8; 6],
    /// What it is to have.
    pub new: [u8; 6],
    /// The IPv4 address that it must have afterwards.
    pub address: Option<[u8; 4]>,
}

/// A request. What is missing is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request<'a> {
    /// The interfaces: the first `nic_count` count.
    nics: [Nic; MOST_NICS],
    nic_count: usize,
    /// The name.
    pub hostname: Option<&'a str>,
    /// The machine-id: 32 hexadecimal digits.
    pub machine_id: Option<&'a str>,
    /// What identifies the machine in DHCPv6, and in DHCPv4 where it is configured so, as networkd.conf(5) has `DUIDRawData=`.
    pub duid: Option<&'a str>,
    /// The private host key's file.
    pub host_key: Option<&'a [u8]>,
    /// The public host key's file.
    pub host_public_key: Option<&'a [u8]>,
    /// Random bytes for the kernel.
    pub seed: Option<&'a [u8]>,
    /// What the clock is to be put forward by, in nanoseconds.
    pub clock: Option<i64>,
    /// How long to wait for addresses, in milliseconds; they are not waited for where it is missing.
    pub wait: Option<u64>,
    /// Interfaces are to ask for addresses anew.
    pub renew: bool,
}

impl<'a> Request<'a> {
    /// Reads a request; none where it is none.
    pub fn of(mut bytes: &'a [u8]) -> Option<Self> {
        let mut request = Self::default();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            let head = core::str::from_utf8(&bytes[..end]).ok()?;
            let (name, length) = head.split_once(' ')?;
            let rest = &bytes[end + 1..];
            let length: usize = length.parse().ok()?;
            let value = rest.get(..length)?;
            if rest.get(length) != Some(&b'\n') {
                return None;
            }
            request.take(name, value)?;
            bytes = &rest[length + 1..];
        }
        Some(request)
    }

    fn take(&mut self, name: &str, value: &'a [u8]) -> Option<()> {
        let text = core::str::from_utf8(value);
        match name {
            "nic" => {
                *self.nics.get_mut(self.nic_count)? = nic(text.ok()?)?;
                self.nic_count += 1;
            }
            "hostname" => self.hostname = Some(text.ok()?),
            "machine-id" => self.machine_id = Some(text.ok()?),
            "duid" => self.duid = Some(text.ok()?),
            "host-key" => self.host_key = Some(value),
            "host-public-key" => self.host_public_key = Some(value),
            "seed" => self.seed = Some(value),
            "clock" => self.clock = Some(text.ok()?.parse().ok()?),
            "wait" => self.wait = Some(text.ok()?.parse().ok()?),
            "renew" => self.renew = true,
            _ => return None,
        }
        Some(())
    }

    /// The interfaces.
    pub fn nics(&self) -> &[Nic] {
        &self.nics[..self.nic_count]
    }
}

/// `OLD NEW` or `OLD NEW ADDRESS`.
fn nic(text: &str) -> Option<Nic> {
    let mut words = text.split(' ');
    let (old, new) = (mac(words.next()?)?, mac(words.next()?)?);
    let address = match words.next() {
        Some(word) => Some(word.parse::<core::net::Ipv4Addr>().ok()?.octets()),
        None => None,
    };
    words.next().is_none().then_some(Nic { old, new, address })
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(pairs.next()?, 16).ok()?;
    }
    pairs.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_hold_any_byte() {
        let bytes =
            b"hostname 3\nweb\nseed 4\n\0\n1\n\nclock 3\n-12\nnic 35\n52:54:00:00:00:01 52:54:00:00:00:02\nrenew 0\n\n";
        let request = Request::of(bytes).unwrap();
        assert_eq!((request.hostname, request.seed), (Some("web"), Some(&b"\0\n1\n"[..])));
        assert_eq!((request.clock, request.renew, request.wait), (Some(-12), true, None));
        let nic = Nic { old: [0x52, 0x54, 0, 0, 0, 1], new: [0x52, 0x54, 0, 0, 0, 2], address: None };
        assert_eq!(request.nics(), [nic]);
        assert_eq!(Request::of(b""), Some(Request::default()));
    }

    #[test]
    fn anything_else_is_no_request() {
        for bytes in [
            &b"hostname 4\nweb\n"[..],
            b"hostname 3\nweb",
            b"hostname\nweb\n",
            b"hostname -1\nweb\n",
            b"hostname 3\n\xff\xfe\xfd\n",
            b"other 0\n\n",
            b"clock 1\nx\n",
            b"nic 35\n52:54:00:00:00:01 52:54:00:00:00:0g\n",
            b"nic 37\n52:54:00:00:00:01 52:54:00:00:00:02 1\n",
        ] {
            assert_eq!(Request::of(bytes), None, "{:?}", String::from_utf8_lossy(bytes));
        }
        let nics = b"nic 35\n52:54:00:00:00:01 52:54:00:00:00:02\n".repeat(MOST_NICS + 1);
        assert_eq!(Request::of(&nics), None);
    }

    #[test]
    fn an_address_may_be_demanded() {
        let request = Request::of(b"nic 44\n52:54:00:00:00:01 52:54:00:00:00:02 10.0.0.7\n").unwrap();
        assert_eq!(request.nics()[0].address, Some([10, 0, 0, 7]));
    }
}
