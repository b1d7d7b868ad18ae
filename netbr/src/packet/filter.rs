//! Which frames the kernel lets through to a packet socket: classic BPF (`Documentation/networking/filter.rst`).
//!
//! A load beyond the frame's end makes the kernel refuse it, so short and lying frames need no care here.

use std::sync::OnceLock;

use nix::libc::sock_filter;

/// A filter for the frames that tell addresses.
///
/// All of them refuse:
/// - frames of a VLAN: an address in there is not one on this network. The kernel takes an incoming tag off before a packet
///   socket sees the frame and keeps it beside, so this is asked of the kernel and not read from the frame. A mere
///   priority tag (VLAN 0) passes where the kernel took it off;
/// - fragments, also the first: no port can be read from the others, and half a message says nothing;
/// - IPv6 packets with extension headers, which neither DHCPv6 nor neighbour discovery uses.
///
/// UDP is chosen by its *destination* port, which is 67 or 68 (546 or 547) in every DHCP message. IPv4 options are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Addresses,
    Dhcp,
}

impl Filter {
    /// ARP, DHCPv4, DHCPv6 and neighbour discovery (ICMPv6 133 to 137).
    #[must_use]
    pub const fn addresses() -> Self {
        Self(Kind::Addresses)
    }

    /// DHCPv4 alone.
    #[must_use]
    pub const fn dhcp() -> Self {
        Self(Kind::Dhcp)
    }

    pub(super) fn program(self) -> &'static [sock_filter] {
        static PROGRAMS: [OnceLock<Vec<sock_filter>>; 2] = [const { OnceLock::new() }; 2];
        let (place, source) = match self.0 {
            Kind::Addresses => (&PROGRAMS[0], addresses()),
            Kind::Dhcp => (&PROGRAMS[1], dhcp()),
        };
        place.get_or_init(|| assemble(&source))
    }
}

