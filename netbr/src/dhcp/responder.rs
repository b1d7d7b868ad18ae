//! A server behind one port: takes the frames that the guest sends, gives those to send to it.
//!
//! Whoever watches the port's frames hands them to [`Responder::on_frame`]. Where nobody does, [`Responder::serve`] reads them
//! from a socket of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::pending;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use tokio::time::{Instant, sleep_until};

use super::lease_file::{LeaseFile, LeaseFileError};
use super::leases::{Choice, Leases, Refusal, ReserveError};
use super::message::{Datagram, Request, Side, Unreadable};
use super::probe;
use super::server::{self, Event, Ignored, Outcome};
use super::subnet::Network;
use crate::Mac;
use crate::packet::{Direction, FRAME_ROOM, PacketError, PacketSocket};

/// Requests that wait for a probe at once. More come only from a guest that invents MACs; the others repeat theirs.
const WAITING: usize = 64;

/// Answers DHCP on one port.
#[derive(Debug)]
pub struct Responder {
    network: Network,
    books: Books,
    /// The MACs that are answered; nothing answers all.
    served: Option<BTreeSet<Mac>>,
    /// Requests that wait for a probe.
    waiting: BTreeMap<Mac, Request>,
}

/// Where it is written who has what.
#[derive(Debug)]
enum Books {
    File(LeaseFile),
    /// One lease that never changes. It is made anew for each request, so nothing that the guest says can end it.
    Fixed {
        mac: Mac,
        address: Ipv4Addr,
    },
}

/// What came of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The frame to send to the guest.
    pub frame: Option<Vec<u8>>,
    /// What is worth telling.
    pub events: Vec<Event>,
    /// Find out on the guests' network who uses this address ([`probe::ask`]) and tell [`Responder::on_probe`].
    pub probe: Option<Probe>,
}

/// An address that is to be probed before it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// For whom.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
}

/// Why no address can be prepared for a guest.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is none.
    #[error("there is no address for {mac}")]
    Refused {
        /// The guest.
        mac: Mac,
        /// Why, and what to do.
        #[source]
        source: Refusal,
    },
    /// The leases.
    #[error("cannot choose an address for {mac} without the leases")]
    Leases {
        /// The guest.
        mac: Mac,
        /// The reason.
        #[source]
        source: LeaseFileError,
    },
    /// The probe.
    #[error("cannot find out whether the address for {mac} is in use")]
    Packet {
        /// The guest.
        mac: Mac,
        /// The reason.
        #[source]
        source: PacketError,
    },
}

/// Why a port is no longer served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port.
    #[error("cannot answer DHCP on {interface}")]
    Packet {
        /// The interface.
        interface: String,
        /// The reason.
        #[source]
        source: PacketError,
    },
    /// The leases.
    #[error("cannot answer DHCP on {interface} without its leases")]
    Leases {
        /// The interface.
        interface: String,
        /// The reason.
        #[source]
        source: LeaseFileError,
    },
}

impl Responder {
    /// Answers these MACs on a network of one's own.
    pub fn new(network: Network, file: LeaseFile, served: impl IntoIterator<Item = Mac>) -> Self {
        Self::with(network, Books::File(file), Some(served.into_iter().collect()))
    }

    /// Answers whoever asks on a network of one's own.
    #[must_use]
    pub fn for_everybody(network: Network, file: LeaseFile) -> Self {
        Self::with(network, Books::File(file), None)
    }

    /// Tells a guest behind a veil what it already believes: that `mac` has `address` in `network`, as its server, router and name
    /// servers there say. Its lease is renewed and found again after a reboot, and nothing else is ever given.
    ///
    /// The network's pool does not count.
    pub fn fixed(network: Network, mac: Mac, address: Ipv4Addr) -> Result<Self, ReserveError> {
        let network = Network { pool: None, ..network };
        Leases::default().reserve(&network, SystemTime::now(), mac, address)?;
        Ok(Self::with(network, Books::Fixed { mac, address }, Some([mac].into())))
    }

    const fn with(network: Network, books: Books, served: Option<BTreeSet<Mac>>) -> Self {
        Self { network, books, served, waiting: BTreeMap::new() }
    }

    /// Handles a frame that the guest sent; one that is not DHCP costs nothing.
    ///
    /// The leases' file is locked for it, so it can block as long as others write to it: less than a millisecond.
    pub fn on_frame(&mut self, frame: &[u8]) -> Result<Answer, LeaseFileError> {
        let request = match Datagram::parse(frame, Side::Server) {
            Ok(request) => request,
            Err(Unreadable::Other) => return Ok(Answer::default()),
            Err(reason) => {
                tracing::debug!(%reason, "dropped a frame");
                return Ok(Answer::default());
            }
        };
        let mac = request.message.chaddr;
        if self.served.as_ref().is_some_and(|served| !served.contains(&mac)) {
            let events = vec![Event::Ignored { mac, why: Ignored::Stranger }];
            return Ok(Answer { events, ..Answer::default() });
        }
        self.waiting.remove(&mac);
        self.handle(request)
    }

