//! midge's own network: one bridge for all VMs of this host, behind the host's address.
//!
//! There is no daemon: each supervisor answers DHCP on its own guest's port, and enters its VM as a user of the network, which the
//! last one removes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::SystemTime;

use netbr::dhcp::lease_file::LeaseFileError;
use netbr::dhcp::leases::{Choice, Refusal, Row};
use netbr::dhcp::responder::{Answer, Probe};
use netbr::dhcp::server::Event;
use netbr::dhcp::subnet::Network;
use netbr::dhcp::{LeaseFile, Responder, probe};
use netbr::link::{Link, Links};
use netbr::network::{self, NatConfig, NatNetwork, Protocol};
use netbr::packet::{Direction, Filter, Options, PacketSocket};
use netbr::veil::Identity;
use netbr::watch::{FrameHook, Watch};
use netbr::{Mac, Namespace};
use tokio::sync::Mutex;

use super::{Mask, NAT};
use crate::error::chain;
use crate::setup::{PreparedTap, is_network_user};
use crate::spec::Forward;
use crate::store::{Home, Status, StoreError};
use crate::vm::control::{Failure, FailureKind};
use crate::vm::driver::Input;
use crate::vm::history::Happening;
use crate::vm::shared::Shared;

/// Where the networks of this host are written down: with the run-time files, as they are gone with a reboot.
#[must_use]
pub fn state_dir(home: &Home) -> PathBuf {
    home.run().join("networks")
}

/// Where it is written down who has which address: with the records, so that a VM keeps its own.
fn lease_file(home: &Home) -> Result<LeaseFile, LeaseFileError> {
    LeaseFile::open(&lease_path(home))
}

fn lease_path(home: &Home) -> PathBuf {
    home.state().join("networks").join(format!("{NAT}.json"))
}

/// The leases of midge's own network, those of VMs that are stopped as well.
pub fn own_leases(home: &Home) -> Result<Vec<Row>, LeaseFileError> {
    Ok(lease_file(home)?.read()?.list(SystemTime::now()))
}

/// The guests that midge's own network has addresses for: 256 ([`NatConfig::subnet`]) without its own, its broadcast address and the
/// host's.
const GUESTS: u64 = 253;

/// How many addresses of midge's own network are free: those that no VM has, also of VMs that are stopped.
///
/// # Errors
/// When it cannot be read who has which.
pub fn free_addresses(home: &Home) -> Result<u64, LeaseFileError> {
    // Where there never was a network there is no file, and none is made.
    let taken = if lease_path(home).exists() { own_leases(home)?.len() as u64 } else { 0 };
    Ok(GUESTS.saturating_sub(taken))
}

/// Forgets the addresses of a VM that is removed.
pub fn forget_leases(home: &Home, macs: &[String]) {
    // Where there never was a network there is no file, and none is made.
    if !lease_path(home).exists() {
        return;
    }
    let macs: Vec<Mac> = macs.iter().filter_map(|mac| mac.parse().ok()).collect();
    let forgotten = lease_file(home).and_then(|file| {
        file.transaction(|leases| {
            for mac in &macs {
                leases.unreserve(*mac);
                leases.forget(*mac);
            }
        })
    });
    if let Err(e) = forgotten {
        tracing::warn!("{}", chain(&e));
    }
}

/// What a VM's interface on the network is to be like.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) mac: Mac,
    /// The address that the user wants for it.
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) forwards: &'a [Forward],
    /// The VM's name, which its guest is told.
    pub(super) name: &'a str,
    /// Who the guest believes to be, where that is another.
    pub(super) inner: Option<&'a Identity>,
}

/// A VM's use of the network.
#[derive(Debug)]
pub(super) struct Nat {
    network: Rc<Mutex<NatNetwork>>,
    user: String,
    mac: Mac,
    forwards: Vec<Forward>,
    /// Where the forwarded ports lead now.
    address: RefCell<Ipv4Addr>,
    responder: RefCell<Responder>,
    /// What must be asked before the guest may have its address.
    first: RefCell<Option<Probe>>,
    /// Questions that are under way.
    asked: RefCell<BTreeSet<(Mac, Ipv4Addr)>>,
}

