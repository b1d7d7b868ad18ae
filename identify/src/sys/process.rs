//! Other processes, and the end of this one.

use core::ffi::CStr;

use super::call::{call, number};
use super::{Errno, File, O_RDWR};

/// Ends the program.
pub fn exit(code: usize) -> ! {
    loop {
        // SAFETY: no pointers; it does not come back.
        let _ = unsafe { call(number::EXIT_GROUP, [code, 0, 0, 0, 0]) };
    }
}

/// A process that is not a child of ours.
#[derive(Debug)]
pub struct Process {
    id: usize,
    /// Readable when it has ended (pidfd_open(2)).
    end: File,
}

impl Process {
    /// The process of this number.
    pub fn open(id: u32) -> Result<Self, Errno> {
        // SAFETY: no pointers.
        let end = unsafe { call(number::PIDFD_OPEN, [id as usize, 0, 0, 0, 0]) }.map(File)?;
        Ok(Self { id: id as usize, end })
    }

    /// Sends it SIGHUP.
    pub fn hang_up(&self) -> Result<(), Errno> {
        const SIGHUP: usize = 1;
        self.signal(SIGHUP)
    }

    /// Ends it at once, and waits for that for at most so many milliseconds; answers whether it has gone.
    pub fn kill(&self, milliseconds: u64) -> bool {
        const SIGKILL: usize = 9;
        self.signal(SIGKILL).is_ok() && self.end.wait(milliseconds)
    }

    fn signal(&self, signal: usize) -> Result<(), Errno> {
        // SAFETY: no pointers.
        unsafe { call(number::KILL, [self.id, signal, 0, 0, 0]) }.map(|_| ())
    }
}

/// Starts a program in a session of its own, which hears and says nothing: what held our output would keep the agent waiting for it.
///
/// # Safety
/// `argv` and `envp` are lists of C strings that end with a null pointer.
pub unsafe fn start(path: &CStr, argv: *const *const u8, envp: *const *const u8) -> Result<(), Errno> {
    const SIGCHLD: usize = 17;
    let null = File::open(c"/dev/null", O_RDWR, 0)?;
    // SAFETY: as fork(2): no memory is shared, and the child goes on here on its copy of the stack.
    if unsafe { call(number::CLONE, [SIGCHLD, 0, 0, 0, 0]) }? > 0 {
        return Ok(());
    }
    // SAFETY: no pointers but those of the caller's contract.
    unsafe {
        let _ = call(number::SETSID, [0; 5]);
        for standard in 0..3 {
            let _ = call(number::DUP3, [null.0, standard, 0, 0, 0]);
        }
        let _ = call(number::EXECVE, [path.as_ptr().addr(), argv.addr(), envp.addr(), 0, 0]);
    }
    exit(127)
}
