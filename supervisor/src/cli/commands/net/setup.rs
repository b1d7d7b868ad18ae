//! `net setup`: what root prepares for a user, and takes away again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netbr::Namespace;
use netbr::link::{Link, Links, Reason, Tap, TapOptions};
use netbr::network::{NatConfig, NatError, NatNetwork, fixed};
use nix::unistd::{Uid, User};

use super::up::agree;
use super::{link_failed, with_links};
use crate::cli::args::NetSetupArgs;
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::host::privilege;
use crate::setup::{self, PreparedTap, lender, unit};
use crate::spec::Net;
use crate::store::Lock;
use crate::vm::{is_own_network, own_leases, own_network, own_network_state};

/// Whom it is for.
#[derive(Debug)]
struct For {
    /// The name, or the number of one who has none.
    name: String,
    uid: u32,
}

/// `midge net setup`.
pub(super) fn setup(context: &Context, args: &NetSetupArgs) -> Outcome {
    if !privilege::may_change_networks() {
        let text = "preparing interfaces for a user needs root (CAP_NET_ADMIN)";
        let again = format!("sudo midge net setup --user {}", args.user);
        return Err(Failed::new(ExitKind::HostUnfit, text).hint(again));
    }
    let user = user(&args.user)?;
    let folder = context.home()?.run().join("net");
    std::fs::create_dir_all(&folder)
        .map_err(|e| Failed::io(format!("cannot make {}", folder.display()), e))?;
    let Some(_lock) = Lock::try_take(&folder.join("setup.lock"))? else {
        return Err(Failed::new(ExitKind::WrongState, "another `midge net setup` is at work"));
    };
    if args.remove { remove(context, args, &user) } else { make(context, args, &user) }
}

fn user(name: &str) -> Result<For, Failed> {
    let unknown = || {
        Failed::new(ExitKind::NotFound, format!("there is no user `{name}` on this host"))
            .hint("`getent passwd` lists the users")
    };
    let failed = |e: nix::Error| Failed::io("cannot look the user up", e.into());
    if let Some(user) = User::from_name(name).map_err(failed)? {
        return Ok(For { name: user.name, uid: user.uid.as_raw() });
    }
    // 2^32-1 stands for nobody at all in the kernel's interfaces.
    let uid = name.parse().ok().filter(|uid| *uid != u32::MAX).ok_or_else(unknown)?;
    let named = User::from_uid(Uid::from_raw(uid)).map_err(failed)?;
    Ok(For { name: named.map_or_else(|| name.to_owned(), |user| user.name), uid })
}

/// What there is, and what of it this is about.
struct Scene {
    links: Vec<Link>,
    /// The bridges, by name; midge's own among them if it is meant, whether or not it is there.
    bridges: Vec<String>,
}

