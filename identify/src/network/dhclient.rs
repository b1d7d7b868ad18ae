//! dhclient: started anew as it was started, without its old lease.

use core::ffi::CStr;
use core::ptr;

use midge_identify::text::Line;

use crate::files;
use crate::sys::{self, ENOENT, Errno, Process};

/// Where it keeps leases unless it is told otherwise (dhclient(8), FILES).
const LEASES: &CStr = c"/var/lib/dhcp/dhclient.leases";
/// How long it may take to end, in milliseconds.
const PATIENCE: u64 = 2000;
/// The most words of its command line.
const MOST_WORDS: usize = 64;

/// The one that asks for IPv4 addresses of this interface.
pub(super) fn process(interface: &str) -> Option<u32> {
    let mut found = None;
    files::each(c"/proc", |name| {
        let Ok(id) = name.parse::<u32>() else { return };
        let mut comm = [0; 32];
        let is_client = files::with_path(format_args!("/proc/{id}/comm"), |path| {
            Ok(files::read(path, &mut comm)? == b"dhclient\n")
        });
        let mut line = [0; 4096];
        if is_client == Ok(true)
            && let Ok(line) = command_line(id, &mut line)
            && words(line).any(|word| word.to_bytes() == interface.as_bytes())
            && !words(line).any(|word| word == c"-6")
        {
            found = Some(id);
        }
    })
    .ok()?;
    found
}

/// Ends it without a word to its server, whose lease is another machine's too, and starts it anew.
pub(super) fn restart(id: u32, envp: *const *const u8) -> Result<(), Line> {
    let failed = |what: &str, e: Errno| Line::of(format_args!("cannot {what} dhclient: {e}"));
    let mut line = [0; 4096];
    let line = command_line(id, &mut line).map_err(|e| failed("ask about", e))?;
    let mut program = [0; 256];
    let path = files::with_path(format_args!("/proc/{id}/exe"), |path| sys::target(path, &mut program))
        .map_err(|e| failed("find", e))?;
    let path = Line::of(format_args!("{}", core::str::from_utf8(path).unwrap_or_default()));
    let path = path.c_str().ok_or_else(|| failed("find", ENOENT))?;
    if !Process::open(id).map_err(|e| failed("end", e))?.kill(PATIENCE) {
        return Err(Line::of(format_args!("dhclient does not end")));
    }
    let leases = words(line).skip_while(|word| *word != c"-lf").nth(1).unwrap_or(LEASES);
    match sys::remove(leases) {
        Ok(()) | Err(ENOENT) => {}
        Err(e) => return Err(failed("remove the leases of", e)),
    }
    let mut argv = [ptr::null(); MOST_WORDS + 1];
    for (place, word) in argv[..MOST_WORDS].iter_mut().zip(words(line)) {
        *place = word.as_ptr().cast();
    }
    // SAFETY: the words live in `line`, and a null pointer follows the last of them.
    unsafe { sys::start(path, argv.as_ptr(), envp) }.map_err(|e| failed("start", e))
}

fn command_line(id: u32, into: &mut [u8]) -> Result<&[u8], Errno> {
    files::with_path(format_args!("/proc/{id}/cmdline"), |path| files::read(path, into))
}

/// Each ends with a zero (proc(5)).
fn words(line: &[u8]) -> impl Iterator<Item = &CStr> {
    line.split_inclusive(|byte| *byte == 0).filter_map(|word| CStr::from_bytes_with_nul(word).ok())
}
