//! Waits for a port that is down to come up again, or to be gone.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use crate::ns::{Namespace, NamespaceError};

/// The kernel's news of links (rtnetlink(7), the group `RTMGRP_LINK`). A packet socket tells once that its interface goes down
/// and never that it is deleted, so this is listened to as long as it is down.
pub(super) struct LinkNews(TokioSocket);

impl LinkNews {
    /// Subscribes; what happens from now on is heard.
    pub(super) fn subscribe(namespace: &Namespace) -> Result<Self, SubscribeError> {
        let runtime = tokio::runtime::Handle::current();
        let socket = namespace.run(|| {
            let _entered = runtime.enter();
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 1))?;
            Ok::<_, io::Error>(socket)
        })??;
        Ok(Self(socket))
    }

    /// Waits for news of any link; what they are is for the listener to find out.
    pub(super) async fn next(&self) -> io::Result<()> {
        match self.0.recv_from_full().await {
            Ok(_) => Ok(()),
            // Some were lost: news all the same.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Why there are no news.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refuses.
    #[error("cannot listen to the kernel's news of network interfaces")]
    Netlink(#[from] io::Error),
}
