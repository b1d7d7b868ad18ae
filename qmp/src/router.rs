//! Which answer belongs to which call: pure bookkeeping, no I/O.
//!
//! A call is *queued* until it may be sent, then *under way* until its answer arrives. Its waiter can leave at any
//! time: a queued call is then never sent, a call under way is remembered without a waiter so that its late answer
//! is recognised and dropped.
//!
//! Ids are `SESSION:NUMBER`, with a session name of the connection's own. QEMU keeps executing a command when its
//! client goes away and hands the answer to whoever is connected by then (`monitor_qmp_respond` knows only the
//! monitor, no client), so a client that takes over a running QEMU sees answers to its predecessor's ids: they are
//! counted as stray. An id of the own session that is not under way, or no id at all, means that the peer is broken.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use crate::error::ProtocolError;
use crate::event::Event;
use crate::wire::{Greeting, Message, Mode, Refusal, Reply};

/// How many commands may be under way in either mode.
///
/// QEMU stops reading from a client that has more in-band commands in flight than its queue holds, and would then
/// not see an out-of-band command either: "the client should have at most eight in-band commands in flight"
/// (`docs/interop/qmp-spec.rst`, "Out-of-band execution").
pub const IN_FLIGHT: usize = 8;

/// The number of a call within its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// What the peer sent that reached nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Answers whose caller had given up.
    pub late: u64,
    /// Answers to ids of another session.
    pub stray: u64,
}

/// What to do with a message that came in.
#[derive(Debug, PartialEq)]
pub enum Routed<W> {
    /// The answer for this waiter.
    Answer(W, Result<Value, Refusal>),
    /// The monitor's greeting.
    Greeting(Greeting),
    /// An event for every subscriber.
    Event(Event),
    /// Nobody waits for it.
    Nothing,
}

/// The calls of one connection. `W` is who waits for an answer, `P` what is to be sent.
#[derive(Debug)]
pub struct Router<W, P> {
    session: String,
    last: u64,
    greeted: bool,
    in_band: VecDeque<Queued<W, P>>,
    out_of_band: VecDeque<Queued<W, P>>,
    under_way: BTreeMap<u64, UnderWay<W>>,
    dropped: Dropped,
}

#[derive(Debug)]
struct Queued<W, P> {
    id: u64,
    mode: Mode,
    waiter: W,
    payload: P,
}

#[derive(Debug)]
struct UnderWay<W> {
    mode: Mode,
    /// `None` once the caller has given up.
    waiter: Option<W>,
}

impl<W, P> Router<W, P> {
    /// A router whose ids start with `session`, which should differ from that of any earlier client.
    pub fn new(session: impl Into<String>) -> Self {
        Self {
            session: session.into(),
            last: 0,
            greeted: false,
            in_band: VecDeque::new(),
            out_of_band: VecDeque::new(),
            under_way: BTreeMap::new(),
            dropped: Dropped::default(),
        }
    }

    /// A fresh id, to be used in one [`Router::queue`].
    pub fn allot(&mut self) -> CallId {
        self.last += 1;
        CallId(self.last)
    }

    /// The id as it goes over the wire.
    pub fn wire_id(&self, id: CallId) -> String {
        format!("{}:{}", self.session, id.0)
    }

    /// Takes a call in. Calls of the in-band lanes are sent in the order of this.
    pub fn queue(&mut self, id: CallId, mode: Mode, waiter: W, payload: P) {
        let queue = if mode == Mode::OutOfBand { &mut self.out_of_band } else { &mut self.in_band };
        queue.push_back(Queued { id: id.0, mode, waiter, payload });
    }

    /// The next call to send, if one may be sent now; it is under way from here on.
    pub fn next_to_send(&mut self) -> Option<P> {
        let count =
            |oob: bool| self.under_way.values().filter(|call| (call.mode == Mode::OutOfBand) == oob).count();
        let queue = if !self.out_of_band.is_empty() && count(true) < IN_FLIGHT {
            &mut self.out_of_band
        } else if count(false) < IN_FLIGHT {
            // QEMU holds the last received descriptor only, until a command takes it.
            let descriptor = self.under_way.values().any(|call| call.mode == Mode::Descriptor);
            if descriptor && self.in_band.front()?.mode == Mode::Descriptor {
                return None;
            }
            &mut self.in_band
        } else {
            return None;
        };
        let call = queue.pop_front()?;
        self.under_way.insert(call.id, UnderWay { mode: call.mode, waiter: Some(call.waiter) });
        Some(call.payload)
    }

    /// Forgets the waiter of a call. Does nothing for a call that is answered already.
    pub fn cancel(&mut self, id: CallId) {
        if let Some(call) = self.under_way.get_mut(&id.0) {
            call.waiter = None;
        } else {
            self.in_band.retain(|call| call.id != id.0);
            self.out_of_band.retain(|call| call.id != id.0);
        }
    }

    /// Finds the receiver of a message. An error means that the peer cannot be trusted any further.
    pub fn route(&mut self, message: Message) -> Result<Routed<W>, ProtocolError> {
        match message {
            Message::Event(event) => Ok(Routed::Event(event)),
            Message::Greeting(_) if self.greeted => Err(ProtocolError::SecondGreeting),
            Message::Greeting(greeting) => {
                self.greeted = true;
                Ok(Routed::Greeting(greeting))
            }
            Message::Reply(reply) => self.route_reply(reply),
        }
    }

    fn route_reply(&mut self, reply: Reply) -> Result<Routed<W>, ProtocolError> {
        let Some(id) = reply.id else {
            return Err(match reply.result {
                Ok(_) => ProtocolError::NoId,
                Err(refusal) => ProtocolError::Unreadable { desc: refusal.desc },
            });
        };
        let own = id.as_str().and_then(|id| id.strip_prefix(self.session.as_str())?.strip_prefix(':'));
        let Some(number) = own else {
            self.dropped.stray += 1;
            return Ok(Routed::Nothing);
        };
        // Only the exact text that was sent: `+1` and `01` are numbers too.
        let call = number
            .parse()
            .ok()
            .filter(|parsed: &u64| parsed.to_string() == number)
            .and_then(|number| self.under_way.remove(&number));
        match call {
            None => Err(ProtocolError::UnknownId { id: id.to_string().chars().take(120).collect() }),
            Some(UnderWay { waiter: Some(waiter), .. }) => Ok(Routed::Answer(waiter, reply.result)),
            Some(UnderWay { waiter: None, .. }) => {
                self.dropped.late += 1;
                Ok(Routed::Nothing)
            }
        }
    }

    /// Ends every call and hands out those who still wait.
    pub fn close(&mut self) -> Vec<W> {
        let queued = self.in_band.drain(..).chain(self.out_of_band.drain(..)).map(|call| call.waiter);
        let under_way = std::mem::take(&mut self.under_way).into_values().filter_map(|call| call.waiter);
        queued.chain(under_way).collect()
    }

    /// What reached nobody so far.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// How many calls are under way, with or without a waiter.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }
}
