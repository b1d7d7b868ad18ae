//! `net ls`.

use std::collections::BTreeMap;

use netbr::link::{Link, LinkKind, Links};
use serde::Serialize;

use super::{link_failed, with_links};
use crate::cli::args::{Format, NetLsArgs};
use crate::cli::context::Context;
use crate::cli::exit::Failed;
use crate::cli::table::Table;
use crate::cli::{Outcome, describe, output};

/// A bridge as `net ls` shows it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `nat` for midge's own, `bridge` for all others.
    kind: &'static str,
    /// The host's addresses on it, `ADDRESS/PREFIX` each.
    addresses: Vec<String>,
    /// The ports that are no taps: what leads out of this host.
    uplinks: Vec<String>,
    /// How many ports are taps.
    taps: usize,
    /// The VMs that have a port on it.
    vms: Vec<String>,
    up: bool,
}

/// `midge net ls`.
pub(super) fn ls(context: &Context, args: &NetLsArgs) -> Outcome {
    let vms = vms_by_bridge(context)?;
    let rows = with_links(|links| async move { rows(&links, &vms).await })?;
    match args.output.format {
        Format::Json => output::json_lines(rows.iter())?,
        Format::Name => output::print(|out| rows.iter().try_for_each(|row| writeln!(out, "{}", row.name)))?,
        _ if context.voice.quiet => {
            output::print(|out| rows.iter().try_for_each(|row| writeln!(out, "{}", row.name)))?;
        }
        Format::Table | Format::Wide => {
            let mut table = Table::new(["NAME", "KIND", "STATE", "ADDRESSES", "UPLINKS", "TAPS", "VMS"]);
            for row in &rows {
                table.row([
                    row.name.clone(),
                    row.kind.to_owned(),
                    if row.up { "up" } else { "down" }.to_owned(),
                    row.addresses.join(" "),
                    row.uplinks.join(" "),
                    row.taps.to_string(),
                    row.vms.join(" "),
                ]);
            }
            output::table(&table)?;
            if rows.is_empty() {
                context.voice.note(format_args!(
                    "there is no bridge; `midge net up br0 --uplink INTERFACE` makes one, and `--net nat` needs none"
                ));
            }
        }
    }
    Ok(0)
}

/// The VMs that run, by the bridges that they have ports on.
fn vms_by_bridge(context: &Context) -> Result<BTreeMap<String, Vec<String>>, Failed> {
    let home = context.home()?;
    let mut vms: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in home.vm_names()? {
        let status = home.vm(&name).status();
        for port in describe::running(&status).into_iter().flat_map(|run| &run.ports) {
            let on = vms.entry(port.bridge.clone()).or_default();
            if !on.contains(&name) {
                on.push(name.clone());
            }
        }
    }
    Ok(vms)
}

async fn rows(links: &Links, vms: &BTreeMap<String, Vec<String>>) -> Result<Vec<Row>, Failed> {
    let all = links.list().await.map_err(link_failed)?;
    let addresses = links.all_addresses().await.map_err(link_failed)?;
    let is_tap = |link: &&Link| matches!(link.kind, LinkKind::Tap(_));
    let mut rows: Vec<Row> = all
        .iter()
        .filter(|link| link.bridge().is_some())
        .map(|bridge| {
            let ports: Vec<&Link> = all.iter().filter(|link| link.master == Some(bridge.index)).collect();
            let own = addresses
                .iter()
                .filter(|(index, address)| *index == bridge.index && !address.is_link_local());
            Row {
                name: bridge.name.clone(),
                kind: if crate::vm::is_own_network(&bridge.name) { "nat" } else { "bridge" },
                addresses: own.map(|(_, a)| format!("{}/{}", a.address, a.prefix)).collect(),
                uplinks: ports.iter().filter(|p| !is_tap(p)).map(|p| p.name.clone()).collect(),
                taps: ports.iter().filter(|p| is_tap(p)).count(),
                vms: vms.get(&bridge.name).cloned().unwrap_or_default(),
                up: bridge.up,
            }
        })
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}