impl Nat {
    /// Makes the network where it is not there, chooses the guest's address, and enters the VM as a user. Answers the network's bridge,
    /// and what the user should know.
    pub(super) async fn join(
        home: &Home,
        user: String,
        wish: &Wish<'_>,
    ) -> Result<(Rc<Self>, Link, Vec<String>), Failure> {
        let namespace = Namespace::current();
        let config = NatConfig { name: NAT.to_owned(), ..NatConfig::default() };
        let mut network =
            NatNetwork::ensure(&namespace, &state_dir(home), &config).await.map_err(|e| unfit(&e))?;
        // Those of VMs whose supervisor and QEMU were killed. Set-ups stay until root takes them away.
        let own = |id: &str| vm_of(id) == vm_of(&user);
        let struck = network
            .make_room(|id| own(id) || is_network_user(id) || lives(home, id))
            .await
            .map_err(|e| unfit(&e));
        let entered = match struck {
            Ok(_) => Self::enter(home, &mut network, &user, wish).await,
            Err(failure) => Err(failure),
        };
        let (responder, choice, bridge, notes) = match entered {
            Ok(entered) => entered,
            Err(failure) => {
                // Not left behind without a user, if it was made for this one.
                if let Err(e) = network.remove_user(&user).await {
                    tracing::error!("cannot leave {NAT}: {}", chain(&e));
                }
                return Err(failure);
            }
        };
        let nat = Self {
            network: Rc::new(Mutex::new(network)),
            user,
            mac: wish.mac,
            forwards: wish.forwards.to_vec(),
            address: RefCell::new(choice.address),
            responder: RefCell::new(responder),
            first: RefCell::new(choice.probe.then_some(Probe { mac: wish.mac, address: choice.address })),
            asked: RefCell::default(),
        };
        Ok((Rc::new(nat), bridge, notes))
    }

    /// Chooses the guest's address and enters the VM as a user of the network.
    async fn enter(
        home: &Home,
        network: &mut NatNetwork,
        user: &str,
        wish: &Wish<'_>,
    ) -> Result<(Responder, Choice, Link, Vec<String>), Failure> {
        let mut parameters = network.dhcp();
        parameters.names.insert(wish.mac, wish.name.to_owned());
        let file = lease_file(home).map_err(|e| unfit(&e))?;
        let links = Links::open(&Namespace::current()).map_err(|e| unfit(&e))?;
        if let Some(ip) = wish.ip {
            let all = links.list().await.map_err(|e| unfit(&e))?;
            if let Some(tap) = PreparedTap::among(&all).iter().find(|tap| tap.address == Some(ip)) {
                let why = format!("{ip} is prepared for the VMs of {}, on {}", tap.user, tap.link.name);
                return Err(Failure::new(FailureKind::Usage, why).hint("choose another address"));
            }
            file.transaction(|leases| leases.reserve(&parameters, SystemTime::now(), wish.mac, ip))
                .map_err(|e| unfit(&e))?
                .map_err(|e| Failure::new(FailureKind::Usage, chain(&e)))?;
        } else {
            file.transaction(|leases| leases.unreserve(wish.mac)).map_err(|e| unfit(&e))?;
        }
        let mut responder = Responder::new(parameters.clone(), file.clone(), [wish.mac]);
        let choice = responder.preselect(wish.mac).map_err(|e| unfit(&e))?;
        let choice = choice.map_err(|e| {
            let kind = if matches!(e, Refusal::Exhausted { .. }) {
                FailureKind::NoSpace
            } else {
                FailureKind::HostUnfit
            };
            Failure::new(kind, chain(&e))
        })?;
        let mut choice = choice;
        if let Some(inner) = wish.inner {
            // The guest asks for another one, so nothing of it would keep this one.
            file.transaction(|leases| {
                leases.reserve(&parameters, SystemTime::now(), wish.mac, choice.address)
            })
            .map_err(|e| unfit(&e))?
            .map_err(|e| Failure::new(FailureKind::NoSpace, chain(&e)))?;
            responder = believed(parameters, inner)?.unwrap_or(responder);
            choice.probe = false;
        }
        let forwards = forwards(wish.forwards, choice.address);
        network.add_user(user, &forwards).await.map_err(|e| unfit(&e))?;
        let notes = network.obstacles().unwrap_or_default();
        let notes = notes.iter().map(ToString::to_string).collect();
        let bridge = links.adopt_bridge(NAT).await.map_err(|e| unfit(&e))?;
        Ok((responder, choice, bridge.link, notes))
    }

