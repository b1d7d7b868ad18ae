//! Names of interfaces.

use super::error::LinkError;

/// The longest name that an interface can have, in bytes: IFNAMSIZ less its closing zero (netdevice(7)).
pub const NAME_MAX: usize = 15;

/// How many digits of base 36 the hash in a tap's name has: 36 bits of it.
const HASH_DIGITS: usize = 7;

/// How many bytes of the hint a tap's name holds: `mg-HINT-HASH`.
const HINT_MAX: usize = NAME_MAX - "mg-".len() - "-".len() - HASH_DIGITS;

/// A name for the tap number `index` of whatever `unique` stands for: `mg-` and the beginning of `hint`, for people, then a
/// hash of `unique` and `index`. The same for ever, at most 15 bytes of `a-z`, `0-9` and `-`.
///
/// Two of a thousand names are alike with a probability of 7 in a million; making the tap then fails as [`Reason::Exists`].
///
/// [`Reason::Exists`]: super::Reason::Exists
#[must_use]
pub fn tap_name(hint: &str, unique: &[u8], index: usize) -> String {
    let mut name = String::from("mg-");
    let readable = hint.chars().map(|c| c.to_ascii_lowercase());
    name.extend(readable.filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).take(HINT_MAX));
    if name.len() > "mg-".len() {
        name.push('-');
    }
    let mut hash = hash(unique, index);
    for _ in 0..HASH_DIGITS {
        let digit = u32::try_from(hash % 36).unwrap_or_default();
        name.extend(char::from_digit(digit, 36));
        hash /= 36;
    }
    name
}

/// FNV-1a over all bytes, then the finaliser of MurmurHash3, as FNV alone hardly spreads the last byte. It only has to spread and
/// to stay the same over versions of midge, which std's hasher does not promise.
fn hash(unique: &[u8], index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX).to_le_bytes();
    let fnv = unique.iter().chain(&index).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// Refuses what the kernel would not take as a name (`dev_valid_name` in net/core/dev.c), and `%`, which it takes as a pattern.
pub fn check_name(name: &str) -> Result<(), LinkError> {
    let bad = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b || matches!(byte, 0 | b'/' | b':' | b'%');
    if name.is_empty() || name.len() > NAME_MAX || matches!(name, "." | "..") || name.bytes().any(bad) {
        return Err(LinkError::Name(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_shows_its_hint_and_stays_the_same() {
        // Taps of guests that run while midge is replaced by a newer one are found by their names.
        assert_eq!(tap_name("web", b"9f3c", 0), "mg-web-eavzpw8");
        assert_eq!(tap_name("Web Server", b"9f3c", 1), "mg-webs-cg29l95");
        assert_eq!(tap_name("äöü", b"9f3c", 0), "mg-eavzpw8");
    }

    #[test]
    fn ten_thousand_names_differ() {
        let names: HashSet<_> =
            (0..2500_u32).flat_map(|id| (0..4).map(move |i| tap_name("vm", &id.to_le_bytes(), i))).collect();
        assert_eq!(names.len(), 10_000);
    }

    #[test]
    fn names_that_the_kernel_refuses_are_refused() {
        for name in ["", ".", "..", "a b", "a/b", "eth0:1", "tap%d", "sixteen-bytes-ab", "a\tb"] {
            assert!(matches!(check_name(name), Err(LinkError::Name(bad)) if bad == name), "{name:?}");
        }
        for name in ["br0", "fifteen-bytes-a", "enp0s31f6", "mg-web-1"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_valid(hint in ".{0,40}", unique: Vec<u8>, index: usize) {
            let name = tap_name(&hint, &unique, index);
            prop_assert!(name.len() <= NAME_MAX);
            prop_assert!(name.starts_with("mg-"));
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(check_name(&name).is_ok());
        }

        #[test]
        fn names_of_different_owners_differ(hint in "[a-z]{0,9}", one: Vec<u8>, other: Vec<u8>, index in 0..8_usize) {
            prop_assume!(one != other);
            prop_assert_ne!(tap_name(&hint, &one, index), tap_name(&hint, &other, index));
            prop_assert_ne!(tap_name(&hint, &one, index), tap_name(&hint, &one, index + 1));
        }
    }
}
