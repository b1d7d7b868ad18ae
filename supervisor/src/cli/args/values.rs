//! Reading the values of flags. Pure.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::spec::{Accel, Arch, DurationError, Kind, Machine, Provision, Ready, Restart, Size};
use crate::store::Source;
use crate::vm::control::Until;

/// Makes the words of a spec's enum known to clap, which lists them in help, completions and man pages.
macro_rules! words {
    ($($type:ident),+) => {
        $(impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                Self::ALL
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(PossibleValue::new(self.word()))
            }
        })+
    };
}

words!(Kind, Machine, Accel, Provision, Restart);

impl ValueEnum for Arch {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let debian = match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        };
        Some(PossibleValue::new(self.word()).alias(debian))
    }
}

/// What `ip --source` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum AddressSource {
    /// Whatever is known.
    #[default]
    Auto,
    /// A DHCP server gave it to the guest.
    Dhcp,
    /// A DHCPv6 server did.
    Dhcpv6,
    /// The guest claimed it, or answered for it, by ARP.
    Arp,
    /// The same by IPv6 neighbour discovery.
    Ndp,
    /// The guest's agent tells it.
    Agent,
    /// The guest wrote it on its console.
    Console,
}

impl AddressSource {
    /// In the words of records; nothing for any.
    pub(in crate::cli) const fn source(self) -> Option<Source> {
        Some(match self {
            Self::Auto => return None,
            Self::Dhcp => Source::Dhcp,
            Self::Dhcpv6 => Source::Dhcpv6,
            Self::Arp => Source::Arp,
            Self::Ndp => Source::Ndp,
            Self::Agent => Source::Agent,
            Self::Console => Source::Console,
        })
    }
}

/// What a command can wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum WaitFor {
    /// The VM's own sign.
    Ready,
    /// The end of the guest.
    End,
    /// The end of cloud-init's work in the guest.
    CloudInit,
    /// This sign.
    Sign(Ready),
}

impl WaitFor {
    /// In the words of the control protocol.
    pub(in crate::cli) fn until(&self) -> Until {
        match self {
            Self::Ready => Until::Ready,
            Self::End => Until::Ended,
            // Asked by the agent, when it is there.
            Self::CloudInit => Until::Sign(Ready::Agent),
            Self::Sign(sign) => Until::Sign(sign.clone()),
        }
    }
}

/// `ready`, `exit`, `stopped`, `cloud-init`, or a sign of readiness.
pub(in crate::cli) fn wait_for(text: &str) -> Result<WaitFor, String> {
    match text {
        "ready" => Ok(WaitFor::Ready),
        "exit" | "stopped" => Ok(WaitFor::End),
        "cloud-init" => Ok(WaitFor::CloudInit),
        _ => text.parse().map(WaitFor::Sign).map_err(|e: crate::spec::ReadyError| {
            format!("{e}; or ready (the VM's own sign), cloud-init, or exit")
        }),
    }
}

/// A size whose bare number is GiB.
pub(in crate::cli) fn disk_size(text: &str) -> Result<Size, String> {
    let text = text.trim();
    let gib = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parsed = if gib { format!("{text}G").parse() } else { text.parse() };
    parsed.map_err(|_: crate::spec::SizeError| {
        format!("`{text}` is not a size: write a whole number and K, M, G or T, such as 20G (a bare number is GiB)")
    })
}

/// A length of time: `30s`, `5m`; a bare number is seconds.
pub(in crate::cli) fn duration(text: &str) -> Result<Duration, DurationError> {
    text.parse::<crate::spec::Duration>().map(Duration::from)
}

/// `HOST:GUEST`: a file of this host and the absolute path that it has in the guest.
pub(in crate::cli) fn file_for_guest(text: &str) -> Result<(PathBuf, String), String> {
    match text.split_once(":/") {
        Some((host, guest)) if !host.is_empty() => Ok((PathBuf::from(host), format!("/{guest}"))),
        _ => Err(format!(
            "`{text}` is not HOST:GUEST, such as ./motd:/etc/motd; the path in the guest is absolute"
        )),
    }
}

/// `KEY=VALUE`; the value may be empty and may hold `=`.
pub(in crate::cli) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// One side of `cp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// A file of this host.
    Host(PathBuf),
    /// Standard input or output.
    Stream,
    /// A file of a guest.
    Guest {
        /// The VM.
        name: String,
        /// Absolute path.
        path: String,
    },
}

/// `NAME:/PATH`, `PATH` or `-`. A colon after a slash belongs to a file name, so `./a:b` is a file of this host.
pub(in crate::cli) fn place(text: &str) -> Result<Place, String> {
    if text == "-" {
        return Ok(Place::Stream);
    }
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => {
            if path.starts_with('/') {
                Ok(Place::Guest { name: name.to_owned(), path: path.to_owned() })
            } else {
                Err(format!(
                    "`{text}`: the path in a guest must be absolute, as in {name}:/root/file (a file of this host with a colon in its name is written ./{text})"
                ))
            }
        }
        _ if text.is_empty() => Err("the path is empty".to_owned()),
        _ => Ok(Place::Host(PathBuf::from(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_disk_size_is_gib_and_a_suffix_holds() {
        assert_eq!(disk_size("5"), Ok(Size::from_mib(5 * 1024)));
        assert_eq!(disk_size("512M"), Ok(Size::from_mib(512)));
        assert_eq!(disk_size(" 20G "), Ok(Size::from_mib(20 * 1024)));
        for bad in ["", "G", "-5", "5.5", "5 G x", "99999999999999999999"] {
            assert!(disk_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_of_cp() {
        let guest = |name: &str, path: &str| Place::Guest { name: name.to_owned(), path: path.to_owned() };
        assert_eq!(place("web:/etc/motd"), Ok(guest("web", "/etc/motd")));
        assert_eq!(place("web:/a:b"), Ok(guest("web", "/a:b")));
        assert_eq!(place("./web:/x"), Ok(Place::Host("./web:/x".into())));
        assert_eq!(place("/tmp/a:b"), Ok(Place::Host("/tmp/a:b".into())));
        assert_eq!(place("-"), Ok(Place::Stream));
        for bad in ["", "web:relative", "web:"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_can_be_waited_for() {
        assert_eq!(wait_for("ready"), Ok(WaitFor::Ready));
        assert_eq!(wait_for("exit"), Ok(WaitFor::End));
        assert_eq!(wait_for("stopped"), Ok(WaitFor::End));
        assert_eq!(wait_for("cloud-init"), Ok(WaitFor::CloudInit));
        assert_eq!(wait_for("tcp:80"), Ok(WaitFor::Sign(Ready::Tcp(80))));
        assert!(wait_for("tcp:0").is_err());
        assert!(wait_for("soon").is_err());
    }

    #[test]
    fn files_for_a_guest() {
        assert_eq!(file_for_guest("a:/b"), Ok(("a".into(), "/b".to_owned())));
        assert_eq!(file_for_guest("/x/a:b:/c:/d"), Ok(("/x/a:b".into(), "/c:/d".to_owned())));
        for bad in ["", "a", "a:b", ":/b"] {
            assert!(file_for_guest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels() {
        assert_eq!(key_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(key_value("a="), Ok(("a".to_owned(), String::new())));
        assert!(key_value("=b").is_err());
        assert!(key_value("a").is_err());
    }

    #[test]
    fn debian_names_of_instruction_sets_are_understood() {
        assert_eq!(<Arch as ValueEnum>::from_str("arm64", false), Ok(Arch::Aarch64));
        assert_eq!(<Arch as ValueEnum>::from_str("amd64", false), Ok(Arch::X86_64));
    }
}
