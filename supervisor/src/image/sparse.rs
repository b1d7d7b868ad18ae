//! Copies of files that keep holes holes, and share blocks where the file system can.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use imago::qcow2::{Qcow2, Qcow2CreateBuilder};
use imago::{FormatAccess, FormatCreateBuilder};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// What is copied at once, and looked at for zeros, in bytes; a cluster of qcow2.
const PIECE: usize = 64 << 10;

/// Makes `target`, which is empty, a copy of `source` that shares its blocks (ioctl_ficlone(2)).
///
/// # Errors
/// What the file system answers; [`cannot_share`] tells whether it is that it cannot.
pub(super) fn share(source: &File, target: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(target, source)?)
}

/// Whether an error of [`share`] means that these two places cannot share blocks, as against a failure.
pub(super) fn cannot_share(error: &io::Error) -> bool {
    let known = [Errno::OPNOTSUPP, Errno::XDEV, Errno::INVAL, Errno::NOTTY, Errno::NOSYS];
    known.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Copies the first `size` bytes of `source` to `target`, which is empty.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when there are fewer.
pub(super) fn copy(source: &File, target: &File, size: u64) -> io::Result<()> {
    match share(source, target) {
        // It may have grown in between; what came after `size` was never promised.
        Ok(()) => return cut(target, size),
        Err(e) if cannot_share(&e) => {}
        Err(e) => return Err(e),
    }
    each_extent(source, size, |offset, bytes| target.write_all_at(bytes, offset))?;
    target.set_len(size)
}

fn cut(target: &File, size: u64) -> io::Result<()> {
    if target.metadata()?.len() < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    target.set_len(size)
}

/// Writes the first `size` bytes of `source` as a qcow2 disk to `target`, which is empty. What is zero takes no room in it.
///
/// # Errors
/// As [`copy`].
pub(super) fn to_qcow2(source: &File, target: &File, size: u64) -> io::Result<()> {
    let storage = imago::file::File::try_from(target.try_clone()?)?;
    let builder: Qcow2CreateBuilder<imago::file::File> = Qcow2::create_builder(storage);
    builder.size(size).create()?;
    let storage = imago::file::File::try_from(target.try_clone()?)?;
    let disk = FormatAccess::new(Qcow2::<imago::file::File>::open_image(storage, true)?);
    each_extent(source, size, |offset, bytes| {
        if bytes.iter().all(|byte| *byte == 0) { Ok(()) } else { disk.write(bytes, offset) }
    })?;
    disk.sync()
}

/// Reads the parts of a file that are no holes, in pieces that begin at multiples of [`PIECE`] or where data does.
fn each_extent(
    source: &File,
    size: u64,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < size {
        let (start, end) = match data_after(source, offset)? {
            Some((start, end)) if start < size => (start, end.min(size)),
            _ => break,
        };
        offset = start;
        while offset < end {
            // Up to the next multiple, so that zeros are seen cluster by cluster.
            let whole = PIECE as u64 - offset % PIECE as u64;
            let length = usize::try_from(whole.min(end - offset)).unwrap_or(PIECE);
            source.read_exact_at(&mut buffer[..length], offset)?;
            each(offset, &buffer[..length])?;
            offset += length as u64;
        }
    }
    if source.metadata()?.len() < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Where the next data after `offset` begins and ends (lseek(2), `SEEK_DATA`); none when only a hole follows.
fn data_after(file: impl AsFd, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that does not know holes has none.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, u64::MAX))),
        Err(e) => return Err(e.into()),
    };
    Ok(Some((start, rustix::fs::seek(&file, SeekFrom::Hole(start))?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    /// 10 GiB with a few bytes in it.
    fn sparse(folder: &std::path::Path) -> File {
        let file = File::options().read(true).write(true).create_new(true).open(folder.join("raw")).unwrap();
        file.set_len(10 << 30).unwrap();
        for at in [0, 5 << 30, (10 << 30) - 6] {
            file.write_all_at(b"hello\n", at).unwrap();
        }
        // Zeros that are written, not left out.
        file.write_all_at(&vec![0; 1 << 20], 1 << 30).unwrap();
        file
    }

    fn new(folder: &std::path::Path, name: &str) -> File {
        File::options().read(true).write(true).create_new(true).open(folder.join(name)).unwrap()
    }

    fn room(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn ten_gigabytes_of_nothing_cost_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (source, folder) = (sparse(folder.path()), folder.path());

        let plain = new(folder, "copy");
        copy(&source, &plain, 10 << 30).unwrap();
        assert_eq!((plain.metadata().unwrap().len(), room(&plain) < 2 << 20), (10 << 30, true));
        let disk = new(folder, "disk.qcow2");
        to_qcow2(&source, &disk, 10 << 30).unwrap();
        assert!(room(&disk) < 1 << 20, "{}", room(&disk));

        let qemu_img = |arguments: &[&str]| {
            let output = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        };
        qemu_img(&["check", "disk.qcow2"]);
        qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "copy", "disk.qcow2"]);
    }

    #[test]
    fn a_file_shorter_than_it_was_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let source = new(folder.path(), "short");
        source.write_all_at(&vec![1; 100_000], 0).unwrap();
        for (name, size) in [("a", 100_001), ("b", 1 << 30)] {
            let error = copy(&source, &new(folder.path(), name), size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let disk = new(folder.path(), "c");
        assert_eq!(to_qcow2(&source, &disk, 1 << 20).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
