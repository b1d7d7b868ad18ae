//! What a guest's files take.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::results::FileSize;

/// How hard it is packed: zstd's default.
const LEVEL: i32 = 3;

/// Looks at a file and packs it, without keeping what comes out. `role` is what the guest has it for.
pub fn of(role: &str, path: &Path) -> io::Result<FileSize> {
    let mut file = File::open(path)?;
    let about = file.metadata()?;
    let mut packed = zstd::stream::write::Encoder::new(Counter(0), LEVEL)?;
    io::copy(&mut file, &mut packed)?;
    Ok(FileSize {
        role: role.to_owned(),
        length: about.len(),
        // Of 512 bytes each (inode(7)).
        allocated: about.blocks() * 512,
        virtual_size: None,
        compressed: packed.finish()?.0,
        made_here: false,
    })
}

/// Counts what is written.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_take_nothing_and_travel_light() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        file.as_file().set_len(32 << 20).unwrap();
        file.as_file().sync_all().unwrap();
        let size = of("disk", file.path()).unwrap();
        assert_eq!((size.role.as_str(), size.length), ("disk", 32 << 20));
        assert!(size.allocated < 1 << 20 && size.compressed < 16 << 10, "{size:?}");
        assert!(of("disk", Path::new("/nowhere")).is_err());
    }
}
