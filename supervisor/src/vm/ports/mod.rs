//! The host's ends of a guest's interfaces: the tap of each that is on a bridge, and the watch on it.
//!
//! They are made for each run of the guest and end with it; without privilege, those are claimed that root has prepared
//! (see [`crate::setup`]). A supervisor that takes charge of a QEMU that runs already finds its
//! ports by their recorded names; QEMU holds the taps.

mod heard;
mod make;
mod mask;
mod nat;
mod prepared;
mod proxy;

use std::cell::RefCell;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

pub use mask::Mask;
use nat::Nat;
pub use nat::{forget_leases, free_addresses, own_leases, state_dir as own_network_state};
use netbr::Namespace;
use netbr::check::{Cause, Facts, Subject, causes};
use netbr::link::{Links, Tap};
use netbr::packet::PacketSocket;
use netbr::watch::{Asker, Event, NoAddress, TableConfig, Want, Watch, WatchError, Watcher, WatcherConfig};
use prepared::Prepared;
pub(super) use proxy::listen;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use super::control::{Failure, FailureKind, Family};
use super::driver::Input;
use super::history::Happening;
use super::shared::Shared;
use crate::error::chain;
use crate::spec::Mac;
use crate::store::{Heard, PortState};

/// The name of midge's own network, and of its bridge.
pub(super) const NAT: &str = "midge0";

/// The name of midge's own network, and of its bridge.
#[must_use]
pub const fn own_network() -> &'static str {
    NAT
}

/// Whether a bridge is of midge's own making, by its name.
#[must_use]
pub fn is_own_network(bridge: &str) -> bool {
    bridge == NAT
}

/// The ports of one VM.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// How many interfaces the VM has.
    nets: usize,
    all: Vec<Port>,
    /// What the user should know of them, a line each.
    notes: Vec<String>,
}

/// One port.
#[derive(Debug)]
struct Port {
    state: PortState,
    mac: Mac,
    /// Nothing where only QEMU has it.
    tap: Option<Tap>,
    /// What it is watched by, until the watch begins; nothing where it cannot be watched.
    ear: RefCell<Option<Ear>>,
    /// The view of the watch, once it has begun.
    watch: RefCell<Option<Watch>>,
    /// The use of midge's own network, where it is on that.
    service: Option<Service>,
    /// What runs for it: ended with it.
    tasks: RefCell<JoinSet<()>>,
}

/// The use that a VM makes of midge's own network.
#[derive(Debug)]
pub(super) struct Networks(Vec<Rc<Nat>>);

impl Networks {
    /// Ends it.
    pub(super) async fn leave(&self) {
        for nat in &self.0 {
            nat.leave().await;
        }
    }
}

/// How a port uses midge's own network.
#[derive(Debug)]
enum Service {
    /// By privilege of this process's own.
    Own(Rc<Nat>),
    /// By what root has prepared.
    Prepared(Rc<Prepared>),
}

/// What a port's watch needs.
#[derive(Debug)]
struct Ear {
    socket: PacketSocket,
    asker: Asker,
}

impl Ports {
    /// What is to be recorded of them.
    pub(super) fn states(&self) -> Vec<PortState> {
        self.all.iter().map(|port| port.state.clone()).collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What the user should know of them, a line each.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Leaves the networks that they were on: for when no guest will use them any more.
    pub(super) async fn leave(&self) {
        self.networks().leave().await;
        for port in self.all.iter().filter(|port| port.state.mask.is_some()) {
            mask::take_off(&port.state.tap);
        }
    }

    /// What is known from the beginning of the addresses of guests behind a mask: they have them, and are asked to confirm it.
    pub(super) fn masked(&self) -> Vec<Heard> {
        let now = jiff::Timestamp::now();
        let of = |port: &Port| {
            let address = port.state.mask.as_ref()?.outer.ipv4?;
            Some(Heard {
                net: port.state.net,
                address: address.into(),
                source: crate::store::Source::Dhcp,
                confirmed: false,
                since: now,
                seen: now,
                lease_ends: None,
            })
        };
        self.all.iter().filter_map(of).collect()
    }

    /// The use that they make of midge's own network, to be ended when the ports themselves are gone.
    pub(super) fn networks(&self) -> Networks {
        let own = |port: &Port| match &port.service {
            Some(Service::Own(nat)) => Some(nat.clone()),
            _ => None,
        };
        Networks(self.all.iter().filter_map(own).collect())
    }

    /// Ends what runs for them, so that the next ports can listen where these did.
    pub(super) async fn quiet(&self) {
        for port in &self.all {
            let mut tasks = port.tasks.take();
            tasks.shutdown().await;
        }
    }

    /// For each interface its open tap, where it has one.
    pub(super) fn taps(&self) -> Vec<Option<BorrowedFd<'_>>> {
        let tap = |net| {
            let port = self.all.iter().find(|port| port.state.net == net)?;
            port.tap.as_ref()?.fds().next()
        };
        (0..self.nets).map(tap).collect()
    }

