//! What the first program of a small initial RAM disk reads of disks and of the kernel's command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use midge_init::cmdline::Wanted;
use midge_init::disk::{Root, gpt_entry, gpt_guid};

fuzz_target!(|data: &[u8]| {
    let (line, disk) = data.split_at(data.len().min(128));
    let line = String::from_utf8_lossy(line);
    if let Some(root) = Wanted::of(&line).root.and_then(Root::of) {
        let _ = root.matches(disk);
        if let Root::Node(node) = root {
            assert!(!node.contains("..") && node.len() < 64);
        }
    }
    for partition in [0, 1, 128, u32::MAX] {
        let _ = gpt_entry(disk, partition);
    }
    let _ = gpt_guid(disk);
});
