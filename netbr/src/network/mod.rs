//! NAT networks, made on demand and removed with their last user.
//!
//! A network is a bridge with an address, a table of nftables (`midge-nat-` and its name), and a directory of files. There is no daemon: whoever
//! needs it makes it sure, and enters itself as a user; whoever leaves last removes it. All of that happens under one lock
//! (`flock(2)`) on the directory that the networks share, and what is in the kernel is made anew from the files each time, so whatever
//! was interrupted is put right by the next one. Tables of others are never touched.
//!
//! ```text
//! STATE/lock
//! STATE/midge0/network.json      what the network is
//! STATE/midge0/users/ID.json     a user and the ports that are forwarded to it
//! ```
//!
//! | file | is |
//! |---|---|
//! | `config` | what is asked for: names, subnets, forwarded ports |
//! | `dns` | which name servers guests are told |
//! | `store` | the files |
//! | `choice` | a subnet that nobody uses |
//! | `parts` | which addresses of it are for whom |
//! | `host` | what the host must do for it besides: forwarding, free ports |
//! | `rules` | the table |
//! | `obstacle` | others' rules that keep packets from it |
//!
//! Guests have IPv4 there. They reach everything that the host reaches, with the host's address; from outside, only forwarded ports of
//! theirs are reached, which the host itself reaches at 127.0.0.1 as well. A guest reaches the forwarded ports of others by the host's
//! address; its own ones only where `net.bridge.bridge-nf-call-iptables` is off, as the bridge then does not take the rewritten packet
//! over, and sends none back where it came from.

mod choice;
mod config;
mod dns;
mod error;
mod host;
mod obstacle;
mod parts;
mod rules;
mod store;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dhcp::{self, Subnet};
use crate::link::{Address, Link, Links};
use crate::nft::{Family, Nft};
use crate::{Mac, Namespace};
use store::{Locked, Store};

pub use config::{Forward, NatConfig, Protocol};
pub use dns::{DnsChoice, resolvers};
pub use error::NatError;
pub use obstacle::{Firewall, Obstacle};
pub use parts::{fixed, seen};

/// The longest packet of Ethernet as a rule (RFC 894).
const ETHERNET_MTU: u16 = 1500;

/// What a network is, as its file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The name of the network and of its bridge.
    pub name: String,
    /// Its addresses.
    pub subnet: Subnet,
    /// The bridge's address in it: the guests' router.
    pub router: Ipv4Addr,
    /// The bridge's MAC.
    pub mac: Mac,
    /// The name servers that guests are told.
    pub dns: Vec<Ipv4Addr>,
    /// The longest packet, in bytes; none for Ethernet's 1500.
    pub mtu: Option<u16>,
    /// The domain that guests are told.
    pub domain: Option<String>,
    /// Whether guests are kept from each other.
    pub isolated: bool,
    /// Whether it was this network that made the host pass packets on (`net.ipv4.ip_forward`). It stays on when the network goes,
    /// as others may rely on it by then.
    pub switched_forwarding_on: bool,
}

/// A user of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub id: String,
    /// The ports that are forwarded to it.
    pub forwards: Vec<Forward>,
}

/// All about a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// What it is.
    #[serde(flatten)]
    pub plan: Plan,
    /// Who uses it, by name.
    pub users: Vec<User>,
    /// What keeps packets from it.
    pub obstacles: Vec<Obstacle>,
}

/// A NAT network.
///
/// It keeps its two netlink sockets: [`Nft`] says what opening and closing one for each change would cost.
#[derive(Debug)]
pub struct NatNetwork {
    namespace: Namespace,
    store: Store,
    plan: Plan,
    links: Links,
    nft: Nft,
}

