//! Texts of strangers: GRUB's configuration and sums files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::image::contents::grub;
use supervisor::image::pull::sums::{self, Kind};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Some(entry) = grub::first_entry(&text) {
        assert!(!entry.kernel.contains('$') && entry.words.iter().all(|word| !word.contains('$')));
    }
    assert!(grub::default_words(&text).iter().all(|word| !word.contains(char::is_whitespace)));
    for kind in [Kind::Sha256, Kind::Sha512] {
        if let Some(sum) = sums::find(&text, kind, "disk.qcow2") {
            assert_eq!(sum.to_string().parse(), Ok(sum));
        }
    }
});
