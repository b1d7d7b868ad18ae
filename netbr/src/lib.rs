//! Networks for virtual machines on Linux: bridges and taps, DHCP, the address of a guest the moment that it has one, and
//! veils that let guests with one identity share a bridge.
//!
//! The crate knows nothing of virtual machines: it deals with interfaces, frames and addresses. Whatever it does can be done in
//! a named network namespace (see [`Namespace`]), and nothing starts another program.
//!
//! | module | is |
//! |---|---|
//! | [`ns`] | where it all happens: this process's network namespace or a named one |
//! | [`link`] | bridges, ports, addresses and routes by rtnetlink; taps |
//! | [`packet`] | a packet socket on one interface, with a kernel filter |
//! | [`watch`] | which addresses the guest behind a port has, or why it has none |
//! | [`dhcp`] | a server for networks of one's own, a client on behalf of a MAC |
//! | [`nft`] | nftables by netlink: veils, masquerading, forwarded ports |
//! | [`network`] | a NAT network made on demand and removed with its last user |
//! | [`check`] | what on this host keeps guests from the network; a bridge over the host's uplink |

pub mod check;
pub mod dhcp;
pub mod link;
mod mac;
pub mod network;
pub mod nft;
pub mod ns;
pub mod packet;
pub mod watch;

pub use mac::{Mac, MacError};
pub use nft::veil;
pub use ns::Namespace;
