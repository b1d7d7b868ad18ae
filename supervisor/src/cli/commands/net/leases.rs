//! `net leases`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use netbr::dhcp::leases::Row;
use serde::Serialize;

use crate::cli::args::{Format, NetLeasesArgs};
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::table::Table;
use crate::cli::{Outcome, output, units};
use crate::vm::own_leases;

/// A lease as `net leases` shows it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    address: Ipv4Addr,
    mac: String,
    /// The VM that the MAC belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<&'a str>,
    /// The name that the guest gives itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    state: netbr::dhcp::leases::RowState,
    reserved: bool,
    /// When it ends or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<jiff::Timestamp>,
}

/// `midge net leases`.
pub(super) fn leases(context: &Context, args: &NetLeasesArgs) -> Outcome {
    let home = context.home()?;
    let rows = own_leases(home).map_err(|e| Failed::wrap(ExitKind::Other, e))?;
    let mut vms: BTreeMap<String, String> = BTreeMap::new();
    for name in home.vm_names()? {
        if let Ok(record) = home.vm(&name).record() {
            vms.extend(record.macs.into_iter().map(|mac| (mac, name.clone())));
        }
    }
    let line = |row: &Row| -> (String, Option<jiff::Timestamp>) {
        (row.mac.to_string(), row.ends.and_then(|ends: SystemTime| ends.try_into().ok()))
    };
    if let Format::Json = args.output.format {
        let lines = rows.iter().map(|row| {
            let (mac, ends) = line(row);
            Line {
                address: row.address,
                vm: vms.get(&mac).map(String::as_str),
                mac,
                hostname: row.hostname.as_deref(),
                state: row.state,
                reserved: row.reserved,
                ends,
            }
        });
        output::json_lines(lines)?;
        return Ok(0);
    }
    let mut table = Table::new(["ADDRESS", "MAC", "VM", "HOSTNAME", "STATE", "ENDS"]);
    for row in &rows {
        let (mac, ends) = line(row);
        let state = serde_json::to_value(row.state).ok().and_then(|v| v.as_str().map(ToOwned::to_owned));
        table.row([
            row.address.to_string(),
            mac.clone(),
            vms.get(&mac).cloned().unwrap_or_default(),
            row.hostname.clone().unwrap_or_default(),
            format!("{}{}", state.unwrap_or_default(), if row.reserved { ", reserved" } else { "" }),
            ends.map(units::moment).unwrap_or_default(),
        ]);
    }
    output::table(&table)?;
    Ok(0)
}