    /// Finds the network that a running VM uses.
    pub(super) async fn find(
        home: &Home,
        user: String,
        mac: Mac,
        forwards: &[Forward],
        name: &str,
        mask: Option<&Mask>,
    ) -> Option<Rc<Self>> {
        let namespace = Namespace::current();
        let network = match NatNetwork::open(&namespace, &state_dir(home), NAT).await {
            Ok(network) => network?,
            Err(e) => {
                tracing::warn!("nobody answers the guest's DHCP any more: {}", chain(&e));
                return None;
            }
        };
        let mut parameters = network.dhcp();
        parameters.names.insert(mac, name.to_owned());
        let file = match lease_file(home) {
            Ok(file) => file,
            Err(e) => {
                tracing::warn!("nobody answers the guest's DHCP any more: {}", chain(&e));
                return None;
            }
        };
        let mut responder = Responder::new(parameters.clone(), file, [mac]);
        let choice = responder.preselect(mac).ok()?.ok()?;
        if let Some(mask) = mask {
            responder = believed(parameters, &mask.inner).ok()?.unwrap_or(responder);
        }
        Some(Rc::new(Self {
            network: Rc::new(Mutex::new(network)),
            user,
            mac,
            forwards: forwards.to_vec(),
            address: RefCell::new(choice.address),
            responder: RefCell::new(responder),
            first: RefCell::new(None),
            asked: RefCell::default(),
        }))
    }

    /// The guest's address.
    pub(super) fn address(&self) -> Ipv4Addr {
        *self.address.borrow()
    }

    /// What answers the guest's DHCP on its port.
    pub(super) fn hook(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        net: usize,
        watch: &Watch,
    ) -> impl FrameHook + use<> {
        let (nat, shared, watch) = (self.clone(), shared.clone(), watch.clone());
        if let Some(probe) = nat.first.borrow_mut().take() {
            nat.ask(&shared, net, &watch, probe);
        }
        move |direction: Direction, frame: &[u8]| {
            if direction != Direction::FromGuest {
                return Vec::new();
            }
            let answer = nat.responder.borrow_mut().on_frame(frame);
            match answer {
                Ok(answer) => nat.take(&shared, net, &watch, answer).into_iter().collect(),
                Err(e) => {
                    tracing::error!("the guest's DHCP is not answered: {}", chain(&e));
                    Vec::new()
                }
            }
        }
    }

    /// Acts on what came of a request, and answers the frame to send.
    fn take(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        net: usize,
        watch: &Watch,
        answer: Answer,
    ) -> Option<Vec<u8>> {
        for event in answer.events {
            self.heed(shared, net, &event);
        }
        if let Some(probe) = answer.probe {
            self.ask(shared, net, watch, probe);
        }
        answer.frame
    }

    fn heed(self: &Rc<Self>, shared: &Rc<Shared>, net: usize, event: &Event) {
        tracing::info!("{event}");
        match event {
            Event::Bound { mac, address, .. } if *mac == self.mac && *address != *self.address.borrow() => {
                // Something else used the one that was chosen first.
                *self.address.borrow_mut() = *address;
                let nat = self.clone();
                let address = *address;
                tokio::task::spawn_local(async move {
                    let forwards = forwards(&nat.forwards, address);
                    if let Err(e) = nat.network.lock().await.add_user(&nat.user, &forwards).await {
                        tracing::error!("the forwarded ports do not lead to {address}: {}", chain(&e));
                    }
                });
            }
            Event::Conflict { address, holder, .. } => {
                shared.tell(Input::Happened(Happening::AddressConflict {
                    net,
                    address: (*address).into(),
                    other: Some(*holder),
                }));
            }
            Event::NoAddress { why, .. } => {
                shared.tell(Input::Happened(Happening::NoLease { net, why: why.to_string() }));
            }
            _ => {}
        }
    }

