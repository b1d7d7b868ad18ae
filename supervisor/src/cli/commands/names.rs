//! `hosts` and `ssh-config`: the VMs' names for programs that know nothing of midge.

use std::fmt::Write;
use std::net::IpAddr;

use serde::Serialize;

use crate::cli::args::{HostsArgs, SshConfigArgs};
use crate::cli::context::Context;
use crate::cli::exit::Failed;
use crate::cli::{Outcome, describe, output, ssh_key};
use crate::spec::Net;
use crate::store::{Source, VmDir};

/// A running VM that others can reach.
#[derive(Debug, Serialize)]
struct Host {
    name: String,
    addresses: Vec<IpAddr>,
}

/// The running VMs whose addresses mean something outside of QEMU, sorted by name.
fn hosts(context: &Context) -> Result<Vec<Host>, Failed> {
    let home = context.home()?;
    let mut hosts = Vec::new();
    for name in home.vm_names()? {
        let vm = home.vm(&name);
        let status = vm.status();
        // A VM that is just being removed is none.
        let (Some(run), Ok(record)) = (describe::running(&status), vm.record()) else { continue };
        if !record.spec.nets.iter().any(Net::has_tap) {
            continue;
        }
        let heard = |address: &&IpAddr| {
            let by_port = |h: &&crate::store::Heard| !matches!(h.source, Source::Agent | Source::Console);
            let mut heard = run.heard.iter().filter(by_port);
            heard.any(|h| h.address == **address && run.ports.iter().any(|p| p.net == h.net))
        };
        let addresses: Vec<IpAddr> = run.addresses.iter().filter(heard).copied().collect();
        if !addresses.is_empty() {
            hosts.push(Host { name, addresses });
        }
    }
    Ok(hosts)
}

/// `midge hosts`: lines for hosts(5).
pub(super) fn print_hosts(context: &Context, args: &HostsArgs) -> Outcome {
    let hosts = hosts(context)?;
    if args.output.json() {
        #[derive(Serialize)]
        struct Hosts {
            hosts: Vec<Host>,
        }
        output::json(&Hosts { hosts })?;
        return Ok(0);
    }
    let text = hosts_text(&hosts, args.domain.as_deref());
    output::print(|out| out.write_all(text.as_bytes()))?;
    Ok(0)
}

/// One line for each address: the address, the name with the domain, the name (hosts(5)).
fn hosts_text(hosts: &[Host], domain: Option<&str>) -> String {
    let mut text = String::new();
    for host in hosts {
        for address in &host.addresses {
            // Writing to a string does not fail.
            let _ = match domain {
                Some(domain) => writeln!(text, "{address}\t{0}.{domain} {0}", host.name),
                None => writeln!(text, "{address}\t{}", host.name),
            };
        }
    }
    text
}

/// `midge ssh-config`: a file for OpenSSH's `Include` (ssh_config(5)).
pub(super) fn ssh_config(context: &Context, _args: &SshConfigArgs) -> Outcome {
    let home = context.home()?;
    ssh_key::ensure(home)?;
    let key = ssh_key::private_key(home).display().to_string();
    let mut text = String::from(
        "# The virtual machines of midge that run now. `midge ssh-config > ~/.ssh/midge`, and in ~/.ssh/config: Include midge\n",
    );
    for host in hosts(context)? {
        if let Some(address) = host.addresses.first() {
            let vm = home.vm(&host.name);
            // As `midge ssh` logs in.
            let login = vm.record().ok().and_then(|record| record.spec.user);
            text.push_str(&entry(&vm, &key, *address, login.as_deref().unwrap_or("root")));
        }
    }
    output::print(|out| out.write_all(text.as_bytes()))?;
    Ok(0)
}

/// One VM's entry, with the settings of `midge ssh`.
fn entry(vm: &VmDir, key: &str, address: IpAddr, login: &str) -> String {
    let mut text = format!("\nHost {}\n    HostName {address}\n    User {login}\n", vm.name());
    for setting in super::ssh::settings(vm, key) {
        // `Key=Value` there, `Key Value` here: ssh_config(5) takes both, people write the latter.
        let _ = writeln!(text, "    {}", setting.replacen('=', " ", 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Home;

    #[test]
    fn lines_of_hosts() {
        let host = Host {
            name: "web".to_owned(),
            addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        };
        assert_eq!(hosts_text(std::slice::from_ref(&host), None), "192.0.2.7\tweb\n2001:db8::7\tweb\n");
        assert_eq!(hosts_text(&[host], Some("lan")), "192.0.2.7\tweb.lan web\n2001:db8::7\tweb.lan web\n");
    }

    #[test]
    fn an_entry_for_openssh() {
        let vm = Home::new("/h".into(), "/r".into()).vm("web");
        let text = entry(&vm, "/h/ssh/key", "192.0.2.7".parse().unwrap(), "pi");
        for line in [
            "Host web",
            "    User pi",
            "    HostName 192.0.2.7",
            "    IdentityFile \"/h/ssh/key\"",
            "    UserKnownHostsFile \"/h/vms/web/known_hosts\"",
            "    HostKeyAlias web",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}
