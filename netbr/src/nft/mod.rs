//! nftables by netlink: veils, masquerading, forwarded ports.
//!
//! A [`Table`] is described as nft(8) would write it and sent as one [`Batch`], which the kernel applies as a whole or not at all. It
//! also lists what tables there are, so that forgotten ones of one's own, and others' that keep packets, are found. No program is
//! started, and the kernel answers at once: nothing here waits.
//!
//! | module | is |
//! |---|---|
//! | [`field`] | fields of packets and the checksums that cover them |
//! | [`veil`] | guests with one identity on one bridge, told apart by what their ports rewrite |

mod batch;
mod error;
pub mod field;
mod listing;
mod model;
mod rule;
mod socket;
pub mod veil;
mod wire;

pub use batch::Batch;
pub use error::NftError;
pub use field::Field;
pub use listing::{ChainEntry, RuleEntry, TableEntry};
pub use model::{Base, Chain, Family, Hook, Kind, Set, Table, Type, priority};
pub use rule::{EtherType, Rule, Transport, Verdict};
pub use socket::Nft;
