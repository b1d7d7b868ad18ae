//! Ports without privilege: a tap that root has prepared for the user is claimed instead of made, and on midge's own network the address
//! that belongs to it is the guest's.
//!
//! Nothing here changes the host: the tap is a port of its bridge already and stays one. Nobody else is asked either: who has a tap
//! open has it alone, and with it its address. So there are no books of leases, and what the network is everybody reads in the kernel.

use std::cell::RefCell;
use std::net::Ipv4Addr;

use netbr::Mac;
use netbr::Namespace;
use netbr::dhcp::Responder;
use netbr::link::{Link, Links, Reason, Tap};
use netbr::network::{DnsChoice, seen};
use netbr::packet::Direction;
use netbr::watch::FrameHook;
use nix::unistd::{Uid, User, geteuid};

use super::NAT;
use super::make::failure;
use super::proxy::Proxy;
use crate::error::chain;
use crate::setup::{self, PreparedTap};
use crate::spec::Forward;
use crate::vm::control::{Failure, FailureKind};

/// Claims one of the user's taps on a bridge that nobody has open: the one that this interface of this VM always takes while it can.
pub(super) async fn claim(
    namespace: &Namespace,
    links: &Links,
    bridge: &Link,
    interface: &str,
    wanted: Option<Ipv4Addr>,
) -> Result<(Tap, PreparedTap), Failure> {
    let uid = geteuid().as_raw();
    let all = links.list().await.map_err(|e| failure(&e))?;
    let mut mine = PreparedTap::among(&all);
    mine.retain(|tap| tap.uid == uid && tap.link.master == Some(bridge.index));
    let candidates = candidates(&mine, interface, wanted);
    for tap in candidates {
        match Tap::open_persistent(namespace, &tap.link.name, true, 1) {
            Ok(claimed) => return Ok((claimed, tap)),
            // Another VM was faster, or root has taken it away.
            Err(e) if matches!(e.reason(), Some(Reason::Busy | Reason::Gone)) => {}
            Err(e) => return Err(failure(&e)),
        }
    }
    Err(none_free(&bridge.name, &mine, wanted, &user_name(uid)))
}

/// The taps that may be claimed, in the order in which they are tried.
fn candidates(mine: &[PreparedTap], interface: &str, wanted: Option<Ipv4Addr>) -> Vec<PreparedTap> {
    let fits = |tap: &&PreparedTap| !tap.in_use() && (wanted.is_none() || tap.address == wanted);
    let mut free: Vec<PreparedTap> = mine.iter().filter(fits).cloned().collect();
    setup::in_order_for(interface, &mut free);
    free
}

fn none_free(bridge: &str, mine: &[PreparedTap], wanted: Option<Ipv4Addr>, user: &str) -> Failure {
    let net = network_words(bridge);
    if mine.is_empty() {
        let why = format!("joining {bridge} takes root, or an interface that root prepares for you once");
        return Failure::new(FailureKind::HostUnfit, why)
            .hint(format!("`sudo midge net setup --user {user} --net {net}`, or use `--net user`"));
    }
    if let Some(wanted) = wanted {
        let addresses: Vec<String> =
            mine.iter().filter_map(|tap| tap.address).map(|address| address.to_string()).collect();
        return if addresses.contains(&wanted.to_string()) {
            Failure::new(FailureKind::HostUnfit, format!("another VM of yours has the address {wanted}"))
        } else {
            let why = format!("{wanted} is none of the addresses that are prepared for you on {bridge}");
            Failure::new(FailureKind::Usage, why).hint(format!("choose of {}", addresses.join(", ")))
        };
    }
    let why = match mine.len() {
        1 => format!("the interface that is prepared for you on {bridge} is in use"),
        n => format!("all {n} interfaces that are prepared for you on {bridge} are in use"),
    };
    Failure::new(FailureKind::HostUnfit, why).hint(format!(
        "stop another VM, or have more: `sudo midge net setup --user {user} --net {net} --taps {}`",
        mine.len() + 8
    ))
}

/// How the command line names the network of a bridge.
fn network_words(bridge: &str) -> String {
    if bridge == NAT { "nat".to_owned() } else { format!("bridge={bridge}") }
}

/// What `--user` is to be for a user.
fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// The bridge of midge's own network, which must be there already.
pub(super) async fn own_bridge(links: &Links) -> Result<Link, Failure> {
    let bridge = links.get(NAT).await.map_err(|e| failure(&e))?;
    bridge.filter(|bridge| bridge.bridge().is_some()).ok_or_else(|| {
        let user = user_name(geteuid().as_raw());
        let why = format!("making the network {NAT} takes root, or root makes it for you once and after a reboot");
        Failure::new(FailureKind::HostUnfit, why).hint(format!(
            "`sudo midge net setup --user {user} --net nat`, with `--boot` for every boot; or use `--net user`"
        ))
    })
}

