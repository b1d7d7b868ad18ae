//! A snapshot as one stream: a tar archive in a zstd frame with a checksum.
//!
//! It stands for itself: a RAM that was kept as a delta is written whole, and so are all layers of the disk down to the image, which
//! is not in it: the host that imports it has the image of that digest, or is told to get it. Everything is written front to back, so it can go to
//! a pipe, and nothing of it has to be kept while it is read. `tar --zstd -xf` gives its files: RAM is in the sparse format of GNU tar
//! ("PAX format, version 1.0"), of which holes take no bytes.
//!
//! The entries come in this order: `manifest.json`, `digests`, `state`, `kernel`, `initrd`, `ram`, `disk.qcow2`, `disk-1.qcow2` and so on. An import takes
//! nothing else, gives the snapshot a new id, and publishes it when every byte has been compared with its digest.

mod export;
mod import;
mod sparse;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use super::manifest::DISK;

pub use export::Level;

/// The name of a disk's layer, counted from the uppermost.
fn layer_name(number: usize) -> PathBuf {
    if number == 0 { PathBuf::from(DISK) } else { PathBuf::from(format!("disk-{number}.qcow2")) }
}
