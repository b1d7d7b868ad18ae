//! Forwarded ports without privilege: connections to a port of this host are taken here and passed on to the guest, as QEMU's user-mode
//! network does it. The guest sees the host's address on the bridge as the other end.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::spec::Forward;
use crate::vm::control::{Failure, FailureKind};

/// How long no connection is taken after one could not be: out of descriptors, most likely, which come back.
const PAUSE: Duration = Duration::from_millis(100);

/// A port of this host that leads to a guest.
#[derive(Debug)]
pub(super) struct Proxy {
    listener: TcpListener,
    guest: SocketAddrV4,
}

/// Listens on a forwarded port, or says who may have it.
pub(in crate::vm) fn listen(forward: Forward) -> Result<std::net::TcpListener, Failure> {
    std::net::TcpListener::bind((forward.address, forward.host)).map_err(|e| {
        let Forward { address, host, guest } = forward;
        let why = format!("cannot listen on {address}:{host} for the guest's port {guest}: {e}");
        let next = format!("`ss -ltnp sport = :{host}` shows who has it; or choose another port with `-p`");
        Failure::new(FailureKind::HostUnfit, why).hint(next)
    })
}

impl Proxy {
    /// Listens on a port that leads to the guest that has, or will have, this address.
    pub(super) fn open(forward: Forward, guest: Ipv4Addr) -> Result<Self, Failure> {
        let listener = listen(forward)?;
        let failed = |e: std::io::Error| {
            let why = format!("cannot wait for connections to {}:{}: {e}", forward.address, forward.host);
            Failure::new(FailureKind::Other, why)
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, guest: SocketAddrV4::new(guest, forward.guest) })
    }

    /// Passes connections on, until it is dropped, and they with it.
    pub(super) async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((client, _)) => {
                        connections.spawn_local(pass_on(client, self.guest));
                    }
                    Err(e) => {
                        tracing::warn!("no connection for {} is taken: {e}", self.guest);
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                // Those that have ended are forgotten.
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn pass_on(mut client: TcpStream, guest: SocketAddrV4) {
    let passed = async {
        let mut server = TcpStream::connect(guest).await?;
        // Each side decides for itself when to send small pieces.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut server).await
    };
    if let Err(e) = passed.await {
        tracing::debug!("a connection to {guest} ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::*;

    fn forward(host: u16, guest: u16) -> Forward {
        Forward { address: Ipv4Addr::LOCALHOST, host, guest }
    }

    #[tokio::test]
    async fn what_is_sent_arrives_and_its_end_too() {
        let guest = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::open(forward(0, guest.local_addr().unwrap().port()), Ipv4Addr::LOCALHOST).unwrap();
        let here = proxy.listener.local_addr().unwrap();
        LocalSet::new()
            .run_until(async move {
                let mut tasks = JoinSet::new();
                tasks.spawn_local(proxy.run());
                let mut client = TcpStream::connect(here).await.unwrap();
                let (mut server, _) = guest.accept().await.unwrap();
                client.write_all(b"question").await.unwrap();
                client.shutdown().await.unwrap();
                let mut heard = String::new();
                server.read_to_string(&mut heard).await.unwrap();
                server.write_all(b"answer").await.unwrap();
                drop(server);
                let mut answered = String::new();
                client.read_to_string(&mut answered).await.unwrap();
                assert_eq!((heard.as_str(), answered.as_str()), ("question", "answer"));
                // With the proxy goes its port.
                tasks.shutdown().await;
                assert!(std::net::TcpListener::bind(here).is_ok());
            })
            .await;
    }

    #[test]
    fn a_port_in_use_is_refused_with_its_number() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let failure = listen(forward(port, 80)).unwrap_err();
        assert!(failure.message.contains(&port.to_string()) && failure.hint.is_some(), "{failure}");
    }
}
