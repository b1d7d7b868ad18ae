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
    let way = Way::to(context, &args.name, args.login.as_deref())?;
    let error = Command::new("ssh").args(way.options("-p")).arg(way.destination()).args(&args.command).exec();
    Err(missing("ssh", error))
}

/// How a guest is reached by OpenSSH's programs.
#[derive(Debug)]
pub(super) struct Way {
    settings: Vec<String>,
    login: String,
    reached: Reached,
}

impl Way {
    /// Asks where the VM of that name is reached. The login is the one given, else that of the user whom the guest was told to make, else
    /// root.
    pub(super) fn to(context: &Context, name: &str, login: Option<&str>) -> Result<Self, Failed> {
        let vm = context.vm(name)?;
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
        let made = if login.is_none() { vm.record()?.spec.user } else { None };
        let login = login.map(ToOwned::to_owned).or(made).unwrap_or_else(|| "root".to_owned());
        let settings = settings(&vm, &ssh_key::private_key(home).display().to_string());
        Ok(Self { settings: settings.into(), login, reached })
    }

    /// The options of the program; `port` is its own flag for a port.
    pub(super) fn options(&self, port: &str) -> Vec<String> {
        let mut options: Vec<String> =
            self.settings.iter().flat_map(|setting| ["-o".to_owned(), setting.clone()]).collect();
        options.extend([port.to_owned(), self.reached.port.to_string()]);
        options
    }

    /// Whom to log in as, and where.
    pub(super) fn destination(&self) -> String {
        format!("{}@{}", self.login, self.reached.address)
    }

    /// A file of the guest's, as scp(1) has it.
    pub(super) fn file(&self, path: &str) -> String {
        if self.reached.address.contains(':') {
            format!("{}@[{}]:{path}", self.login, self.reached.address)
        } else {
            format!("{}:{path}", self.destination())
        }
    }
}

/// One of OpenSSH's programs cannot be run.
pub(super) fn missing(program: &str, error: std::io::Error) -> Failed {
    let failed = Failed::io(format!("cannot run {program}"), error);
    Failed { kind: ExitKind::HostUnfit, ..failed }.hint("install it: apt install openssh-client")
}

/// The guest's host key is kept with the VM, so a new VM of an old name is no surprise, and the user's own known hosts stay clean
/// (ssh_config(5)). A guest that was given its key is known before the first visit, and no other is taken for it; that of any other
/// guest is learnt then.
///
/// `Key=Value` each.
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
