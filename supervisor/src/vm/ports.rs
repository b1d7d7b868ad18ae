//! The host's ends of a guest's interfaces: the tap of each that is on a bridge, and the watch on it.
//!
//! They are made when the supervisor takes charge and kept until it leaves, so that a guest which is started again keeps its
//! port. A supervisor that takes charge of a QEMU that runs already finds its ports by their recorded names; QEMU holds the
//! taps.

use std::os::fd::BorrowedFd;

use netbr::Namespace;
use netbr::link::{LinkError, Links, Reason, Tap, TapOptions, tap_name};

use super::control::{Failure, FailureKind};
use super::plan::Plan;
use crate::error::chain;
use crate::spec::{Mac, Net};
use crate::store::PortState;

/// The name of midge's own network, and of its bridge.
pub(super) const NAT: &str = "midge0";

/// The ports of one VM.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// How many interfaces the VM has.
    nets: usize,
    ports: Vec<Port>,
}

/// One port.
#[derive(Debug)]
struct Port {
    state: PortState,
    mac: Mac,
    /// Nothing where only QEMU has it.
    tap: Option<Tap>,
}

impl Ports {
    /// Makes what the plan's interfaces need. What was made is gone again when a later one fails.
    pub(super) async fn make(plan: &Plan) -> Result<Self, Failure> {
        let mut made = Self { nets: plan.spec.nets.len(), ports: Vec::new() };
        if !plan.spec.nets.iter().any(Net::has_tap) {
            return Ok(made);
        }
        let namespace = Namespace::current();
        let links = Links::open(&namespace).map_err(|e| failure(&e))?;
        for (net, (wanted, mac)) in plan.spec.nets.iter().zip(plan.macs()).enumerate() {
            let bridge = match wanted {
                Net::User { .. } | Net::None { .. } => continue,
                Net::Bridge { bridge, .. } => bridge.clone(),
                Net::Nat { .. } => {
                    return Err(Failure::new(FailureKind::HostUnfit, "midge's own network is not built yet"));
                }
            };
            let name = tap_name(&plan.spec.name, plan.uuid().as_bytes(), net);
            let port = make_port(&namespace, &links, plan, &name, &bridge, *mac).await?;
            made.ports.push(Port { state: PortState { net, tap: name, bridge }, mac: *mac, tap: Some(port) });
        }
        Ok(made)
    }

    /// What is to be recorded of them.
    pub(super) fn states(&self) -> Vec<PortState> {
        self.ports.iter().map(|port| port.state.clone()).collect()
    }

    /// Why the guest has no address, as far as its ports tell.
    pub(super) fn why(&self, _kind: FailureKind) -> Option<Failure> {
        let _ = &self.ports.first()?.mac;
        None
    }

    /// For each interface its open tap, where it has one.
    pub(super) fn taps(&self) -> Vec<Option<BorrowedFd<'_>>> {
        let tap = |net| {
            let port = self.ports.iter().find(|port| port.state.net == net)?;
            port.tap.as_ref()?.fds().next()
        };
        (0..self.nets).map(tap).collect()
    }
}

/// A tap that is a working port of a bridge.
async fn make_port(
    namespace: &Namespace,
    links: &Links,
    plan: &Plan,
    name: &str,
    bridge: &str,
    mac: Mac,
) -> Result<Tap, Failure> {
    let found = links.get(bridge).await.map_err(|e| failure(&e))?;
    let Some(found) = found else {
        return Err(Failure::new(
            FailureKind::HostUnfit,
            format!("there is no bridge `{bridge}` on this host"),
        )
        .hint(format!(
            "`midge net ls` lists those there are; `midge net up {bridge} --uplink INTERFACE` makes one"
        )));
    };
    if found.bridge().is_none() {
        let why = format!("`{bridge}` is {}, not a bridge", found.kind);
        return Err(Failure::new(FailureKind::HostUnfit, why).hint("`midge net ls` lists the bridges"));
    }
    let options = TapOptions {
        name: name.to_owned(),
        guest: Some(mac),
        vnet_hdr: true,
        queues: 1,
        ..TapOptions::default()
    };
    let tap = Tap::create(namespace, &options).map_err(|e| failure(&e))?;
    links.port_ready(tap.index(), found.index, false).await.map_err(|e| failure(&e))?;
    let alias = format!("{}{}", netbr::link::ALIAS_PREFIX, plan.spec.name);
    if let Err(e) = links.set_alias(tap.index(), &alias).await {
        // Only people read it.
        tracing::debug!("{}", chain(&e));
    }
    Ok(tap)
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

/// Whether a bridge is of midge's own making, by its name.
#[must_use]
pub fn is_own_network(bridge: &str) -> bool {
    bridge == NAT
}
