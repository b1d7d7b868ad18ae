//! The key by which a guest's SSH server shows who it is, made on the host: the host then knows the guest before they first meet, and
//! `ssh` neither asks nor trusts blindly.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The private key, within a VM's folder.
pub const PRIVATE: &str = "ssh_host_ed25519_key";
/// The public key, within a VM's folder.
pub const PUBLIC: &str = "ssh_host_ed25519_key.pub";
/// What ssh(1) compares guests with, within a VM's folder.
const KNOWN_HOSTS: &str = "known_hosts";

/// A guest's key pair.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostKey {
    /// The private key's file, in OpenSSH's format.
    pub private: String,
    /// The public key's line.
    pub public: String,
}

impl std::fmt::Debug for HostKey {
    /// Without the private key, which is not for logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Why there is no key for a guest.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// ssh-keygen is missing.
    #[error("cannot run ssh-keygen (install it: apt install openssh-client)")]
    NoProgram(#[source] io::Error),
    /// It ran, and made no key.
    #[error("ssh-keygen made no host key: {0}")]
    Failed(String),
    /// A file.
    #[error("cannot keep the guest's host key in {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The key pair in `folder`, made where there is none, with the public key in the folder's `known_hosts` under the name `name`.
pub fn ensure(folder: &Path, name: &str) -> Result<HostKey, HostKeyError> {
    let key = match read(folder)? {
        Some(key) => key,
        None => {
            make(folder)?;
            read(folder)?.ok_or_else(|| HostKeyError::Failed("it left no file".to_owned()))?
        }
    };
    // sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"; anew at each start, as the VM may have another name by now.
    let mut words = key.public.split_whitespace();
    let line = format!("{name} {} {}\n", words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = folder.join(KNOWN_HOSTS);
    if fs::read_to_string(&path).is_ok_and(|text| text == line) {
        return Ok(key);
    }
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(line.as_bytes())?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|source| HostKeyError::Io { path: path.clone(), source })?;
    Ok(key)
}

fn read(folder: &Path) -> Result<Option<HostKey>, HostKeyError> {
    let text = |file| {
        let path = folder.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HostKeyError::Io { path, source }),
        }
    };
    Ok(text(PRIVATE)?.zip(text(PUBLIC)?).map(|(private, public)| HostKey { private, public }))
}

/// Makes the pair in a folder of its own first, so that what an interrupted call leaves is never taken for a key.
fn make(folder: &Path) -> Result<(), HostKeyError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| HostKeyError::Io { path, source }
    };
    let scratch = tempfile::Builder::new().prefix(".host-key-").tempdir_in(folder).map_err(io(folder))?;
    let new = scratch.path().join(PRIVATE);
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "midge", "-f"])
        .arg(&new)
        .stdin(Stdio::null())
        .output()
        .map_err(HostKeyError::NoProgram)?;
    if !output.status.success() {
        return Err(HostKeyError::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    // The private key last: without it the pair is made anew.
    for file in [PUBLIC, PRIVATE] {
        let target = folder.join(file);
        fs::rename(scratch.path().join(file), &target).map_err(io(&target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_known_under_the_present_name() {
        let folder = tempfile::tempdir().unwrap();
        let first = ensure(folder.path(), "web").unwrap();
        assert!(first.private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        let known = || fs::read_to_string(folder.path().join(KNOWN_HOSTS)).unwrap();
        let key = first.public.split(' ').nth(1).unwrap();
        assert_eq!(known(), format!("web ssh-ed25519 {key}\n"));
        assert_eq!(ensure(folder.path(), "shop").unwrap(), first);
        assert!(known().starts_with("shop "));
        let mode = fs::metadata(folder.path().join(PRIVATE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains("PRIVATE"));
        // Nothing else is left.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
