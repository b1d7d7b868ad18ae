//! Others' rules that keep packets from a network.
//!
//! A verdict to accept ends the chain that it is given in; the chains of other tables still see the packet, and each may drop it
//! (nft(8), "VERDICT STATEMENTS"). So whatever a network's own table says, a firewall's table can keep its guests from everything.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::nft::{ChainEntry, Family, Nft, NftError};

/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;

/// Others' rules that drop, or may drop, what guests of a network send and get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// Whose rules they are.
    pub by: Firewall,
    /// Their table, as nft(8) writes it: `ip filter`.
    pub table: String,
    /// The chain that drops what it does not know.
    pub chain: String,
    /// The bridge whose packets it does not know.
    pub bridge: String,
}

/// A firewall, by what its table looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firewall {
    /// Docker, which drops what is not its containers'.
    Docker,
    /// ufw.
    Ufw,
    /// firewalld, which rejects what is in no zone that may be passed on.
    Firewalld,
    /// Somebody else's.
    Other,
}

impl Obstacle {
    /// What lets the network's packets pass: commands for a shell.
    #[must_use]
    pub fn remedy(&self) -> String {
        let Self { by, table, chain, bridge } = self;
        match by {
            Firewall::Docker => format!(
                "iptables -I DOCKER-USER -i {bridge} -j ACCEPT && iptables -I DOCKER-USER -o {bridge} -j ACCEPT"
            ),
            Firewall::Ufw => format!("ufw route allow in on {bridge} && ufw route allow out on {bridge}"),
            Firewall::Firewalld => {
                format!(
                    "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
                )
            }
            Firewall::Other => format!(
                "nft insert rule {table} {chain} iifname {bridge} accept && nft insert rule {table} {chain} oifname {bridge} accept"
            ),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, table, chain, bridge } = self;
        let whose = match by {
            Firewall::Docker => "Docker's rules drop",
            Firewall::Ufw => "ufw drops",
            Firewall::Firewalld => "firewalld rejects",
            Firewall::Other => "a firewall drops",
        };
        let remedy = self.remedy();
        write!(
            f,
            "{whose} what guests on {bridge} send and get (chain {chain} of the table {table}): `{remedy}`"
        )
    }
}

/// What keeps packets from the network on a bridge. A table with rules for what comes in and what goes out by it is taken to know it.
pub(super) fn find(nft: &mut Nft, bridge: &str) -> Result<Vec<Obstacle>, NftError> {
    let mut obstacles = Vec::new();
    for family in [Family::Ip, Family::Inet] {
        let chains = nft.chains(family)?;
        for chain in chains.iter().filter(|chain| stops(chain)) {
            let rules = nft.rules(family, &chain.table)?;
            let names = |name: &String| name == bridge;
            if rules.iter().any(|rule| rule.inputs.iter().any(names))
                && rules.iter().any(|rule| rule.outputs.iter().any(names))
            {
                continue;
            }
            obstacles.push(Obstacle {
                by: firewall(chain, &chains),
                table: format!("{family} {}", chain.table),
                chain: chain.name.clone(),
                bridge: bridge.to_owned(),
            });
        }
    }
    Ok(obstacles)
}

/// Whether packets that are passed on end in a chain unless it knows them.
fn stops(chain: &ChainEntry) -> bool {
    let forwards = chain.hook == Some(FORWARD) && chain.kind.as_deref() == Some("filter");
    // firewalld's accepts by policy and rejects by its last rule.
    forwards && (chain.drops || chain.table == "firewalld")
}

fn firewall(chain: &ChainEntry, chains: &[ChainEntry]) -> Firewall {
    let has =
        |name: fn(&str) -> bool| chains.iter().any(|other| other.table == chain.table && name(&other.name));
    if chain.table == "firewalld" {
        Firewall::Firewalld
    } else if has(|name| name.starts_with("ufw-")) {
        Firewall::Ufw
    } else if has(|name| name == "DOCKER-USER") {
        Firewall::Docker
    } else {
        Firewall::Other
    }
}
