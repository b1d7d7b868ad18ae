//! Which firewalls there are and what they do with packets that are passed on.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::dump::{ask, attributes, text};
use super::legacy;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN` (linux/netfilter/nfnetlink.h, nf_tables.h).
const GET_CHAIN: u16 = 10 << 8 | 4;

/// A table of a firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterTable {
    /// Whether it is one of iptables before it was built upon nftables.
    #[serde(default)]
    pub legacy: bool,
    /// What it sees: `ip`, `ip6`, `inet` (both), `bridge`, `arp` or `netdev`.
    pub family: String,
    /// Its name.
    pub name: String,
    /// Its chains that see packets which are passed on from one interface to another.
    pub forward: Vec<ForwardChain>,
    /// The names of its other chains.
    pub others: Vec<String>,
}

/// A chain that sees packets which are passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardChain {
    /// Its name.
    pub name: String,
    /// Whether it drops what none of its rules decides.
    pub drops: bool,
}

/// The tables of the calling thread's network namespace; none where one may not see them (CAP_NET_ADMIN is needed).
pub(super) fn tables() -> io::Result<Option<Vec<FilterTable>>> {
    // `struct nfgenmsg`: any family, version 0, no resource.
    let mut tables = match ask(NETLINK_NETFILTER, GET_CHAIN, NLM_F_DUMP, &[0; 4]) {
        Ok(chains) => group(&chains),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => return Ok(None),
            // A kernel without nftables.
            Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => {
                Vec::new()
            }
            _ => return Err(error),
        },
    };
    tables.extend(legacy::filter_table()?);
    Ok(Some(tables))
}

/// Gathers chains by their tables.
fn group(chains: &[Vec<u8>]) -> Vec<FilterTable> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    /// NF_INET_FORWARD and NF_BR_FORWARD.
    const FORWARD: u32 = 2;
    /// NF_DROP.
    const DROP: u32 = 0;

    let mut tables = BTreeMap::new();
    for message in chains {
        let Some((head, rest)) = message.split_at_checked(4) else { continue };
        let Some(family) = family(head[0]) else { continue };
        let (mut table, mut name, mut hook, mut policy) = (String::new(), String::new(), None, None);
        for (number, value) in attributes(rest) {
            match number {
                TABLE => table = text(&value),
                NAME => name = text(&value),
                HOOK => {
                    hook =
                        attributes(&value).find(|(number, _)| *number == HOOK_NUMBER).map(|(_, v)| big(&v));
                }
                POLICY => policy = Some(big(&value)),
                _ => {}
            }
        }
        let entry = tables.entry((family, table.clone())).or_insert_with(|| FilterTable {
            legacy: false,
            family: family.to_owned(),
            name: table,
            forward: Vec::new(),
            others: Vec::new(),
        });
        // netdev's hooks have numbers of their own.
        if hook == Some(FORWARD) && matches!(family, "ip" | "ip6" | "inet" | "bridge") {
            entry.forward.push(ForwardChain { name, drops: policy == Some(DROP) });
        } else {
            entry.others.push(name);
        }
    }
    tables.into_values().collect()
}

/// NFPROTO_… of linux/netfilter.h.
const fn family(number: u8) -> Option<&'static str> {
    match number {
        1 => Some("inet"),
        2 => Some("ip"),
        3 => Some("arp"),
        5 => Some("netdev"),
        7 => Some("bridge"),
        10 => Some("ip6"),
        _ => None,
    }
}

/// A number as netfilter sends it.
fn big(bytes: &[u8]) -> u32 {
    bytes.get(..4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes)
}