impl NatNetwork {
    /// Makes a network, or makes sure that all of it is there.
    ///
    /// `state` is the directory that all networks of the namespace share; it is made. One that has users keeps its subnet, and another
    /// one may not be asked for then; the rest may change. A network without users lasts until somebody's sweep: [`NatNetwork::add_user`]
    /// makes it sure again, so make ports join the bridge after that.
    ///
    /// Must be called in a tokio runtime, as all that is asynchronous here.
    pub async fn ensure(namespace: &Namespace, state: &Path, config: &NatConfig) -> Result<Self, NatError> {
        config.check()?;
        let dns = config.dns.servers(namespace)?;
        let store = Store::new(state, &config.name);
        let locked = store.lock().await?;
        let links = Links::open(namespace)?;
        let users = locked.users()?;
        let plan = match locked.plan()? {
            Some(plan) if !users.is_empty() => {
                if let Some(wanted) = config.subnet.filter(|wanted| *wanted != plan.subnet) {
                    let users = users.iter().map(|user| user.id.as_str()).collect::<Vec<_>>().join(", ");
                    return Err(NatError::InUse { name: plan.name, subnet: plan.subnet, wanted, users });
                }
                config.plan(plan.subnet, plan.mac, plan.switched_forwarding_on, dns)
            }
            Some(plan) => {
                let subnet = choice::subnet(&links, plan.mac, config.subnet, Some(plan.subnet)).await?;
                config.plan(subnet, plan.mac, plan.switched_forwarding_on, dns)
            }
            None => {
                let (mac, subnet) = left_over(&links, &config.name).await?.unwrap_or((Mac::random(), None));
                config.plan(choice::subnet(&links, mac, config.subnet, subnet).await?, mac, false, dns)
            }
        };
        let nft = Nft::open(namespace)?;
        let mut network = Self { namespace: namespace.clone(), store, plan, links, nft };
        network.raise(&locked, &users).await?;
        Ok(network)
    }

    /// A network that somebody made, if it is known in `state`.
    pub async fn open(namespace: &Namespace, state: &Path, name: &str) -> Result<Option<Self>, NatError> {
        let store = Store::new(state, name);
        let plan = store.lock().await?.plan()?;
        let Some(plan) = plan else { return Ok(None) };
        let (links, nft) = (Links::open(namespace)?, Nft::open(namespace)?);
        Ok(Some(Self { namespace: namespace.clone(), store, plan, links, nft }))
    }

    /// The names of the networks that are known in `state`.
    pub fn list(state: &Path) -> Result<Vec<String>, NatError> {
        store::names(state)
    }

    /// What it is.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What guests are to be told and given by DHCP; the addresses of [`fixed`] are not chosen from.
    #[must_use]
    pub fn dhcp(&self) -> dhcp::Network {
        let mut network = dhcp::Network::new(self.plan.subnet, self.plan.router, self.plan.mac);
        network.dns.clone_from(&self.plan.dns);
        network.domain.clone_from(&self.plan.domain);
        network.mtu = self.plan.mtu;
        network.pool = Some(parts::dynamic(self.plan.subnet));
        network
    }

    /// Enters a user, or changes what is forwarded to it, and makes sure that all of the network is there.
    ///
    /// `id` is 1 to 64 letters, digits, `-`, `_` and `.`, the first one a letter or a digit.
    pub async fn add_user(&mut self, id: &str, forwards: &[Forward]) -> Result<(), NatError> {
        config::check_id(id)?;
        let locked = self.store.lock().await?;
        self.catch_up(&locked)?;
        for forward in forwards {
            if !self.plan.subnet.is_host(forward.guest_ip) {
                return Err(NatError::Outside { forward: *forward, subnet: self.plan.subnet });
            }
        }
        let user = User { id: id.to_owned(), forwards: forwards.to_vec() };
        config::check_free(&user, &locked.everyone()?)?;
        // What was forwarded to it before is not a listening socket either, so it can be asked for again.
        host::check_ports(&self.namespace, forwards)?;
        let former = locked.users()?.into_iter().find(|user| user.id == id);
        // Another's leaving may have removed the network since.
        locked.save_plan(&self.plan)?;
        locked.save_user(&user)?;
        let users = locked.users()?;
        let raised = self.raise(&locked, &users).await;
        if raised.is_err() {
            match former {
                Some(former) => locked.save_user(&former)?,
                None => locked.remove_user(id)?,
            }
            // If this fails as well, the next change puts it right.
            let _ = self.nft.put(&rules::table(&self.plan, &locked.users()?));
        }
        raised
    }

    /// Strikes a user off, and removes the network if it was the last one. It is no error when there is no such user.
    pub async fn remove_user(&mut self, id: &str) -> Result<(), NatError> {
        config::check_id(id)?;
        let locked = self.store.lock().await?;
        locked.remove_user(id)?;
        self.left(&locked).await
    }

    /// Strikes off the users that are no more, and removes the network if nobody is left. Gives the names of those struck off.
    pub async fn sweep(&mut self, lives: impl Fn(&str) -> bool) -> Result<Vec<String>, NatError> {
        let locked = self.store.lock().await?;
        let gone = strike_off(&locked, lives)?;
        self.left(&locked).await?;
        Ok(gone)
    }

    /// Strikes off the users that are no more, and leaves the rest to the [`NatNetwork::add_user`] that follows: for whoever enters
    /// himself, so that the network is not removed just to be made again. Gives the names of those struck off.
    pub async fn make_room(&mut self, lives: impl Fn(&str) -> bool) -> Result<Vec<String>, NatError> {
        strike_off(&self.store.lock().await?, lives)
    }

