//! The guest's own files as far as they are read or changed.

use core::fmt::Write;

use crate::text::Text;

/// A link-layer address as files have it.
pub fn mac(bytes: [u8; 6]) -> Text<18> {
    let mut text = Text::default();
    for (index, byte) in bytes.iter().enumerate() {
        let _ = write!(text, "{}{byte:02x}", if index > 0 { ":" } else { "" });
    }
    text
}

/// The value of `KEY=value` in a file of such lines, as systemd-networkd keeps in /run/systemd/netif.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// Whether an interface has an address of DHCPv6 in /proc/net/if_inet6: one without a network.
pub fn has_dhcpv6(text: &str, index: u32) -> bool {
    global_ipv6(text, index).any(|[prefix, _]| prefix == 128)
}

/// Whether an interface has an address in /proc/net/if_inet6 that is there for ever: it was set, not learned of a router.
pub fn has_set_ipv6(text: &str, index: u32) -> bool {
    const IFA_F_PERMANENT: u32 = 0x80;
    global_ipv6(text, index).any(|[prefix, flags]| prefix != 128 && flags & IFA_F_PERMANENT != 0)
}

/// The lengths of the prefixes and the flags of an interface's addresses that others far away can reach (Linux, net/ipv6/addrconf.c,
/// `if6_seq_show`: address, interface, length of the prefix, scope, flags and name, in hexadecimal).
fn global_ipv6(text: &str, index: u32) -> impl Iterator<Item = [u32; 2]> {
    text.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let mut number = || words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
        let (interface, prefix, scope, flags) = (number()?, number()?, number()?, number()?);
        (interface == index && scope == 0).then_some([prefix, flags])
    })
}

/// Passes `text` on to `out` with every word `old` as `new`, as in hosts(5); answers whether there was one. A word is what stands between
/// spaces, tabs and ends of lines.
pub fn replace_word(text: &[u8], old: &[u8], new: &[u8], mut out: impl FnMut(&[u8])) -> bool {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let mut found = false;
    let mut rest = text;
    while !rest.is_empty() {
        let spaces = rest.iter().position(|byte| !is_space(byte)).unwrap_or(rest.len());
        out(&rest[..spaces]);
        rest = &rest[spaces..];
        let word = rest.iter().position(is_space).unwrap_or(rest.len());
        let is_old = word > 0 && &rest[..word] == old;
        found |= is_old;
        out(if is_old { new } else { &rest[..word] });
        rest = &rest[word..];
    }
    found
}

/// Writes the link-layer address `new` over `old`, which is as long, whatever the case of its letters; answers whether it was there. Where
/// it stands for the card's own address, which does not change with the interface's (systemd.network(5), `PermanentMACAddress=`), it stays.
pub fn replace_mac(text: &mut [u8], old: &str, new: &str) -> bool {
    let mut found = false;
    let (old, new) = (old.as_bytes(), new.as_bytes());
    for line in text.split_mut(|byte| *byte == b'\n') {
        if old.len() != new.len() || line.trim_ascii_start().starts_with(b"PermanentMACAddress") {
            continue;
        }
        let mut at = 0;
        while let Some(place) = line.get_mut(at..at + old.len()) {
            if place.eq_ignore_ascii_case(old) {
                place.copy_from_slice(new);
                found = true;
            }
            at += 1;
        }
    }
    found
}

/// The files that `HostKey` lines of sshd_config(5) name. Comments and values in quotes as it has them.
pub fn host_keys(config: &str) -> impl Iterator<Item = &str> {
    config.lines().filter_map(|line| {
        let line = line.trim_start();
        let end = line.find(|c: char| c == '=' || c.is_ascii_whitespace())?;
        let (key, value) = line.split_at(end);
        let value = value.trim_matches(|c: char| c == '=' || c == '"' || c.is_ascii_whitespace());
        (key.eq_ignore_ascii_case("HostKey") && !value.is_empty()).then_some(value)
    })
}

