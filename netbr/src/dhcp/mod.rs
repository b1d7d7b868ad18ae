//! DHCP (RFC 2131): a server for networks of one's own, a client on behalf of a MAC.
//!
//! There is no DHCP daemon. On a network of one's own each guest is answered by whoever watches its port, and all of these share
//! one file of leases. So the server is a pure function of a request and the leases ([`server::handle`]), the file lends the
//! leases out one transaction at a time ([`LeaseFile`]), and a [`Responder`] puts the two together for a port.
//!
//! ```
//! use netbr::Mac;
//! use netbr::dhcp::{LeaseFile, Network, Responder};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let network = Network::new("10.77.0.0/24".parse()?, "10.77.0.1".parse()?, "52:54:00:00:00:01".parse()?);
//! network.check()?;
//! let leases = LeaseFile::open(&folder.path().join("leases.json"))?;
//! let guest: Mac = "52:54:00:12:34:56".parse()?;
//! let now = std::time::SystemTime::now();
//! leases.transaction(|leases| leases.reserve(&network, now, guest, "10.77.0.7".parse().unwrap()))??;
//!
//! let mut responder = Responder::new(network, leases, [guest]);
//! let answer = responder.on_frame(b"a frame that the guest sent")?;
//! assert_eq!(answer.frame, None);
//! # Ok(())
//! # }
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`options`], [`message`] | the codec, on smoltcp's `wire` |
//! | [`subnet`] | the network that a server answers for |
//! | [`leases`] | who has which address: rules only |
//! | [`server`] | a request and the leases in, a reply out |
//! | [`lease_file`] | the leases on disk, shared between processes |
//! | [`responder`] | a server behind one port; one that tells a veiled guest what it already believes |
//! | [`probe`] | asks by ARP whether an address is in use |
//! | [`client`] | obtains, renews and releases a lease for a MAC |

pub mod client;
pub mod lease_file;
pub mod leases;
pub mod message;
pub mod options;
pub mod probe;
pub mod responder;
pub mod server;
pub mod subnet;

pub use client::{Client, Lease};
pub use lease_file::LeaseFile;
pub use leases::Leases;
pub use responder::Responder;
pub use subnet::{Network, Subnet};

/// Seconds since 1970 by the wall clock, which is what lease files are written in: a monotonic clock means nothing to another
/// boot. What a jump of it does is said in [`leases`].
fn unix_seconds(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
