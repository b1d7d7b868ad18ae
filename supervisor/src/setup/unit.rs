//! The unit for systemd that prepares everything anew at every boot (systemd.unit(5), systemd.service(5)).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where an administrator's units lie, and what marks a system that runs systemd (sd_booted(3)).
const UNITS: &str = "/etc/systemd/system";
const BOOTED: &str = "/run/systemd/system";
/// The target that units of an ordinary boot are wanted by, and its folder of such wishes.
const TARGET: &str = "multi-user.target";

/// Whether this system is run by systemd.
#[must_use]
pub fn is_possible() -> bool {
    Path::new(BOOTED).is_dir()
}

/// The unit's file for a user.
#[must_use]
pub fn path(user: &str, uid: u32) -> PathBuf {
    Path::new(UNITS).join(name(user, uid))
}

/// Whether nobody but root can put another program in the place of this one: it, and every folder above it, is root's and writable by
/// no other; a folder like /tmp, where each may remove only what is his own (the sticky bit, inode(7)), does no harm.
#[must_use]
pub fn is_roots_own(program: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(program) = program.canonicalize() else { return false };
    program.ancestors().all(|path| {
        path.metadata().is_ok_and(|meta| {
            let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
            meta.uid() == 0 && (meta.mode() & 0o022 == 0 || sticky)
        })
    })
}

/// Writes the unit and has it started at every boot, as `systemctl enable` does. A systemd that runs reads it at the next boot.
pub fn write(user: &str, uid: u32, command: &[&str]) -> io::Result<()> {
    let path = path(user, uid);
    let new = path.with_extension("new");
    fs::write(&new, text(user, command))?;
    fs::rename(&new, &path)?;
    let wish = wish(user, uid);
    if let Some(folder) = wish.parent() {
        fs::create_dir_all(folder)?;
    }
    match symlink(&path, &wish) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes the unit; says whether it was there.
pub fn remove(user: &str, uid: u32) -> io::Result<bool> {
    let gone = |path: &Path| match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    };
    gone(&wish(user, uid))?;
    gone(&path(user, uid))
}

fn wish(user: &str, uid: u32) -> PathBuf {
    Path::new(UNITS).join(format!("{TARGET}.wants")).join(name(user, uid))
}

/// By the user's name where that can be part of a unit's, else by the number.
fn name(user: &str, uid: u32) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !user.is_empty() && user.bytes().all(plain) {
        format!("midge-net-{user}.service")
    } else {
        format!("midge-net-{uid}.service")
    }
}

fn text(user: &str, command: &[&str]) -> String {
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    format!(
        "# Written by `midge net setup --boot`; `midge net setup --user … --remove` takes it away.\n\
         [Unit]\n\
         Description=midge: interfaces for the virtual machines of {}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={}\n\
         \n\
         [Install]\n\
         WantedBy={TARGET}\n",
        user.replace('%', "%%"),
        command.join(" ")
    )
}

/// A word of a command line (systemd.service(5), "Command lines"): quoted, without specifiers and variables.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=,:".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_says_what_to_run() {
        let unit =
            text("pi", &["/opt/my midge", "net", "setup", "--net", "bridge=br0", "--user", "a%b$c\"d\\"]);
        let line = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        assert_eq!(line, r#"ExecStart="/opt/my midge" net setup --net bridge=br0 --user "a%%b$$c\"d\\""#);
        assert!(unit.contains("\nType=oneshot\n") && unit.contains("\nAfter=network-online.target\n"));
    }

    #[test]
    fn a_name_that_is_no_units_is_replaced_by_the_number() {
        assert!(path("pi", 1000).ends_with("midge-net-pi.service"));
        assert!(path("DOM\\a b", 1000).ends_with("midge-net-1000.service"));
    }
}
