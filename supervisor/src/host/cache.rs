//! Answers of slow probes, kept in the user's cache folder.
//!
//! A cache may always be missing, stale, damaged or not writable: none of that is an error, the probe just runs again.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A folder of cached answers, or nowhere to keep them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache(Option<PathBuf>);

/// One stored answer and what it depended on.
#[derive(Serialize, Deserialize)]
struct Entry<K, V> {
    key: K,
    value: V,
}

impl Cache {
    /// `$XDG_CACHE_HOME/midge`, else `~/.cache/midge` (XDG Base Directory Specification, which has a relative
    /// `$XDG_CACHE_HOME` ignored).
    #[must_use]
    pub fn of_user() -> Self {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        Self(base.map(|base| base.join("midge")))
    }

    /// This folder, made when first written to.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(Some(folder.into()))
    }

    /// Remembers nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// The answer stored under `name`, if it was given for `key`.
    ///
    /// A file of another owner is not believed: root with a user's `$HOME` must not take that user's word.
    pub(super) fn get<K, V>(&self, name: &str, key: &K) -> Option<V>
    where
        K: PartialEq + for<'a> Deserialize<'a>,
        V: for<'a> Deserialize<'a>,
    {
        let path = self.0.as_ref()?.join(name);
        let mut file = std::fs::File::open(&path).ok()?;
        let about = file.metadata().ok()?;
        if about.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
        std::io::Read::read_to_end(&mut file, &mut bytes).ok()?;
        let entry: Entry<K, V> = serde_json::from_slice(&bytes).ok()?;
        (entry.key == *key).then_some(entry.value)
    }

    /// Stores an answer. Written aside and renamed, so that a reader sees the old file or the new one.
    pub(super) fn put<K: Serialize, V: Serialize>(&self, name: &str, key: &K, value: &V) {
        let Some(path) = self.0.as_ref().map(|folder| folder.join(name)) else { return };
        if let Err(error) = write(&path, &Entry { key, value }) {
            tracing::debug!(path = %path.display(), %error, "probe result not cached");
        }
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_returned_for_its_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("deep/er"));
        assert_eq!(cache.get::<u32, String>("a/b.json", &1), None);
        cache.put("a/b.json", &1, &"one");
        assert_eq!(cache.get::<u32, String>("a/b.json", &1).as_deref(), Some("one"));
        assert_eq!(cache.get::<u32, String>("a/b.json", &2), None);
    }

    #[test]
    fn damaged_file_is_no_answer_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        for damage in ["", "{", "{\"key\":1}", "\u{0}\u{0}\u{0}"] {
            std::fs::write(folder.path().join("x.json"), damage).unwrap();
            assert_eq!(cache.get::<u32, u32>("x.json", &1), None, "{damage:?}");
            cache.put("x.json", &1, &7);
            assert_eq!(cache.get::<u32, u32>("x.json", &1), Some(7));
        }
    }

    #[test]
    fn folder_that_cannot_be_made_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let cache = Cache::at(file.join("below"));
        cache.put("x.json", &1, &1);
        assert_eq!(cache.get::<u32, u32>("x.json", &1), None);
        Cache::none().put("x.json", &1, &1);
        assert_eq!(Cache::none().get::<u32, u32>("x.json", &1), None);
    }

    #[test]
    fn no_temporary_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        cache.put("x.json", &1, &1);
        cache.put("x.json", &2, &2);
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["x.json"]);
    }
}
