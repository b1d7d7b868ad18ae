//! How to make a bridge over the uplink for good, in the words of what manages the host's network. Nothing here writes a file.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use super::Plan;
use super::plan::BY_DHCP;
use crate::link::{Address, MAIN_TABLE, Route};

/// What manages the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// netplan(5), Ubuntu.
    Netplan,
    /// NetworkManager(8): desktops, Raspberry Pi OS since 2023, Fedora.
    NetworkManager,
    /// systemd-networkd(8).
    Networkd,
    /// interfaces(5), Debian.
    Ifupdown,
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netplan => "netplan",
            Self::NetworkManager => "NetworkManager",
            Self::Networkd => "systemd-networkd",
            Self::Ifupdown => "ifupdown",
        })
    }
}

impl Manager {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Netplan, Self::NetworkManager, Self::Networkd, Self::Ifupdown];

    /// Who manages the interface of the plan, as far as files below `root` (`/`) tell.
    #[must_use]
    pub fn detect(root: &Path, plan: &Plan) -> Option<Self> {
        let is_yaml = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "yaml");
        let netplan = std::fs::read_dir(root.join("etc/netplan"));
        if netplan.is_ok_and(|entries| entries.flatten().any(is_yaml)) {
            // It writes the configuration of one of the two below.
            return Some(Self::Netplan);
        }
        let says = |path: String, words: &str| {
            std::fs::read_to_string(root.join(path))
                .is_ok_and(|text| text.lines().any(|line| line.trim() == words))
        };
        if says(format!("run/NetworkManager/devices/{}", plan.index), "managed=1")
            || says(format!("run/NetworkManager/devices/{}", plan.index), "managed=true")
        {
            return Some(Self::NetworkManager);
        }
        if says(format!("run/systemd/netif/links/{}", plan.index), "ADMIN_STATE=configured") {
            return Some(Self::Networkd);
        }
        let named = |line: &str| {
            let mut words = line.split_whitespace();
            words.next() == Some("iface") && words.next() == Some(&plan.uplink)
        };
        let interfaces = std::fs::read_to_string(root.join("etc/network/interfaces")).unwrap_or_default();
        let parts = std::fs::read_dir(root.join("etc/network/interfaces.d"));
        let parts =
            parts.into_iter().flatten().flatten().filter_map(|e| std::fs::read_to_string(e.path()).ok());
        let found = std::iter::once(interfaces).chain(parts).any(|text| text.lines().any(named));
        found.then_some(Self::Ifupdown)
    }
}

/// What to write where so that the plan's bridge is there after each boot. DNS servers stay as they are where DHCP tells them; those
/// that were written down by hand have to be moved by hand, which the text says.
#[must_use]
pub fn recipe(manager: Manager, plan: &Plan) -> String {
    let text = match manager {
        Manager::Netplan => netplan(plan),
        Manager::NetworkManager => network_manager(plan),
        Manager::Networkd => networkd(plan),
        Manager::Ifupdown => ifupdown(plan),
    };
    // Writing to a text cannot fail.
    text.and_then(|text| with_routes(text, plan)).unwrap_or_default()
}

