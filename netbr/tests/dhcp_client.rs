//! The client's states against the server in this crate, on a wire and a clock of the test's own.

#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction, reason = "a test that cannot go on panics")]

mod dhcp_support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcp_support::*;
use netbr::dhcp::client::{Action, Event, Identity, Loss, Machine, Moment};
use netbr::dhcp::message::{Datagram, Kind, Side};
use netbr::dhcp::options::code;
use netbr::dhcp::{Lease, Leases, Network, probe};
use proptest::prelude::*;

/// A client, a server, and what happened between them.
struct Wire {
    network: Network,
    leases: Leases,
    machine: Machine,
    begin: Instant,
    elapsed: Duration,
    sent: Vec<Datagram>,
    probes: Vec<Ipv4Addr>,
    events: Vec<Event>,
    /// Whether the server hears and is heard.
    connected: bool,
}

impl Wire {
    fn new(network: Network, who: Identity) -> Self {
        let begin = Instant::now();
        let now = Moment { monotonic: begin, wall: at(0) };
        let machine = Machine::new(who, now, 7);
        Self {
            network,
            leases: Leases::default(),
            machine,
            begin,
            elapsed: Duration::ZERO,
            sent: Vec::new(),
            probes: Vec::new(),
            events: Vec::new(),
            connected: true,
        }
    }

    fn now(&self) -> Moment {
        Moment { monotonic: self.begin + self.elapsed, wall: at(0) + self.elapsed }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Tell(event) => self.events.push(event),
                Action::Send(frame) => match Datagram::parse(&frame, Side::Server) {
                    Ok(request) => {
                        let now = self.now().wall;
                        let reply = self
                            .connected
                            .then(|| handle(&self.network, &mut self.leases, now, &request).reply);
                        self.sent.push(request);
                        if let Some(reply) = reply.flatten() {
                            let actions = self.machine.frame(&reply, self.now());
                            self.perform(actions);
                        }
                    }
                    Err(_) => self.probes.push(probed(&frame)),
                },
            }
        }
    }

    fn start(&mut self) {
        let actions = self.machine.start(self.now());
        self.perform(actions);
    }

    /// Lets time pass to the machine's next deadline.
    fn tick(&mut self) {
        let deadline = self.machine.deadline().expect("nothing is waited for");
        self.elapsed = self.elapsed.max(deadline - self.begin);
        let actions = self.machine.timer(self.now());
        self.perform(actions);
    }

    fn bind(&mut self) -> Lease {
        self.start();
        while self.machine.lease().is_none() {
            self.tick();
        }
        self.machine.lease().unwrap().clone()
    }

    fn kinds(&self) -> Vec<Kind> {
        self.sent.iter().map(|sent| sent.message.kind().unwrap()).collect()
    }
}

/// The address that an ARP probe asks for.
fn probed(frame: &[u8]) -> Ipv4Addr {
    (0..=255).map(ip).find(|address| probe::claim(frame, *address) == Some(mac(1))).expect("a probe")
}

fn client() -> Identity {
    Identity::new(mac(1), Some(mac(1)))
}

fn reachable() -> Identity {
    Identity { reachable: true, check_as: None, ..client() }
}

#[test]
fn a_lease_is_obtained_checked_and_told_whole() {
    let mut network = network(20);
    network.routes = vec![netbr::dhcp::subnet::Route { to: "192.168.4.0/22".parse().unwrap(), via: ip(7) }];
    let who = Identity { hostname: Some("clone".to_owned()), client_id: Some(vec![1, 2, 3, 4]), ..client() };
    let mut wire = Wire::new(network.clone(), who);
    let lease = wire.bind();
    assert_eq!(wire.kinds(), [Kind::Discover, Kind::Request]);
    assert_eq!(wire.probes, [lease.address; 2]);
    assert_eq!(wire.elapsed, Duration::from_millis(200), "only the check takes time");
    assert_eq!(wire.events, [Event::Bound(lease.clone())]);
    assert!(wire.sent.iter().all(|sent| sent.message.broadcast && sent.destination.is_broadcast()));
    assert_eq!(wire.sent[0].message.xid, wire.sent[1].message.xid);
    assert_eq!(wire.sent[1].message.options.get(code::CLIENT_IDENTIFIER), Some(&[1, 2, 3, 4][..]));
    assert_eq!(wire.leases.get(mac(1)).unwrap().hostname.as_deref(), Some("clone"));
    assert_eq!((lease.mac, lease.prefix, lease.server), (mac(1), 24, ip(1)));
    assert_eq!(lease.server_mac, network.server_mac);
    assert_eq!((lease.routers.as_slice(), &lease.dns), (&[ip(1)][..], &network.dns));
    assert_eq!((lease.domain.as_deref(), lease.mtu), (Some("guests.test"), Some(1400)));
    assert_eq!(lease.routes.len(), 2);
    assert_eq!((lease.renew_after, lease.rebind_after, lease.lasts), (1800, 3150, 3600));
    assert_eq!(lease.ends(), Some(at(3600)));
    let text = serde_json::to_string(&lease).unwrap();
    assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
}

