//! What the client says in each of its states (RFC 2131, table 5).

use super::super::super::message::{Datagram, Kind, Message, SHORTEST};
use super::super::super::options::code;
use super::super::Lease;
use super::{Machine, Moment};

/// What is asked for, the routes first: a client that gets them ignores the router (RFC 3442).
const PARAMETERS: [u8; 10] = [
    code::SUBNET_MASK,
    code::CLASSLESS_ROUTES,
    code::ROUTER,
    code::DNS,
    code::HOST_NAME,
    code::DOMAIN,
    code::MTU,
    code::BROADCAST,
    code::RENEWAL,
    code::REBINDING,
];

impl Machine {
    fn message(&self, kind: Kind, now: Moment) -> Message {
        let mut message = Message::request(kind, self.who.mac, self.xid);
        let secs = now.monotonic.saturating_duration_since(self.since).as_secs();
        message.secs = u16::try_from(secs).unwrap_or(u16::MAX);
        self.identify(&mut message);
        message
    }

    fn identify(&self, message: &mut Message) {
        if let Some(id) = &self.who.client_id {
            message.options.set(code::CLIENT_IDENTIFIER, id.as_slice());
        }
    }

    /// What every message that wants a lease has: the parameters, and that the answer goes to everybody, as nobody answers ARP
    /// for the address yet and the interface does not listen to this MAC's frames.
    fn wishing(&self, mut message: Message) -> Message {
        message.broadcast = true;
        if let Some(name) = &self.who.hostname {
            message.options.set(code::HOST_NAME, name.as_bytes());
        }
        message.options.set(code::MAX_SIZE, 1500_u16.to_be_bytes());
        message.options.set(code::PARAMETERS, PARAMETERS);
        message
    }

    pub(super) fn discovering(&self, now: Moment) -> Vec<u8> {
        let mut message = self.wishing(self.message(Kind::Discover, now));
        if self.who.rapid_commit {
            message.options.set(code::RAPID_COMMIT, []);
        }
        encode(&Datagram::to_everybody(message))
    }

    pub(super) fn requesting(&self, offer: &Lease, now: Moment) -> Vec<u8> {
        let mut message = self.wishing(self.message(Kind::Request, now));
        message.options.set(code::REQUESTED_ADDRESS, offer.address.octets());
        message.options.set(code::SERVER_IDENTIFIER, offer.server.octets());
        encode(&Datagram::to_everybody(message))
    }

    /// Every second time, and always where nobody answers ARP for the address, in the form of INIT-REBOOT.
    pub(super) fn renewing(&self, lease: &Lease, now: Moment, rebinding: bool) -> Vec<u8> {
        let mut message = self.wishing(self.message(Kind::Request, now));
        if !self.who.reachable || self.sent.is_multiple_of(2) {
            message.options.set(code::REQUESTED_ADDRESS, lease.address.octets());
            return encode(&Datagram::to_everybody(message));
        }
        message.ciaddr = lease.address;
        message.broadcast = false;
        let source = lease.address;
        encode(&if rebinding {
            Datagram { source, ..Datagram::to_everybody(message) }
        } else {
            self.to_server(lease, message)
        })
    }

    pub(super) fn releasing(&self, lease: &Lease) -> Vec<u8> {
        let mut message = Message::request(Kind::Release, self.who.mac, self.xid);
        self.identify(&mut message);
        message.ciaddr = lease.address;
        message.options.set(code::SERVER_IDENTIFIER, lease.server.octets());
        encode(&self.to_server(lease, message))
    }

    pub(super) fn declining(&self, lease: &Lease) -> Vec<u8> {
        let mut message = Message::request(Kind::Decline, self.who.mac, self.xid);
        self.identify(&mut message);
        message.options.set(code::REQUESTED_ADDRESS, lease.address.octets());
        message.options.set(code::SERVER_IDENTIFIER, lease.server.octets());
        encode(&Datagram::to_everybody(message))
    }

    fn to_server(&self, lease: &Lease, message: Message) -> Datagram {
        Datagram {
            ether_source: self.who.mac.bytes(),
            ether_destination: lease.server_mac.bytes(),
            source: lease.address,
            destination: lease.server,
            message,
        }
    }
}

fn encode(datagram: &Datagram) -> Vec<u8> {
    datagram.encode(SHORTEST).0
}
