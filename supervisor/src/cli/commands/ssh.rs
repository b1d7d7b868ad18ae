//! `ssh`: the system's ssh(1), led to the guest.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::cli::args::SshArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, ssh_key};
use crate::seed::HOST_KEY;
use crate::store::VmDir;
use crate::vm::control::Request;

/// How long a supervisor may take to make a port.
const LIMIT: Duration = Duration::from_secs(30);
/// The guest's port of SSH.
const PORT: u16 = 22;

/// Where a port of the guest is reached.
#[derive(Debug, Deserialize)]
struct Reached {
    address: String,
    port: u16,
}

/// `midge ssh`: this process becomes ssh(1), so its exit code is that of the command in the guest, or 255.
pub(super) fn ssh(context: &Context, args: &SshArgs) -> Outcome {
    let vm = context.vm(&args.name)?;
    let home = context.home()?;
    let value = call(
        &mut context.connect(&vm)?,
        &Request::Reach { port: PORT },
        Deadline::after(Some(LIMIT)),
        |_| Ok(()),
    )?;
    let reached: Reached = serde_json::from_value(value)
        .map_err(|e| Failed::wrap(ExitKind::Other, e).context("the VM's supervisor named no port"))?;
    ssh_key::ensure(home)?;
    let made = if args.login.is_none() { vm.record()?.spec.user } else { None };
    let login = args.login.clone().or(made).unwrap_or_else(|| "root".to_owned());
    let error = Command::new("ssh")
        .args(options(&vm, &ssh_key::private_key(home).display().to_string(), &reached))
        .arg(format!("{login}@{}", reached.address))
        .args(&args.command)
        .exec();
    let failed = Failed::io("cannot run ssh", error);
    Err(Failed { kind: ExitKind::HostUnfit, ..failed }.hint("install it: apt install openssh-client"))
}

/// The guest's host key is kept with the VM, so a new VM of an old name is no surprise, and the user's own known hosts stay clean
/// (ssh_config(5)). A guest that was given its key is known before the first visit, and no other is taken for it; that of any other
/// guest is learnt then.
fn options(vm: &VmDir, key: &str, reached: &Reached) -> Vec<String> {
    let settings = settings(vm, key);
    let mut options: Vec<String> =
        settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]).collect();
    options.extend(["-p".to_owned(), reached.port.to_string()]);
    options
}

/// The settings of `midge ssh` (ssh_config(5)), `Key=Value` each.
pub(super) fn settings(vm: &VmDir, key: &str) -> [String; 6] {
    let known_hosts = vm.state_dir().join("known_hosts");
    let given = vm.state_dir().join(HOST_KEY).exists();
    let checking = if given { "yes" } else { "accept-new" };
    [
        format!("IdentityFile=\"{key}\""),
        format!("UserKnownHostsFile=\"{}\"", known_hosts.display()),
        format!("HostKeyAlias={}", vm.name()),
        format!("StrictHostKeyChecking={checking}"),
        // Offering every key of the user's agent first runs into the server's limit of attempts.
        "IdentitiesOnly=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ]
}
