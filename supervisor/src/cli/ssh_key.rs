//! midge's own SSH key, by which it reaches its guests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::exit::{ExitKind, Failed};
use crate::store::Home;

/// Where the private key lies.
pub(super) fn private_key(home: &Home) -> PathBuf {
    home.state().join("ssh").join("id_ed25519")
}

/// The public key, in OpenSSH's one-line format. The pair is made at the first call, by `ssh-keygen`.
///
/// It appears by one rename(2) of its folder, so two commands at the same moment end with the same pair.
///
/// # Errors
/// [`ExitKind::HostUnfit`] without `ssh-keygen`.
pub(super) fn ensure(home: &Home) -> Result<String, Failed> {
    if let Some(key) = public_key(home)? {
        return Ok(key);
    }
    let scratch = home.scratch("ssh")?;
    // Its own folder with its own lock file: only the pair moves.
    let folder = scratch.path().join("ssh");
    fs::create_dir(&folder).map_err(|e| Failed::io(format!("cannot create {}", folder.display()), e))?;
    generate(&folder.join("id_ed25519"))?;
    let target = home.state().join("ssh");
    match fs::rename(&folder, &target) {
        Ok(()) => {}
        // Another command was quicker.
        Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
        Err(e) => return Err(Failed::io(format!("cannot rename into place {}", target.display()), e)),
    }
    public_key(home)?.ok_or_else(|| {
        Failed::new(ExitKind::Other, format!("{} holds no key pair; remove the folder", target.display()))
    })
}

fn public_key(home: &Home) -> Result<Option<String>, Failed> {
    let path = private_key(home).with_extension("pub");
    match fs::read_to_string(&path) {
        Ok(text) => {
            Ok(text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failed::io(format!("cannot read {}", path.display()), e)),
    }
}

fn generate(path: &Path) -> Result<(), Failed> {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "midge", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            let failed = Failed::io("cannot run ssh-keygen, which makes midge's own SSH key", e);
            Failed { kind: ExitKind::HostUnfit, ..failed }.hint("install it: apt install openssh-client")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failed::new(ExitKind::Other, format!("ssh-keygen did not make a key: {words}")))
}

/// The keys that a `--ssh-key` names: one key as it is, or those of a file in OpenSSH's format.
pub(super) fn named(text: &str) -> Result<Vec<String>, Failed> {
    if is_key(text) {
        return Ok(vec![text.trim().to_owned()]);
    }
    let content = fs::read_to_string(text).map_err(|e| {
        let failed =
            Failed::io(format!("--ssh-key: `{text}` is neither a public key nor a file with one"), e);
        Failed { kind: ExitKind::Usage, ..failed }
    })?;
    if content.contains("PRIVATE KEY") {
        let failed = Failed::new(ExitKind::Usage, format!("--ssh-key: `{text}` is a private key"));
        return Err(failed.hint(format!("the public one is usually {text}.pub")));
    }
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    match keys.iter().find(|key| !is_key(key)) {
        None if keys.is_empty() => {
            Err(Failed::new(ExitKind::Usage, format!("--ssh-key: `{text}` holds no key")))
        }
        None => Ok(keys),
        Some(_) => {
            Err(Failed::new(ExitKind::Usage, format!("--ssh-key: `{text}` is no file of public keys")))
        }
    }
}

/// A public key's line begins with its type, the base64 of which the key itself begins with (sshd(8), "authorized_keys").
fn is_key(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let known = words.next().is_some_and(|word| {
        word.starts_with("ssh-") || word.starts_with("ecdsa-sha2-") || word.starts_with("sk-")
    });
    known && words.next().is_some_and(|word| word.starts_with("AAAA"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJf me@here";

    #[test]
    fn a_key_is_taken_as_it_is_or_from_a_file() {
        assert_eq!(named(KEY).unwrap(), [KEY]);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("# mine\n\n{KEY}\n{KEY}2\n")).unwrap();
        assert_eq!(named(file.path().to_str().unwrap()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for content in ["", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "hello\n"] {
            fs::write(path, content).unwrap();
            assert_eq!(named(path).unwrap_err().kind, ExitKind::Usage, "{content:?}");
        }
        assert_eq!(named("/nowhere/at/all").unwrap_err().kind, ExitKind::Usage);
    }
}
