//! Putting the host's uplink into a bridge, and back.
//!
//! The host stays reachable meanwhile: the bridge is made first, with the uplink's MAC; once the uplink is its port, what arrives
//! for the host arrives at the bridge, and the kernel takes it for an address of any interface (the weak host model, RFC 1122,
//! 3.3.4.2), while what leaves still leaves by the uplink itself. Then the addresses are added to the bridge, each route is replaced
//! in one message by its twin through the bridge, and only then does the uplink lose what it had. On the way back the uplink leaves
//! the bridge first. Either way the host is unreachable for some milliseconds, most of it one ARP round to its gateway.

use std::net::IpAddr;
use std::time::Duration;

use nix::libc;

use super::Plan;
use crate::link::{Address, Link, LinkError, LinkEvents, Links, Reason, Route};

/// How long the gateway may take to answer through the bridge before everything is put back.
pub const GATEWAY_PATIENCE: Duration = Duration::from_secs(10);

/// How long a bridge may take to become operational; the kernel does it at once, when it has a moment.
const SETTLING: Duration = Duration::from_secs(1);

/// Why the uplink is not in the bridge.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// A step failed.
    #[error("the bridge {bridge} could not be made; everything is as it was before")]
    Step {
        /// The bridge.
        bridge: String,
        /// The step that failed.
        #[source]
        source: LinkError,
    },
    /// The gateway did not answer.
    #[error(
        "the gateway {gateway} did not answer through {bridge} within {} s; everything is as it was before. \
         Is it there at all (`ping {gateway}`), and does it accept this host's MAC from a bridge?", patience.as_secs()
    )]
    NoAnswer {
        /// The bridge.
        bridge: String,
        /// The gateway.
        gateway: IpAddr,
        /// How long it was waited for.
        patience: Duration,
    },
    /// Putting everything back failed as well.
    #[error("{first}, and not everything could be put back: look at `ip addr` and `ip route` of {uplink}")]
    Stuck {
        /// Why it had to be put back.
        first: String,
        /// The uplink.
        uplink: String,
        /// The first thing that failed while it was put back.
        #[source]
        source: LinkError,
    },
}

/// Carries out a plan: makes the bridge, puts the uplink into it, moves addresses and routes, and looks for the gateway through
/// it for as long as `patience` ([`GATEWAY_PATIENCE`]). Whatever fails, everything is put back before it returns.
///
/// When it is dropped or killed in between, nothing is put back: write the plan down before and call [`restore`] with it then.
pub async fn up(links: &Links, plan: &Plan, patience: Duration) -> Result<(), UpError> {
    let bridge = plan.bridge.clone();
    let failed = match switch(links, plan).await {
        Ok(index) => match plan.gateway {
            None => return Ok(()),
            Some(gateway) => match links.answers(index, gateway, patience).await {
                Ok(true) => return Ok(()),
                Ok(false) => UpError::NoAnswer { bridge, gateway, patience },
                Err(source) => UpError::Step { bridge, source },
            },
        },
        Err(source) => UpError::Step { bridge, source },
    };
    match restore(links, plan).await {
        Ok(()) => Err(failed),
        Err(source) => {
            let first = match failed {
                UpError::Step { source, .. } => source.to_string(),
                UpError::NoAnswer { gateway, bridge, .. } => {
                    format!("the gateway {gateway} did not answer through {bridge}")
                }
                UpError::Stuck { first, .. } => first,
            };
            Err(UpError::Stuck { first, uplink: plan.uplink.clone(), source })
        }
    }
}

/// Everything but looking for the gateway; the bridge's number.
async fn switch(links: &Links, plan: &Plan) -> Result<u32, LinkError> {
    let bridge = links.create_bridge(&plan.bridge, plan.mac).await?;
    // Before anything is moved: by it a bridge is found that was left over.
    links.set_alias(bridge.index, &plan.alias()).await?;
    if bridge.mtu != plan.mtu {
        links.set_mtu(bridge.index, plan.mtu).await?;
    }
    if !plan.up {
        links.set_up(plan.index).await?;
    }
    let events = links.watch()?;
    links.set_master(plan.index, bridge.index).await?;
    settled(links, events, bridge.index).await?;
    give(links, plan, bridge.index).await?;
    take(links, plan, plan.index).await?;
    Ok(bridge.index)
}

