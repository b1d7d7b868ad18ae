//! What two argument lists do not share.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// One thing of which two argument lists say different things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The option, such as `-kernel` or `-device`.
    pub option: String,
    /// Which of several: the id of a device, the node name of a block device, a driver without either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The property, where both lists have the argument and differ in this of it; else the whole argument
    /// differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub property: Option<String>,
    /// What the first list says; none where it says nothing.
    pub left: Option<String>,
    /// What the second list says.
    pub right: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.option)?;
        for word in [&self.part, &self.property].into_iter().flatten() {
            write!(f, " {word}")?;
        }
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "(none)".to_owned());
        write!(f, ": {} | {}", side(&self.left), side(&self.right))
    }
}

/// Options that stand alone.
const FLAGS: [&str; 3] = ["-nodefaults", "-no-user-config", "-S"];
/// Options whose values are properties, `key=value,key=value`.
const PROPERTIES: [&str; 16] = [
    "-action",
    "-blockdev",
    "-chardev",
    "-cpu",
    "-device",
    "-fw_cfg",
    "-m",
    "-machine",
    "-mon",
    "-name",
    "-netdev",
    "-object",
    "-rtc",
    "-sandbox",
    "-smp",
    "-accel",
];

/// One argument: its option and value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Argument<'a> {
    option: &'a str,
    value: Option<&'a str>,
    /// What tells it from others of its option.
    part: Option<String>,
    /// How many of the same option and part came before.
    occurrence: usize,
}

/// What the two lists do not share: first what the first list has, in its order, then what only the second
/// has.
///
/// The order of arguments is not compared where their ids tell them apart; where it matters, as for devices,
/// equal lists are what [`super::arguments`] is tested for.
#[must_use]
pub fn diff(left: &[String], right: &[String]) -> Vec<Difference> {
    let (left, right) = (parse(left), parse(right));
    let same = |a: &Argument<'_>, b: &Argument<'_>| {
        (a.option, &a.part, a.occurrence) == (b.option, &b.part, b.occurrence)
    };
    let mut differences = Vec::new();
    for ours in &left {
        match right.iter().find(|theirs| same(ours, theirs)) {
            Some(theirs) if ours.value == theirs.value => {}
            Some(theirs) => compare(ours, theirs, &mut differences),
            None => differences.push(difference(ours, None, Some(ours.whole()), None)),
        }
    }
    for theirs in right.iter().filter(|theirs| !left.iter().any(|ours| same(ours, theirs))) {
        differences.push(difference(theirs, None, None, Some(theirs.whole())));
    }
    differences
}

/// The differences of two forms of one argument, by property where they have properties.
fn compare(ours: &Argument<'_>, theirs: &Argument<'_>, differences: &mut Vec<Difference>) {
    let (left, right) = (ours.properties(), theirs.properties());
    match (left, right) {
        (Some((driver, left)), Some((other, right))) if driver == other => {
            let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
            for key in keys.filter(|key| left.get(*key) != right.get(*key)) {
                differences.push(difference(
                    ours,
                    Some(key.clone()),
                    left.get(key).cloned(),
                    right.get(key).cloned(),
                ));
            }
        }
        _ => differences.push(difference(ours, None, Some(ours.whole()), Some(theirs.whole()))),
    }
}

fn difference(
    argument: &Argument<'_>,
    property: Option<String>,
    left: Option<String>,
    right: Option<String>,
) -> Difference {
    Difference { option: argument.option.to_owned(), part: argument.part.clone(), property, left, right }
}

impl Argument<'_> {
    fn whole(&self) -> String {
        self.value.unwrap_or_default().to_owned()
    }

    /// The bare word in front and the properties, where this option has properties. Repeated ones are joined.
    fn properties(&self) -> Option<(String, BTreeMap<String, String>)> {
        let value = self.value.filter(|_| PROPERTIES.contains(&self.option))?;
        let mut driver = String::new();
        let mut properties: BTreeMap<String, String> = BTreeMap::new();
        for (index, word) in split(value).into_iter().enumerate() {
            match word.split_once('=') {
                None if index == 0 => driver = word,
                None => _ = properties.insert(word, String::new()),
                Some((key, value)) => {
                    properties
                        .entry(key.to_owned())
                        .and_modify(|all| *all = format!("{all} {value}"))
                        .or_insert_with(|| value.to_owned());
                }
            }
        }
        Some((driver, properties))
    }
}

/// Splits at single commas; a doubled one is a comma.
pub(super) fn split(value: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    words
}

fn parse(list: &[String]) -> Vec<Argument<'_>> {
    let mut arguments: Vec<Argument<'_>> = Vec::new();
    let mut words = list.iter().peekable();
    while let Some(option) = words.next() {
        let value = if FLAGS.contains(&option.as_str()) { None } else { words.next().map(String::as_str) };
        let mut argument = Argument { option, value, part: None, occurrence: 0 };
        argument.part = argument.properties().and_then(|(driver, properties)| {
            let named = ["id", "node-name", "name"].iter().find_map(|key| properties.get(*key).cloned());
            let many = matches!(
                argument.option,
                "-device" | "-object" | "-chardev" | "-netdev" | "-blockdev" | "-fw_cfg"
            );
            named.or(Some(driver)).filter(|_| many)
        });
        let before = |other: &&Argument<'_>| (other.option, &other.part) == (argument.option, &argument.part);
        argument.occurrence = arguments.iter().filter(before).count();
        arguments.push(argument);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn shown(left: &[&str], right: &[&str]) -> Vec<String> {
        diff(&list(left), &list(right)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_property_of_a_device_is_named() {
        let nic = |legacy| format!("virtio-net-pci,id=nic0,disable-legacy={legacy},romfile=");
        let (left, right) = (nic("off"), nic("on"));
        assert_eq!(
            shown(&["-S", "-device", &left], &["-S", "-device", &right]),
            ["-device nic0 disable-legacy: off | on"]
        );
    }

    #[test]
    fn what_one_list_lacks_is_shown_whole() {
        assert_eq!(
            shown(&["-kernel", "/k", "-append", "a=b,c=d"], &["-kernel", "/h"]),
            ["-kernel: /k | /h", "-append: a=b,c=d | (none)"]
        );
        assert_eq!(shown(&[], &["-device", "pvpanic"]), ["-device pvpanic: (none) | pvpanic"]);
    }

    #[test]
    fn doubled_commas_stay_in_their_value() {
        assert_eq!(
            shown(
                &["-blockdev", "driver=file,node-name=d,filename=/a,,b=1,x=1"],
                &["-blockdev", "driver=file,node-name=d,filename=/a,,b=2,x=1"]
            ),
            ["-blockdev d filename: /a,b=1 | /a,b=2"]
        );
    }

    #[test]
    fn repeated_arguments_are_told_apart_by_their_order() {
        assert_eq!(
            shown(&["-device", "pvpanic", "-device", "pvpanic"], &["-device", "pvpanic"]),
            ["-device pvpanic: pvpanic | (none)"]
        );
    }

    proptest! {
        #[test]
        fn a_list_does_not_differ_from_itself(words in prop::collection::vec("-?[a-z=,]{0,6}", 0..8)) {
            prop_assert_eq!(diff(&words, &words), []);
        }

        #[test]
        fn differences_are_the_same_from_either_side(
            left in prop::collection::vec("-?[a-c=,]{0,4}", 0..8),
            right in prop::collection::vec("-?[a-c=,]{0,4}", 0..8),
        ) {
            let count = diff(&left, &right).len();
            prop_assert_eq!(diff(&right, &left).len(), count);
        }
    }
}
