//! What on this host keeps guests from the network, and a bridge over the host's uplink.
//!
//! Everything that is decided here is decided by pure functions over [`Facts`], which can be recorded: [`causes()`] says what stands in
//! the guests' way and what to do about it, and [`Plan::up`] says what it would take to put the host's uplink into a bridge, or why that
//! is no good idea. [`up()`] then does it, and puts everything back when the host's gateway does not answer through the bridge.
//!
//! | file | is |
//! |---|---|
//! | `facts` | what is so on this host |
//! | `netfilter`, `legacy`, `wireless`, `dump` | where the facts about firewalls and Wi-Fi come from |
//! | `causes` | what follows from them |
//! | `plan`, `recipe` | what a bridge over the uplink takes, now and for good |
//! | `up` | doing and undoing it |

mod causes;
mod dump;
mod facts;
#[allow(unsafe_code)] // getsockopt(2) with iptables' own options has no safe wrapper
mod legacy;
mod netfilter;
mod plan;
mod recipe;
mod up;
mod wireless;

pub use causes::{Cause, CauseId, Certainty, Subject, causes};
pub use facts::{Facts, FactsError, Firewall, Sysctls};
pub use netfilter::{FilterTable, ForwardChain};
pub use plan::{Plan, Refusal, Step};
pub use recipe::{Manager, recipe};
pub use up::{GATEWAY_PATIENCE, UpError, restore, up};
pub use wireless::{Wireless, WirelessMode};
