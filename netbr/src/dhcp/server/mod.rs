//! The server: a request and the leases in, a reply out (RFC 2131, 4.3).
//!
//! | the client is | it sends | it gets |
//! |---|---|---|
//! | INIT | DISCOVER | OFFER; ACK with rapid commit (RFC 4039); nothing while its address is probed |
//! | SELECTING | REQUEST, server identifier | ACK, or NAK if that address is not its own; nothing if it chose another server |
//! | INIT-REBOOT | REQUEST, requested address | ACK, or NAK if the address is of another network or not its own; nothing if nobody knows it |
//! | RENEWING, REBINDING | REQUEST, `ciaddr` | ACK, or NAK if that address is not its own |
//! | has found its address in use | DECLINE | nothing; the address is avoided for a time |
//! | leaving | RELEASE | nothing; the address stays kept for it |
//! | set up by hand | INFORM | ACK without a lease |
//!
//! Messages from relays are ignored: on a network of one's own every guest is on the server's wire.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use event::{Event, Ignored, Occasion};

use super::leases::Leases;
use super::message::{Kind, Message, Request};
use super::options::code;
use super::subnet::{Network, is_name};
use super::unix_seconds;
use crate::Mac;

mod event;

/// A lease is not made shorter than this at the client's wish, in seconds.
const SHORTEST_LEASE: u32 = 60;

/// What came of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The frame to send to the client.
    pub reply: Option<Vec<u8>>,
    /// What is worth telling.
    pub events: Vec<Event>,
    /// Find out who uses this address, tell [`Leases::probed`], then handle the request again.
    pub probe: Option<Ipv4Addr>,
}

/// Answers a request from a network's own wire.
#[must_use]
pub fn handle(network: &Network, leases: &mut Leases, now: SystemTime, request: &Request) -> Outcome {
    leases.settle(now);
    let mut turn = Turn { network, leases, now, request, outcome: Outcome::default() };
    turn.take();
    turn.outcome
}

/// One request's handling.
struct Turn<'a> {
    network: &'a Network,
    leases: &'a mut Leases,
    now: SystemTime,
    request: &'a Request,
    outcome: Outcome,
}