/// Names the routes that somebody wrote down and that the text does not speak of.
fn with_routes(mut text: String, plan: &Plan) -> Result<String, fmt::Error> {
    let own = plan.routes.iter().filter(|route| !route.is_default() && !matches!(route.protocol, 2 | 9 | 16));
    for route in own {
        write!(
            text,
            "# belongs to {} as well: the route to {}/{}",
            plan.bridge, route.destination, route.prefix
        )?;
        if let Some(gateway) = route.gateway {
            write!(text, " by {gateway}")?;
        }
        if route.table != MAIN_TABLE {
            write!(text, " in the table {}", route.table)?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

/// The addresses that somebody wrote down: those that are there for ever and do not come by DHCP.
fn fixed(plan: &Plan) -> Vec<String> {
    let by_dhcp = |address: &Address| {
        let source = |route: &Route| route.protocol == BY_DHCP && route.source == Some(address.address);
        address.lifetime.is_some() || plan.routes.iter().any(source)
    };
    let v4: Vec<&Address> = plan.addresses.iter().filter(|a| a.address.is_ipv4()).collect();
    // A client that gives its address for ever and its route no source.
    let unknown = plan.dhcp && !v4.iter().any(|address| by_dhcp(address));
    let first = v4.first().copied().filter(|_| unknown);
    let own = plan.addresses.iter().filter(|address| !by_dhcp(address) && Some(*address) != first);
    own.map(|address| format!("{}/{}", address.address, address.prefix)).collect()
}

/// The gateways that somebody wrote down, not those that DHCP (16) or router advertisements (9, or 2 by the kernel) told.
fn gateways(plan: &Plan) -> Vec<IpAddr> {
    let own = plan.routes.iter().filter(|route| route.is_default() && !matches!(route.protocol, 2 | 9 | 16));
    own.filter(|route| !(plan.dhcp && route.destination.is_ipv4()))
        .filter_map(|route| route.gateway)
        .collect()
}

fn netplan(plan: &Plan) -> Result<String, fmt::Error> {
    let Plan { bridge, uplink, mac, .. } = plan;
    let mut text = String::new();
    writeln!(
        text,
        "# /etc/netplan/60-{bridge}.yaml (mode 600); take the addresses of {uplink} out of the other files there,"
    )?;
    writeln!(text, "# move its nameservers here, then run: netplan try")?;
    writeln!(
        text,
        "network:\n  version: 2\n  ethernets:\n    {uplink}:\n      dhcp4: false\n      dhcp6: false"
    )?;
    writeln!(text, "  bridges:\n    {bridge}:\n      interfaces: [{uplink}]\n      macaddress: {mac}")?;
    if plan.mtu != 1500 {
        writeln!(text, "      mtu: {}", plan.mtu)?;
    }
    writeln!(
        text,
        "      parameters:\n        stp: false\n        forward-delay: 0\n      dhcp4: {}",
        plan.dhcp
    )?;
    let fixed = fixed(plan);
    if !fixed.is_empty() {
        let quoted: Vec<_> = fixed.iter().map(|address| format!("\"{address}\"")).collect();
        writeln!(text, "      addresses: [{}]", quoted.join(", "))?;
    }
    let gateways = gateways(plan);
    if !gateways.is_empty() {
        writeln!(text, "      routes:")?;
    }
    for gateway in gateways {
        writeln!(text, "        - to: default\n          via: \"{gateway}\"")?;
    }
    Ok(text)
}

fn network_manager(plan: &Plan) -> Result<String, fmt::Error> {
    let Plan { bridge, uplink, mac, mtu, .. } = plan;
    let mut text = String::new();
    writeln!(text, "# Keep a console at hand: the connection is lost for some seconds.")?;
    writeln!(text, "old=$(nmcli -g GENERAL.CONNECTION device show {uplink})")?;
    write!(text, "nmcli connection add type bridge con-name {bridge} ifname {bridge}")?;
    write!(text, " bridge.stp no bridge.mac-address {mac}")?;
    if *mtu != 1500 {
        write!(text, " 802-3-ethernet.mtu {mtu}")?;
    }
    for (family, v6) in [("ipv4", false), ("ipv6", true)] {
        let of = |address: &&String| address.contains(':') == v6;
        let own: Vec<String> = fixed(plan).iter().filter(of).cloned().collect();
        if own.is_empty() {
            continue;
        }
        let method = if plan.dhcp && !v6 { "auto" } else { "manual" };
        write!(text, " {family}.method {method} {family}.addresses {}", own.join(","))?;
        if let Some(gateway) = gateways(plan).into_iter().find(|gateway| gateway.is_ipv6() == v6) {
            write!(text, " {family}.gateway {gateway}")?;
        }
        write!(text, " {family}.dns \"$(nmcli -g {family}.dns connection show \"$old\")\"")?;
    }
    writeln!(text)?;
    writeln!(
        text,
        "nmcli connection add type ethernet con-name {bridge}-{uplink} ifname {uplink} master {bridge}"
    )?;
    writeln!(text, "nmcli connection modify \"$old\" connection.autoconnect no")?;
    writeln!(text, "nmcli connection up {bridge}-{uplink}")?;
    Ok(text)
}

fn networkd(plan: &Plan) -> Result<String, fmt::Error> {
    let Plan { bridge, uplink, mac, .. } = plan;
    let mut text = String::new();
    writeln!(text, "# /etc/systemd/network/10-{bridge}.netdev")?;
    writeln!(text, "[NetDev]\nName={bridge}\nKind=bridge\nMACAddress={mac}")?;
    if plan.mtu != 1500 {
        writeln!(text, "MTUBytes={}", plan.mtu)?;
    }
    writeln!(text, "\n[Bridge]\nSTP=no\nForwardDelaySec=0\n")?;
    writeln!(
        text,
        "# /etc/systemd/network/10-{bridge}-{uplink}.network; it must come before the file that names {uplink} now"
    )?;
    writeln!(text, "[Match]\nName={uplink}\n\n[Network]\nBridge={bridge}\n")?;
    writeln!(
        text,
        "# /etc/systemd/network/10-{bridge}.network; move DNS= of {uplink}'s file here, then run:"
    )?;
    writeln!(text, "# networkctl reload && networkctl reconfigure {uplink}")?;
    writeln!(text, "[Match]\nName={bridge}\n\n[Network]")?;
    if plan.dhcp {
        writeln!(text, "DHCP=yes")?;
    }
    for address in fixed(plan) {
        writeln!(text, "Address={address}")?;
    }
    for gateway in gateways(plan) {
        writeln!(text, "Gateway={gateway}")?;
    }
    Ok(text)
}

fn ifupdown(plan: &Plan) -> Result<String, fmt::Error> {
    let Plan { bridge, uplink, mac, .. } = plan;
    let mut text = String::new();
    writeln!(
        text,
        "# /etc/network/interfaces.d/{bridge}, with the package bridge-utils; in the other files replace what is said of"
    )?;
    writeln!(
        text,
        "# {uplink} by `iface {uplink} inet manual` and move its dns-nameservers here, then run: ifup {bridge}"
    )?;
    writeln!(text, "auto {bridge}")?;
    let (v4, v6): (Vec<String>, Vec<String>) = fixed(plan).into_iter().partition(|a| !a.contains(':'));
    let mut v4 = v4.iter();
    if plan.dhcp {
        writeln!(text, "iface {bridge} inet dhcp")?;
    } else if let Some(address) = v4.next() {
        writeln!(text, "iface {bridge} inet static\n    address {address}")?;
        if let Some(gateway) = gateways(plan).iter().find(|gateway| gateway.is_ipv4()) {
            writeln!(text, "    gateway {gateway}")?;
        }
    } else {
        writeln!(text, "iface {bridge} inet manual")?;
    }
    writeln!(text, "    bridge_ports {uplink}\n    bridge_hw {mac}\n    bridge_stp off\n    bridge_fd 0")?;
    if plan.mtu != 1500 {
        writeln!(text, "    mtu {}", plan.mtu)?;
    }
    for address in v4 {
        writeln!(text, "iface {bridge} inet static\n    address {address}")?;
    }
    let mut gateway = gateways(plan).into_iter().find(IpAddr::is_ipv6);
    for address in v6 {
        writeln!(text, "iface {bridge} inet6 static\n    address {address}")?;
        if let Some(gateway) = gateway.take() {
            writeln!(text, "    gateway {gateway}")?;
        }
    }
    Ok(text)
}
