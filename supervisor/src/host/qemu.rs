//! Which QEMU is installed and what it can do, from one short run of it or from the cache.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::QemuFacts;
use super::cache::Cache;
use super::programs::{self, Missing};
use crate::spec::Arch;

mod talk;

/// Environment variable that names the QEMU binary for guests of the host's own architecture.
pub const OVERRIDE: &str = "MIDGE_QEMU";

/// The oldest QEMU that midge works with, as (major, minor, micro): Debian 12's.
pub const OLDEST: (u32, u32, u32) = (7, 2, 0);

/// Why there is no QEMU to use.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// None installed.
    #[error("{} is not in PATH; install it (Debian: `apt-get install {}`)", program(*arch), package(*arch))]
    NotFound {
        /// The guests wanted.
        arch: Arch,
    },
    /// [`OVERRIDE`] names a file that is not there or cannot be seen.
    #[error("{OVERRIDE} names {path}, which cannot be used; correct or unset it")]
    Override {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file exists, but may not be executed.
    #[error("{path} is not executable; `chmod +x` it or name another in {OVERRIDE}")]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// The system refused to run it: another machine's program, a missing loader.
    #[error("{path} could not be started; reinstall it or name another in {OVERRIDE}")]
    Spawn {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended before it had answered.
    #[error("{path} died when asked what it can do ({status}){}", said(stderr))]
    Died {
        /// The file.
        path: PathBuf,
        /// Exit code or signal, in words.
        status: String,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// It gave no answer in time.
    #[error("{path} did not answer within {seconds} s{}", said(stderr))]
    Timeout {
        /// The file.
        path: PathBuf,
        /// How long it was given.
        seconds: u64,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// Older than [`OLDEST`].
    #[error(
        "{path} is QEMU {}, midge needs {} or newer; install a newer one (Debian: from backports) or name one in {OVERRIDE}",
        dotted(*found), dotted(OLDEST)
    )]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: (u32, u32, u32),
    },
    /// It runs other guests than asked for.
    #[error("{path} runs {found} guests, not {wanted} ones; correct or unset {OVERRIDE}", wanted = name(*wanted))]
    WrongTarget {
        /// The file.
        path: PathBuf,
        /// QEMU's word for what it runs.
        found: String,
        /// What it was wanted for.
        wanted: Arch,
    },
    /// It said something that is not QMP, or not what QMP documents.
    #[error("{path} was not understood: {reason}; is it QEMU?")]
    Output {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
}

impl QemuError {
    /// What to do about it, as one command or sentence.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::NotFound { arch } => format!("sudo apt-get install {}", package(*arch)),
            Self::Override { .. } | Self::WrongTarget { .. } => format!("unset {OVERRIDE}"),
            Self::NotExecutable { path } => format!("sudo chmod +x {}", path.display()),
            Self::Spawn { path, .. }
            | Self::Died { path, .. }
            | Self::Timeout { path, .. }
            | Self::Output { path, .. } => {
                format!("run `{} --version` to see what is wrong with it", path.display())
            }
            Self::TooOld { .. } => {
                format!(
                    "install QEMU {} or newer (Debian: from backports) or name one in {OVERRIDE}",
                    dotted(OLDEST)
                )
            }
        }
    }
}

/// Finds the QEMU for guests of `arch` and says what it can do.
///
/// For the host's own architecture `$MIDGE_QEMU` names the binary; else it is `qemu-system-x86_64` or
/// `qemu-system-aarch64` in `$PATH`. A binary seen before costs one `stat` and one small file (below 1 ms); a new or
/// changed one is run once (about 50 ms). Change is told by path, device, inode, size and modification time, so
/// a wrapper script hides an exchange of the QEMU behind it.
pub fn facts(arch: Arch) -> Result<QemuFacts, QemuError> {
    facts_with(arch, &Cache::of_user())
}

/// As [`facts`], with a cache of the caller's choice.
pub fn facts_with(arch: Arch, cache: &Cache) -> Result<QemuFacts, QemuError> {
    let chosen = if arch == Arch::host() { std::env::var_os(OVERRIDE) } else { None };
    let path = find(arch, chosen.as_deref(), std::env::var_os("PATH").as_deref())?;
    facts_of(&path, arch, cache)
}

/// As [`facts`], for the binary at `path` and a cache of the caller's choice.
pub fn facts_of(path: &Path, arch: Arch, cache: &Cache) -> Result<QemuFacts, QemuError> {
    let key = Key::of(path)?;
    let name = key.file_name();
    if let Some(facts) = cache.get::<Key, QemuFacts>(&name, &key)
        && facts.arch == arch
    {
        return Ok(QemuFacts { path: path.to_owned(), ..facts });
    }
    let facts = talk::probe(path, arch)?;
    cache.put(&name, &key, &facts);
    Ok(facts)
}

/// The name of QEMU's program for guests of `arch`.
#[must_use]
pub const fn program(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86_64",
        Arch::Aarch64 => "qemu-system-aarch64",
    }
}

/// Debian's package with [`program`].
#[must_use]
pub const fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86",
        Arch::Aarch64 => "qemu-system-arm",
    }
}

/// The architecture as QEMU calls it (`query-target`).
pub(super) const fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "aarch64",
    }
}

/// A version as people write it.
#[must_use]
pub fn dotted((major, minor, micro): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{micro}")
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { "; it wrote nothing to stderr".to_owned() } else { format!(": {stderr}") }
}

/// The binary to run: `chosen` if given, else the first executable of its name in `path` (as `$PATH`).
fn find(arch: Arch, chosen: Option<&OsStr>, path: Option<&OsStr>) -> Result<PathBuf, QemuError> {
    if let Some(chosen) = chosen.filter(|chosen| !chosen.is_empty()) {
        let path = PathBuf::from(chosen);
        return match std::fs::metadata(&path) {
            Err(source) => Err(QemuError::Override { path, source }),
            Ok(about) if !programs::is_executable(&about) => Err(QemuError::NotExecutable { path }),
            Ok(_) => Ok(path),
        };
    }
    programs::find(program(arch), path.unwrap_or_default()).map_err(|missing| match missing {
        Missing::NotExecutable(path) => QemuError::NotExecutable { path },
        Missing::NoFile => QemuError::NotFound { arch },
    })
}

/// What a cached answer depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    /// Form of the answer; raised when [`QemuFacts`] or its making changes.
    schema: u32,
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    mtime: i64,
    mtime_nsec: i64,
}

impl Key {
    fn of(path: &Path) -> Result<Self, QemuError> {
        let about = |path: &Path| {
            let path = path.canonicalize()?;
            let about = path.metadata()?;
            Ok((path, about))
        };
        match about(path) {
            Ok((path, about)) => Ok(Self {
                schema: 1,
                path,
                device: about.dev(),
                inode: about.ino(),
                size: about.size(),
                mtime: about.mtime(),
                mtime_nsec: about.mtime_nsec(),
            }),
            Err(source) => Err(QemuError::Spawn { path: path.to_owned(), source }),
        }
    }

    /// One file per path, so that an upgraded QEMU takes its predecessor's place. The path's own file name is in it for
    /// people, its digest for uniqueness.
    fn file_name(&self) -> String {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(self.path.as_os_str().as_encoded_bytes());
        let short = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let stem = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("qemu/{stem}-{short:016x}.json")
    }
}

#[cfg(test)]
mod tests;
