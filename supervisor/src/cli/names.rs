//! Names for VMs that were given none, and near names for those mistyped.

/// Letters and digits that cannot be taken for one another.
const ALPHABET: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";

/// A name such as `debian-k3f9`: what the VM boots, and four characters from `random`.
pub(super) fn made_up(boots: &str, random: [u8; 4]) -> String {
    let mut stem: String = boots
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    while stem.contains("--") {
        stem = stem.replace("--", "-");
    }
    let stem = stem.trim_matches('-');
    let stem = if stem.is_empty() { "vm" } else { stem };
    let tail: String =
        random.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect();
    format!("{stem}-{tail}")
}

/// The most similar of the known names, when one is similar.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|other| (strsim::damerau_levenshtein(name, other), other))
        .filter(|(distance, other)| *distance <= (other.len() / 3).max(1))
        .min()
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::check_name;
    use proptest::prelude::*;

    #[test]
    fn a_made_up_name_tells_what_boots() {
        assert_eq!(made_up("debian", [0, 1, 2, 30]), "debian-abc9");
        assert_eq!(made_up("My_Kernel.elf", [0; 4]), "my-kernel-elf-aaaa");
        assert_eq!(made_up("…", [0; 4]), "vm-aaaa");
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(nearest("debain:12", ["debian:12", "debian:13", "hello"]), Some("debian:12"));
        assert_eq!(nearest("fedora", ["debian:12", "hello"]), None);
    }

    proptest! {
        #[test]
        fn every_made_up_name_is_a_valid_one(boots in ".{0,80}", random: [u8; 4]) {
            prop_assert!(check_name(&made_up(&boots, random)).is_ok());
        }
    }
}
