//! The files of networks and their users, and the lock on them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::NatError;
use super::{Plan, User};

const LOCK: &str = "lock";
const NETWORK: &str = "network.json";
const USERS: &str = "users";

/// The files of one network, and the directory that it shares with the others.
#[derive(Debug, Clone)]
pub(super) struct Store {
    state: PathBuf,
    name: String,
}

/// They, while nobody else changes them or what is in the kernel.
#[derive(Debug)]
pub(super) struct Locked {
    store: Store,
    /// The lock is released with the descriptor, also when the process is killed.
    _lock: File,
}

impl Store {
    pub(super) fn new(state: &Path, name: &str) -> Self {
        Self { state: state.to_owned(), name: name.to_owned() }
    }

    /// Waits for the lock that all networks of the directory have in common.
    pub(super) async fn lock(&self) -> Result<Locked, NatError> {
        let state = self.state.clone();
        let locking = tokio::task::spawn_blocking(move || {
            let path = state.join(LOCK);
            fs::create_dir_all(&state).map_err(failed("make", &state))?;
            let file = File::create(&path).map_err(failed("open", &path))?;
            file.lock().map_err(failed("lock", &path))?;
            Ok::<_, NatError>(file)
        });
        let lock = match locking.await {
            Ok(lock) => lock?,
            Err(error) => return Err(failed("lock", &self.state)(io::Error::other(error))),
        };
        Ok(Locked { store: self.clone(), _lock: lock })
    }
}

impl Locked {
    fn directory(&self) -> PathBuf {
        self.store.state.join(&self.store.name)
    }

    fn user_file(&self, id: &str) -> PathBuf {
        self.directory().join(USERS).join(format!("{id}.json"))
    }

    /// What the network is, if it is known.
    pub(super) fn plan(&self) -> Result<Option<Plan>, NatError> {
        read(&self.directory().join(NETWORK))
    }

    pub(super) fn save_plan(&self, plan: &Plan) -> Result<(), NatError> {
        write(&self.directory(), NETWORK, plan)
    }

    /// Its users, by name.
    pub(super) fn users(&self) -> Result<Vec<User>, NatError> {
        users(&self.directory())
    }

    /// The users of all networks, each with its network.
    pub(super) fn everyone(&self) -> Result<Vec<(String, User)>, NatError> {
        let mut everyone = Vec::new();
        for name in names(&self.store.state)? {
            for user in users(&self.store.state.join(&name))? {
                everyone.push((name.clone(), user));
            }
        }
        Ok(everyone)
    }

    pub(super) fn save_user(&self, user: &User) -> Result<(), NatError> {
        write(&self.directory().join(USERS), &format!("{}.json", user.id), user)
    }

    pub(super) fn remove_user(&self, id: &str) -> Result<(), NatError> {
        unless_gone(fs::remove_file(self.user_file(id))).map_err(failed("remove", &self.user_file(id)))
    }

    /// Forgets the network.
    pub(super) fn remove(&self) -> Result<(), NatError> {
        let directory = self.directory();
        unless_gone(fs::remove_dir_all(&directory)).map_err(failed("remove", &directory))
    }
}

/// The names of the networks below a directory, in order.
pub(super) fn names(state: &Path) -> Result<Vec<String>, NatError> {
    let mut names = entries(state)?;
    names.retain(|name| state.join(name).join(NETWORK).is_file());
    Ok(names)
}

fn users(directory: &Path) -> Result<Vec<User>, NatError> {
    let directory = directory.join(USERS);
    let mut users = Vec::new();
    for name in entries(&directory)?.iter().filter(|name| name.strip_suffix(".json").is_some()) {
        users.extend(read(&directory.join(name))?);
    }
    Ok(users)
}

/// The names of what is in a directory, in order; nothing if it is not there.
fn entries(directory: &Path) -> Result<Vec<String>, NatError> {
    let list = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(directory)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<_> = names.collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(failed("read", directory)),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, NatError> {
    match fs::read(path) {
        Ok(bytes) => {
            let content = serde_json::from_slice(&bytes);
            content.map(Some).map_err(|source| NatError::Content { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Replaces a file as a whole, so that a kill leaves the old one or the new one.
fn write(directory: &Path, name: &str, content: &impl Serialize) -> Result<(), NatError> {
    let path = directory.join(name);
    let new = directory.join(format!("{name}.new"));
    let written = || {
        fs::create_dir_all(directory)?;
        let bytes = serde_json::to_vec(content)?;
        File::create(&new)?.write_all(&bytes)?;
        fs::rename(&new, &path)
    };
    written().map_err(failed("write", &path))
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NatError {
    move |source| NatError::File { operation, path: path.to_owned(), source }
}