/// Where a comparison leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Accept,
    Refuse,
    At(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum Line {
    Label(&'static str),
    /// A load: operation code, operand.
    Load(u16, u32),
    /// A jump: operation code, operand, where to if it holds, where to if not.
    Jump(u16, u32, To, To),
}

// linux/bpf_common.h; the kernel's answers about a frame are loads at "negative" addresses (linux/filter.h).
const LD_WORD: u16 = 0x20;
const LD_HALF: u16 = 0x28;
const LD_BYTE: u16 = 0x30;
const LD_HALF_AT_X: u16 = 0x48;
/// X = 4 * (the byte & 15): the length of an IPv4 header.
const LDX_IPV4_HEADER: u16 = 0xb1;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const VLAN_TAG: u32 = 0xffff_f000 + 44;
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;
/// More than any frame has: all of it.
const WHOLE: u32 = 0x4_0000;

const fn equal(value: u32, to: To) -> Line {
    Line::Jump(JUMP_EQUAL, value, to, To::Next)
}

const fn equal_or_refuse(value: u32, to: To) -> Line {
    Line::Jump(JUMP_EQUAL, value, to, To::Refuse)
}

/// Falls through where the frame is in no VLAN, or in VLAN 0.
fn no_vlan() -> Vec<Line> {
    vec![
        Line::Load(LD_WORD, VLAN_TAG_PRESENT),
        equal(0, To::At("untagged")),
        Line::Load(LD_WORD, VLAN_TAG),
        Line::Jump(JUMP_ANY_BIT, 0x0fff, To::Refuse, To::Next),
        Line::Label("untagged"),
    ]
}

/// An IPv4 packet to a DHCP port, or refused.
fn dhcp4() -> Vec<Line> {
    vec![
        Line::Load(LD_BYTE, 23),
        equal_or_refuse(17, To::Next),
        // "More fragments" or an offset.
        Line::Load(LD_HALF, 20),
        Line::Jump(JUMP_ANY_BIT, 0x3fff, To::Refuse, To::Next),
        Line::Load(LDX_IPV4_HEADER, 14),
        Line::Load(LD_HALF_AT_X, 16),
        equal(67, To::Accept),
        equal_or_refuse(68, To::Accept),
    ]
}

fn dhcp() -> Vec<Line> {
    let mut lines = no_vlan();
    lines.extend([Line::Load(LD_HALF, 12), equal_or_refuse(0x0800, To::Next)]);
    lines.extend(dhcp4());
    lines
}

fn addresses() -> Vec<Line> {
    let mut lines = no_vlan();
    lines.extend([
        Line::Load(LD_HALF, 12),
        equal(0x0806, To::Accept),
        equal(0x86dd, To::At("ipv6")),
        equal_or_refuse(0x0800, To::Next),
    ]);
    lines.extend(dhcp4());
    lines.extend([
        Line::Label("ipv6"),
        Line::Load(LD_BYTE, 20),
        equal(58, To::At("icmpv6")),
        equal_or_refuse(17, To::Next),
        Line::Load(LD_HALF, 56),
        equal(546, To::Accept),
        equal_or_refuse(547, To::Accept),
        Line::Label("icmpv6"),
        Line::Load(LD_BYTE, 54),
        Line::Jump(JUMP_GREATER, 137, To::Refuse, To::Next),
        Line::Jump(JUMP_GREATER_EQUAL, 133, To::Accept, To::Refuse),
    ]);
    lines
}

/// Turns names of places into distances. The lines are this module's own: one that is wrong fails its tests.
fn assemble(lines: &[Line]) -> Vec<sock_filter> {
    let code: Vec<&Line> = lines.iter().filter(|line| !matches!(line, Line::Label(_))).collect();
    let place = |wanted: &str| {
        let before = lines.iter().take_while(|line| !matches!(line, Line::Label(name) if *name == wanted));
        before.filter(|line| !matches!(line, Line::Label(_))).count()
    };
    let distance = |here: usize, to: To| {
        let target = match to {
            To::Next => here + 1,
            To::Accept => code.len(),
            To::Refuse => code.len() + 1,
            To::At(label) => place(label),
        };
        // A jump is relative to the next instruction.
        u8::try_from(target - here - 1).unwrap_or(u8::MAX)
    };
    let mut program: Vec<sock_filter> = code
        .iter()
        .enumerate()
        .filter_map(|(here, line)| match **line {
            Line::Label(_) => None,
            Line::Load(code, k) => Some(sock_filter { code, jt: 0, jf: 0, k }),
            Line::Jump(code, k, yes, no) => {
                Some(sock_filter { code, jt: distance(here, yes), jf: distance(here, no), k })
            }
        })
        .collect();
    program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: WHOLE });
    program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 });
    program
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// Asks the kernel itself: a filter works on any datagram socket, and needs no privilege on one of the local kind.
    fn passes(filter: Filter, frame: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        super::super::sys::attach_filter(receiver.as_fd(), filter.program()).unwrap();
        sender.send(frame).unwrap();
        let mut buf = [0; 4096];
        match receiver.recv(&mut buf) {
            Ok(len) => {
                assert_eq!(&buf[..len], frame, "cut off");
                true
            }
            Err(none) => {
                assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    fn frame(ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x52; 12];
        frame.extend(ether_type.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn udp4(port: u16, options: usize, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0; 20 + options * 4 + 308];
        packet[0] = 0x45 + u8::try_from(options).unwrap();
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = 17;
        let udp = 20 + options * 4;
        packet[udp + 2..udp + 4].copy_from_slice(&port.to_be_bytes());
        frame(0x0800, &packet)
    }

    fn ipv6(next: u8, start: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 40 + 24];
        packet[0] = 0x60;
        packet[6] = next;
        packet[40..44].copy_from_slice(&start);
        frame(0x86dd, &packet)
    }

    #[test]
    fn what_tells_addresses_passes() {
        let all = Filter::addresses();
        assert!(passes(all, &frame(0x0806, &[0; 28])));
        for port in [67, 68] {
            for options in [0, 1, 10] {
                assert!(passes(all, &udp4(port, options, 0)), "{port} {options}");
                assert!(passes(Filter::dhcp(), &udp4(port, options, 0)), "{port} {options}");
            }
            // "Don't fragment" is no fragment.
            assert!(passes(all, &udp4(port, 0, 0x4000)));
        }
        for port in [546, 547] {
            let [high, low] = u16::to_be_bytes(port);
            assert!(passes(all, &ipv6(17, [0, 0, high, low])), "{port}");
        }
        for kind in 133..=137 {
            assert!(passes(all, &ipv6(58, [kind, 0, 0, 0])), "{kind}");
        }
    }

    #[test]
    fn what_tells_none_is_refused() {
        let all = Filter::addresses();
        assert!(!passes(all, &udp4(53, 0, 0)));
        assert!(!passes(all, &udp4(69, 0, 0)));
        for fragment in [0x2000, 0x2001, 0x0001, 0x1fff] {
            assert!(!passes(all, &udp4(68, 0, fragment)), "{fragment:x}");
        }
        let mut tcp = udp4(68, 0, 0);
        tcp[23] = 6;
        assert!(!passes(all, &tcp));
        for kind in [128, 129, 132, 138, 143] {
            assert!(!passes(all, &ipv6(58, [kind, 0, 0, 0])), "{kind}");
        }
        assert!(!passes(all, &ipv6(17, [2, 34, 0, 53])));
        assert!(!passes(all, &ipv6(0, [58, 0, 0, 0])));
        for other in [0x8100, 0x88a8, 0x88cc, 0x0026] {
            assert!(!passes(all, &frame(other, &[0; 64])), "{other:x}");
        }
        assert!(!passes(Filter::dhcp(), &frame(0x0806, &[0; 28])));
        assert!(!passes(Filter::dhcp(), &ipv6(58, [135, 0, 0, 0])));
    }

    #[test]
    fn short_frames_are_refused() {
        for whole in [udp4(68, 10, 0), ipv6(58, [135, 0, 0, 0]), ipv6(17, [0, 0, 2, 34])] {
            let reaches = (1..whole.len()).find(|len| passes(Filter::addresses(), &whole[..*len])).unwrap();
            // The last byte looked at is the port's, or the ICMPv6 type.
            assert!(reaches >= 55, "{reaches}");
        }
        assert!(!passes(Filter::addresses(), &[0; 13]));
    }
}
