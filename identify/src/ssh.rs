//! The keys by which the guest's SSH server shows who it is.

use core::ffi::CStr;

use midge_identify::report::Outcome;
use midge_identify::text::Line;
use midge_identify::texts;

use crate::files;
use crate::sys::{self, Process};

const SERVER: &CStr = c"/usr/sbin/sshd";
const FOLDER: &CStr = c"/etc/ssh";
const CONFIG: &CStr = c"/etc/ssh/sshd_config";
const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
/// Since OpenSSH 9.8 this program serves a connection, with the keys of the process that listens. Before, each connection's own sshd
/// read the files (sshd.c: `-R`).
const SESSION: &CStr = c"/usr/lib/openssh/sshd-session";
const LISTENER: &CStr = c"/run/sshd.pid";

/// Writes the key, and removes those of other kinds: they are other machines' too.
pub(crate) fn set_host_key(private: &[u8], public: &[u8]) -> Outcome {
    if !sys::exists(SERVER) || !sys::exists(FOLDER) {
        return Outcome::not_applicable(format_args!("there is no SSH server"));
    }
    if let Some(problem) = foreign_key() {
        return Outcome::failed(format_args!("{}", problem.str()));
    }
    let mut removed = 0;
    let mut kept = Line::default();
    let listed = files::each(FOLDER, |name| {
        if texts::is_host_key(name) && !name.starts_with("ssh_host_ed25519_key") {
            match files::with_path(format_args!("/etc/ssh/{name}"), sys::remove) {
                Ok(()) => removed += usize::from(name.ends_with("_key")),
                Err(e) => kept = Line::of(format_args!("cannot remove /etc/ssh/{name}: {e}")),
            }
        }
    });
    if let Err(e) = listed {
        return Outcome::failed(format_args!("cannot list /etc/ssh: {e}"));
    }
    if !kept.is_empty() {
        return Outcome::failed(format_args!("{}", kept.str()));
    }
    let written = files::with_path(format_args!("{KEY}"), |path| files::write(path, &[private], 0o600))
        .and_then(|()| {
            files::with_path(format_args!("{KEY}.pub"), |path| files::write(path, &[public], 0o644))
        });
    if let Err(e) = written {
        return Outcome::failed(format_args!("cannot write {KEY}: {e}"));
    }
    if !sys::exists(SESSION) {
        return Outcome::done(format_args!("ed25519; removed {removed} of other kinds"));
    }
    match tell_listener() {
        Ok(()) => Outcome::done(format_args!("ed25519, sshd told; removed {removed} of other kinds")),
        Err(e) => Outcome::failed(format_args!("{}", e.str())),
    }
}

/// A key that sshd is configured to use and that is none of those changed here.
fn foreign_key() -> Option<Line> {
    let mut buffer = [0; 16 << 10];
    let (mut named, mut ours) = (false, false);
    let mut foreign = None;
    let mut look = |text: &str| {
        for key in texts::host_keys(text) {
            named = true;
            ours |= key == KEY;
            let name = key.strip_prefix("/etc/ssh/").unwrap_or_default();
            if !texts::is_host_key(name) {
                foreign =
                    Some(Line::of(format_args!("sshd uses the key {key}, which is not midge's to change")));
            }
        }
    };
    look(files::read_text(CONFIG, &mut buffer));
    // A folder that is missing holds no key.
    let _ = files::each(c"/etc/ssh/sshd_config.d", |name| {
        let path = Line::of(format_args!("/etc/ssh/sshd_config.d/{name}"));
        if let Some(path) = path.c_str().filter(|_| name.rsplit('.').next() == Some("conf")) {
            look(files::read_text(path, &mut buffer));
        }
    });
    if named && !ours && foreign.is_none() {
        foreign = Some(Line::of(format_args!("sshd is configured not to use {KEY}")));
    }
    foreign
}

/// Has the process that listens read the keys. One that does not run reads them when it starts.
fn tell_listener() -> Result<(), Line> {
    let mut buffer = [0; 32];
    let Ok(id) = files::read_text(LISTENER, &mut buffer).trim_ascii().parse() else { return Ok(()) };
    let mut name = [0; 32];
    let is_server = files::with_path(format_args!("/proc/{id}/comm"), |path| files::read(path, &mut name));
    if is_server != Ok(b"sshd\n") {
        return Ok(());
    }
    Process::open(id)
        .and_then(|process| process.hang_up())
        .map_err(|e| Line::of(format_args!("cannot tell sshd: {e}")))
}
