//! The choices of a spec as single words: one table an enum serves the command line, JSON and error texts.

use std::fmt;
use std::str::FromStr;

use super::{Accel, Arch, Kind, Machine, OnReset, Provision, Restart};

/// A text that is none of a choice's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {what}: write {}", list(.allowed))]
pub struct WordError {
    /// What the word would choose, such as `machine`.
    pub what: &'static str,
    /// The text given.
    pub given: String,
    /// The words that would do.
    pub allowed: &'static [&'static str],
}

/// `a, b or c`.
fn list(words: &[&str]) -> String {
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// Gives an enum its words: `ALL`, `WORDS`, `Display`, `FromStr`. Words after the first of a value are
/// aliases.
macro_rules! words {
    ($type:ident, $what:literal, $($value:ident => $word:literal $(| $alias:literal)*),+ $(,)?) => {
        impl $type {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];
            /// The word of each value, in the order of [`Self::ALL`].
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word for it, on the command line and in JSON.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $type {
            type Err = WordError;

            fn from_str(text: &str) -> Result<Self, WordError> {
                match text {
                    $($word $(| $alias)* => Ok(Self::$value),)+
                    _ => Err(WordError { what: $what, given: text.to_owned(), allowed: Self::WORDS }),
                }
            }
        }
    };
}

words!(Kind, "kind of guest",
    Auto => "auto", Linux => "linux", Unikraft => "unikraft", Solo5 => "solo5", Hermit => "hermit", Nanos => "nanos",
    Other => "other");
words!(Arch, "instruction set", X86_64 => "x86_64" | "amd64", Aarch64 => "aarch64" | "arm64");
words!(Machine, "machine", Auto => "auto", Q35 => "q35", Microvm => "microvm", Virt => "virt");
words!(Accel, "acceleration", Auto => "auto", Kvm => "kvm", Tcg => "tcg");
words!(Provision, "way of provisioning", Auto => "auto", Credentials => "credentials", CloudInit => "cloud-init", None => "none");
words!(Restart, "restart policy", No => "no", OnFailure => "on-failure", Always => "always");
words!(OnReset, "effect of a reset", Reboot => "reboot", Stop => "stop");

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    fn agree<T>(all: &[T], words: &[&str])
    where
        T: Copy
            + PartialEq
            + fmt::Debug
            + fmt::Display
            + FromStr<Err = WordError>
            + Serialize
            + DeserializeOwned,
    {
        assert_eq!(all.len(), words.len());
        for (value, word) in all.iter().zip(words) {
            assert_eq!(value.to_string(), *word);
            assert_eq!(word.parse::<T>().as_ref(), Ok(value));
            assert_eq!(serde_json::to_value(value).unwrap(), *word);
            assert_eq!(serde_json::from_value::<T>((*word).into()).unwrap(), *value);
        }
    }

    #[test]
    fn words_are_the_same_in_text_and_json() {
        agree(Kind::ALL, Kind::WORDS);
        agree(Arch::ALL, Arch::WORDS);
        agree(Machine::ALL, Machine::WORDS);
        agree(Accel::ALL, Accel::WORDS);
        agree(Provision::ALL, Provision::WORDS);
        agree(Restart::ALL, Restart::WORDS);
        agree(OnReset::ALL, OnReset::WORDS);
    }

    #[test]
    fn debian_names_of_instruction_sets_are_understood() {
        assert_eq!("amd64".parse(), Ok(Arch::X86_64));
        assert_eq!("arm64".parse(), Ok(Arch::Aarch64));
    }

    #[test]
    fn an_unknown_word_lists_what_would_do() {
        let error = "pc".parse::<Machine>().unwrap_err();
        assert_eq!(error.to_string(), "`pc` is no machine: write auto, q35, microvm or virt");
    }
}
