//! What a guest says of its new identity, and what is believed of it. The text comes out of the guest: nothing in it is trusted but that,
//! where it has the right form, somebody there says so.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ClockOffset, Wanted};

/// The longest text that is looked at, in bytes: the program's own buffer has less.
const LONGEST: usize = 16 << 10;
/// The longest detail that is kept, in letters.
const LONGEST_DETAIL: usize = 300;
/// The most addresses that are kept.
const MOST_ADDRESSES: usize = 16;

/// A part of a machine's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemName {
    /// The link-layer addresses of its interfaces.
    Mac,
    /// Its IP addresses.
    Address,
    /// Its name.
    Hostname,
    /// Its machine-id.
    MachineId,
    /// The keys by which its SSH server shows who it is.
    SshHostKeys,
    /// Who it is to DHCP servers, and what it was leased as somebody else.
    Dhcp,
    /// What its kernel's random numbers come from.
    RandomSeed,
    /// Its clock.
    Clock,
    /// The id of its boot, which it shares with all that came of the same one.
    BootId,
}

/// How an item went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has changed.
    Done,
    /// The guest has no such thing, or it stays as it is by design.
    NotApplicable,
    /// It has not changed, or it is not known whether it has.
    Failed,
    /// It was begun: [`Report::settle`] says whether it came true.
    Pending,
}

/// An item of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Item {
    /// How it went.
    pub state: State,
    /// What there is to say of it, one line; the guest's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// How long it took in the guest, in microseconds.
    pub us: u64,
}

/// Whether the guest's kernel reseeds its random numbers by itself when it is resumed elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationId {
    /// It has a driver for the device (Linux 5.18 and later, where it is built in).
    Driver,
    /// There is a device, and no driver.
    Device,
    /// There is no device.
    None,
}

/// What became of a guest's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The items that were asked for.
    pub items: BTreeMap<ItemName, Item>,
    /// The IPv4 addresses that the guest got.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The id of the guest's boot.
    pub boot_id: Uuid,
    /// Whether its kernel hears of its being resumed.
    pub vmgenid: GenerationId,
    /// How far its clock is from this host's afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset: Option<ClockOffset>,
}

/// Why a guest's answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The program was cut short, or something else answered.
    #[error("it is not whole: {0}")]
    NotWhole(String),
    /// A line that the program does not write.
    #[error("a line is none of its program's: {0}")]
    Strange(String),
    /// Something is missing.
    #[error("it says nothing of {0}")]
    Missing(String),
}

impl Report {
    /// Whether everything that was asked for is as it is to be.
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.items.values().all(|item| matches!(item.state, State::Done | State::NotApplicable))
    }

    /// The items that are not as they are to be, with what is said of them, on one line.
    #[must_use]
    pub fn unconfirmed(&self) -> String {
        let name = |name: &ItemName| serde_json::to_string(name).unwrap_or_default().replace('"', "");
        let failed = self.items.iter().filter(|(_, i)| matches!(i.state, State::Failed | State::Pending));
        failed.map(|(n, item)| format!("{}: {}", name(n), item.detail)).collect::<Vec<_>>().join("; ")
    }

    /// This report together with an earlier one of the same guest: of what both tell, the later word counts.
    #[must_use]
    pub fn after(mut self, earlier: Self) -> Self {
        let Self { mut items, addresses, .. } = earlier;
        items.append(&mut self.items);
        self.items = items;
        if self.addresses.is_empty() {
            self.addresses = addresses;
        }
        self
    }

    /// Says what became of the items that were pending: the addresses that were heard of, or why there are none.
    pub fn settle(&mut self, heard: Result<&[IpAddr], &str>) {
        for item in self.items.values_mut().filter(|item| item.state == State::Pending) {
            match heard {
                Ok(_) => item.state = State::Done,
                Err(why) => {
                    item.state = State::Failed;
                    why.clone_into(&mut item.detail);
                }
            }
        }
        if let Ok(addresses) = heard {
            self.addresses = addresses.to_vec();
        }
    }

    /// Reads the answer of the program to a request.
    pub fn read(text: &[u8], wanted: &Wanted) -> Result<Self, ReportError> {
        let text = text.get(..LONGEST).unwrap_or(text);
        let text = String::from_utf8_lossy(text);
        let excerpt = |line: &str| detail(line).chars().take(80).collect::<String>();
        let inner = text.strip_prefix("midge-identity 1\n").and_then(|text| text.strip_suffix("end\n"));
        let inner = inner.ok_or_else(|| ReportError::NotWhole(excerpt(&text)))?;
        let strange = |line: &str| ReportError::Strange(excerpt(line));
        let (mut items, mut addresses) = (BTreeMap::new(), Vec::new());
        let (mut boot_id, mut vmgenid) = (None, None);
        for line in inner.lines() {
            let mut words = line.splitn(4, ' ');
            let (Some(first), Some(second)) = (words.next(), words.next()) else { return Err(strange(line)) };
            let (third, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if first == "fact" {
                let known = match second {
                    "boot-id" => third.parse().map(|id: Uuid| boot_id = Some(id)).is_ok(),
                    "vmgenid" => word(third).map(|how| vmgenid = Some(how)).is_some(),
                    "address" if addresses.len() < MOST_ADDRESSES => {
                        third.parse().map(|address| addresses.push(address)).is_ok()
                    }
                    _ => false,
                };
                if !known {
                    return Err(strange(line));
                }
                continue;
            }
            let (Some(name), Some(state), Ok(us)) = (word(first), word(second), third.parse()) else {
                return Err(strange(line));
            };
            // Twice is once too often: which of them would be true?
            if items.insert(name, Item { state, detail: detail(rest), us }).is_some() {
                return Err(strange(line));
            }
        }
        let boot_id = boot_id.ok_or_else(|| ReportError::Missing("the boot's id".to_owned()))?;
        let vmgenid = vmgenid.ok_or_else(|| ReportError::Missing("vmgenid".to_owned()))?;
        let told = Item { state: State::NotApplicable, detail: format!("stays {boot_id}"), us: 0 };
        items.insert(ItemName::BootId, told);
        for name in wanted.items() {
            if !items.contains_key(&name) {
                return Err(ReportError::Missing(format!("{name:?}")));
            }
        }
        Ok(Self { items, addresses, boot_id, vmgenid, clock_offset: None })
    }
}