    /// Begins to watch them. `known` is what a supervisor before knew: each address of it is asked for at once.
    pub(super) fn watch(&self, shared: &Rc<Shared>, known: &[Heard]) {
        for port in &self.all {
            if let Some(Service::Prepared(prepared)) = &port.service {
                let mut tasks = port.tasks.borrow_mut();
                for proxy in prepared.take_proxies() {
                    tasks.spawn_local(proxy.run());
                }
            }
            let Some(Ear { socket, asker }) = port.ear.borrow_mut().take() else { continue };
            let mask = port.state.mask.clone();
            // The watch hears the guest as the guest believes to be.
            let mac = mask.as_ref().map_or(port.mac, |mask| mask.inner.mac);
            let known = known.iter().filter(|heard| heard.net == port.state.net);
            let known = known.map(|heard| mask.as_ref().map_or(heard.clone(), |mask| mask.inside(heard)));
            let config = WatcherConfig {
                table: TableConfig { macs: vec![mac], siblings: self.siblings(port), asker },
                namespace: Namespace::current(),
                known: known.filter_map(|heard| heard::saved(&heard, mac)).collect(),
            };
            let (watcher, watch) = Watcher::new(socket, config);
            let net = port.state.net;
            let mut tasks = port.tasks.borrow_mut();
            tasks.spawn_local(tell_addresses(shared.clone(), net, mask, watch.clone()));
            tasks.spawn_local(tell_events(shared.clone(), net, watch.clone()));
            let told = shared.clone();
            let end = move |ended: Result<(), WatchError>| {
                if let Err(e) = ended {
                    tell_end(&told, net, &e);
                }
            };
            match &port.service {
                None => tasks.spawn_local(async move { end(watcher.run().await) }),
                Some(Service::Own(nat)) => {
                    let watcher = watcher.with_hook(nat.hook(shared, net, &watch));
                    tasks.spawn_local(async move { end(watcher.run().await) })
                }
                Some(Service::Prepared(prepared)) => {
                    let watcher = watcher.with_hook(prepared.clone().hook());
                    tasks.spawn_local(async move { end(watcher.run().await) })
                }
            };
            *port.watch.borrow_mut() = Some(watch);
        }
    }

    /// The MACs of the same guest's other interfaces on the port's bridge, by which it may answer as well: Linux answers ARP for any
    /// of its addresses on any interface.
    fn siblings(&self, port: &Port) -> Vec<Mac> {
        let others = self.all.iter().filter(|other| other.state.net != port.state.net);
        others.filter(|other| other.state.bridge == port.state.bridge).map(|other| other.mac).collect()
    }

    /// Asks the guest on its ports whether it has these addresses, each on the port of the interface that has it: Linux answers for
    /// any of its addresses on any interface.
    pub(super) fn ask(&self, told: &[(Option<Mac>, IpAddr)]) {
        for port in &self.all {
            let Some(watch) = port.watch.borrow().clone() else { continue };
            let here = told.iter().filter(|(mac, _)| mac.is_none_or(|mac| mac == port.mac));
            let addresses: Vec<IpAddr> = here.map(|(_, address)| *address).collect();
            if addresses.is_empty() {
                continue;
            }
            tokio::task::spawn_local(async move {
                if let Err(e) = watch.ask(addresses).await {
                    tracing::debug!("the guest is not asked for its addresses: {e}");
                }
            });
        }
    }

