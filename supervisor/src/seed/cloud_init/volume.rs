//! The volume: a small FAT file system, which cloud-init finds by its label.

use std::fs::File;
use std::io::{self, Write};

/// The label (cloud-init's documentation, "NoCloud").
const LABEL: [u8; 11] = *b"CIDATA     ";
/// The least size; a hole in the file, so it costs nothing.
const LEAST: u64 = 1 << 20;
/// What the file system itself takes at most, for a volume of this kind.
const OVERHEAD: u64 = 256 << 10;

/// Writes the volume with these files into an empty file.
pub fn write(mut volume: File, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    let content: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    // Twice what is in it, as FAT's own tables grow with it.
    let size = (content * 2 + OVERHEAD).max(LEAST).next_multiple_of(4096);
    volume.set_len(size)?;
    // A fixed number, so that the same files make the same volume.
    let options = fatfs::FormatVolumeOptions::new().volume_label(LABEL).volume_id(0x6d69_6467);
    fatfs::format_volume(&mut volume, options)?;
    let system = fatfs::FileSystem::new(volume, fatfs::FsOptions::new().update_accessed_date(false))?;
    for (name, bytes) in files {
        let mut file = system.root_dir().create_file(name)?;
        file.write_all(bytes)?;
        file.flush()?;
    }
    system.unmount()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn small_and_large_files_are_read_back() {
        for length in [0, 1, 5000, 4 << 20] {
            let mut image = tempfile::tempfile().unwrap();
            let long = vec![b'x'; length];
            let files = [("meta-data", b"{}".to_vec()), ("user-data", long.clone())];
            write(image.try_clone().unwrap(), &files).unwrap();
            image.rewind().unwrap();
            let system = fatfs::FileSystem::new(image, fatfs::FsOptions::new()).unwrap();
            assert_eq!(system.volume_label(), "CIDATA");
            let mut read = Vec::new();
            system.root_dir().open_file("user-data").unwrap().read_to_end(&mut read).unwrap();
            assert!(read == long, "{length}");
        }
    }

    #[test]
    fn the_guests_tools_see_the_label() {
        let image = tempfile::NamedTempFile::new().unwrap();
        write(image.reopen().unwrap(), &[("meta-data", b"{}".to_vec())]).unwrap();
        let told =
            std::process::Command::new("/sbin/blkid").args(["-p", "-o", "export"]).arg(image.path()).output();
        let told = String::from_utf8(told.expect("util-linux is installed").stdout).unwrap();
        assert!(told.contains("LABEL=CIDATA\n") && told.contains("TYPE=vfat\n"), "{told}");
    }
}