impl Turn<'_> {
    fn take(&mut self) {
        let message = &self.request.message;
        if !message.giaddr.is_unspecified() {
            return self.ignore(Ignored::Relayed(message.giaddr));
        }
        let destination = self.request.destination;
        let everybody = destination.is_broadcast() || Some(destination) == self.network.subnet.broadcast();
        if !everybody && destination != self.network.server {
            return self.ignore(Ignored::OtherServer(destination));
        }
        match message.kind() {
            None => self.ignore(Ignored::Bootp),
            Some(Kind::Discover) => self.discover(),
            Some(Kind::Request) => self.request(everybody),
            Some(Kind::Decline) => self.decline(),
            Some(Kind::Release) => self.release(),
            Some(Kind::Inform) => self.inform(),
            Some(other) => self.ignore(Ignored::Kind(other.into())),
        }
    }

    fn discover(&mut self) {
        let mac = self.mac();
        match self.leases.choose(self.network, self.now, mac, self.requested()) {
            Err(why) => self.outcome.events.push(Event::NoAddress { mac, why }),
            Ok(choice) if choice.probe => self.outcome.probe = Some(choice.address),
            Ok(choice) if self.request.message.options.get(code::RAPID_COMMIT).is_some() => {
                self.give(choice.address, Occasion::RapidCommit);
            }
            Ok(choice) => {
                self.leases.offer(self.now, mac);
                self.outcome.events.push(Event::Offered { mac, address: choice.address });
                self.reply(Kind::Offer, choice.address, Some(self.seconds()));
            }
        }
    }

    /// The four occasions of a REQUEST are told apart by what is filled in (RFC 2131, 4.3.2, table 4).
    fn request(&mut self, everybody: bool) {
        let message = &self.request.message;
        let ciaddr = Some(message.ciaddr).filter(|address| !address.is_unspecified());
        let server = message.options.address(code::SERVER_IDENTIFIER);
        match (server, self.requested(), ciaddr) {
            (Some(server), _, _) if server != self.network.server => {
                // It took another's offer; this one's is free again, and stays the client's choice for next time.
                if let Some(address) = self.leases.get(self.mac()).map(|record| record.address) {
                    self.leases.release(self.now, self.mac(), address);
                }
                self.ignore(Ignored::OtherServer(server));
            }
            (Some(_), requested, ciaddr) => match requested.or(ciaddr) {
                Some(address) if self.is_given(address) => self.give(address, Occasion::Selecting),
                Some(address) => self.refuse(address, "this address was not offered"),
                None => self.ignore(Ignored::Incomplete),
            },
            (None, Some(address), None) => self.reboot(address),
            (None, _, Some(address)) => {
                let occasion = if everybody { Occasion::Rebinding } else { Occasion::Renewing };
                self.extend(address, occasion);
            }
            (None, None, None) => self.ignore(Ignored::Incomplete),
        }
    }

    fn reboot(&mut self, address: Ipv4Addr) {
        let mac = self.mac();
        if !self.network.subnet.contains(address) {
            self.refuse(address, "this address is of another network");
        } else if self.is_given(address) {
            self.give(address, Occasion::Reboot);
        } else if self.leases.get(mac).is_none() && self.leases.reservation(mac).is_none() {
            self.ignore(Ignored::Unknown(address));
        } else {
            self.refuse(address, "this address is not yours");
        }
    }

    /// A client that renews is using its address now. Where nothing is known of that (the leases were lost) and nobody else has
    /// it, it keeps it.
    fn extend(&mut self, address: Ipv4Addr, occasion: Occasion) {
        if self.is_given(address) {
            self.give(address, occasion);
        } else if self.leases.is_adoptable(self.network, self.mac(), address) {
            self.give(address, Occasion::Adopted);
        } else if self.network.subnet.contains(address) {
            self.refuse(address, "this address is not yours");
        } else {
            self.refuse(address, "this address is of another network");
        }
    }

    fn decline(&mut self) {
        let mac = self.mac();
        if let Some(server) = self.another_server() {
            return self.ignore(Ignored::OtherServer(server));
        }
        let Some(address) = self.requested() else { return self.ignore(Ignored::Incomplete) };
        if self.leases.decline(self.now, mac, address) {
            self.outcome.events.push(Event::Declined { mac, address });
        } else {
            self.ignore(Ignored::NotItsAddress(address));
        }
    }

    fn release(&mut self) {
        let mac = self.mac();
        if let Some(server) = self.another_server() {
            return self.ignore(Ignored::OtherServer(server));
        }
        let address = self.request.message.ciaddr;
        if self.leases.release(self.now, mac, address) {
            self.outcome.events.push(Event::Released { mac, address });
        } else {
            self.ignore(Ignored::NotItsAddress(address));
        }
    }

    fn inform(&mut self) {
        let (mac, address) = (self.mac(), self.request.message.ciaddr);
        if address.is_unspecified() {
            return self.ignore(Ignored::Incomplete);
        }
        self.outcome.events.push(Event::Informed { mac, address });
        self.reply(Kind::Ack, Ipv4Addr::UNSPECIFIED, None);
    }

    /// Whether an address is the client's, and was found free when it became so. A reserved one needs no record: the owner
    /// of the network vouches for it.
    fn is_given(&self, address: Ipv4Addr) -> bool {
        let mac = self.mac();
        let known = self.leases.get(mac).filter(|record| record.address == address);
        let vouched =
            known.map_or_else(|| self.leases.reservation(mac) == Some(address), |record| record.probed);
        vouched && self.leases.is_entitled(self.network, mac, address)
    }

    fn give(&mut self, address: Ipv4Addr, occasion: Occasion) {
        let (mac, seconds) = (self.mac(), self.seconds());
        let hostname = hostname(&self.request.message);
        self.leases.bind(self.now, mac, address, seconds, hostname);
        let until = UNIX_EPOCH + Duration::from_secs(unix_seconds(self.now).saturating_add(seconds.into()));
        self.outcome.events.push(Event::Bound { mac, address, until, occasion });
        self.reply(Kind::Ack, address, Some(seconds));
    }

    fn refuse(&mut self, address: Ipv4Addr, why: &'static str) {
        self.outcome.events.push(Event::Refused { mac: self.mac(), address, why });
        let mut nak = self.request.message.answer(Kind::Nak, self.network.server);
        nak.options.set(code::MESSAGE, why);
        self.send(nak);
    }

    fn ignore(&mut self, why: Ignored) {
        self.outcome.events.push(Event::Ignored { mac: self.mac(), why });
    }

    fn mac(&self) -> Mac {
        self.request.message.chaddr
    }

    fn requested(&self) -> Option<Ipv4Addr> {
        self.request
            .message
            .options
            .address(code::REQUESTED_ADDRESS)
            .filter(|address| !address.is_unspecified())
    }

    fn another_server(&self) -> Option<Ipv4Addr> {
        let server = self.request.message.options.address(code::SERVER_IDENTIFIER);
        server.filter(|server| *server != self.network.server)
    }

    /// How long the lease lasts: as the client wishes, within bounds.
    fn seconds(&self) -> u32 {
        let longest = u32::try_from(self.network.lease_time.as_secs()).unwrap_or(u32::MAX);
        let wish = self.request.message.options.long(code::LEASE_TIME).unwrap_or(longest);
        wish.clamp(SHORTEST_LEASE.min(longest), longest)
    }

    /// An offer or an acknowledgement. Times are told with a lease only (RFC 2131, 4.3.5).
    fn reply(&mut self, kind: Kind, yiaddr: Ipv4Addr, lease: Option<u32>) {
        let asked = &self.request.message;
        let mut reply = asked.answer(kind, self.network.server);
        reply.yiaddr = yiaddr;
        if let Some(seconds) = lease {
            reply.options.set(code::LEASE_TIME, seconds.to_be_bytes());
            if kind == Kind::Ack && asked.kind() == Some(Kind::Discover) {
                reply.options.set(code::RAPID_COMMIT, []);
            }
        }
        // The mask comes before the router wherever a client asks for it (RFC 2132, 3.3).
        let parameters = asked.options.get(code::PARAMETERS);
        let wanted = [code::SUBNET_MASK].into_iter();
        let wanted = wanted.chain(parameters.unwrap_or(&UNASKED).iter().copied());
        for code in wanted.chain([code::RENEWAL, code::REBINDING]) {
            if let Some(value) = self.parameter(code, lease)
                && reply.options.get(code).is_none()
            {
                reply.options.set(code, value);
            }
        }
        self.send(reply);
    }

    /// The value of an option that a client can ask for.
    fn parameter(&self, code: u8, lease: Option<u32>) -> Option<Vec<u8>> {
        let network = self.network;
        let text = |text: &str| text.as_bytes().to_vec();
        match code {
            code::SUBNET_MASK => Some(network.subnet.mask().octets().to_vec()),
            code::ROUTER => network.router.map(|router| router.octets().to_vec()),
            code::DNS => Some(network.dns.iter().flat_map(Ipv4Addr::octets).collect()),
            code::HOST_NAME => network.names.get(&self.mac()).map(|name| text(name)),
            code::DOMAIN => network.domain.as_deref().map(text),
            code::MTU => network.mtu.map(|mtu| mtu.to_be_bytes().to_vec()),
            code::BROADCAST => network.subnet.broadcast().map(|address| address.octets().to_vec()),
            code::RENEWAL => lease.map(|seconds| (seconds / 2).to_be_bytes().to_vec()),
            code::REBINDING => lease.map(|seconds| (seconds - seconds / 8).to_be_bytes().to_vec()),
            code::CLASSLESS_ROUTES => Some(classless_routes(network)),
            _ => None,
        }
        .filter(|value| !value.is_empty())
    }

    fn send(&mut self, message: Message) {
        let longest = self.request.message.longest_answer(self.network.mtu.unwrap_or(1500));
        let server = (self.network.server, self.network.server_mac);
        let (frame, left_out) = self.request.answer(server, message).encode(longest);
        if !left_out.is_empty() {
            self.outcome.events.push(Event::LeftOut { mac: self.mac(), codes: left_out });
        }
        self.outcome.reply = Some(frame);
    }
}

