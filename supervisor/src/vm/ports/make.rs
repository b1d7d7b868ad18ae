//! Making ports, and finding those of a QEMU that runs already.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use netbr::Namespace;
use netbr::link::{Link, LinkError, Links, Reason, Tap, TapOptions, tap_name};
use netbr::packet::{Filter, Options, PacketError, PacketSocket, borrow};
use netbr::veil::Identity;
use netbr::watch::Asker;

use super::super::control::{Failure, FailureKind};
use super::super::plan::Plan;
use super::mask::{self, Mask};
use super::nat::{Nat, Wish};
use super::prepared::{Prepared, claim, own_bridge};
use super::{Ear, Port, Ports, Service};
use crate::error::chain;
use crate::host::privilege::may_change_networks;
use crate::setup::{PreparedTap, lender};
use crate::spec::{Forward, Mac, Net};
use crate::store::{Home, PortState};

impl Ports {
    /// Makes what the plan's interfaces need, or, without the privilege for that, claims what root has prepared. What was made is gone
    /// again when a later one fails.
    pub(in crate::vm) async fn make(home: &Home, plan: &Plan) -> Result<Self, Failure> {
        let mut made = Self { nets: plan.spec.nets.len(), ..Self::default() };
        if !plan.spec.nets.iter().any(Net::has_tap) {
            return Ok(made);
        }
        let namespace = Namespace::current();
        let links = Links::open(&namespace).map_err(|e| failure(&e))?;
        let maker = Maker { home, plan, namespace, links };
        let privileged = may_change_networks();
        for (net, (wanted, mac)) in plan.spec.nets.iter().zip(plan.macs()).enumerate() {
            let on = match wanted {
                Net::User { .. } | Net::None { .. } => continue,
                Net::Bridge { bridge, .. } => On::Bridge(bridge),
                Net::Nat { forwards, ip, .. } => On::Own(forwards, *ip),
            };
            let port = if privileged {
                maker.make(net, on, *mac, &mut made.notes).await
            } else {
                maker.claim(net, on, *mac, &mut made.notes).await
            };
            match port {
                Ok(port) => made.all.push(port),
                Err(failure) => {
                    made.leave().await;
                    return Err(failure);
                }
            }
        }
        Ok(made)
    }

    /// Finds the recorded ports of a QEMU that runs already. One that is gone is a port that nobody watches.
    pub(in crate::vm) async fn find(home: &Home, plan: &Plan, states: &[PortState]) -> Self {
        let mut found = Self { nets: plan.spec.nets.len(), ..Self::default() };
        if states.is_empty() {
            return found;
        }
        let namespace = Namespace::current();
        let links = match Links::open(&namespace) {
            Ok(links) => links,
            Err(e) => {
                tracing::warn!("{}", chain(&e));
                return found;
            }
        };
        let maker = Maker { home, plan, namespace, links };
        for state in states {
            if let Some(mac) = plan.macs().get(state.net) {
                found.all.push(maker.find(state, *mac).await);
            }
        }
        found
    }
}

/// What a port is to be on.
#[derive(Clone, Copy)]
enum On<'a> {
    /// A bridge of this name.
    Bridge(&'a str),
    /// midge's own network, with these forwarded ports and, if one is wanted, this address.
    Own(&'a [Forward], Option<Ipv4Addr>),
}

/// What making a port takes.
struct Maker<'a> {
    home: &'a Home,
    plan: &'a Plan,
    namespace: Namespace,
    links: Links,
}