/// A word of the answer as one of those that serde knows.
fn word<'de, T: Deserialize<'de>>(word: &'de str) -> Option<T> {
    let word = serde::de::value::BorrowedStrDeserializer::<serde::de::value::Error>::new(word);
    T::deserialize(word).ok()
}

/// A guest's words as they may be shown: one line, of limited length, without control characters.
fn detail(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_DETAIL).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: &str = "fact vmgenid device\nfact boot-id 0e6f0d81-ef07-4548-af29-95436584f8d9\nend\n";

    fn wanted() -> Wanted {
        Wanted { hostname: Some("web".to_owned()), ..Wanted::default() }
    }

    fn read(lines: &str) -> Result<Report, ReportError> {
        Report::read(format!("midge-identity 1\n{lines}{FACTS}").as_bytes(), &wanted())
    }

    #[test]
    fn an_answer_is_read_and_confirmed_when_all_of_it_is_good() {
        let report = read("hostname done 12 web\nfact address 10.0.2.16\n").unwrap();
        assert!(report.confirmed());
        let item = &report.items[&ItemName::Hostname];
        assert_eq!((item.state, item.us, item.detail.as_str()), (State::Done, 12, "web"));
        assert_eq!(report.addresses, [IpAddr::from([10, 0, 2, 16])]);
        assert_eq!(report.vmgenid, GenerationId::Device);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["items"]["hostname"]["state"], "done");
        assert_eq!(json["items"]["boot-id"]["state"], "not-applicable");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);

        let report = read("hostname failed 1 cannot set the hostname: error 1\n").unwrap();
        assert!(!report.confirmed());
        assert_eq!(report.unconfirmed(), "hostname: cannot set the hostname: error 1");
    }

    #[test]
    fn what_is_pending_is_settled() {
        let mut report = read("hostname done 1 web\naddress pending 2 eth0\ndhcp pending 0 eth0\n").unwrap();
        assert!(!report.confirmed());
        let mut late = report.clone();
        report.settle(Ok(&[IpAddr::from([10, 0, 0, 9])]));
        assert!(report.confirmed() && report.addresses.len() == 1);
        late.settle(Err("nothing was heard of it"));
        assert!(!late.confirmed());
        assert_eq!(late.unconfirmed(), "address: nothing was heard of it; dhcp: nothing was heard of it");
    }

    #[test]
    fn anything_else_is_not_believed() {
        assert!(matches!(read(""), Err(ReportError::Missing(_))));
        for lines in [
            "hostname done 1 web\nhostname failed 1 x\n",
            "hostname\n",
            "hostname done\n",
            "hostname good 1 web\n",
            "nonsense done 1 web\n",
            "hostname done -1 web\n",
            "hostname done 1 web\nfact address nowhere\n",
            "hostname done 1 web\nfact other 1\n",
            "\n",
        ] {
            assert!(matches!(read(lines), Err(ReportError::Strange(_))), "{lines:?}");
        }
        for text in
            ["", "end\n", "midge-identity 1\n", "midge-identity 2\nend\n", "sh: 1: install: not found\n"]
        {
            assert!(
                matches!(Report::read(text.as_bytes(), &wanted()), Err(ReportError::NotWhole(_))),
                "{text:?}"
            );
        }
        assert!(matches!(
            Report::read(b"midge-identity 1\nhostname done 1 web\nfact vmgenid none\nend\n", &wanted()),
            Err(ReportError::Missing(_))
        ));
    }

    #[test]
    fn a_guests_words_are_made_harmless() {
        let line = format!("hostname done 1 \u{1b}[31m{}\n", "é".repeat(4000));
        let report = read(&line).unwrap();
        let detail = &report.items[&ItemName::Hostname].detail;
        assert_eq!(detail.chars().count(), LONGEST_DETAIL);
        assert!(!detail.contains('\u{1b}'));
        let flood = vec![b'x'; 32 << 20];
        assert!(
            matches!(Report::read(&flood, &wanted()), Err(ReportError::NotWhole(text)) if text.len() == 80)
        );
    }
}
