//! The client's states (RFC 2131, figure 5), without sockets and clocks.
//!
//! ```text
//!            start               OFFER                ACK               nobody uses it
//!   Idle ───────────► Selecting ───────► Requesting ───────► Checking ─────────────────► Bound ◄──────┐
//!                       ▲  │ ACK with rapid commit              ▲  │ somebody does        │ T1        │ ACK
//!                       │  └────────────────────────────────────┘  │ DECLINE              ▼           │
//!                       │                              10 s        ▼                   Renewing ──────┤
//!                       ├─────────────────────────────────────── Waiting                  │ T2        │
//!                       │  NAK, or no ACK in time                                         ▼           │
//!                       └───────────────────────────────────────────────────────────── Rebinding ─────┘
//! ```

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use super::super::message::{Datagram, Kind, Side};
use super::super::options::code;
use super::super::{probe, unix_seconds};
use super::{Identity, Lease};
use crate::Mac;

mod frames;

/// Before the first repetition; each further one waits twice as long. RFC 2131, 4.1 has 4 s as an example for a slow network of
/// many hops; the servers meant here are on the same switch.
const FIRST_REPETITION: Duration = Duration::from_secs(1);
const LAST_REPETITION: Duration = Duration::from_secs(64);
/// How often an offer is taken up before it is given up.
const REQUESTS: u32 = 4;
/// The least time between repetitions of a renewal (RFC 2131, 4.4.5).
const RENEWAL_REPETITION: Duration = Duration::from_secs(60);
/// The least time before a lease is renewed, were it over sooner.
const SOONEST_RENEWAL: Duration = Duration::from_secs(1);
/// Before beginning anew after a conflict (RFC 2131, 3.1, 5).
const AFTER_CONFLICT: Duration = Duration::from_secs(10);
/// ARP probes before an address is taken, and the time for an answer to each.
const PROBES: u32 = 2;
const PROBE_WAIT: Duration = Duration::from_millis(100);

/// A point in time by both clocks: deadlines go by the one that never jumps, a lease says its end by the other.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Never jumps, means nothing to another process.
    pub monotonic: Instant,
    /// The wall clock.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a frame.
    Send(Vec<u8>),
    /// Tell the owner.
    Tell(Event),
}

/// What became of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was obtained.
    Bound(Lease),
    /// It was renewed; its parameters may be others now.
    Renewed(Lease),
    /// It is no more, and another one is being asked for.
    Lost {
        /// The address.
        address: Ipv4Addr,
        /// Why.
        why: Loss,
    },
    /// A server refused a request.
    Refused {
        /// The server.
        server: Option<Ipv4Addr>,
        /// What it says.
        message: Option<String>,
    },
    /// Somebody else uses the address that was offered; it was declined.
    Conflict {
        /// The address.
        address: Ipv4Addr,
        /// Who uses it.
        holder: Mac,
    },
}

/// Why a lease is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A server refused to renew it: perhaps its network was renumbered.
    Refused,
    /// Nobody renewed it in time.
    Expired,
}

#[derive(Debug)]
enum State {
    Idle,
    Selecting,
    Requesting { offer: Lease },
    Checking { lease: Lease },
    Waiting,
    Bound(Held),
    Renewing(Held),
    Rebinding(Held),
}

/// A lease and its times by the clock that never jumps; none for a lease that does not end.
#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    times: Option<[Instant; 3]>,
}

/// A DHCP client for one MAC.
#[derive(Debug)]
pub struct Machine {
    who: Identity,
    state: State,
    random: u64,
    xid: u32,
    since: Instant,
    /// How often the current message was sent.
    sent: u32,
    /// Refusals and conflicts since the last lease.
    setbacks: u32,
    deadline: Option<Instant>,
}

impl Machine {
    /// An idle client. Clients with one `seed` choose the same transaction ids, so use a random one outside tests.
    #[must_use]
    pub fn new(who: Identity, now: Moment, seed: u64) -> Self {
        Self {
            who,
            state: State::Idle,
            random: seed,
            xid: 0,
            since: now.monotonic,
            sent: 0,
            setbacks: 0,
            deadline: None,
        }
    }

