//! The `filter` table of iptables as it was before nftables, which nftables does not show (iptables-legacy(8)).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::dump::{text, word};
use super::netfilter::{FilterTable, ForwardChain};

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES of linux/netfilter_ipv4/ip_tables.h.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo`: the table's name, a mask of hooks, each hook's first and last rule, how many rules and bytes.
const INFO: usize = 84;
const NAME: usize = 32;
const UNDERFLOW: usize = 56;
const SIZE: usize = 80;
/// `struct ipt_get_entries` before the entries: the name, the size, and four bytes of nothing.
const ENTRIES: usize = 40;
/// `struct ipt_entry`: where the target lies and where the next entry begins.
const TARGET_OFFSET: usize = 88;
const NEXT_OFFSET: usize = 90;
/// `struct xt_entry_target`: its length, its name, and what follows.
const TARGET_NAME: usize = 2;
const TARGET_DATA: usize = 32;
/// NF_INET_FORWARD.
const FORWARD: usize = 2;
/// A verdict is -NF_… - 1, and NF_DROP is 0.
const DROP: u32 = u32::MAX;

/// The table, where it is in use in the calling thread's network namespace and may be seen.
pub(super) fn filter_table() -> io::Result<Option<FilterTable>> {
    // To ask for a table makes it, so it is only asked for where it is there already. Others than root cannot read the list.
    let tables = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if !tables.lines().any(|table| table == "filter") {
        return Ok(None);
    }
    let raw = SockType::Raw;
    let socket = socket(AddressFamily::Inet, raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let mut info = [0; INFO];
    info[..6].copy_from_slice(b"filter");
    get(&socket, GET_INFO, &mut info)?;
    let size = word(&info, SIZE);
    let mut entries = vec![0; ENTRIES + usize::try_from(size).map_err(io::Error::other)?];
    entries[..6].copy_from_slice(b"filter");
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    // EAGAIN when it was changed in between: then it is in use, and the next look will show it.
    get(&socket, GET_ENTRIES, &mut entries)?;
    Ok(read(&info, &entries[ENTRIES..]))
}

/// Asks for an option whose buffer also says what is asked for.
fn get(socket: &OwnedFd, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which is how long `buffer` is, and both live for the call.
    let done = unsafe {
        let to = buffer.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, option, to, &raw mut length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads the forward chain's policy, which is the verdict of its last rule, and the names of the chains that somebody made: each
/// begins with a rule whose target is called ERROR and holds the name.
fn read(info: &[u8], entries: &[u8]) -> Option<FilterTable> {
    let half = |at: usize| {
        let two = entries.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_ne_bytes(two)))
    };
    let policy = usize::try_from(word(info, UNDERFLOW + 4 * FORWARD)).ok()?;
    let verdict = policy + half(policy + TARGET_OFFSET)? + TARGET_DATA;
    let drops = word(entries.get(verdict..verdict + 4)?, 0) == DROP;

    let mut others = Vec::new();
    let mut at = 0;
    while let (Some(target), Some(next @ 1..)) = (half(at + TARGET_OFFSET), half(at + NEXT_OFFSET)) {
        let target = at + target;
        let name = entries.get(target + TARGET_NAME..target + TARGET_DATA).map(text);
        if name.as_deref() == Some("ERROR") {
            others.extend(entries.get(target + TARGET_DATA..at + next).map(text));
        }
        at += next;
    }
    // The last rule of all is an ERROR that begins no chain.
    others.pop();
    let forward = vec![ForwardChain { name: "FORWARD".to_owned(), drops }];
    Some(FilterTable { legacy: true, family: "ip".to_owned(), name: "filter".to_owned(), forward, others })
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn info() -> Vec<u8> {
        recorded(include_str!("../../tests/recorded/iptables-info.hex"))
    }

    /// What the kernel answers after `iptables-legacy -N DOCKER-USER`, `-N ufw-before-forward`, `-A FORWARD -j DOCKER-USER` and
    /// `-P FORWARD DROP`.
    fn entries() -> Vec<u8> {
        recorded(include_str!("../../tests/recorded/iptables-entries.hex"))
    }

    #[test]
    fn a_recorded_table_is_read() {
        let table = read(&info(), &entries()).unwrap();
        assert_eq!(table.forward, [ForwardChain { name: "FORWARD".to_owned(), drops: true }]);
        assert_eq!(table.others, ["DOCKER-USER", "ufw-before-forward"]);

        // The same with `-P FORWARD ACCEPT`, whose verdict is -2.
        let mut accepts = entries();
        accepts[0x130 + 0x70 + TARGET_DATA] = 0xfe;
        assert!(!read(&info(), &accepts).unwrap().forward[0].drops);
    }

    #[test]
    fn the_kernels_table_is_read_and_never_made() {
        let seen = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("run the tests as root");
            assert_eq!(filter_table().unwrap(), None);
            let socket =
                socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
            let mut info = [0; INFO];
            info[..6].copy_from_slice(b"filter");
            // A kernel may have been built without it.
            let made = get(&socket, GET_INFO, &mut info).is_ok();
            assert_eq!(filter_table().unwrap().is_some(), made);
            filter_table().unwrap()
        });
        if let Some(table) = seen.join().unwrap() {
            assert_eq!(table.forward, [ForwardChain { name: "FORWARD".to_owned(), drops: false }]);
            assert_eq!(table.others, Vec::<String>::new());
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_hang(cut in 0..1440_usize, at in 0..1440_usize, byte: u8) {
            let mut entries = entries();
            entries[at] = byte;
            entries.truncate(cut);
            let _ = read(&info(), &entries);
        }
    }
}
