//! What a guest is told at its boot: its name, its identity, who may log in, and files.
//!
//! There are two ways. **Credentials** (systemd.system-credentials(7)) are read by systemd 252 and later from QEMU's fw_cfg
//! device, on every machine type; systemd's own early units act on them, so nothing is started for it and nothing waited for. The
//! name and the machine-id are words on the kernel's command line (kernel-command-line(7)), as the first process wants them before
//! it reads credentials. **cloud-init** reads a volume ([`cloud_init`]); it does more, and takes its time.
//!
//! Guests that know nothing of credentials do not look for them, so every kind of guest is given the same: what differs between two
//! command lines is what is booted.

pub mod cloud_init;
mod credentials;
mod host_key;
mod method;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use credentials::names as credential_names;
pub use host_key::{
    HostKey, HostKeyError, PRIVATE as HOST_KEY, PUBLIC as HOST_PUBLIC_KEY, ensure as ensure_host_key,
};
pub use method::{Guest, Method, MethodError, method};

use crate::spec::{Kind, Mac, VmSpec};
use crate::store::VmDir;

/// The folder of the credentials, within a VM's run folder.
const CREDENTIALS: &str = "seed";
/// The volume for cloud-init, within a VM's run folder.
const VOLUME: &str = "seed.img";
/// Exists in a VM's folder when its guest has been up: files are given to it no more.
pub const PROVISIONED: &str = "provisioned";

/// Everything that goes into what a guest is told.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The way.
    pub method: Method,
    /// The VM's id: the guest's machine-id, and cloud-init's instance-id.
    pub id: uuid::Uuid,
    /// The address of each of its interfaces.
    pub macs: Vec<Mac>,
    /// The image has cloud-init.
    pub has_cloud_init: bool,
}

/// Why what a guest is to be told cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The user-data.
    #[error("the VM's user-data cannot be used")]
    UserData(#[from] cloud_init::UserDataError),
    /// A file.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Seed {
    /// Nothing is told.
    #[must_use]
    pub fn nothing() -> Self {
        Self { method: Method::Nothing, id: uuid::Uuid::nil(), macs: Vec::new(), has_cloud_init: false }
    }

    /// The words for the guest's kernel.
    #[must_use]
    pub fn kernel_words(&self, spec: &VmSpec) -> Vec<String> {
        if spec.kind != Kind::Linux {
            return Vec::new();
        }
        let mut words = Vec::new();
        if self.method != Method::Nothing {
            words.push(format!("systemd.hostname={}", spec.name));
            // Else a clone of a disk that has been booted would share its id, and with it DHCP's idea of who it is.
            words.push(format!("systemd.machine_id={}", self.id.simple()));
        }
        if self.method == Method::Credentials && self.has_cloud_init {
            // cloud-init's generator looks for it (cloud-init-generator).
            words.push("cloud-init=disabled".to_owned());
        }
        words
    }

    /// The files of the credentials by their names; they are written by [`Seed::write`].
    #[must_use]
    pub fn credential_files(&self, spec: &VmSpec, dir: &VmDir) -> Vec<(String, PathBuf)> {
        if !self.has_credentials() {
            return Vec::new();
        }
        let folder = dir.run_dir().join(CREDENTIALS);
        let with_path = |name: String| {
            let path = folder.join(&name);
            (name, path)
        };
        credential_names(spec).into_iter().map(with_path).collect()
    }

    /// The volume for cloud-init, where there is to be one; it is written by [`Seed::write`].
    #[must_use]
    pub fn volume(&self, dir: &VmDir) -> Option<PathBuf> {
        (self.method == Method::CloudInit).then(|| dir.run_dir().join(VOLUME))
    }

    fn has_credentials(&self) -> bool {
        self.method == Method::Credentials || self.method == Method::Unasked
    }

    /// Writes what the guest is told to where QEMU reads it. Answers what the user should know, a line each.
    pub fn write(&self, spec: &VmSpec, dir: &VmDir, own_key: Option<&str>) -> Result<Vec<String>, SeedError> {
        let mut notes = Vec::new();
        if self.method == Method::Nothing {
            return Ok(notes);
        }
        let user_data = match (&spec.cloud_init, self.method) {
            (Some(data), Method::CloudInit) => Some(cloud_init::UserData::read(&data.0)?),
            _ => None,
        };
        // A guest that may not take the key, or is given another by its user, is met on trust.
        let takes_host_key = match self.method {
            Method::Credentials => true,
            Method::CloudInit => !user_data.as_ref().is_some_and(|data| data.sets("ssh_keys")),
            Method::Unasked | Method::Nothing => false,
        };
        let host_key = if takes_host_key {
            host_key::ensure(dir.state_dir(), &spec.name)
                .map_err(|e| {
                    let why = crate::error::chain(&e);
                    notes.push(format!(
                        "{why}; the guest makes an SSH host key of its own, which is taken on trust"
                    ));
                })
                .ok()
        } else {
            None
        };
        let keys: Vec<&str> = own_key.into_iter().chain(spec.ssh_keys.iter().map(String::as_str)).collect();
        let first = !dir.state_dir().join(PROVISIONED).exists();
        let told = Told { spec, keys, host_key, first, macs: &self.macs };
        if self.method == Method::CloudInit {
            let path = dir.run_dir().join(VOLUME);
            let files = cloud_init::files(&told, self, user_data.as_ref());
            secret_file(&path)
                .and_then(|file| cloud_init::write_volume(file, &files))
                .map_err(|source| SeedError::Io { path, source })?;
            return Ok(notes);
        }
        let folder = dir.run_dir().join(CREDENTIALS);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| SeedError::Io { path: folder.clone(), source })?;
        for (name, content) in credentials::contents(&told) {
            let path = folder.join(name);
            secret_file(&path)
                .and_then(|mut file| file.write_all(&content))
                .map_err(|source| SeedError::Io { path, source })?;
        }
        Ok(notes)
    }
}