impl Maker<'_> {
    /// Makes a port.
    async fn make(&self, net: usize, on: On<'_>, mac: Mac, notes: &mut Vec<String>) -> Result<Port, Failure> {
        let (links, spec) = (&self.links, &self.plan.spec);
        let inner = self.plan.believes(net)?;
        let (bridge, nat) = match on {
            On::Bridge(bridge) => {
                no_mask(inner.as_ref())?;
                (find_bridge(links, bridge).await?, None)
            }
            On::Own(forwards, ip) => {
                let wish = Wish { mac, ip, forwards, name: &spec.name, inner: inner.as_ref() };
                let (nat, bridge, more) = Nat::join(self.home, self.user(net), &wish).await?;
                notes.extend(more);
                (bridge, Some(nat))
            }
        };
        let name = tap_name(&spec.name, self.plan.uuid().as_bytes(), net);
        let tap = match make_tap(&self.namespace, links, &spec.name, &name, &bridge, mac).await {
            Ok(tap) => tap,
            Err(failure) => {
                if let Some(nat) = nat {
                    nat.leave().await;
                }
                return Err(failure);
            }
        };
        let mask = inner.zip(nat.as_ref()).map(|(inner, nat)| {
            let ipv4 = inner.ipv4.map(|_| nat.address());
            Mask { outer: Identity { mac, ipv4, ipv6: Vec::new() }, inner }
        });
        // One of a run before would disguise this one.
        mask::take_off(&name);
        if let Some(mask) = &mask
            && let Err(failure) = mask.put_on(&name)
        {
            if let Some(nat) = nat {
                nat.leave().await;
            }
            return Err(failure);
        }
        let ear = self.listen(&name, &bridge, mask.is_some()).await.unwrap_or_else(warn);
        let state = PortState { net, tap: name, bridge: bridge.name, mask };
        Ok(port(state, mac, Some(tap), ear, nat.map(Service::Own)))
    }

    /// Claims a port that root has prepared.
    async fn claim(
        &self,
        net: usize,
        on: On<'_>,
        mac: Mac,
        notes: &mut Vec<String>,
    ) -> Result<Port, Failure> {
        let links = &self.links;
        no_mask(self.plan.believes(net)?.as_ref())?;
        let (bridge, ip) = match on {
            On::Bridge(bridge) => (find_bridge(links, bridge).await?, None),
            On::Own(_, ip) => (own_bridge(links).await?, ip),
        };
        let (tap, prepared) = claim(&self.namespace, links, &bridge, &self.user(net), ip).await?;
        let service = match on {
            On::Bridge(_) => None,
            On::Own(forwards, _) => {
                let address = prepared.address.ok_or_else(|| {
                    let why = format!("{} has no address on {}", prepared.link.name, bridge.name);
                    Failure::new(FailureKind::HostUnfit, why).hint("`sudo midge net setup` gives it one")
                })?;
                let service = Prepared::new(links, mac, address, &self.plan.spec.name).await?;
                forwards.iter().try_for_each(|forward| service.forward(*forward, address))?;
                Some(Service::Prepared(Rc::new(service)))
            }
        };
        let ear = match self.listen(tap.name(), &bridge, false).await {
            Ok(ear) => ear,
            Err(why) => {
                let what = match service {
                    Some(_) => "the guest gets no address and none is known",
                    None => "the guest's address will not be known",
                };
                notes.push(format!("{what}, as nobody can watch its port {}: {}", tap.name(), why.0));
                None
            }
        };
        let state = PortState { net, tap: tap.name().to_owned(), bridge: bridge.name, mask: None };
        Ok(port(state, mac, Some(tap), ear, service))
    }

    /// Finds a port that QEMU has.
    async fn find(&self, state: &PortState, mac: Mac) -> Port {
        let name = &self.plan.spec.name;
        let ear = match self.links.get(&state.bridge).await {
            Ok(Some(bridge)) => {
                self.listen(&state.tap, &bridge, state.mask.is_some()).await.unwrap_or_else(warn)
            }
            Ok(None) => None,
            Err(e) => warn(Deaf(chain(&e))),
        };
        let service = match self.plan.spec.nets.get(state.net) {
            Some(Net::Nat { forwards, .. }) => {
                let link = self.links.get(&state.tap).await.ok().flatten();
                match link.as_ref().and_then(PreparedTap::of).and_then(|tap| tap.address) {
                    Some(address) => self.find_prepared(mac, address, forwards).await,
                    None => {
                        Nat::find(self.home, self.user(state.net), mac, forwards, name, state.mask.as_ref())
                            .await
                            .map(Service::Own)
                    }
                }
            }
            _ => None,
        };
        port(state.clone(), mac, None, ear, service)
    }

    async fn find_prepared(&self, mac: Mac, address: Ipv4Addr, forwards: &[Forward]) -> Option<Service> {
        let service = match Prepared::new(&self.links, mac, address, &self.plan.spec.name).await {
            Ok(service) => service,
            Err(failure) => {
                tracing::warn!("nobody answers the guest's DHCP any more: {failure}");
                return None;
            }
        };
        for forward in forwards {
            if let Err(failure) = service.forward(*forward, address) {
                tracing::warn!("{failure}");
            }
        }
        Some(Service::Prepared(Rc::new(service)))
    }

    /// The name by which an interface of the VM uses a network: the VM's id, and the interface's index.
    fn user(&self, net: usize) -> String {
        format!("{}.{net}", self.plan.uuid())
    }

    /// What a port is watched by, or why it cannot be: it works all the same.
    async fn listen(&self, tap: &str, bridge: &Link, masked: bool) -> Result<Option<Ear>, Deaf> {
        // The guest behind a mask is spoken to by the identity that it believes in.
        let mark = masked.then_some(netbr::veil::MARK);
        let options = Options { mark, ..Options::new(Filter::addresses()) };
        let socket = match PacketSocket::open(&self.namespace, tap, options) {
            Ok(socket) => socket,
            Err(PacketError::NotPermitted { .. }) => borrow_socket(tap).await?,
            Err(e @ PacketError::Gone { .. }) => {
                // Told by whoever asks for an address.
                tracing::info!("{}", chain(&e));
                return Ok(None);
            }
            Err(e) => return Err(Deaf(chain(&e))),
        };
        let addresses = self.links.addresses(bridge.index).await.unwrap_or_default();
        let Some(mac) = bridge.mac else { return Ok(None) };
        let mut asker = Asker { mac, ipv4: None, ipv6: None };
        for address in addresses {
            match address.address {
                IpAddr::V4(v4) => asker.ipv4 = asker.ipv4.or(Some(v4)),
                IpAddr::V6(v6) if v6.is_unicast_link_local() => asker.ipv6 = Some(v6),
                IpAddr::V6(_) => {}
            }
        }
        Ok(Some(Ear { socket, asker }))
    }
}