    /// All about it, as it is now.
    pub async fn describe(&mut self) -> Result<Description, NatError> {
        let locked = self.store.lock().await?;
        let plan = locked.plan()?.unwrap_or_else(|| self.plan.clone());
        Ok(Description { users: locked.users()?, plan, obstacles: self.obstacles()? })
    }

    /// What keeps packets from it.
    pub fn obstacles(&mut self) -> Result<Vec<Obstacle>, NatError> {
        Ok(obstacle::find(&mut self.nft, &self.plan.name)?)
    }

    /// Takes over what others made of the network since.
    fn catch_up(&mut self, locked: &Locked) -> Result<(), NatError> {
        if let Some(plan) = locked.plan()? {
            self.plan = plan;
        }
        Ok(())
    }

    /// After somebody left.
    async fn left(&mut self, locked: &Locked) -> Result<(), NatError> {
        self.catch_up(locked)?;
        let users = locked.users()?;
        if !users.is_empty() {
            return self.raise(locked, &users).await;
        }
        // The bridge first: a guest that is still there must not be on one that nothing guards.
        if let Some(link) = self.links.get(&self.plan.name).await?
            && self.is_ours(&link)
        {
            self.links.delete(&self.plan.name).await?;
        }
        self.nft.remove(Family::Inet, &rules::table_name(&self.plan.name))?;
        locked.remove()
    }

    /// Puts into the kernel what the files say.
    async fn raise(&mut self, locked: &Locked, users: &[User]) -> Result<(), NatError> {
        if self.links.get(&self.plan.name).await?.is_some_and(|link| !self.is_ours(&link)) {
            return Err(NatError::Taken { name: self.plan.name.clone() });
        }
        locked.save_plan(&self.plan)?;
        // Rules name interfaces that need not be there: so nothing is open at any time that they close.
        self.nft.put(&rules::table(&self.plan, users))?;
        let bridge = self.bridge().await?;
        let links = &self.links;
        let address = Address::new(self.plan.router.into(), self.plan.subnet.prefix());
        for other in links.addresses(bridge.index).await? {
            if matches!(other.address, IpAddr::V4(_))
                && (other.address, other.prefix) != (address.address, address.prefix)
            {
                links.remove_address(bridge.index, &other).await?;
            }
        }
        links.add_address(bridge.index, &address).await?;
        host::route_localnet(&self.namespace, &self.plan.name)?;
        if !host::forwards(&self.namespace)? {
            self.plan.switched_forwarding_on = true;
            locked.save_plan(&self.plan)?;
            host::forward(&self.namespace)?;
            tracing::info!(network = self.plan.name, "switched net.ipv4.ip_forward on");
        }
        Ok(())
    }

    async fn bridge(&self) -> Result<Link, NatError> {
        let (name, links) = (&self.plan.name, &self.links);
        let bridge = match links.get(name).await? {
            Some(link) => link,
            None => links.create_bridge(name, self.plan.mac).await?,
        };
        links.set_alias(bridge.index, &parts::alias(name)).await?;
        links.set_mtu(bridge.index, self.plan.mtu.unwrap_or(ETHERNET_MTU).into()).await?;
        links.set_up(bridge.index).await?;
        Ok(bridge)
    }

    /// Nobody else has the MAC that was chosen at random for it.
    fn is_ours(&self, link: &Link) -> bool {
        link.bridge().is_some() && link.mac == Some(self.plan.mac)
    }
}

fn strike_off(locked: &Locked, lives: impl Fn(&str) -> bool) -> Result<Vec<String>, NatError> {
    let gone: Vec<_> = locked.users()?.into_iter().map(|user| user.id).filter(|id| !lives(id)).collect();
    for id in &gone {
        locked.remove_user(id)?;
    }
    Ok(gone)
}

/// The MAC and the subnet of a network whose files were lost: of a bridge with its name that says in its alias that it is its.
async fn left_over(links: &Links, name: &str) -> Result<Option<(Mac, Option<Subnet>)>, NatError> {
    let bridge = links.get(name).await?.filter(|link| link.bridge().is_some());
    let Some(bridge) = bridge.filter(|link| link.alias.as_deref() == Some(&parts::alias(name))) else {
        return Ok(None);
    };
    let subnets =
        links.addresses(bridge.index).await?.into_iter().filter_map(|address| match address.address {
            IpAddr::V4(v4) => Some(Subnet::of(v4, address.prefix)),
            IpAddr::V6(_) => None,
        });
    let subnet = subnets.into_iter().next();
    Ok(bridge.mac.map(|mac| (mac, subnet)))
}
