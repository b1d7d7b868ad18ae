//! Numbers that no earlier client has used.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

/// A number that differs from those of other processes and other calls. Not for secrets: it only has to make a
/// clash with a stale id improbable. The keys of `RandomState` come from the kernel's random source, once a thread,
/// and change with every new one.
pub(crate) fn fresh() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hasher.write_u128(now.as_nanos());
    hasher.write_u32(std::process::id());
    hasher.finish()
}