    /// When [`Machine::timer`] is to be called; never, where nothing is waited for.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The lease that is held.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(held) | State::Renewing(held) | State::Rebinding(held) => Some(&held.lease),
            _ => None,
        }
    }

    /// Begins to ask for a lease.
    pub fn start(&mut self, now: Moment) -> Vec<Action> {
        self.begin(State::Selecting, now);
        self.send(now)
    }

    /// Goes on with a lease that was obtained before, perhaps by another process.
    ///
    /// Where its time to renew has come, that is done; where it is over, a new one is asked for.
    pub fn resume(&mut self, lease: Lease, now: Moment) -> Vec<Action> {
        let age = Duration::from_secs(unix_seconds(now.wall).saturating_sub(lease.obtained));
        let is_due = lease.times().is_some_and(|[renew, ..]| renew <= age);
        self.hold(lease, now, age);
        if !is_due {
            return Vec::new();
        }
        self.deadline = Some(now.monotonic);
        self.timer(now)
    }

    /// Renews the lease now rather than at T1; nothing where none is held or that is under way.
    pub fn renew(&mut self, now: Moment) -> Vec<Action> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Bound(held) => {
                self.begin(State::Renewing(held), now);
                self.send(now)
            }
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// Gives the lease back and rests.
    pub fn release(&mut self) -> Vec<Action> {
        self.deadline = None;
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Bound(Held { lease, .. })
            | State::Renewing(Held { lease, .. })
            | State::Rebinding(Held { lease, .. })
            | State::Checking { lease } => {
                self.xid = self.number();
                vec![Action::Send(self.releasing(&lease))]
            }
            _ => Vec::new(),
        }
    }

    /// The deadline has come.
    pub fn timer(&mut self, now: Moment) -> Vec<Action> {
        if self.deadline.is_none_or(|at| now.monotonic < at) {
            return Vec::new();
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => {
                self.deadline = None;
                Vec::new()
            }
            State::Selecting => {
                self.state = State::Selecting;
                self.send(now)
            }
            State::Requesting { offer } if self.sent < REQUESTS => {
                self.state = State::Requesting { offer };
                self.send(now)
            }
            State::Requesting { .. } | State::Waiting => self.start(now),
            State::Checking { lease } if self.sent < PROBES => {
                self.state = State::Checking { lease };
                self.send(now)
            }
            State::Checking { lease } => {
                self.setbacks = 0;
                // Its time has run since the acknowledgement, when the check began.
                let age = now.monotonic.saturating_duration_since(self.since);
                self.hold(lease.clone(), now, age);
                vec![Action::Tell(Event::Bound(lease))]
            }
            before @ (State::Bound(_) | State::Renewing(_) | State::Rebinding(_)) => self.age(before, now),
        }
    }

    /// A frame came from the network.
    pub fn frame(&mut self, frame: &[u8], now: Moment) -> Vec<Action> {
        if let State::Checking { lease } = &self.state
            && let Some(holder) = probe::claim(frame, lease.address)
            && holder != self.who.mac
            && Some(holder) != self.who.check_as
        {
            let address = lease.address;
            let declining = self.declining(lease);
            self.setbacks += 1;
            self.wait(now);
            return vec![Action::Send(declining), Action::Tell(Event::Conflict { address, holder })];
        }
        let Ok(answer) = Datagram::parse(frame, Side::Client) else { return Vec::new() };
        if answer.message.chaddr != self.who.mac || answer.message.xid != self.xid {
            return Vec::new();
        }
        match answer.message.kind() {
            Some(Kind::Offer) => self.offered(&answer, now),
            Some(Kind::Ack) => self.acknowledged(&answer, now),
            Some(Kind::Nak) => self.refused(&answer, now),
            _ => Vec::new(),
        }
    }

    fn offered(&mut self, answer: &Datagram, now: Moment) -> Vec<Action> {
        match (&self.state, Lease::read(answer, now.wall)) {
            (State::Selecting, Some(offer)) => {
                // The request goes by the offer's transaction id and start (RFC 2131, 4.4.1), so only the count begins anew.
                self.state = State::Requesting { offer };
                self.sent = 0;
                self.send(now)
            }
            _ => Vec::new(),
        }
    }

    fn acknowledged(&mut self, answer: &Datagram, now: Moment) -> Vec<Action> {
        let Some(lease) = Lease::read(answer, now.wall) else { return Vec::new() };
        match &self.state {
            State::Selecting
                if self.who.rapid_commit && answer.message.options.get(code::RAPID_COMMIT).is_some() =>
            {
                self.obtained(lease, now)
            }
            State::Requesting { offer } if offer.server == lease.server => self.obtained(lease, now),
            State::Renewing(held) | State::Rebinding(held) if held.lease.address == lease.address => {
                self.hold(lease.clone(), now, Duration::ZERO);
                vec![Action::Tell(Event::Renewed(lease))]
            }
            _ => Vec::new(),
        }
    }

    fn obtained(&mut self, lease: Lease, now: Moment) -> Vec<Action> {
        if self.who.check_as.is_some() {
            self.begin(State::Checking { lease }, now);
            return self.send(now);
        }
        self.setbacks = 0;
        self.hold(lease.clone(), now, Duration::ZERO);
        vec![Action::Tell(Event::Bound(lease))]
    }

    fn refused(&mut self, answer: &Datagram, now: Moment) -> Vec<Action> {
        let server = answer.message.options.address(code::SERVER_IDENTIFIER);
        let lost = match &self.state {
            State::Requesting { offer } if server.is_none_or(|server| server == offer.server) => None,
            State::Renewing(held) | State::Rebinding(held) => Some(held.lease.address),
            _ => return Vec::new(),
        };
        let message = answer.message.options.text(code::MESSAGE).map(str::to_owned);
        let mut actions = vec![Action::Tell(Event::Refused { server, message })];
        actions.extend(lost.map(|address| Action::Tell(Event::Lost { address, why: Loss::Refused })));
        // Once, asking anew at once is right; a server that goes on refusing gets time to come to itself.
        self.setbacks += 1;
        if self.setbacks > 1 {
            self.wait(now);
        } else {
            actions.extend(self.start(now));
        }
        actions
    }

    /// A lease has come to one of its times, or a renewal is to be repeated.
    fn age(&mut self, before: State, now: Moment) -> Vec<Action> {
        let (State::Bound(held) | State::Renewing(held) | State::Rebinding(held)) = &before else {
            return Vec::new();
        };
        let (held, address) = (held.clone(), held.lease.address);
        match (held.phase(now), &before) {
            (Phase::Over, _) => {
                let mut actions = vec![Action::Tell(Event::Lost { address, why: Loss::Expired })];
                actions.extend(self.start(now));
                return actions;
            }
            (Phase::Renew, State::Renewing(_)) | (Phase::Rebind, State::Rebinding(_)) => {
                self.state = before;
            }
            (Phase::Renew, _) => self.begin(State::Renewing(held), now),
            (Phase::Rebind, _) => self.begin(State::Rebinding(held), now),
        }
        self.send(now)
    }

    /// Enters a state in which something is asked for anew.
    fn begin(&mut self, state: State, now: Moment) {
        self.state = state;
        self.xid = self.number();
        self.since = now.monotonic;
        self.sent = 0;
    }

    fn wait(&mut self, now: Moment) {
        self.state = State::Waiting;
        self.deadline = Some(now.monotonic + AFTER_CONFLICT);
    }

    /// Holds a lease that was obtained so long ago.
    fn hold(&mut self, lease: Lease, now: Moment, age: Duration) {
        let times = lease.times().map(|times| times.map(|time| now.monotonic + time.saturating_sub(age)));
        // Clients that were started together do not renew together (RFC 2131, 4.4.5).
        let early = lease.times().map_or(Duration::ZERO, |[renew, ..]| self.part_of(renew / 32));
        // However short a lease is, it is not asked for without a pause.
        let soonest = now.monotonic + SOONEST_RENEWAL;
        self.deadline = times.map(|[renew, ..]| renew.checked_sub(early).unwrap_or(renew).max(soonest));
        self.sent = 0;
        self.state = State::Bound(Held { lease, times });
    }

    /// Sends what the state asks for, once more perhaps, and sets the time for the next repetition.
    fn send(&mut self, now: Moment) -> Vec<Action> {
        self.sent += 1;
        let frame = match &self.state {
            State::Idle | State::Waiting | State::Bound(_) => return Vec::new(),
            State::Selecting => self.discovering(now),
            State::Requesting { offer } => self.requesting(offer, now),
            State::Checking { lease } => {
                probe::question(self.who.check_as.unwrap_or(self.who.mac), lease.address)
            }
            State::Renewing(held) => self.renewing(&held.lease, now, false),
            State::Rebinding(held) => self.renewing(&held.lease, now, true),
        };
        let until = |end: Option<Instant>| {
            let left = end.map(|end| end.saturating_duration_since(now.monotonic));
            left.map_or(RENEWAL_REPETITION, |left| (left / 2).max(RENEWAL_REPETITION).min(left))
        };
        let delay = match &self.state {
            State::Checking { .. } => PROBE_WAIT,
            State::Renewing(held) => until(held.times.map(|[_, rebind, _]| rebind)),
            State::Rebinding(held) => until(held.times.map(|[.., end]| end)),
            _ => self.repetition(),
        };
        self.deadline = Some(now.monotonic + delay);
        vec![Action::Send(frame)]
    }

    /// Twice as long each time, give or take a quarter, so that many clients do not speak at once (RFC 2131, 4.1).
    fn repetition(&mut self) -> Duration {
        let whole = FIRST_REPETITION.saturating_mul(1 << (self.sent - 1).min(8)).min(LAST_REPETITION);
        whole * 3 / 4 + self.part_of(whole / 2)
    }

    /// Anything from nothing up to `whole`.
    fn part_of(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(f64::from(self.number()) / f64::from(u32::MAX))
    }

    /// SplitMix64's next number, its upper half.
    fn number(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default()
    }
}

/// Where a lease is in its life.
enum Phase {
    Renew,
    Rebind,
    Over,
}

impl Held {
    fn phase(&self, now: Moment) -> Phase {
        match self.times {
            Some([.., end]) if now.monotonic >= end => Phase::Over,
            Some([_, rebind, _]) if now.monotonic >= rebind => Phase::Rebind,
            _ => Phase::Renew,
        }
    }
}