/// Whether a file's name is that of one of sshd's host keys, private or public (sshd(8), FILES).
pub fn is_host_key(name: &str) -> bool {
    name.strip_prefix("ssh_host_").is_some_and(|rest| {
        rest.ends_with("_key") || rest.ends_with("_key.pub") || rest.ends_with("_key-cert.pub")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str, old: &str, new: &str) -> (bool, String) {
        let mut out = Vec::new();
        let found = replace_word(text.as_bytes(), old.as_bytes(), new.as_bytes(), |part| out.extend(part));
        (found, String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_whole_words_are_replaced() {
        let hosts = "127.0.1.1\tweb.lan web\n::1 webs  web\n# web";
        assert_eq!(
            replaced(hosts, "web", "shop"),
            (true, "127.0.1.1\tweb.lan shop\n::1 webs  shop\n# shop".to_owned())
        );
        assert_eq!(replaced(hosts, "we", "x"), (false, hosts.to_owned()));
        assert_eq!(replaced("", "a", "b"), (false, String::new()));
        assert_eq!(replaced(" ", "", "b"), (false, " ".to_owned()));
    }

    #[test]
    fn an_address_is_replaced_in_place_but_not_the_cards_own() {
        let mut text = b"MACAddress=52:54:00:AA:00:01\nPermanentMACAddress=52:54:00:aa:00:01\nx".to_vec();
        assert!(replace_mac(&mut text, "52:54:00:aa:00:01", "52:54:00:bb:00:02"));
        assert_eq!(text, b"MACAddress=52:54:00:bb:00:02\nPermanentMACAddress=52:54:00:aa:00:01\nx");
        assert!(!replace_mac(&mut text[..28], "52:54:00:aa:00:01", "52:54:00:bb:00:02"));
        assert!(!replace_mac(&mut [], "52:54:00:aa:00:01", "52:54:00:bb:00:02"));
    }

    #[test]
    fn host_keys_are_found_in_a_configuration() {
        let text = "# HostKey /no\nHostKey /etc/ssh/ssh_host_rsa_key\n  hostkey=\"/a b\" \nHostKeyAgent x\nHostKey\n";
        let found: Vec<_> = host_keys(text).collect();
        assert_eq!(found, ["/etc/ssh/ssh_host_rsa_key", "/a b"]);
        assert!(is_host_key("ssh_host_rsa_key") && is_host_key("ssh_host_ed25519_key.pub"));
        assert!(!is_host_key("ssh_config") && !is_host_key("ssh_host_x") && !is_host_key("ssh_host_key.old"));
    }

    #[test]
    fn an_address_has_two_digits_a_byte() {
        assert_eq!(mac([0x52, 0x54, 0, 0xa, 0xff, 1]).str(), "52:54:00:0a:ff:01");
    }

    #[test]
    fn addresses_of_dhcpv6_and_set_ones_are_told_from_others() {
        let text = "fe80000000000000505400fffeb9707e 02 40 20 80 enp0s1\n\
                    fd000000000000000000000000000123 0b 80 00 00 enp0s2\n\
                    20010db8000000000000000000000001 03 40 00 80 enp0s3\n\
                    20010db80000000052540000000000aa 04 40 00 00 enp0s4\n\
                    00000000000000000000000000000001 01 80 10 80 lo\n";
        let found: Vec<bool> = [1, 2, 11].map(|index| has_dhcpv6(text, index)).into();
        assert_eq!(found, [false, false, true]);
        let found: Vec<bool> = [1, 2, 3, 4, 11].map(|index| has_set_ipv6(text, index)).into();
        assert_eq!(found, [false, false, true, false, false]);
        assert!(!has_dhcpv6("x\n\n", 0));
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "# x\nADDRESS=10.0.2.15\nCLIENTID=01aa\n";
        assert_eq!((value(text, "CLIENTID"), value(text, "CLIENT")), (Some("01aa"), None));
    }
}
