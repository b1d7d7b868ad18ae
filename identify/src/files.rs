//! Files of the guest, whole.

use core::ffi::CStr;

use crate::sys::{self, EBUSY, Errno, File};
use midge_identify::text::Line;

/// A name that does not fit.
const ENAMETOOLONG: Errno = Errno(36);

/// The path that is made up so, and its use as a C string.
pub(crate) fn with_path<T>(
    path: core::fmt::Arguments<'_>,
    use_it: impl FnOnce(&CStr) -> Result<T, Errno>,
) -> Result<T, Errno> {
    use_it(Line::of(path).c_str().ok_or(ENAMETOOLONG)?)
}

/// As much of a file as there is room for.
pub(crate) fn read<'a>(path: &CStr, into: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    File::read_only(path)?.read_all(into)
}

/// As [`read`], as text; empty where it is none.
pub(crate) fn read_text<'a>(path: &CStr, into: &'a mut [u8]) -> &'a str {
    read(path, into).ok().and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// Puts a file in the place of another: whole, or not at all. One that is mounted over, as systemd does with /etc/machine-id, is
/// written where it is, and so is what a symbolic link leads to.
pub(crate) fn write(path: &CStr, parts: &[&[u8]], mode: usize) -> Result<(), Errno> {
    let fill = |file: File| parts.iter().try_for_each(|part| file.write(part));
    if sys::target(path, &mut [0; 256]).is_ok() {
        return fill(File::emptied(path)?);
    }
    let text = path.to_str().unwrap_or_default();
    with_path(format_args!("{text}.midge-new"), |new| {
        fill(File::create(new, mode)?)?;
        let renamed = sys::rename(new, path);
        if renamed.is_err() {
            let _ = sys::remove(new);
        }
        if renamed == Err(EBUSY) {
            return fill(File::emptied(path)?);
        }
        renamed
    })
}

/// Does something with the name of each entry of a folder, `.` and `..` left out.
pub(crate) fn each(folder: &CStr, mut what: impl FnMut(&str)) -> Result<(), Errno> {
    let file = File::read_only(folder)?;
    let mut entries = [0; 4096];
    loop {
        let length = file.entries(&mut entries)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &entries[..length];
        // struct linux_dirent64 (getdents64(2)): its length at 16, the name from 19 on, ended by a zero.
        while let (Some(size), Some(name)) = (rest.get(16..18), rest.get(19..)) {
            let size = usize::from(u16::from_le_bytes([size[0], size[1]]));
            if let Ok(name) = CStr::from_bytes_until_nul(name)
                && let Ok(name) = name.to_str()
                && !matches!(name, "." | "..")
            {
                what(name);
            }
            rest = rest.get(size.max(19)..).unwrap_or_default();
        }
    }
}
