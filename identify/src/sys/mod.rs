//! The system calls that the program makes, as functions of Rust.

mod call;
mod process;

use core::ffi::CStr;
use core::fmt;

use call::{call, number};
pub use process::{Process, exit, start};

/// A system call's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0)
    }
}

/// No such file or directory.
pub const ENOENT: Errno = Errno(2);
/// In use: what is renamed to is a mount point.
pub const EBUSY: Errno = Errno(16);
/// It is there already.
pub const EEXIST: Errno = Errno(17);

const AT_FDCWD: usize = -100isize as usize;
const O_CLOEXEC: usize = 0o2_000_000;
const O_WRONLY: usize = 1;
const O_RDWR: usize = 2;
const O_CREAT: usize = 0o100;
const O_TRUNC: usize = 0o1000;

fn address(text: &CStr) -> usize {
    text.as_ptr().addr()
}

/// An open file or socket, closed when dropped.
#[derive(Debug)]
pub struct File(usize);

impl File {
    /// Opens a file to be read.
    pub fn read_only(path: &CStr) -> Result<Self, Errno> {
        Self::open(path, 0, 0)
    }

    /// Opens a file to be written to where it is, from its beginning.
    pub fn emptied(path: &CStr) -> Result<Self, Errno> {
        Self::open(path, O_WRONLY | O_TRUNC, 0)
    }

    /// Opens a file to be read and written.
    pub fn read_write(path: &CStr) -> Result<Self, Errno> {
        Self::open(path, O_RDWR, 0)
    }

    /// Makes a file, or empties the one that is there, with these permissions.
    pub fn create(path: &CStr, mode: usize) -> Result<Self, Errno> {
        let file = Self::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)?;
        // SAFETY: no pointers.
        unsafe { call(number::FCHMOD, [file.0, mode, 0, 0, 0]) }?;
        Ok(file)
    }

    fn open(path: &CStr, flags: usize, mode: usize) -> Result<Self, Errno> {
        // SAFETY: a C string.
        unsafe { call(number::OPENAT, [AT_FDCWD, address(path), flags | O_CLOEXEC, mode, 0]) }.map(Self)
    }

    /// Reads into `into`; answers how much.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: memory of that length.
        unsafe { call(number::READ, [self.0, into.as_mut_ptr().addr(), into.len(), 0, 0]) }
    }

    /// Reads until its end, or until there is no more room.
    pub fn read_all<'a>(&self, into: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        let mut length = 0;
        while length < into.len() {
            match self.read(&mut into[length..])? {
                0 => break,
                more => length += more,
            }
        }
        Ok(&into[..length])
    }

    /// Writes everything.
    pub fn write(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            // SAFETY: memory of that length.
            let written = unsafe { call(number::WRITE, [self.0, bytes.as_ptr().addr(), bytes.len(), 0, 0]) }?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes at the beginning.
    pub fn write_over(&self, bytes: &[u8]) -> Result<(), Errno> {
        // SAFETY: memory of that length.
        let written = unsafe { call(number::PWRITE, [self.0, bytes.as_ptr().addr(), bytes.len(), 0, 0]) }?;
        if written == bytes.len() { Ok(()) } else { Err(Errno(5)) }
    }

    /// Entries of a folder (getdents64(2)).
    pub fn entries(&self, into: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: memory of that length.
        unsafe { call(number::GETDENTS64, [self.0, into.as_mut_ptr().addr(), into.len(), 0, 0]) }
    }

    /// Waits until there is something to read, for at most so many milliseconds; answers whether there is.
    pub fn wait(&self, milliseconds: u64) -> bool {
        #[repr(C)]
        struct Poll {
            fd: i32,
            events: i16,
            revents: i16,
        }
        const POLLIN: i16 = 1;
        let mut poll = Poll { fd: self.0 as i32, events: POLLIN, revents: 0 };
        let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
        // SAFETY: one pollfd and one timespec, as told.
        let ready = unsafe { call(number::PPOLL, [(&raw mut poll).addr(), 1, time.as_ptr().addr(), 0, 0]) };
        ready == Ok(1)
    }

    /// A socket of rtnetlink(7) that hears of these groups.
    pub fn route_socket(groups: u32) -> Result<Self, Errno> {
        const AF_NETLINK: usize = 16;
        const SOCK_RAW_CLOEXEC: usize = 3 | O_CLOEXEC;
        #[repr(C)]
        struct Address {
            family: u16,
            pad: u16,
            port: u32,
            groups: u32,
        }
        // SAFETY: no pointers. The protocol is 0, NETLINK_ROUTE.
        let socket = unsafe { call(number::SOCKET, [AF_NETLINK, SOCK_RAW_CLOEXEC, 0, 0, 0]) }.map(Self)?;
        let address = Address { family: AF_NETLINK as u16, pad: 0, port: 0, groups };
        // SAFETY: a sockaddr_nl of its size.
        unsafe { call(number::BIND, [socket.0, (&raw const address).addr(), size_of::<Address>(), 0, 0]) }?;
        Ok(socket)
    }

    /// A connection to the Unix socket of this path (unix(7)).
    pub fn connect(path: &[u8]) -> Result<Self, Errno> {
        const AF_UNIX: usize = 1;
        const SOCK_STREAM_CLOEXEC: usize = 1 | O_CLOEXEC;
        let mut address = [0u8; 110];
        address[..2].copy_from_slice(&(AF_UNIX as u16).to_ne_bytes());
        address[2..2 + path.len()].copy_from_slice(path);
        // SAFETY: no pointers.
        let socket = unsafe { call(number::SOCKET, [AF_UNIX, SOCK_STREAM_CLOEXEC, 0, 0, 0]) }.map(Self)?;
        // SAFETY: a sockaddr_un of its size.
        unsafe { call(number::CONNECT, [socket.0, address.as_ptr().addr(), address.len(), 0, 0]) }?;
        Ok(socket)
    }

    /// ioctl(2) with a pointer to, or without, an argument.
    ///
    /// # Safety
    /// `argument` is what the request demands.
    pub unsafe fn control(&self, request: usize, argument: usize) -> Result<usize, Errno> {
        // SAFETY: the caller's contract.
        unsafe { call(number::IOCTL, [self.0, request, argument, 0, 0]) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: it is ours, and used no more.
        let _ = unsafe { call(number::CLOSE, [self.0, 0, 0, 0, 0]) };
    }
}

/// What comes on standard input.
pub fn input(into: &mut [u8]) -> Result<&[u8], Errno> {
    // It is not ours to close.
    core::mem::ManuallyDrop::new(File(0)).read_all(into)
}

/// Writes on standard output.
pub fn print(bytes: &[u8]) -> Result<(), Errno> {
    // It is not ours to close.
    core::mem::ManuallyDrop::new(File(1)).write(bytes)
}

/// unlink(2).
pub fn remove(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a C string.
    unsafe { call(number::UNLINKAT, [AT_FDCWD, address(path), 0, 0, 0]) }.map(|_| ())
}

/// rename(2).
pub fn rename(from: &CStr, to: &CStr) -> Result<(), Errno> {
    // SAFETY: C strings.
    unsafe { call(number::RENAMEAT2, [AT_FDCWD, address(from), AT_FDCWD, address(to), 0]) }.map(|_| ())
}

/// mkdir(2), with the mode 0755.
pub fn make_folder(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a C string.
    unsafe { call(number::MKDIRAT, [AT_FDCWD, address(path), 0o755, 0, 0]) }.map(|_| ())
}

/// symlink(2).
pub fn link_to(target: &CStr, path: &CStr) -> Result<(), Errno> {
    // SAFETY: C strings.
    unsafe { call(number::SYMLINKAT, [address(target), AT_FDCWD, address(path), 0, 0]) }.map(|_| ())
}

/// readlink(2): what a symbolic link leads to; an error where it is none.
pub fn target<'a>(path: &CStr, into: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let args = [AT_FDCWD, address(path), into.as_mut_ptr().addr(), into.len(), 0];
    // SAFETY: a C string, and memory of that length.
    let length = unsafe { call(number::READLINKAT, args) }?;
    Ok(&into[..length])
}