    /// What is known now of these addresses: when they were last heard of and how long their leases last changes without a word.
    pub(super) fn renewed(&self, heard: Vec<Heard>) -> Vec<Heard> {
        let now: Vec<Heard> = self
            .all
            .iter()
            .filter_map(|port| Some((port.state.net, port.state.mask.clone(), port.watch.borrow().clone()?)))
            .flat_map(|(net, mask, watch)| {
                let heard = heard::all(net, &watch.addresses());
                mask.map_or(heard.clone(), |mask| mask.outside(heard))
            })
            .collect();
        let renewed = |old: Heard| {
            now.iter().find(|new| (new.net, new.address) == (old.net, old.address)).cloned().unwrap_or(old)
        };
        heard.into_iter().map(renewed).collect()
    }

    /// Why the guest has no address of this family, as far as its ports tell.
    pub(super) async fn why(&self, family: Family, kind: FailureKind) -> Option<Failure> {
        let port = self.all.first()?;
        let want = match family {
            Family::Any => Want::Any,
            Family::V4 => Want::Ipv4,
            Family::V6 => Want::Ipv6,
        };
        let tap = &port.state.tap;
        let Some(watch) = port.watch.borrow().clone() else {
            let why = format!("no address is known, as nobody watches the guest's port {tap}");
            return Some(Failure::new(kind, why).hint("`midge net check` tells what watching takes"));
        };
        let why = watch.why(true, want)?;
        let mut failure = Failure::new(kind, format!("no address, {}: {why}", why.code()));
        let unanswered = matches!(why, NoAddress::NoDhcpAnswer { .. });
        if !unanswered && !matches!(why, NoAddress::Unreachable { .. }) {
            return Some(failure);
        }
        // What on this host explains it, the most certain first.
        let bridge = &port.state.bridge;
        let next = format!("midge net check {bridge}");
        if let Some(cause) = likely_cause(bridge, unanswered).await {
            failure.message = format!("{}; {}: {}", failure.message, cause.id, cause.what);
            return Some(failure.hint(format!("{} (`{next}` has more)", cause.next_step)));
        }
        Some(failure.hint(next))
    }
}

/// What most likely keeps the guests of a bridge from the network.
async fn likely_cause(bridge: &str, unanswered: bool) -> Option<Cause> {
    let facts = Facts::collect(&Links::open(&Namespace::current()).ok()?).await.ok()?;
    let subject = if is_own_network(bridge) { Subject::Nat(bridge) } else { Subject::Bridge(bridge) };
    causes(&facts, subject, unanswered).into_iter().next()
}

/// Tells the driver the addresses of a port whenever they change.
async fn tell_addresses(shared: Rc<Shared>, net: usize, mask: Option<Mask>, watch: Watch) {
    let mut changes = watch.changes();
    // Only the channel is needed: the view that keeps the watcher alive is the ports'.
    drop(watch);
    while changes.changed().await.is_ok() {
        let heard = heard::all(net, &changes.borrow_and_update());
        let heard = mask.as_ref().map_or(heard.clone(), |mask| mask.outside(heard));
        shared.tell(Input::Heard(net, heard));
    }
}

/// Notes what becomes known of a port's addresses in the history.
async fn tell_events(shared: Rc<Shared>, net: usize, watch: Watch) {
    let mut events = watch.events();
    drop(watch);
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some(what) = happening(net, &event) {
                    shared.tell(Input::Happened(what));
                }
            }
            Err(RecvError::Lagged(missed)) => tracing::warn!("{missed} changes of addresses were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

fn happening(net: usize, event: &Event) -> Option<Happening> {
    match event {
        Event::Appeared(address) => {
            Some(Happening::Address { net, address: address.address, source: heard::source(address.source) })
        }
        Event::Lost { address, why } => {
            let why = serde_json::to_value(why).ok()?.as_str()?.to_owned();
            Some(Happening::AddressLost { net, address: *address, why })
        }
        Event::Conflict { address, other } => {
            Some(Happening::AddressConflict { net, address: *address, other: Some(*other) })
        }
        Event::DuplicateMac(mac) => Some(Happening::MacConflict { net, mac: *mac }),
        // What is confirmed has appeared before.
        Event::Confirmed(_) => None,
    }
}

fn tell_end(shared: &Shared, net: usize, error: &WatchError) {
    let detail = chain(error);
    tracing::warn!("{detail}");
    shared.tell(Input::Heard(net, Vec::new()));
    shared.tell(Input::Happened(Happening::PortLost { net, detail }));
}