    /// Asks on the network who uses an address, and goes on where the guest waits for the answer.
    fn ask(self: &Rc<Self>, shared: &Rc<Shared>, net: usize, watch: &Watch, probe: Probe) {
        if !self.asked.borrow_mut().insert((probe.mac, probe.address)) {
            return;
        }
        let (nat, shared, watch) = (self.clone(), shared.clone(), watch.clone());
        tokio::task::spawn_local(async move {
            let answered = nat.who_uses(probe).await;
            nat.asked.borrow_mut().remove(&(probe.mac, probe.address));
            let answer = nat.responder.borrow_mut().on_probe(probe, answered);
            match answer {
                Ok(answer) => {
                    let frame = nat.take(&shared, net, &watch, answer);
                    if let Some(frame) = frame
                        && let Err(e) = watch.send(frame).await
                    {
                        tracing::warn!("the guest's DHCP is not answered: {e}");
                    }
                }
                Err(e) => tracing::error!("the guest's DHCP is not answered: {}", chain(&e)),
            }
        });
    }

    /// Who uses an address; nobody where that cannot be found out.
    async fn who_uses(&self, Probe { mac, address }: Probe) -> Option<Mac> {
        let from = self.network.lock().await.plan().mac;
        let wire = PacketSocket::open(&Namespace::current(), NAT, Options::new(Filter::addresses()));
        let asked = match &wire {
            Ok(wire) => probe::ask(wire, from, mac, address, probe::WAIT).await,
            Err(e) => {
                tracing::warn!("{}", chain(e));
                return None;
            }
        };
        asked.unwrap_or_else(|e| {
            tracing::warn!("{}", chain(&e));
            None
        })
    }

    /// Strikes the VM off. The last one takes the network with it.
    pub(super) async fn leave(&self) {
        if let Err(e) = self.network.lock().await.remove_user(&self.user).await {
            tracing::error!("cannot leave {NAT}: {}", chain(&e));
        }
    }
}

/// What tells a guest that it has what it believes to have; nothing for one that believes in no address.
fn believed(parameters: Network, inner: &Identity) -> Result<Option<Responder>, Failure> {
    let fixed = inner.ipv4.map(|address| Responder::fixed(parameters, inner.mac, address)).transpose();
    fixed.map_err(|e| {
        let why = format!("the guest believes to have an address of another network: {}", chain(&e));
        Failure::new(FailureKind::Usage, why).hint("use `--identity full`, which changes the guest itself")
    })
}

fn forwards(wanted: &[Forward], guest: Ipv4Addr) -> Vec<network::Forward> {
    let forward = |f: &Forward| network::Forward {
        protocol: Protocol::Tcp,
        host_addr: f.address,
        host_port: f.host,
        guest_ip: guest,
        guest_port: f.guest,
    };
    wanted.iter().map(forward).collect()
}

fn unfit(error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::HostUnfit, chain(error))
        .hint("`midge net check` looks closer; `--net user` needs no network of midge's")
}

/// The id of the VM that a user of the network stands for.
fn vm_of(user: &str) -> &str {
    user.split_once('.').map_or(user, |(id, _net)| id)
}

/// Whether the VM runs that a user of the network stands for. Where that cannot be found out, it does: a network that is taken away
/// from a running guest does more harm than one that stays.
fn lives(home: &Home, user: &str) -> bool {
    let Ok(all) = home.vms_and_spares() else { return true };
    all.iter().any(|vm| match vm.record() {
        Ok(record) => record.id.to_string() == vm_of(user) && !matches!(vm.status(), Status::Stopped),
        Err(StoreError::NotFound { .. }) => false,
        Err(_) => !matches!(vm.status(), Status::Stopped),
    })
}
