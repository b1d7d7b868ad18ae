//! `ip`.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::cli::args::IpArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::spec::Net;
use crate::store::{Heard, Source};
use crate::vm::control::{Family, Request};

/// What a supervisor may take beyond the time that it is told to wait.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Found<'a> {
    name: &'a str,
    addresses: Vec<IpAddr>,
    details: Vec<Detail<'a>>,
}

#[derive(Serialize)]
struct Detail<'a> {
    address: IpAddr,
    /// The interface, by its index.
    interface: usize,
    source: Source,
    confirmed: bool,
    /// Seconds since it was last heard of.
    age: f64,
    /// Since when it is known.
    since: &'a jiff::Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_ends: Option<&'a jiff::Timestamp>,
}

/// `midge ip`.
pub(super) fn ip(context: &Context, args: &IpArgs) -> Outcome {
    let (name, wait) = args.name_and_wait().map_err(|text| Failed::new(ExitKind::Usage, text))?;
    let vm = context.vm(name)?;
    let within = wait.unwrap_or(Duration::ZERO);
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Any,
    };
    let request = Request::Addresses {
        family,
        source: args.source.source(),
        within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
    };
    let deadline = Deadline::after(Some(within.saturating_add(GRACE)));
    let value = call(&mut context.connect(&vm)?, &request, deadline, |_| Ok(())).map_err(|failed| {
        if wait.is_none() && failed.hint.is_none() {
            failed.hint(format!("wait for one: midge ip {name} --wait 30s"))
        } else {
            failed
        }
    })?;
    let heard: Vec<Heard> = serde_json::from_value(value)
        .map_err(|e| Failed::wrap(ExitKind::Other, e).context("the VM's supervisor named no addresses"))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for heard in &heard {
        if !addresses.contains(&heard.address) {
            addresses.push(heard.address);
        }
    }
    if args.output.json() {
        output::json(&Found { name, addresses, details: heard.iter().map(detail).collect() })?;
    } else {
        output::print(|out| addresses.iter().try_for_each(|address| writeln!(out, "{address}")))?;
    }
    let record = vm.record()?;
    if record.spec.nets.iter().all(|net| matches!(net, Net::User { .. })) {
        context.voice.note(format_args!(
            "this address is inside QEMU's user-mode network; from here the guest is reached by `midge ssh {name}` or published ports",
        ));
    }
    Ok(0)
}

fn detail(heard: &Heard) -> Detail<'_> {
    let age = jiff::Timestamp::now().duration_since(heard.seen).as_secs_f64().max(0.0);
    Detail {
        address: heard.address,
        interface: heard.net,
        source: heard.source,
        confirmed: heard.confirmed,
        age: (age * 1e3).round() / 1e3,
        since: &heard.since,
        lease_ends: heard.lease_ends.as_ref(),
    }
}
