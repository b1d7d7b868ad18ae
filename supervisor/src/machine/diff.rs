//! What two argument lists do not share.

use serde::Serialize;

/// One argument of which two lists say different things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The option, such as `-kernel`.
    pub option: String,
    /// What names the part of the machine, such as `virtio-net-pci,id=nic0`; empty where the option comes once.
    pub part: String,
    /// The first list's value of it, or none where it has no such argument.
    pub left: Option<String>,
    /// The second list's.
    pub right: Option<String>,
}

/// What the two lists do not share, in the first list's order.
pub fn diff(_left: &[String], _right: &[String]) -> Vec<Difference> {
    Vec::new()
}
