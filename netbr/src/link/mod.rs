//! Bridges, ports, addresses and routes by rtnetlink; taps.
//!
//! [`Links`] is one route netlink socket (rtnetlink(7)) in one network namespace. Whatever is asked of it is answered by the kernel in
//! well under a millisecond; nothing starts another program. [`Tap`] needs no netlink: it is made by ioctl and consists of file
//! descriptors for whoever reads and writes its frames. [`LinkEvents`] tells what changes.
//!
//! | file | is |
//! |---|---|
//! | `bridge` | bridges and their ports |
//! | `address`, `route` | what an interface is called on the IP layer and where packets go |
//! | `neighbour` | whether somebody is there |
//! | `state` | what the kernel says about an interface |
//! | `tap`, `tun` | taps, and the ioctls that they are made by |
//! | `watch` | a stream of changes |

mod address;
mod bridge;
mod error;
mod name;
mod neighbour;
mod route;
mod state;
mod tap;
#[allow(unsafe_code)] // ioctl(2) on /dev/net/tun has no safe wrapper
mod tun;
mod watch;

use std::io;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

pub use address::{Address, Lifetime};
pub use bridge::Bridge;
pub use error::{LinkError, Reason};
pub use name::{NAME_MAX, check_name, tap_name};
pub use route::{MAIN_TABLE, Route};
pub use state::{BridgeState, Link, LinkKind, TapState};
pub use tap::{Tap, TapOptions};
pub use watch::{LinkEvent, LinkEvents};

use crate::{Mac, Namespace};

/// How the alias of every interface begins that is made by this crate's users and may be removed when it is found unused.
pub const ALIAS_PREFIX: &str = "midge ";

/// The interfaces of one network namespace.
///
/// It lives in the tokio runtime in which it was opened, where a task reads the socket's answers until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Links {
    handle: rtnetlink::Handle,
    namespace: Namespace,
}

impl Links {
    /// Opens the socket. Reading needs no privilege.
    pub fn open(namespace: &Namespace) -> Result<Self, LinkError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| LinkError::Closed)?;
        let connection = namespace.run(|| {
            // The socket registers with the runtime's driver, also from the thread that has entered the namespace.
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        })?;
        let (connection, handle, _unasked) = connection.map_err(LinkError::Socket)?;
        runtime.spawn(connection);
        Ok(Self { handle, namespace: namespace.clone() })
    }

    /// The namespace that it speaks of.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The interface of that name, if there is one.
    pub async fn get(&self, name: &str) -> Result<Option<Link>, LinkError> {
        check_name(name)?;
        let request = self.handle.link().get().match_name(name.to_owned());
        found(request.execute().try_next().await, || name.to_owned())
    }

    /// The interface of that number, if there is one.
    pub async fn by_index(&self, index: u32) -> Result<Option<Link>, LinkError> {
        let request = self.handle.link().get().match_index(index);
        found(request.execute().try_next().await, || format!("interface {index}"))
    }

    /// All interfaces.
    pub async fn list(&self) -> Result<Vec<Link>, LinkError> {
        let request = self.handle.link().get();
        // Counters are half of each answer, and nobody here reads them.
        let request = request.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let links = request.execute().map_ok(Link::read).try_collect().await;
        links.map_err(|error| failed("list", "the interfaces", error))
    }

    /// Removes an interface. Its ports, if it is a bridge, go on without it.
    pub async fn delete(&self, name: &str) -> Result<(), LinkError> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let done = self.handle.link().del_with_message(message).execute().await;
        done.map_err(|error| failed("remove", name, error))
    }

    /// Sets an interface up.
    pub async fn set_up(&self, index: u32) -> Result<(), LinkError> {
        self.change("set up", index, LinkMessageBuilder::up).await
    }

    /// Sets an interface down. The kernel then forgets its IPv6 addresses and all routes through it.
    pub async fn set_down(&self, index: u32) -> Result<(), LinkError> {
        self.change("set down", index, LinkMessageBuilder::down).await
    }

    /// Sets its address. A bridge keeps what it was given once, whichever ports come and go.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), LinkError> {
        self.change("set the MAC address of", index, |link| link.address(mac.bytes().to_vec())).await
    }

    /// Sets the longest packet, in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), LinkError> {
        self.change("set the MTU of", index, |link| link.mtu(mtu)).await
    }

    /// Sets the alias: at most 255 bytes, and what other programs show; an empty one removes it.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<(), LinkError> {
        self.change("set the alias of", index, |link| link.alias(alias)).await
    }

    /// Persistent taps of ours that nobody has open.
    ///
    /// The rule: a tap that outlives its users ([`TapState::persistent`]), whose alias begins with [`ALIAS_PREFIX`], and which has no
    /// carrier ([`TapState::open`]). Taps that root made for a user beforehand are among them while they are idle: what the
    /// rest of the alias says tells them apart. Others need no search: the kernel removes them with their last descriptor.
    pub async fn stale_taps(&self) -> Result<Vec<Link>, LinkError> {
        let mut links = self.list().await?;
        links.retain(|link| {
            let idle = link.tap().is_some_and(|tap| tap.persistent && !tap.open);
            idle && link.alias.as_ref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX))
        });
        Ok(links)
    }

    /// A stream of what changes from now on.
    pub fn watch(&self) -> Result<LinkEvents, LinkError> {
        LinkEvents::open(&self.namespace)
    }

    async fn change(
        &self,
        operation: &'static str,
        index: u32,
        what: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), LinkError> {
        let message = what(LinkUnspec::new_with_index(index)).build();
        self.send_change(operation, index, message).await
    }

    async fn send_change(
        &self,
        operation: &'static str,
        index: u32,
        message: LinkMessage,
    ) -> Result<(), LinkError> {
        let done = self.handle.link().change(message).execute().await;
        self.named(operation, index, done).await
    }

    /// Gives an error the interface's name, for which it is asked only now.
    async fn named<T>(
        &self,
        operation: &'static str,
        index: u32,
        done: Result<T, rtnetlink::Error>,
    ) -> Result<T, LinkError> {
        match done {
            Ok(done) => Ok(done),
            Err(error) => {
                let link = self.by_index(index).await.ok().flatten();
                let name = link.map_or_else(|| format!("interface {index}"), |link| link.name);
                Err(failed(operation, name, error))
            }
        }
    }
}

fn found(
    answer: Result<Option<LinkMessage>, rtnetlink::Error>,
    name: impl FnOnce() -> String,
) -> Result<Option<Link>, LinkError> {
    match answer {
        Ok(message) => Ok(message.map(Link::read)),
        Err(error) => match failed("look up", name(), error) {
            gone if gone.reason() == Some(Reason::Gone) => Ok(None),
            other => Err(other),
        },
    }
}

fn failed(operation: &'static str, interface: impl Into<String>, error: rtnetlink::Error) -> LinkError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        rtnetlink::Error::RequestFailed => return LinkError::Closed,
        other => io::Error::other(other),
    };
    LinkError::failed(operation, interface, source)
}

/// An answer that says that the thing is as wanted already, or gone already, is as good as one that it was done.
fn unless(done: Result<(), LinkError>, fine: &[Errno]) -> Result<(), LinkError> {
    match done {
        Err(error) if error.errno().is_some_and(|errno| fine.contains(&errno)) => Ok(()),
        other => other,
    }
}