#[test]
fn rapid_commit_takes_one_exchange_and_only_when_asked_for() {
    let who = Identity { rapid_commit: true, check_as: None, ..client() };
    let mut wire = Wire::new(network(20), who);
    let lease = wire.bind();
    assert_eq!((wire.kinds(), wire.elapsed), (vec![Kind::Discover], Duration::ZERO));
    // The same answer means nothing to a client that did not ask for it.
    let mut asks = wire.sent[0].clone();
    let ack = handle(&wire.network, &mut wire.leases, at(0), &asks).reply.unwrap();
    let mut other = Wire::new(network(20), Identity { check_as: None, ..client() });
    other.connected = false;
    other.start();
    asks.message.xid = other.sent[0].message.xid;
    let fitting = handle(&wire.network, &mut wire.leases, at(0), &asks).reply.unwrap();
    for ack in [ack, fitting] {
        assert_eq!(other.machine.frame(&ack, other.now()), []);
    }
    assert_eq!(lease.address, wire.leases.get(mac(1)).unwrap().address);
}

#[test]
fn an_unanswered_client_repeats_itself_ever_more_seldom() {
    let mut wire = Wire::new(network(20), client());
    wire.connected = false;
    wire.start();
    for expected in [1_u64, 2, 4, 8, 16, 32, 64, 64, 64] {
        let before = wire.elapsed;
        wire.tick();
        let waited = wire.elapsed - before;
        let whole = Duration::from_secs(expected);
        assert!((whole * 3 / 4..=whole * 5 / 4).contains(&waited), "{waited:?} for {expected}");
    }
    assert_eq!(wire.kinds(), [Kind::Discover; 10]);
    let first = wire.sent[0].message.xid;
    assert!(wire.sent.iter().all(|sent| sent.message.xid == first));
    assert!(wire.sent[9].message.secs > 150);
}

#[test]
fn an_offer_whose_server_falls_silent_is_given_up() {
    let mut wire = Wire::new(network(20), client());
    wire.connected = false;
    wire.start();
    let offer = handle(&wire.network, &mut wire.leases, at(0), &wire.sent[0].clone()).reply.unwrap();
    let actions = wire.machine.frame(&offer, wire.now());
    wire.perform(actions);
    while wire.kinds().len() < 6 {
        wire.tick();
    }
    let request = Kind::Request;
    assert_eq!(wire.kinds(), [Kind::Discover, request, request, request, request, Kind::Discover]);
    assert_ne!(wire.sent[0].message.xid, wire.sent[5].message.xid);
}