/// What is told, whatever the way.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    spec: &'a VmSpec,
    /// Who may log in, in OpenSSH's one-line format.
    keys: Vec<&'a str>,
    /// The key by which the guest's SSH server shows who it is.
    host_key: Option<HostKey>,
    /// The guest has not been up before.
    first: bool,
    /// The address of each of its interfaces.
    macs: &'a [Mac],
}

/// Removes what [`Seed::write`] wrote: it holds a private key.
pub fn clear(run_dir: &Path) {
    let _ = fs::remove_file(run_dir.join(VOLUME));
    let _ = fs::remove_dir_all(run_dir.join(CREDENTIALS));
}

/// An empty file that only its owner may read.
fn secret_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// midge's own public key, if the pair has been made.
#[must_use]
pub fn own_key(home: &crate::store::Home) -> Option<String> {
    let text = fs::read_to_string(home.state().join("ssh").join("id_ed25519.pub")).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_linux_is_told_its_name_on_the_command_line() {
        let mut spec = VmSpec::named("web");
        spec.kind = Kind::Linux;
        let id = uuid::Uuid::from_u128(0x5eed);
        let mut seed = Seed { method: Method::Credentials, id, macs: Vec::new(), has_cloud_init: false };
        let machine_id = "systemd.machine_id=00000000000000000000000000005eed";
        assert_eq!(seed.kernel_words(&spec), ["systemd.hostname=web", machine_id]);
        seed.has_cloud_init = true;
        assert_eq!(seed.kernel_words(&spec)[2..], ["cloud-init=disabled"]);
        seed.method = Method::CloudInit;
        assert_eq!(seed.kernel_words(&spec).len(), 2);
        seed.method = Method::Nothing;
        assert!(seed.kernel_words(&spec).is_empty());
        spec.kind = Kind::Solo5;
        seed.method = Method::Unasked;
        assert!(seed.kernel_words(&spec).is_empty());
    }
}