/// Whether there is something of this name.
pub fn exists(path: &CStr) -> bool {
    // SAFETY: a C string.
    unsafe { call(number::FACCESSAT, [AT_FDCWD, address(path), 0, 0, 0]) }.is_ok()
}

/// The machine's name (uname(2)).
pub fn hostname(into: &mut [u8; 390]) -> &[u8] {
    // SAFETY: six fields of 65 bytes, as told.
    let _ = unsafe { call(number::UNAME, [into.as_mut_ptr().addr(), 0, 0, 0, 0]) };
    let name = &into[65..130];
    &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())]
}

/// sethostname(2).
pub fn set_hostname(name: &str) -> Result<(), Errno> {
    // SAFETY: memory of that length.
    unsafe { call(number::SETHOSTNAME, [name.as_ptr().addr(), name.len(), 0, 0, 0]) }.map(|_| ())
}

/// Milliseconds since the boot.
pub fn now() -> u64 {
    microseconds() / 1000
}

/// Microseconds since the boot.
pub fn microseconds() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0u64; 2];
    // SAFETY: room for a timespec. The clock is always there.
    let _ = unsafe { call(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, time.as_mut_ptr().addr(), 0, 0, 0]) };
    time[0] * 1_000_000 + time[1] / 1000
}

/// Puts the clock forward by so many nanoseconds, or back (clock_adjtime(2), `ADJ_SETOFFSET`). However long this program was on its way,
/// what it adds stays right.
pub fn shift_clock(nanoseconds: i64) -> Result<(), Errno> {
    const CLOCK_REALTIME: usize = 0;
    const ADJ_SETOFFSET: u32 = 0x0100;
    const ADJ_NANO: u32 = 0x2000;
    const SECOND: i64 = 1_000_000_000;
    /// `struct timex` on 64-bit machines, as far as it is used here.
    #[repr(C)]
    struct Timex {
        modes: u32,
        before: [i64; 8],
        seconds: i64,
        nanoseconds: i64,
        after: [i64; 15],
    }
    let mut timex = Timex {
        modes: ADJ_SETOFFSET | ADJ_NANO,
        before: [0; 8],
        seconds: nanoseconds.div_euclid(SECOND),
        nanoseconds: nanoseconds.rem_euclid(SECOND),
        after: [0; 15],
    };
    // SAFETY: a struct timex of its size, 208 bytes.
    unsafe { call(number::CLOCK_ADJTIME, [CLOCK_REALTIME, (&raw mut timex).addr(), 0, 0, 0]) }.map(|_| ())
}