#[test]
fn answers_to_others_and_from_others_mean_nothing() {
    let mut wire = Wire::new(network(20), reachable());
    wire.connected = false;
    wire.start();
    let discover = wire.sent[0].clone();
    let mut leases = Leases::default();
    let mut other = discover.clone();
    other.message.xid += 1;
    let foreign = handle(&wire.network, &mut leases, at(0), &other).reply.unwrap();
    assert_eq!(wire.machine.frame(&foreign, wire.now()), []);
    let mut other = discover.clone();
    other.message.chaddr = mac(2);
    let foreign = handle(&wire.network, &mut leases, at(0), &other).reply.unwrap();
    assert_eq!(wire.machine.frame(&foreign, wire.now()), []);
    let offer = handle(&wire.network, &mut leases, at(0), &discover).reply.unwrap();
    let actions = wire.machine.frame(&offer, wire.now());
    wire.perform(actions);
    // Another server's acknowledgement and refusal.
    let mut elsewhere = wire.network.clone();
    elsewhere.server = ip(2);
    let mut request = wire.sent[1].clone();
    request.message.options.set(code::SERVER_IDENTIFIER, ip(2).octets());
    let nak = handle(&elsewhere, &mut Leases::default(), at(0), &request).reply.unwrap();
    assert_eq!(wire.machine.frame(&nak, wire.now()), []);
    let ack = handle(&elsewhere, &mut leases, at(0), &request).reply.unwrap();
    assert_eq!(wire.machine.frame(&ack, wire.now()), []);
    let ack = handle(&wire.network, &mut leases, at(0), &wire.sent[1].clone()).reply.unwrap();
    assert!(matches!(wire.machine.frame(&ack, wire.now())[..], [Action::Tell(Event::Bound(_))]));
}

#[test]
fn a_renewal_goes_to_the_server_and_then_to_everybody_until_the_lease_ends() {
    let mut wire = Wire::new(network(20), reachable());
    let lease = wire.bind();
    wire.sent.clear();
    wire.tick();
    assert!((1740..=1800).contains(&wire.elapsed.as_secs()), "T1, a little early: {:?}", wire.elapsed);
    let [renewal] = &wire.sent[..] else { panic!("{:?}", wire.sent) };
    assert_eq!((renewal.source, renewal.destination), (lease.address, lease.server));
    assert_eq!(renewal.ether_destination, lease.server_mac.bytes());
    assert_eq!((renewal.message.ciaddr, renewal.message.broadcast), (lease.address, false));
    for absent in [code::REQUESTED_ADDRESS, code::SERVER_IDENTIFIER] {
        assert_eq!(renewal.message.options.get(absent), None);
    }
    let renewed = Lease { obtained: lease.obtained + wire.elapsed.as_secs(), ..lease.clone() };
    assert_eq!(wire.events[1..], [Event::Renewed(renewed)]);

    wire.connected = false;
    wire.sent.clear();
    let renewed_at = wire.elapsed.as_secs();
    while wire.events.len() == 2 {
        wire.tick();
    }
    let lost = Event::Lost { address: lease.address, why: Loss::Expired };
    assert_eq!(wire.events[2..], [lost]);
    assert_eq!(wire.elapsed.as_secs(), renewed_at + 3600);
    let forms: Vec<(bool, bool)> = wire
        .sent
        .iter()
        .map(|sent| (sent.destination.is_broadcast(), sent.message.ciaddr.is_unspecified()))
        .collect();
    let (to_server, to_all, reboot) = ((false, false), (true, false), (true, true));
    // From T1 to T2, half of what is left each time and never less than a minute; every second time as after a reboot.
    assert_eq!(forms[..6], [to_server, reboot, to_server, reboot, to_server, reboot]);
    assert!(forms.contains(&to_all));
    assert_eq!(wire.kinds().last(), Some(&Kind::Discover), "another lease is asked for at once");
    assert!((8..=14).contains(&forms.len()), "{}", forms.len());
}

#[test]
fn where_nobody_answers_arp_for_the_address_renewals_look_like_reboots() {
    let mut wire = Wire::new(network(20), Identity { check_as: None, ..client() });
    let lease = wire.bind();
    wire.sent.clear();
    let actions = wire.machine.renew(wire.now());
    wire.perform(actions);
    let [renewal] = &wire.sent[..] else { panic!("{:?}", wire.sent) };
    assert!(renewal.destination.is_broadcast() && renewal.message.broadcast);
    assert!(renewal.message.ciaddr.is_unspecified());
    assert_eq!(renewal.message.options.address(code::REQUESTED_ADDRESS), Some(lease.address));
    assert!(matches!(wire.events[..], [Event::Bound(_), Event::Renewed(_)]));
}