/// Waits until the bridge has taken over its new port's carrier. Before, what it sends is dropped; an ARP request would be repeated
/// only after a second. Without a carrier on the uplink there is nothing to wait for, and the gateway will not answer either.
async fn settled(links: &Links, mut events: LinkEvents, bridge: u32) -> Result<(), LinkError> {
    let operational = async {
        loop {
            if links.by_index(bridge).await?.is_none_or(|link| link.operational || !link.carrier) {
                return Ok(());
            }
            events.next().await?;
        }
    };
    tokio::time::timeout(SETTLING, operational).await.unwrap_or(Ok(()))
}

/// Puts everything back that a plan has moved, however far it had come, and removes its bridge; also the way to take a bridge
/// down, with [`Plan::down`]. Calling it again changes nothing.
///
/// It goes on when a step fails and returns the first failure.
pub async fn restore(links: &Links, plan: &Plan) -> Result<(), LinkError> {
    let bridge = links.get(&plan.bridge).await?.filter(|link| is_this(link, plan));
    let Some(uplink) = links.get(&plan.uplink).await? else {
        // A cable that was pulled with its adapter: nothing is left to give back to.
        return match bridge {
            Some(bridge) => remove(links, &bridge).await,
            None => Ok(()),
        };
    };
    let mut outcome = Outcome(Ok(()));
    let Some(bridge) = bridge else {
        // It goes last. So either nothing was moved yet or all is back, or somebody has set the uplink up anew since, as a boot does;
        // or somebody has removed the bridge, and then the uplink has nothing.
        let bare = links.addresses(uplink.index).await?.iter().all(Address::is_link_local);
        return if bare { give(links, plan, uplink.index).await } else { Ok(()) };
    };
    if uplink.master == Some(bridge.index) {
        // First: as long as it is a port, answers to what it asks (ARP) arrive at the bridge, and the kernel asks once a second.
        outcome.note(links.no_master(uplink.index).await);
    }
    outcome.note(give(links, plan, uplink.index).await);
    outcome.note(take(links, plan, bridge.index).await);
    if !plan.up {
        outcome.note(links.set_down(uplink.index).await);
    }
    outcome.note(remove(links, &bridge).await);
    outcome.0
}

/// The first failure of several steps that are all tried.
struct Outcome(Result<(), LinkError>);

impl Outcome {
    fn note(&mut self, done: Result<(), LinkError>) {
        if self.0.is_ok() {
            self.0 = done;
        }
    }
}

/// A bridge that this plan has made; or one that it was about to mark when it was killed.
fn is_this(link: &Link, plan: &Plan) -> bool {
    let unmarked = link.alias.is_none() && link.mac == Some(plan.mac);
    link.bridge().is_some() && (link.alias == Some(plan.alias()) || unmarked)
}

async fn remove(links: &Links, bridge: &Link) -> Result<(), LinkError> {
    match links.delete(&bridge.name).await {
        Err(error) if error.reason() == Some(Reason::Gone) => Ok(()),
        done => done,
    }
}

/// Gives an interface the plan's addresses and routes; a route through another interface is replaced.
async fn give(links: &Links, plan: &Plan, index: u32) -> Result<(), LinkError> {
    let mut outcome = Outcome(Ok(()));
    for address in &plan.addresses {
        if address.address.is_ipv6() {
            // It was nobody else's a moment ago, so it need not be asked for again, which would take it away for a second
            // (duplicate address detection, RFC 4862, 5.4).
            let known = Address { flags: address.flags | libc::IFA_F_NODAD, ..address.clone() };
            outcome.note(links.add_address(index, &known).await);
        }
        outcome.note(links.add_address(index, address).await);
    }
    for route in &plan.routes {
        match links.add_route(&Route { index, ..route.clone() }).await {
            // It is there already, behind another one.
            Err(error) if error.reason() == Some(Reason::Exists) => {}
            done => outcome.note(done),
        }
    }
    outcome.0
}

/// Takes the plan's addresses and routes from an interface.
async fn take(links: &Links, plan: &Plan, index: u32) -> Result<(), LinkError> {
    let mut outcome = Outcome(Ok(()));
    for route in plan.routes.iter().rev() {
        outcome.note(links.remove_route(&Route { index, ..route.clone() }).await);
    }
    for address in &plan.addresses {
        outcome.note(links.remove_address(index, address).await);
    }
    outcome.0
}