impl Scene {
    async fn look(links: &Links, args: &NetSetupArgs) -> Result<Self, Failed> {
        let all = links.list().await.map_err(link_failed)?;
        let mut bridges = Vec::new();
        for net in &args.net {
            let bridge = match net {
                Net::Bridge { bridge, mac: None, ip: None, .. } => bridge.clone(),
                Net::Nat { mac: None, ip: None, .. } => own_network().to_owned(),
                other => {
                    let text = format!("`{other}` cannot be prepared: write nat or bridge=NAME");
                    return Err(Failed::new(ExitKind::Usage, text));
                }
            };
            if !bridges.contains(&bridge) {
                bridges.push(bridge);
            }
        }
        if bridges.is_empty() {
            bridges.push(own_network().to_owned());
            let there = all.iter().filter(|link| link.bridge().is_some() && !is_own_network(&link.name));
            bridges.extend(there.map(|link| link.name.clone()));
        }
        Ok(Self { links: all, bridges })
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The user's prepared taps on these bridges; those that have lost theirs belong to no other.
    fn taps(&self, user: &For, only: &[Net]) -> Vec<PreparedTap> {
        let mut taps = PreparedTap::among(&self.links);
        taps.retain(|tap| {
            let bridge = self.links.iter().find(|link| tap.link.master == Some(link.index));
            let meant = only.is_empty() || bridge.is_none_or(|bridge| self.bridges.contains(&bridge.name));
            tap.uid == user.uid && meant
        });
        taps
    }
}

fn make(context: &Context, args: &NetSetupArgs, user: &For) -> Outcome {
    let scene = with_links(|links| async move { Scene::look(&links, args).await })?;
    for bridge in scene.bridges.iter().filter(|bridge| !is_own_network(bridge)) {
        match scene.link(bridge) {
            Some(link) if link.bridge().is_some() => {}
            Some(link) => {
                let text = format!("`{bridge}` is {}, not a bridge", link.kind);
                return Err(Failed::new(ExitKind::HostUnfit, text).hint("`midge net ls` lists the bridges"));
            }
            None => {
                let text = format!("there is no bridge `{bridge}` on this host");
                let next = format!("`midge net up {bridge} --uplink INTERFACE` makes it");
                return Err(Failed::new(ExitKind::HostUnfit, text).hint(next));
            }
        }
    }
    if args.boot {
        let exe = std::env::current_exe().map_err(|e| Failed::io("cannot find midge's own program", e))?;
        if !unit::is_roots_own(&exe) {
            let text = format!(
                "{} can be replaced by others than root, and is to run as root at every boot",
                exe.display()
            );
            return Err(
                Failed::new(ExitKind::HostUnfit, text).hint("install midge for all: sudo make install")
            );
        }
    }
    if args.boot && !unit::is_possible() {
        let text = "`--boot` writes a unit for systemd, which does not run here";
        return Err(Failed::new(ExitKind::HostUnfit, text)
            .hint("have this host's own start-up scripts run the same command with --yes"));
    }
    let lender = lender::path();
    agree(&steps(&scene, args, user), &format!("Prepare this for {}?", user.name), args.yes)?;

    let (home, scene) = (context.home()?, &scene);
    let state = own_network_state(home);
    let taken: BTreeSet<Ipv4Addr> = own_leases(home)
        .map_err(|e| Failed::wrap(ExitKind::Other, e))?
        .iter()
        .map(|row| row.address)
        .collect();
    let made = with_links(|links| async move {
        let mut made = Vec::new();
        for bridge in &scene.bridges {
            let network = if is_own_network(bridge) { Some(network(&state, user).await?) } else { None };
            made.extend(taps(&links, bridge, network.as_ref(), &taken, args.taps, user).await?);
        }
        Ok(made)
    })?;
    lender::install(&lender).map_err(|e| Failed::wrap(ExitKind::HostUnfit, e))?;
    for (tap, bridge, address) in made {
        let address = address.map(|address| format!(" {address}")).unwrap_or_default();
        output::line(format_args!("{tap} {bridge}{address}"))?;
    }
    if args.boot {
        let path = unit::path(&user.name, user.uid);
        let exe = std::env::current_exe().map_err(|e| Failed::io("cannot find midge's own program", e))?;
        let command = command(&exe.to_string_lossy(), scene, args, user);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        unit::write(&user.name, user.uid, &words)
            .map_err(|e| Failed::io(format!("cannot write {}", path.display()), e))?;
        output::line(path.display())?;
    } else {
        context.voice.note(format_args!(
            "{} may use them until the next reboot; `--boot` makes them again at every boot",
            user.name
        ));
    }
    Ok(0)
}

/// What will be done, a line each.
fn steps(scene: &Scene, args: &NetSetupArgs, user: &For) -> Vec<String> {
    let mut steps = Vec::new();
    for bridge in &scene.bridges {
        if is_own_network(bridge) && scene.link(bridge).is_none() {
            steps.push(format!("make the network {bridge}, and keep it"));
        }
        let names = (0..args.taps.into()).map(|index| setup::name(&user.name, user.uid, bridge, index));
        let new = names.filter(|name| scene.link(name).is_none()).count();
        let there = usize::from(args.taps) - new;
        let kept = if there > 0 { format!(" beside the {there} that are there") } else { String::new() };
        steps.push(format!("make {new} taps on {bridge} that {} may use{kept}", user.name));
    }
    steps.push(format!(
        "install {}, which lets the owner of such a tap watch it for addresses (capability cap_net_raw)",
        lender::path().display()
    ));
    if args.boot {
        let path = unit::path(&user.name, user.uid);
        steps.push(format!("write {}, which does this again at every boot", path.display()));
    }
    steps
}

/// The command that does the same again.
fn command(exe: &str, scene: &Scene, args: &NetSetupArgs, user: &For) -> Vec<String> {
    let mut words: Vec<String> = [exe, "net", "setup", "--yes", "--user", &user.name].map(Into::into).into();
    // Named one by one: bridges that come later were not agreed to.
    for bridge in &scene.bridges {
        let net = if is_own_network(bridge) { "nat".to_owned() } else { format!("bridge={bridge}") };
        words.extend(["--net".to_owned(), net]);
    }
    words.extend(["--taps".to_owned(), args.taps.to_string()]);
    words
}

/// Makes midge's own network, and has it stay for the user.
async fn network(state: &std::path::Path, user: &For) -> Result<NatNetwork, Failed> {
    let config = NatConfig { name: own_network().to_owned(), ..NatConfig::default() };
    let mut network = NatNetwork::ensure(&Namespace::current(), state, &config).await.map_err(nat_failed)?;
    network.add_user(&setup::network_user(user.uid), &[]).await.map_err(nat_failed)?;
    Ok(network)
}

/// Makes what is missing of a user's taps on a bridge, and puts right what is there. Answers each with its address.
async fn taps(
    links: &Links,
    bridge: &str,
    network: Option<&NatNetwork>,
    taken: &BTreeSet<Ipv4Addr>,
    count: u16,
    user: &For,
) -> Result<Vec<(String, String, Option<Ipv4Addr>)>, Failed> {
    let gone = || Failed::new(ExitKind::HostUnfit, format!("the bridge {bridge} vanished"));
    let master = links.get(bridge).await.map_err(link_failed)?.ok_or_else(gone)?.index;
    let range = network.and_then(|network| fixed(network.plan().subnet));
    let mut made = Vec::new();
    for index in 0..count.into() {
        let name = setup::name(&user.name, user.uid, bridge, index);
        let all = links.list().await.map_err(link_failed)?;
        let prepared = PreparedTap::among(&all);
        let before = prepared.iter().find(|tap| tap.link.name == name).and_then(|tap| tap.address);
        let address = match (&range, before) {
            (None, _) => None,
            (Some(range), Some(before)) if range.contains(&before) => Some(before),
            (Some(range), _) => {
                let others: BTreeSet<Ipv4Addr> = prepared.iter().filter_map(|tap| tap.address).collect();
                let free =
                    setup::address(&name, range.clone(), |a| taken.contains(&a) || others.contains(&a));
                Some(free.ok_or_else(|| {
                    let text =
                        format!("{bridge} has no address left for {name}: {} are prepared", others.len());
                    Failed::new(ExitKind::NoSpace, text).hint("prepare fewer, or take away those of others")
                })?)
            }
        };
        tap(links, &all, &name, master, &setup::alias(&user.name, address), user).await?;
        made.push((name, bridge.to_owned(), address));
    }
    Ok(made)
}

/// Makes one tap, or puts right one that is there.
async fn tap(
    links: &Links,
    all: &[Link],
    name: &str,
    bridge: u32,
    alias: &str,
    user: &For,
) -> Result<(), Failed> {
    let Some(there) = all.iter().find(|link| link.name == name) else {
        let options = TapOptions {
            name: name.to_owned(),
            owner: Some(user.uid),
            vnet_hdr: true,
            persistent: true,
            ..TapOptions::default()
        };
        let tap = Tap::create(links.namespace(), &options).map_err(link_failed)?;
        let joined = async {
            // The alias first: what has one is found by `--remove`.
            links.set_alias(tap.index(), alias).await?;
            links.port_ready(tap.index(), bridge, false).await
        };
        if let Err(e) = joined.await {
            // It is the one that was made just now; why it is of no use matters more than that it may stay.
            let _ = links.delete(name).await;
            return Err(link_failed(e));
        }
        return Ok(());
    };
    let ours = there.tap().is_some_and(|tap| tap.persistent && tap.owner == Some(user.uid));
    if !ours {
        let text = format!("{name} is there already, and is no tap of {}", user.name);
        return Err(Failed::new(ExitKind::WrongState, text).hint(format!("`ip link delete {name}`")));
    }
    if there.alias.as_deref() != Some(alias) {
        links.set_alias(there.index, alias).await.map_err(link_failed)?;
    }
    if there.master != Some(bridge) || !there.up {
        links.port_ready(there.index, bridge, false).await.map_err(link_failed)?;
    }
    Ok(())
}

fn remove(context: &Context, args: &NetSetupArgs, user: &For) -> Outcome {
    let scene = with_links(|links| async move { Scene::look(&links, args).await })?;
    let taps = scene.taps(user, &args.net);
    let busy: Vec<&str> = taps.iter().filter(|tap| tap.in_use()).map(|tap| tap.link.name.as_str()).collect();
    if !busy.is_empty() {
        return Err(in_use(user, &busy.join(", ")));
    }
    let others: Vec<PreparedTap> =
        PreparedTap::among(&scene.links).into_iter().filter(|tap| !taps.contains(tap)).collect();
    let (last_of_all, last_of_user) = (others.is_empty(), others.iter().all(|tap| tap.uid != user.uid));
    let leaves_network = scene.bridges.iter().any(|bridge| is_own_network(bridge));

    let mut steps: Vec<String> = Vec::new();
    if !taps.is_empty() {
        let names: Vec<&str> = taps.iter().map(|tap| tap.link.name.as_str()).collect();
        steps.push(format!("remove the taps of {}: {}", user.name, names.join(", ")));
    }
    if leaves_network {
        steps.push(format!("remove the network {}, unless others use it", own_network()));
    }
    if last_of_all {
        steps.push(format!("remove {}", lender::path().display()));
    }
    let file = unit::path(&user.name, user.uid);
    if last_of_user && file.exists() {
        steps.push(format!("remove {}", file.display()));
    }
    agree(&steps, &format!("Take away what is prepared for {}?", user.name), args.yes)?;

    let state = own_network_state(context.home()?);
    with_links(|links| async move {
        for tap in &taps {
            let Some(found) = tap.link.tap() else { continue };
            match Tap::remove_persistent(links.namespace(), &tap.link.name, found) {
                Ok(()) => {}
                Err(e) if e.reason() == Some(Reason::Gone) => {}
                Err(e) if e.reason() == Some(Reason::Busy) => return Err(in_use(user, &tap.link.name)),
                Err(e) => return Err(link_failed(e)),
            }
        }
        if leaves_network {
            let network = NatNetwork::open(links.namespace(), &state, own_network()).await;
            if let Some(mut network) = network.map_err(nat_failed)? {
                network.remove_user(&setup::network_user(user.uid)).await.map_err(nat_failed)?;
            }
        }
        Ok(())
    })?;
    if last_of_all {
        lender::remove(&lender::path()).map_err(|e| Failed::wrap(ExitKind::Other, e))?;
    }
    if last_of_user {
        unit::remove(&user.name, user.uid)
            .map_err(|e| Failed::io(format!("cannot remove {}", file.display()), e))?;
    }
    Ok(0)
}

fn in_use(user: &For, taps: &str) -> Failed {
    let text = format!("VMs of {} use {taps}: nothing was taken away that is in use", user.name);
    Failed::new(ExitKind::WrongState, text).hint("stop those VMs first")
}

fn nat_failed(error: NatError) -> Failed {
    match error {
        NatError::Link(e) => link_failed(e),
        other => Failed::wrap(ExitKind::HostUnfit, other),
    }
}