#[test]
fn a_refusal_is_answered_by_asking_anew_once_and_then_with_patience() {
    let mut wire = Wire::new(network(20), reachable());
    let lease = wire.bind();
    wire.network.subnet = "10.78.0.0/24".parse().unwrap();
    wire.network.server = Ipv4Addr::new(10, 78, 0, 1);
    wire.network.pool = Some(Ipv4Addr::new(10, 78, 0, 9)..=Ipv4Addr::new(10, 78, 0, 9));
    // Its server has another address now, so only what goes to everybody reaches it.
    while wire.events.len() == 1 {
        wire.tick();
    }
    let [_, Event::Refused { server, message }, Event::Lost { address, why }, Event::Bound(new)] =
        &wire.events[..]
    else {
        panic!("{:?}", wire.events);
    };
    assert_eq!(*server, Some(wire.network.server));
    assert_eq!(message.as_deref(), Some("this address is of another network"));
    assert_eq!((*address, *why), (lease.address, Loss::Refused));
    assert_eq!(new.address, Ipv4Addr::new(10, 78, 0, 9));
}

#[test]
fn a_server_that_goes_on_refusing_is_not_pestered() {
    let mut wire = Wire::new(network(20), client());
    wire.connected = false;
    wire.start();
    for refusals in 1..4 {
        let (mut leases, network, now) = (Leases::default(), wire.network.clone(), wire.now());
        let discover = wire.sent.last().unwrap().clone();
        let offer = handle(&network, &mut leases, at(0), &discover).reply.unwrap();
        let actions = wire.machine.frame(&offer, now);
        wire.perform(actions);
        let request = wire.sent.last().unwrap().clone();
        assert_eq!(request.message.kind(), Some(Kind::Request));
        let nak = handle(&network, &mut Leases::default(), at(0), &request).reply.unwrap();
        let actions = wire.machine.frame(&nak, now);
        wire.perform(actions);
        assert_eq!(wire.events.len(), refusals);
        if refusals > 1 {
            let before = wire.elapsed;
            wire.tick();
            assert_eq!(wire.elapsed - before, Duration::from_secs(10));
        }
        assert_eq!(wire.kinds().last(), Some(&Kind::Discover));
    }
}

#[test]
fn an_address_that_somebody_uses_is_declined() {
    let mut wire = Wire::new(network(20), client());
    wire.start();
    let address = wire.probes[0];
    let own = probe::question(mac(1), address);
    assert_eq!(wire.machine.frame(&own, wire.now()), [], "its own probe, come back");
    let elsewhere = probe::question(mac(9), ip(99));
    assert_eq!(wire.machine.frame(&elsewhere, wire.now()), []);
    let rival = probe::question(mac(9), address);
    let actions = wire.machine.frame(&rival, wire.now());
    wire.perform(actions);
    assert_eq!(wire.kinds().last(), Some(&Kind::Decline));
    assert_eq!(wire.events, [Event::Conflict { address, holder: mac(9) }]);
    assert!(wire.leases.get(mac(1)).is_none());
    wire.tick();
    assert_eq!(wire.elapsed, Duration::from_secs(10));
    while wire.machine.lease().is_none() {
        wire.tick();
    }
    assert_ne!(wire.machine.lease().unwrap().address, address);
}

#[test]
fn a_lease_is_given_back() {
    let mut wire = Wire::new(network(20), reachable());
    assert_eq!(wire.machine.release(), []);
    let lease = wire.bind();
    let actions = wire.machine.release();
    wire.perform(actions);
    let release = wire.sent.last().unwrap();
    assert_eq!(release.message.kind(), Some(Kind::Release));
    assert_eq!((release.source, release.destination), (lease.address, lease.server));
    assert_eq!(release.ether_destination, lease.server_mac.bytes());
    assert_eq!(wire.leases.get(mac(1)).unwrap().state, netbr::dhcp::leases::State::Released);
    assert_eq!((wire.machine.lease(), wire.machine.deadline()), (None, None));
}

#[test]
fn a_lease_that_is_still_being_checked_is_given_back_too() {
    let mut wire = Wire::new(network(20), client());
    wire.start();
    assert_eq!(wire.machine.lease(), None);
    let actions = wire.machine.release();
    wire.perform(actions);
    assert_eq!(wire.kinds(), [Kind::Discover, Kind::Request, Kind::Release]);
    assert_eq!(wire.leases.get(mac(1)).unwrap().state, netbr::dhcp::leases::State::Released);
}