/// A guest's use of midge's own network by a prepared tap.
#[derive(Debug)]
pub(super) struct Prepared {
    responder: RefCell<Responder>,
    proxies: RefCell<Vec<Proxy>>,
}

impl Prepared {
    /// Gets ready to tell the guest its address. No port is forwarded yet.
    pub(super) async fn new(links: &Links, mac: Mac, address: Ipv4Addr, name: &str) -> Result<Self, Failure> {
        let unfit = |e: &dyn std::error::Error| Failure::new(FailureKind::HostUnfit, chain(e));
        let network = seen(links, NAT, &DnsChoice::Host).await.map_err(|e| unfit(&e))?;
        let Some((_, mut network)) = network else {
            let why = format!(
                "the bridge {NAT} is not the network that midge makes: it has no address, or another's alias"
            );
            return Err(Failure::new(FailureKind::HostUnfit, why)
                .hint("`sudo midge net setup` puts it right; `midge net ls` shows it"));
        };
        network.names.insert(mac, name.to_owned());
        let responder = Responder::fixed(network, mac, address).map_err(|e| {
            unfit(&e).hint("the network has changed since: `sudo midge net setup` gives other addresses")
        })?;
        Ok(Self { responder: RefCell::new(responder), proxies: RefCell::default() })
    }

    /// Listens on a port that is forwarded to the guest.
    pub(super) fn forward(&self, forward: Forward, address: Ipv4Addr) -> Result<(), Failure> {
        self.proxies.borrow_mut().push(Proxy::open(forward, address)?);
        Ok(())
    }

    /// The ports that are listened on, for whoever runs them.
    pub(super) fn take_proxies(&self) -> Vec<Proxy> {
        self.proxies.take()
    }

    /// What answers the guest's DHCP on its port.
    pub(super) fn hook(self: std::rc::Rc<Self>) -> impl FrameHook {
        move |direction: Direction, frame: &[u8]| {
            if direction != Direction::FromGuest {
                return Vec::new();
            }
            match self.responder.borrow_mut().on_frame(frame) {
                Ok(answer) => {
                    answer.events.iter().for_each(|event| tracing::info!("{event}"));
                    answer.frame.into_iter().collect()
                }
                Err(e) => {
                    tracing::error!("the guest's DHCP is not answered: {}", chain(&e));
                    Vec::new()
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netbr::link::{LinkKind, TapState};

    use super::*;

    fn tap(name: &str, address: Option<[u8; 4]>, open: bool) -> PreparedTap {
        let state = TapState { persistent: true, open, owner: Some(1000), ..TapState::default() };
        let link = Link {
            index: 7,
            name: name.to_owned(),
            mac: None,
            up: true,
            carrier: open,
            operational: true,
            mtu: 1500,
            kind: LinkKind::Tap(state),
            master: Some(3),
            isolated: false,
            alias: Some(setup::alias("pi", address.map(Into::into))),
        };
        PreparedTap::of(&link).unwrap()
    }

    #[test]
    fn only_what_is_free_and_fits_is_tried() {
        let mine = [
            tap("a", Some([10, 0, 0, 1]), false),
            tap("b", Some([10, 0, 0, 2]), true),
            tap("c", Some([10, 0, 0, 3]), false),
        ];
        let names = |wanted: Option<[u8; 4]>| {
            let mut names: Vec<_> = candidates(&mine, "vm.0", wanted.map(Into::into))
                .into_iter()
                .map(|tap| tap.link.name)
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(None), ["a", "c"]);
        assert_eq!(names(Some([10, 0, 0, 3])), ["c"]);
        assert!(names(Some([10, 0, 0, 2])).is_empty());
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let mine = [tap("a", Some([10, 0, 0, 1]), true), tap("b", Some([10, 0, 0, 2]), true)];
        let text = |mine: &[PreparedTap], wanted: Option<[u8; 4]>| {
            let failure = none_free(NAT, mine, wanted.map(Into::into), "pi");
            format!("{failure}: {}", failure.hint.as_deref().unwrap_or_default())
        };
        assert!(text(&[], None).contains("sudo midge net setup --user pi --net nat`"));
        assert!(text(&mine, None).contains("all 2 interfaces") && text(&mine, None).contains("--taps 10"));
        assert!(text(&mine, Some([10, 0, 0, 2])).contains("another VM of yours has the address 10.0.0.2"));
        assert!(text(&mine, Some([10, 0, 0, 9])).contains("choose of 10.0.0.1, 10.0.0.2"));
    }
}
