//! The machine's name and id.

use core::ffi::CStr;

use midge_identify::report::Outcome;
use midge_identify::text::Text;
use midge_identify::texts;

use crate::files;
use crate::sys::{self, EEXIST, ENOENT, Errno};

const HOSTNAME: &CStr = c"/etc/hostname";
const HOSTS: &CStr = c"/etc/hosts";
const MACHINE_ID: &CStr = c"/etc/machine-id";
/// Where systemd keeps the id of a machine whose /etc cannot be written (machine-id(5)).
const TRANSIENT_ID: &CStr = c"/run/machine-id";
const DBUS_ID: &CStr = c"/var/lib/dbus/machine-id";

/// The kernel's name, the file for the next boot, and the name's line among the hosts.
pub(crate) fn set_hostname(name: &str) -> Outcome {
    let mut buffer = [0; 390];
    let old = sys::hostname(&mut buffer);
    let failed = |what: &str, e: Errno| Outcome::failed(format_args!("cannot {what}: {e}"));
    if let Err(e) = sys::set_hostname(name) {
        return failed("set the hostname", e);
    }
    if let Err(e) = files::write(HOSTNAME, &[name.as_bytes(), b"\n"], 0o644) {
        return failed("write /etc/hostname", e);
    }
    let mut hosts = [0; 16 << 10];
    let mut changed = Text::<{ 17 << 10 }>::default();
    match files::read(HOSTS, &mut hosts) {
        Ok(text) if text.len() < 16 << 10 => {
            let found = texts::replace_word(text, old, name.as_bytes(), |part| changed.push(part));
            if found && let Err(e) = files::write(HOSTS, &[changed.bytes()], 0o644) {
                return failed("write /etc/hosts", e);
            }
        }
        Ok(_) => return Outcome::failed(format_args!("/etc/hosts is too large to look for the old name")),
        Err(ENOENT) => {}
        Err(e) => return failed("read /etc/hosts", e),
    }
    Outcome::done(format_args!("{name}"))
}

/// The id in every place that keeps it. systemd's first process and its services keep the old one in memory; what is kept under the id's
/// name is found under the new one too.
pub(crate) fn set_machine_id(id: &str) -> Outcome {
    let mut buffer = [0; 64];
    let old = match files::read(MACHINE_ID, &mut buffer) {
        Ok(bytes) => core::str::from_utf8(bytes).unwrap_or_default().trim_ascii(),
        Err(ENOENT) => return Outcome::not_applicable(format_args!("there is no /etc/machine-id")),
        Err(e) => return Outcome::failed(format_args!("cannot read /etc/machine-id: {e}")),
    };
    for place in [MACHINE_ID, TRANSIENT_ID, DBUS_ID] {
        // D-Bus's is mostly a link to the first.
        if !sys::exists(place) || (place != MACHINE_ID && sys::target(place, &mut [0; 256]).is_ok()) {
            continue;
        }
        if let Err(e) = files::write(place, &[id.as_bytes(), b"\n"], 0o444) {
            let place = place.to_str().unwrap_or_default();
            return Outcome::failed(format_args!("cannot write {place}: {e}"));
        }
    }
    // journald writes on under the old id until it starts anew, and journalctl looks under the new one (systemd-journald.service(8)).
    for journal in ["/run/log/journal", "/var/log/journal"] {
        let linked = files::with_path(format_args!("{journal}/{old}"), |kept| {
            if old.is_empty() || !sys::exists(kept) {
                return Ok(());
            }
            files::with_path(format_args!("{old}"), |target| {
                files::with_path(format_args!("{journal}/{id}"), |path| sys::link_to(target, path))
            })
        });
        match linked {
            Ok(()) | Err(EEXIST) => {}
            Err(e) => return Outcome::failed(format_args!("cannot link the journal in {journal}: {e}")),
        }
    }
    Outcome::done(format_args!("{id}"))
}