/// Refuses what only midge's own network can do, and only with the privilege for it.
fn no_mask(inner: Option<&Identity>) -> Result<(), Failure> {
    if inner.is_none() {
        return Ok(());
    }
    let why =
        "an identity on the network alone can be given by root, to VMs on midge's own network (`--net nat`)";
    Err(Failure::new(FailureKind::Usage, why).hint("use `--identity full`, which changes the guest itself"))
}

/// Why a port cannot be watched.
struct Deaf(String);

fn warn<T>(Deaf(why): Deaf) -> Option<T> {
    tracing::warn!("{why}");
    None
}

/// Has the lender open the socket that this process may not open, and pass its frames on.
async fn borrow_socket(tap: &str) -> Result<PacketSocket, Deaf> {
    let name = tap.to_owned();
    // It starts a program and waits for it.
    let borrowed = tokio::task::spawn_blocking(move || borrow(&lender::path(), &name)).await;
    let borrowed = borrowed.map_err(|e| Deaf(e.to_string()))?.map_err(|e| Deaf(chain(&e)))?;
    PacketSocket::relayed(borrowed).map_err(|e| Deaf(chain(&e)))
}

fn port(state: PortState, mac: Mac, tap: Option<Tap>, ear: Option<Ear>, service: Option<Service>) -> Port {
    Port {
        state,
        mac,
        tap,
        ear: RefCell::new(ear),
        watch: RefCell::default(),
        service,
        tasks: RefCell::default(),
    }
}

async fn find_bridge(links: &Links, name: &str) -> Result<Link, Failure> {
    let Some(link) = links.get(name).await.map_err(|e| failure(&e))? else {
        return Err(Failure::new(
            FailureKind::HostUnfit,
            format!("there is no bridge `{name}` on this host"),
        )
        .hint(format!(
            "`midge net ls` lists those there are; `midge net up {name} --uplink INTERFACE` makes one"
        )));
    };
    if link.bridge().is_none() {
        let why = format!("`{name}` is {}, not a bridge", link.kind);
        return Err(Failure::new(FailureKind::HostUnfit, why).hint("`midge net ls` lists the bridges"));
    }
    Ok(link)
}

/// A tap that is a working port of a bridge.
async fn make_tap(
    namespace: &Namespace,
    links: &Links,
    vm: &str,
    name: &str,
    bridge: &Link,
    mac: Mac,
) -> Result<Tap, Failure> {
    let options = TapOptions {
        name: name.to_owned(),
        guest: Some(mac),
        vnet_hdr: true,
        queues: 1,
        ..TapOptions::default()
    };
    let tap = Tap::create(namespace, &options).map_err(|e| failure(&e))?;
    links.port_ready(tap.index(), bridge.index, false).await.map_err(|e| failure(&e))?;
    let alias = format!("{}{vm}", netbr::link::ALIAS_PREFIX);
    if let Err(e) = links.set_alias(tap.index(), &alias).await {
        // Only people read it.
        tracing::debug!("{}", chain(&e));
    }
    Ok(tap)
}

/// What went wrong with an interface, as a failure.
pub(super) fn failure(error: &LinkError) -> Failure {
    let failure = Failure::new(FailureKind::HostUnfit, chain(error));
    match error.reason() {
        Some(Reason::NotPermitted | Reason::DeviceClosed) => {
            failure.hint("`sudo midge net setup --user $USER` once, or use `--net user`")
        }
        Some(Reason::Unsupported) => {
            failure.hint("`midge net check` looks closer; `--net user` needs none of it")
        }
        _ => failure,
    }
}
