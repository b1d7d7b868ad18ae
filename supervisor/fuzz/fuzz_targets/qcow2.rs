//! A disk of a stranger's on arbitrary bytes: what the check accepts, the library must open and read without a panic. And a VMDK's header
//! and description.
#![no_main]

use std::io::{Seek, Write};

use libfuzzer_sys::fuzz_target;
use supervisor::image::contents::{GuestDisk, ReadAt};
use supervisor::image::import::{qcow2, vmdk};
use supervisor::machine::DiskFormat;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    let _ = vmdk::stands_alone(&bytes);
    if let Some(magic) = bytes.get_mut(..4) {
        magic.copy_from_slice(b"QFI\xfb");
    }
    let Ok(header) = qcow2::check(&bytes) else { return };
    let mut file = tempfile();
    file.write_all(&bytes).and_then(|()| file.rewind()).expect("a file in memory");
    let Ok(disk) = GuestDisk::open(&file, DiskFormat::Qcow2) else { return };
    assert_eq!(disk.size(), header.virtual_size);
    let mut buffer = vec![0; 4096];
    for place in [0, header.virtual_size / 2, header.virtual_size.saturating_sub(4096)] {
        let _ = disk.read_at(place, &mut buffer);
    }
});

/// A file without a name, in memory.
fn tempfile() -> std::fs::File {
    let path = format!("/dev/shm/midge-fuzz-{}", std::process::id());
    let file = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path);
    let _ = std::fs::remove_file(&path);
    file.expect("a file in memory")
}