/// What a client gets that does not say what it wants.
const UNASKED: [u8; 6] = [code::ROUTER, code::DNS, code::HOST_NAME, code::DOMAIN, code::MTU, code::BROADCAST];

/// Routes as option 121 has them: prefix length, its significant bytes, gateway. A client that reads it ignores option 3, so
/// the default route is among them (RFC 3442). Nothing where there are no routes besides that.
fn classless_routes(network: &Network) -> Vec<u8> {
    if network.routes.is_empty() {
        return Vec::new();
    }
    let default = network.router.map(|router| (0, Ipv4Addr::UNSPECIFIED, router));
    let routes = network.routes.iter().map(|route| (route.to.prefix(), route.to.base(), route.via));
    let is_own_default = network.routes.iter().any(|route| route.to.prefix() == 0);
    let mut value = Vec::new();
    for (prefix, base, via) in routes.chain(default.filter(|_| !is_own_default)) {
        value.push(prefix);
        value.extend_from_slice(&base.octets()[..usize::from(prefix).div_ceil(8)]);
        value.extend_from_slice(&via.octets());
    }
    value
}

/// The name that a client gives itself: option 12, else the first label of option 81 (RFC 4702). Guests choose it, and it is shown
/// on terminals and written into hosts files, so only what can be a name is taken.
fn hostname(message: &Message) -> Option<String> {
    let name = match message.options.text(code::HOST_NAME) {
        Some(name) => name.to_owned(),
        None => fqdn(message.options.get(code::CLIENT_FQDN)?)?,
    };
    is_name(&name).then_some(name)
}

/// The first label of option 81: flags, two bytes of no use, then the name as DNS has it (flag E) or as ASCII.
fn fqdn(value: &[u8]) -> Option<String> {
    const DNS_ENCODED: u8 = 4;
    let (&[flags, _, _], name) = value.split_first_chunk::<3>()?;
    let label = if flags & DNS_ENCODED != 0 {
        let (length, rest) = name.split_first()?;
        rest.get(..usize::from(*length))?
    } else {
        name.split(|byte| *byte == b'.').next()?
    };
    String::from_utf8(label.to_vec()).ok()
}
