//! The client on a packet socket.

use std::future::pending;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use super::{Action, Event, Identity, Lease, Machine, Moment};
use crate::Mac;
use crate::packet::{FRAME_ROOM, PacketError, PacketSocket};

/// A client for one MAC, on a bridge or on a port of it.
///
/// The socket must let DHCP and ARP pass ([`Filter::addresses`](crate::packet::Filter::addresses)). Answers to the client go to
/// everybody, so it need not be the MAC's own port.
#[derive(Debug)]
pub struct Client {
    socket: PacketSocket,
    who: Identity,
}

/// What a running client can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Renew the lease now.
    Renew,
    /// Give the lease back and end.
    Release,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody offered anything.
    #[error(
        "no DHCP server answered {mac} on {interface} within {} s: is one running there, and does the bridge reach it?",
        waited.as_secs_f32()
    )]
    NoAnswer {
        /// The interface.
        interface: String,
        /// As whom it was asked.
        mac: Mac,
        /// For how long.
        waited: Duration,
    },
    /// A server refuses.
    #[error(
        "the DHCP server{} on {interface} refuses {mac} an address{}: look into its log",
        server.map(|server| format!(" {server}")).unwrap_or_default(),
        message.as_ref().map(|text| format!(", saying `{}`", text.escape_debug())).unwrap_or_default()
    )]
    Refused {
        /// The interface.
        interface: String,
        /// As whom it was asked.
        mac: Mac,
        /// The server.
        server: Option<Ipv4Addr>,
        /// What it says.
        message: Option<String>,
    },
    /// What a server offers is in use.
    #[error(
        "the DHCP server on {interface} offers {mac} the address {address}, which {holder} uses: remove one of them"
    )]
    Conflict {
        /// The interface.
        interface: String,
        /// As whom it was asked.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
        /// Who uses it.
        holder: Mac,
    },
    /// The socket.
    #[error("cannot speak DHCP for {mac} on {interface}")]
    Packet {
        /// The interface.
        interface: String,
        /// As whom.
        mac: Mac,
        /// The reason.
        #[source]
        source: PacketError,
    },
}

impl Client {
    /// A client that has not asked yet.
    #[must_use]
    pub const fn new(socket: PacketSocket, who: Identity) -> Self {
        Self { socket, who }
    }

    /// Obtains a lease, trying again for so long.
    pub async fn obtain(&self, within: Duration) -> Result<Lease, ClientError> {
        let mut setback = None;
        let obtaining = async {
            let mut machine = self.machine();
            let mut buffer = vec![0; FRAME_ROOM];
            let mut actions = machine.start(Moment::now());
            loop {
                for event in self.perform(actions).await? {
                    match event {
                        Event::Bound(lease) => return Ok(lease),
                        other => setback = Some(other),
                    }
                }
                actions = self.turn(&mut machine, &mut buffer).await?;
            }
        };
        if let Ok(result) = timeout(within, obtaining).await {
            return result;
        }
        let (interface, mac) = (self.socket.interface().to_owned(), self.who.mac);
        Err(match setback {
            Some(Event::Refused { server, message }) => {
                ClientError::Refused { interface, mac, server, message }
            }
            Some(Event::Conflict { address, holder }) => {
                ClientError::Conflict { interface, mac, address, holder }
            }
            _ => ClientError::NoAnswer { interface, mac, waited: within },
        })
    }

    /// Keeps a lease alive, and gets another one where that fails, until it is told to release it or `commands` is closed. In the
    /// latter case the lease stays, for somebody else to go on with.
    pub async fn run(
        &self,
        lease: Lease,
        mut commands: mpsc::Receiver<Command>,
        mut tell: impl FnMut(Event),
    ) -> Result<(), ClientError> {
        let mut machine = self.machine();
        let mut buffer = vec![0; FRAME_ROOM];
        let mut actions = machine.resume(lease, Moment::now());
        loop {
            self.perform(actions).await?.into_iter().for_each(&mut tell);
            actions = tokio::select! {
                actions = self.turn(&mut machine, &mut buffer) => actions?,
                command = commands.recv() => match command {
                    Some(Command::Renew) => machine.renew(Moment::now()),
                    Some(Command::Release) => {
                        self.perform(machine.release()).await?;
                        return Ok(());
                    }
                    None => return Ok(()),
                },
            };
        }
    }

    /// Gives a lease back, whoever obtained it. Servers do not confirm that.
    pub async fn release(&self, lease: Lease) -> Result<(), ClientError> {
        let mut machine = self.machine();
        // Should its time to renew have come, there is no need to do that any more.
        let _ = machine.resume(lease, Moment::now());
        self.perform(machine.release()).await?;
        Ok(())
    }

    fn machine(&self) -> Machine {
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        Machine::new(self.who.clone(), Moment::now(), seed)
    }

    /// Waits for a frame or for the machine's deadline. Cancelling loses nothing.
    async fn turn(&self, machine: &mut Machine, buffer: &mut [u8]) -> Result<Vec<Action>, ClientError> {
        let deadline = machine.deadline();
        let due = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            received = self.socket.recv(buffer) => {
                let received = received.map_err(|source| self.failed(source))?;
                Ok(machine.frame(&buffer[..received.len], Moment::now()))
            }
            () = due => Ok(machine.timer(Moment::now())),
        }
    }

    /// Sends what is to be sent, and gives back what is to be told.
    async fn perform(&self, actions: Vec<Action>) -> Result<Vec<Event>, ClientError> {
        let mut events = Vec::new();
        for action in actions {
            match action {
                Action::Send(frame) => {
                    self.socket.send(&frame).await.map_err(|source| self.failed(source))?;
                }
                Action::Tell(event) => events.push(event),
            }
        }
        Ok(events)
    }

    fn failed(&self, source: PacketError) -> ClientError {
        ClientError::Packet { interface: self.socket.interface().to_owned(), mac: self.who.mac, source }
    }
}