    /// Takes in who answered for an address that was to be probed, and answers the guest that waits for it.
    pub fn on_probe(&mut self, probe: Probe, answered: Option<Mac>) -> Result<Answer, LeaseFileError> {
        let Probe { mac, address } = probe;
        let now = SystemTime::now();
        let taken = self.with_leases(|_, leases| leases.probed(now, mac, address, answered))?;
        let mut answer = match self.waiting.remove(&mac) {
            Some(request) => self.handle(request)?,
            None => Answer::default(),
        };
        if let Some(holder) = answered.filter(|_| taken) {
            answer.events.insert(0, Event::Conflict { mac, address, holder });
        }
        Ok(answer)
    }

    /// Chooses an address for a guest that is about to start, and says whether it is to be probed ([`Responder::prepare`] does
    /// both).
    pub fn preselect(&mut self, mac: Mac) -> Result<Result<Choice, Refusal>, LeaseFileError> {
        self.with_leases(|network, leases| leases.choose(network, SystemTime::now(), mac, None))
    }

    /// Chooses an address for a guest that is about to start and probes it on `wire`, the guests' bridge, until one is found
    /// that nobody uses: its first request is then answered at once. Where it had one before, that takes no time.
    pub async fn prepare(&mut self, mac: Mac, wire: &PacketSocket) -> Result<Ipv4Addr, PrepareError> {
        let leases = |source| PrepareError::Leases { mac, source };
        loop {
            let choice = self.preselect(mac).map_err(leases)?;
            let Choice { address, probe } = choice.map_err(|source| PrepareError::Refused { mac, source })?;
            if !probe {
                return Ok(address);
            }
            let answered = probe::ask(wire, self.network.server_mac, mac, address, probe::WAIT).await;
            let answered = answered.map_err(|source| PrepareError::Packet { mac, source })?;
            self.on_probe(Probe { mac, address }, answered).map_err(leases)?;
        }
    }

    /// Serves a port that nobody else watches, for as long as it is there. Probes go out on `wire`, the guests' bridge, or on the
    /// port itself where the guests are behind that.
    pub async fn serve(
        &mut self,
        port: &PacketSocket,
        wire: Option<&PacketSocket>,
        mut tell: impl FnMut(Event),
    ) -> Result<Infallible, ServeError> {
        let interface = || port.interface().to_owned();
        let packet = |source| ServeError::Packet { interface: interface(), source };
        let leases = |source| ServeError::Leases { interface: interface(), source };
        let from = self.network.server_mac;
        let mut probes: Vec<(Probe, Instant)> = Vec::new();
        let (mut buffer, mut heard) = (vec![0; FRAME_ROOM], vec![0; FRAME_ROOM]);
        loop {
            let next = probes.iter().map(|(_, end)| *end).min();
            let over = async {
                match next {
                    Some(end) => sleep_until(end).await,
                    None => pending().await,
                }
            };
            let overheard = async {
                match wire {
                    Some(wire) => wire.recv(&mut heard).await,
                    None => pending().await,
                }
            };
            let mut answers = Vec::new();
            let mut claims: &[u8] = &[];
            tokio::select! {
                received = port.recv(&mut buffer) => {
                    let received = received.map_err(packet)?;
                    let frame = &buffer[..received.len];
                    if received.direction == Direction::FromGuest {
                        answers.push(self.on_frame(frame).map_err(leases)?);
                        if wire.is_none() {
                            claims = frame;
                        }
                    }
                }
                received = overheard => claims = &heard[..received.map_err(packet)?.len],
                () = over => {}
            }
            let now = Instant::now();
            for (probe, end) in std::mem::take(&mut probes) {
                let holder = probe::claim(claims, probe.address)
                    .filter(|holder| *holder != from && *holder != probe.mac);
                if holder.is_some() || end <= now {
                    answers.push(self.on_probe(probe, holder).map_err(leases)?);
                } else {
                    probes.push((probe, end));
                }
            }
            for answer in answers {
                answer.events.into_iter().for_each(&mut tell);
                if let Some(frame) = answer.frame {
                    port.send(&frame).await.map_err(packet)?;
                }
                if let Some(probe) = answer.probe.filter(|probe| !probes.iter().any(|(p, _)| p == probe)) {
                    let question = probe::question(from, probe.address);
                    wire.unwrap_or(port).send(&question).await.map_err(packet)?;
                    probes.push((probe, now + probe::WAIT));
                }
            }
        }
    }

    fn handle(&mut self, request: Request) -> Result<Answer, LeaseFileError> {
        let now = SystemTime::now();
        let outcome = self.with_leases(|network, leases| server::handle(network, leases, now, &request))?;
        let mac = request.message.chaddr;
        let Outcome { reply, events, probe } = outcome;
        if probe.is_some() && self.waiting.len() < WAITING {
            self.waiting.insert(mac, request);
        }
        Ok(Answer { frame: reply, events, probe: probe.map(|address| Probe { mac, address }) })
    }

    fn with_leases<T>(&self, change: impl FnOnce(&Network, &mut Leases) -> T) -> Result<T, LeaseFileError> {
        match &self.books {
            Books::File(file) => file.transaction(|leases| change(&self.network, leases)),
            Books::Fixed { mac, address } => {
                Ok(change(&self.network, &mut Leases::fixed(SystemTime::now(), *mac, *address)))
            }
        }
    }
}
