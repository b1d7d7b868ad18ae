//! Lists of kernel modules and modules of any bytes: no module is to be loaded twice, and no path leads out of the folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::initrd::{Dependencies, order, unpack, vermagic};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (dep, builtin) = text.split_once('\0').unwrap_or((&text, ""));
    let dependencies = Dependencies::read(dep, builtin);
    let mut paths = order(&dependencies, ["virtio_blk", "ext4", "a", "b"]);
    assert!(paths.iter().all(|path| !path.starts_with('/') && path.split('/').all(|part| part != "..")));
    let count = paths.len();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), count);
    for name in ["a.ko", "a.ko.xz", "a.ko.zst", "a.ko.gz"] {
        if let Ok(module) = unpack(name, data.to_vec()) {
            let _ = vermagic(&module);
        }
    }
});
