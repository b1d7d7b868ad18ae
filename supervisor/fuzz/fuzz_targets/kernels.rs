//! Files that may be kernels, packed ones among them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::image::import::format::identify;
use supervisor::image::{packed, vmlinux};

fuzz_target!(|data: &[u8]| {
    let _ = identify(data);
    let _ = packed::told(data);
    if let Ok(Some(kernel)) = packed::unpack(data) {
        assert!(identify(&kernel).is_ok());
    }
    let _ = vmlinux::unpack(data);
    if let Some(release) = supervisor::initrd::release(data) {
        assert!(!release.contains('/') && !release.starts_with('.'), "{release}");
    }
});
