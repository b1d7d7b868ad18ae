//! Network namespaces (network_namespaces(7)).
//!
//! A thread belongs to a namespace, and a socket to the namespace of the thread that made it, for ever. So whatever is made for
//! another namespace is made by a short-lived thread that has entered it, and used from anywhere.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

/// Where the namespaces of `ip netns` lie (ip-netns(8)).
const NAMED: &str = "/run/netns";

/// This process's network namespace or another one.
#[derive(Debug, Clone, Default)]
pub struct Namespace(Option<Arc<Entry>>);

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    file: File,
}

/// Why a namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// There is none, or it may not be opened.
    #[error("cannot open the network namespace {}", path.display())]
    Open {
        /// Where it was looked for.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It may not be entered (CAP_SYS_ADMIN is needed in it and in one's own user namespace), or is no network namespace.
    #[error("cannot enter the network namespace {}", path.display())]
    Enter {
        /// Where it lies.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread for another network namespace")]
    Thread(#[source] io::Error),
}

impl Namespace {
    /// The namespace of the calling thread, whichever it is at each call.
    #[must_use]
    pub const fn current() -> Self {
        Self(None)
    }

    /// The namespace that `ip netns add NAME` made.
    pub fn named(name: &str) -> Result<Self, NamespaceError> {
        Self::at(&Path::new(NAMED).join(name))
    }

    /// The namespace that a file stands for, such as `/proc/PID/ns/net`.
    pub fn at(path: &Path) -> Result<Self, NamespaceError> {
        let file =
            File::open(path).map_err(|source| NamespaceError::Open { path: path.to_owned(), source })?;
        Ok(Self(Some(Arc::new(Entry { path: path.to_owned(), file }))))
    }

    /// Runs `work` in the namespace and waits for it: on this thread where it is the thread's own, else on one that enters it.
    ///
    /// Keep it short: it blocks. It is for making sockets and for files below `/proc/sys/net`, which show the namespace of the
    /// thread that opens them.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let Some(entry) = &self.0 else { return Ok(work()) };
        std::thread::scope(|scope| {
            let inside = move || {
                setns(entry.file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(|e| NamespaceError::Enter { path: entry.path.clone(), source: e.into() })?;
                Ok(work())
            };
            let thread = std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, inside)
                .map_err(NamespaceError::Thread)?;
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let error = Namespace::named("no-such-namespace").unwrap_err();
        assert_eq!(error.to_string(), "cannot open the network namespace /run/netns/no-such-namespace");
    }

    #[test]
    fn ones_own_namespace_can_be_entered_by_its_file_where_that_is_allowed() {
        let file = Path::new("/proc/self/ns/net");
        let own = std::fs::read_link(file).unwrap();
        match Namespace::at(file).unwrap().run(|| std::fs::read_link("/proc/thread-self/ns/net")) {
            Ok(seen) => assert_eq!(seen.unwrap(), own),
            Err(NamespaceError::Enter { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
            }
            Err(other) => panic!("{other}"),
        }
    }
}
