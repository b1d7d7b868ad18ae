//! Files that may be kernels, packed ones among them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::image::import::format::identify;
use supervisor::image::packed;

fuzz_target!(|data: &[u8]| {
    let _ = identify(data);
    let _ = packed::told(data);
    if let Ok(Some(kernel)) = packed::unpack(data) {
        assert!(identify(&kernel).is_ok());
    }
});
