//! `ip`.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::cli::args::IpArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::evidence::Evidence;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::follow::{Show, follow};
use crate::cli::{Outcome, output};
use crate::spec::{Net, Ready};
use crate::vm::control::{Reply, Request, Until};

/// How long a supervisor may take to tell its state.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Addresses<'a> {
    name: &'a str,
    addresses: &'a [IpAddr],
}

/// `midge ip`.
pub(super) fn ip(context: &Context, args: &IpArgs) -> Outcome {
    let vm = context.vm(&args.name)?;
    if let Some(limit) = args.wait {
        let mut client = context.connect(&vm)?;
        let show = Show { phases: false, prefix: "", notes: false };
        let mut evidence = Evidence::of_this_run(&vm);
        follow(&mut client, &Until::Sign(Ready::Ip), Deadline::after(Some(limit)), &mut evidence, show)?;
    }
    let mut addresses = Vec::new();
    call(&mut context.connect(&vm)?, &Request::Status, Deadline::after(Some(LIMIT)), |reply| {
        if let Reply::State(run) = reply {
            addresses = run.addresses;
        }
        Ok(())
    })?;
    addresses.retain(|address| !(args.ipv4 && address.is_ipv6() || args.ipv6 && address.is_ipv4()));
    if addresses.is_empty() {
        let text = format!("the VM `{}` has shown no address", args.name);
        return Err(
            Failed::new(ExitKind::Other, text).hint(format!("wait for one: midge ip --wait {}", args.name))
        );
    }
    if args.output.json() {
        output::json(&Addresses { name: &args.name, addresses: &addresses })?;
    } else {
        output::print(|out| addresses.iter().try_for_each(|address| writeln!(out, "{address}")))?;
    }
    let record = vm.record()?;
    if record.spec.nets.iter().all(|net| matches!(net, Net::User { .. })) {
        context.voice.note(format_args!(
            "this address is inside QEMU's user-mode network; from here the guest is reached by `midge ssh {0}` or published ports",
            args.name
        ));
    }
    Ok(0)
}