#[test]
fn another_process_goes_on_with_a_lease_where_it_stands() {
    let lease = Wire::new(network(20), reachable()).bind();
    for (age, sent, state) in
        [(0, 0, true), (1700, 0, true), (1800, 1, true), (3200, 1, true), (3600, 1, false)]
    {
        let mut wire = Wire::new(network(20), reachable());
        wire.connected = false;
        wire.elapsed = Duration::from_secs(age);
        let actions = wire.machine.resume(lease.clone(), wire.now());
        wire.perform(actions);
        assert_eq!((wire.sent.len(), wire.machine.lease().is_some()), (sent, state), "at {age} s");
    }
    // A clock that was set back makes the lease no older than new.
    let mut wire = Wire::new(network(20), reachable());
    let early = Moment { wall: at(0) - Duration::from_secs(99_999), ..wire.now() };
    assert_eq!(wire.machine.resume(lease, early), []);
    assert!(wire.machine.deadline().unwrap() <= wire.begin + Duration::from_secs(1800));
}

#[test]
fn a_lease_that_ended_while_it_was_checked_is_asked_for_anew_after_a_pause() {
    let mut wire = Wire::new(network(20), client());
    wire.start();
    // The process was stopped for a day.
    wire.elapsed = Duration::from_secs(86_400);
    wire.tick();
    wire.tick();
    assert!(matches!(wire.events[..], [Event::Bound(_)]));
    assert_eq!(wire.machine.deadline(), Some(wire.begin + wire.elapsed + Duration::from_secs(1)));
    wire.tick();
    assert!(matches!(wire.events[1..], [Event::Lost { why: Loss::Expired, .. }]));
    assert_eq!(wire.kinds()[2..], [Kind::Discover, Kind::Request]);
}

#[test]
fn a_lease_without_an_end_is_left_alone() {
    let network = Network { lease_time: Duration::from_secs(u32::MAX.into()), ..network(20) };
    let mut wire = Wire::new(network, reachable());
    let lease = wire.bind();
    assert_eq!((lease.ends(), wire.machine.deadline()), (None, None));
    let actions = wire.machine.renew(wire.now());
    wire.perform(actions);
    assert!(matches!(wire.events[..], [Event::Bound(_), Event::Renewed(_)]));
}

proptest! {
    /// Whatever frames are lost: once they are lost no more, the client comes to a lease, and it is the one that the
    /// server has down for it.
    #[test]
    fn a_lossy_network_delays_the_lease_only(lost in prop::collection::vec(any::<bool>(), 0..30), check: bool, rapid: bool) {
        let who = Identity { check_as: check.then_some(mac(1)), rapid_commit: rapid, reachable: true, ..client() };
        let mut wire = Wire::new(network(3), who);
        wire.connected = !lost.first().copied().unwrap_or(false);
        wire.start();
        for lost in lost {
            wire.connected = !lost;
            wire.tick();
        }
        wire.connected = true;
        for _ in 0..40 {
            wire.tick();
        }
        let held = wire.machine.lease().map(|lease| lease.address);
        prop_assert_eq!(held, wire.leases.get(mac(1)).map(|record| record.address));
        prop_assert!(held.is_some());
    }

    /// Answers of which bytes were changed, the checksum left out, neither panic nor lead to an address that is none.
    #[test]
    fn damaged_answers_do_no_harm(changes in prop::collection::vec((42..400_usize, any::<u8>()), 0..8)) {
        let mut wire = Wire::new(network(20), reachable());
        wire.connected = false;
        wire.start();
        for _ in 0..2 {
            let asked = wire.sent.last().unwrap().clone();
            let Some(mut answer) = handle(&wire.network, &mut wire.leases, at(0), &asked).reply else { break };
            for (at, byte) in &changes {
                answer[*at] = *byte;
            }
            answer[40..42].fill(0);
            let actions = wire.machine.frame(&answer, wire.now());
            wire.perform(actions);
        }
        if let Some(lease) = wire.machine.lease() {
            prop_assert!(!lease.address.is_unspecified() && !lease.address.is_multicast() && lease.lasts > 0);
        }
    }
}
