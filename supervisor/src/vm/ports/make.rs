//! Making ports, and finding those of a QEMU that runs already.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use netbr::Namespace;
use netbr::link::{Link, LinkError, Links, Reason, Tap, TapOptions, tap_name};
use netbr::packet::{Filter, Options, PacketError, PacketSocket};
use netbr::watch::Asker;

use super::super::control::{Failure, FailureKind};
use super::super::plan::Plan;
use super::nat::{Nat, Wish};
use super::{Ear, Port, Ports};
use crate::error::chain;
use crate::spec::{Mac, Net};
use crate::store::{Home, PortState};

impl Ports {
    /// Makes what the plan's interfaces need. What was made is gone again when a later one fails.
    pub(in crate::vm) async fn make(home: &Home, plan: &Plan) -> Result<Self, Failure> {
        let mut made = Self { nets: plan.spec.nets.len(), ..Self::default() };
        if !plan.spec.nets.iter().any(Net::has_tap) {
            return Ok(made);
        }
        let namespace = Namespace::current();
        let links = Links::open(&namespace).map_err(|e| failure(&e))?;
        for (net, (wanted, mac)) in plan.spec.nets.iter().zip(plan.macs()).enumerate() {
            let (bridge, nat) = match wanted {
                Net::User { .. } | Net::None { .. } => continue,
                Net::Bridge { bridge, .. } => (find_bridge(&links, bridge).await?, None),
                Net::Nat { forwards, ip, .. } => {
                    let wish = Wish { mac: *mac, ip: *ip, forwards, name: &plan.spec.name };
                    let (nat, bridge, notes) = Nat::join(home, user(plan.uuid(), net), &wish).await?;
                    made.notes.extend(notes);
                    (bridge, Some(nat))
                }
            };
            let name = tap_name(&plan.spec.name, plan.uuid().as_bytes(), net);
            let tap = match make_tap(&namespace, &links, &plan.spec.name, &name, &bridge, *mac).await {
                Ok(tap) => tap,
                Err(failure) => {
                    made.leave().await;
                    if let Some(nat) = nat {
                        nat.leave().await;
                    }
                    return Err(failure);
                }
            };
            let ear = listen(&namespace, &links, &name, &bridge).await;
            let state = PortState { net, tap: name, bridge: bridge.name };
            made.all.push(port(state, *mac, Some(tap), ear, nat));
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
        let links = Links::open(&namespace);
        for state in states {
            let Some(mac) = plan.macs().get(state.net) else { continue };
            let ear = match &links {
                Ok(links) => match links.get(&state.bridge).await {
                    Ok(Some(bridge)) => listen(&namespace, links, &state.tap, &bridge).await,
                    Ok(None) => None,
                    Err(e) => warn(&e),
                },
                Err(e) => warn(e),
            };
            let nat = match plan.spec.nets.get(state.net) {
                Some(Net::Nat { forwards, .. }) => {
                    Nat::find(home, user(plan.uuid(), state.net), *mac, forwards, &plan.spec.name).await
                }
                _ => None,
            };
            found.all.push(port(state.clone(), *mac, None, ear, nat));
        }
        found
    }
}

fn port(state: PortState, mac: Mac, tap: Option<Tap>, ear: Option<Ear>, nat: Option<Rc<Nat>>) -> Port {
    Port {
        state,
        mac,
        tap,
        ear: RefCell::new(ear),
        watch: RefCell::default(),
        nat,
        tasks: RefCell::default(),
    }
}

/// The name by which an interface of a VM uses midge's own network: the VM's id, and the interface's index.
fn user(id: &uuid::Uuid, net: usize) -> String {
    format!("{id}.{net}")
}

fn warn<T>(error: &LinkError) -> Option<T> {
    tracing::warn!("{}", chain(error));
    None
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

/// What a port is watched by. A port that cannot be watched still works.
async fn listen(namespace: &Namespace, links: &Links, tap: &str, bridge: &Link) -> Option<Ear> {
    let socket = match PacketSocket::open(namespace, tap, Options::new(Filter::addresses())) {
        Ok(socket) => socket,
        Err(e) => {
            match e {
                // Told by whoever asks for an address.
                PacketError::Gone { .. } => tracing::info!("{}", chain(&e)),
                _ => tracing::warn!("{}", chain(&e)),
            }
            return None;
        }
    };
    let addresses = links.addresses(bridge.index).await.unwrap_or_default();
    let mut asker = Asker { mac: bridge.mac?, ipv4: None, ipv6: None };
    for address in addresses {
        match address.address {
            IpAddr::V4(v4) => asker.ipv4 = asker.ipv4.or(Some(v4)),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => asker.ipv6 = Some(v6),
            IpAddr::V6(_) => {}
        }
    }
    Some(Ear { socket, asker })
}

/// What went wrong with an interface, as a failure.
fn failure(error: &LinkError) -> Failure {
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
