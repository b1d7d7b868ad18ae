//! A DHCP client on behalf of a MAC that is not the interface's own: for a guest that cannot ask itself.
//!
//! [`Machine`] is RFC 2131's client (figure 5) without sockets and clocks; [`Client`] drives it on a packet socket.

mod driver;
mod lease;
mod machine;

pub use driver::{Client, ClientError, Command};
pub use lease::Lease;
pub use machine::{Action, Event, Loss, Machine, Moment};

use crate::Mac;

/// As whom a client asks, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The MAC that gets the lease.
    pub mac: Mac,
    /// The name that the server is told (option 12).
    pub hostname: Option<String>,
    /// Option 61, its type byte first; without it servers go by the MAC.
    pub client_id: Option<Vec<u8>>,
    /// Take a lease in one exchange from a server that gives it so (RFC 4039). Only where there is one server: a second one
    /// would give a lease, too.
    pub rapid_commit: bool,
    /// Whether something answers ARP for the address once it is leased: the guest itself, perhaps behind a veil.
    ///
    /// Servers answer a renewal at the address that is renewed. Where nobody answers ARP for it, such an answer is never sent, so a
    /// renewal then has the form of INIT-REBOOT, whose answer goes to everybody.
    pub reachable: bool,
    /// Ask by ARP whether somebody uses the address before taking it (RFC 2131, 4.4.1), which takes 0.2 s, in the name of this
    /// MAC. The answers go to it, so it must be one whose frames the socket gets: on a bridge, the bridge's own.
    pub check_as: Option<Mac>,
}

impl Identity {
    /// A client of no name that checks its address as `check_as`.
    #[must_use]
    pub const fn new(mac: Mac, check_as: Option<Mac>) -> Self {
        Self { mac, hostname: None, client_id: None, rapid_commit: false, reachable: false, check_as }
    }
}
