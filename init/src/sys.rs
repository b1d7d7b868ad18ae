//! The system calls that the program makes, as functions of Rust.

use core::arch::asm;
use core::ffi::CStr;

/// A system call's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// No such file or directory.
pub const ENOENT: Errno = Errno(2);
/// The module is loaded already, or built in.
pub const EEXIST: Errno = Errno(17);

/// A mount that cannot be written to.
pub const MS_RDONLY: usize = 1;
/// A mount whose programs get no rights of their files' owners.
pub const MS_NOSUID: usize = 2;
/// A mount without device nodes.
pub const MS_NODEV: usize = 4;
/// A mount without programs.
pub const MS_NOEXEC: usize = 8;
/// Moves a mount.
pub const MS_MOVE: usize = 8192;

/// Numbers of system calls (Linux, arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const READ: usize = 0;
    pub(super) const WRITE: usize = 1;
    pub(super) const CLOSE: usize = 3;
    pub(super) const PREAD: usize = 17;
    pub(super) const SOCKET: usize = 41;
    pub(super) const BIND: usize = 49;
    pub(super) const EXECVE: usize = 59;
    pub(super) const CHDIR: usize = 80;
    pub(super) const CHROOT: usize = 161;
    pub(super) const SYNC: usize = 162;
    pub(super) const MOUNT: usize = 165;
    pub(super) const REBOOT: usize = 169;
    pub(super) const GETDENTS64: usize = 217;
    pub(super) const CLOCK_GETTIME: usize = 228;
    pub(super) const OPENAT: usize = 257;
    pub(super) const UNLINKAT: usize = 263;
    pub(super) const PPOLL: usize = 271;
    pub(super) const FINIT_MODULE: usize = 313;
}

/// Numbers of system calls (Linux, include/uapi/asm-generic/unistd.h).
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const UNLINKAT: usize = 35;
    pub(super) const MOUNT: usize = 40;
    pub(super) const CHDIR: usize = 49;
    pub(super) const CHROOT: usize = 51;
    pub(super) const OPENAT: usize = 56;
    pub(super) const CLOSE: usize = 57;
    pub(super) const GETDENTS64: usize = 61;
    pub(super) const READ: usize = 63;
    pub(super) const WRITE: usize = 64;
    pub(super) const PREAD: usize = 67;
    pub(super) const PPOLL: usize = 73;
    pub(super) const SYNC: usize = 81;
    pub(super) const CLOCK_GETTIME: usize = 113;
    pub(super) const REBOOT: usize = 142;
    pub(super) const SOCKET: usize = 198;
    pub(super) const BIND: usize = 200;
    pub(super) const EXECVE: usize = 221;
    pub(super) const FINIT_MODULE: usize = 273;
}

/// The folder in which paths begin that do not begin with `/` (open(2)).
const AT_FDCWD: usize = -100_isize as usize;

/// # Safety
/// The arguments are what the call demands: pointers to memory of the right size that lives as long as the call.
unsafe fn call(number: usize, args: [usize; 5]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the kernel's calling convention (syscall(2)); the rest is the caller's contract.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4],
            options(nostack)
        );
    }
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

fn address(text: &CStr) -> usize {
    text.as_ptr().addr()
}

/// An open file, closed when dropped.
#[derive(Debug)]
pub struct File(usize);

impl File {
    /// Opens a file to be read.
    pub fn read_only(path: &CStr) -> Result<Self, Errno> {
        Self::open(path, 0)
    }

    /// Opens a file to be written to.
    pub fn write_only(path: &CStr) -> Result<Self, Errno> {
        Self::open(path, 1)
    }

    fn open(path: &CStr, access: usize) -> Result<Self, Errno> {
        const O_CLOEXEC: usize = 0o2_000_000;
        // SAFETY: a C string.
        unsafe { call(number::OPENAT, [AT_FDCWD, address(path), access | O_CLOEXEC, 0, 0]) }.map(Self)
    }

    /// Reads into `into`; answers how much.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: memory of that length.
        unsafe { call(number::READ, [self.0, into.as_mut_ptr().addr(), into.len(), 0, 0]) }
    }

    /// Reads at a place.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
        // SAFETY: memory of that length.
        unsafe { call(number::PREAD, [self.0, into.as_mut_ptr().addr(), into.len(), offset as usize, 0]) }
    }

    /// Writes.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        // SAFETY: memory of that length.
        unsafe { call(number::WRITE, [self.0, bytes.as_ptr().addr(), bytes.len(), 0, 0]) }
    }

    /// Entries of a folder (getdents64(2)).
    pub fn entries(&self, into: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: memory of that length.
        unsafe { call(number::GETDENTS64, [self.0, into.as_mut_ptr().addr(), into.len(), 0, 0]) }
    }

    /// Loads it as a kernel module.
    pub fn load_module(&self) -> Result<(), Errno> {
        // SAFETY: an open file, and no parameters.
        unsafe { call(number::FINIT_MODULE, [self.0, address(c""), 0, 0, 0]) }.map(|_| ())
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

    /// A socket on which the kernel tells of devices that come (netlink(7), `NETLINK_KOBJECT_UEVENT`).
    pub fn device_events() -> Result<Self, Errno> {
        const AF_NETLINK: u16 = 16;
        const SOCK_RAW_CLOEXEC_NONBLOCK: usize = 3 | 0o2_000_000 | 0o4000;
        const KOBJECT_UEVENT: usize = 15;
        #[repr(C)]
        struct Address {
            family: u16,
            pad: u16,
            port: u32,
            groups: u32,
        }
        // SAFETY: no pointers.
        let socket = unsafe {
            call(number::SOCKET, [AF_NETLINK.into(), SOCK_RAW_CLOEXEC_NONBLOCK, KOBJECT_UEVENT, 0, 0])
        }
        .map(Self)?;
        let address = Address { family: AF_NETLINK, pad: 0, port: 0, groups: 1 };
        // SAFETY: a sockaddr_nl of its size.
        unsafe { call(number::BIND, [socket.0, (&raw const address).addr(), size_of::<Address>(), 0, 0]) }?;
        Ok(socket)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: it is ours, and used no more.
        let _ = unsafe { call(number::CLOSE, [self.0, 0, 0, 0, 0]) };
    }
}

/// Writes on the console, which the kernel has opened for the first process.
pub fn console(bytes: &[u8]) {
    // Whoever cannot be told cannot be told of that either.
    // SAFETY: memory of that length.
    let _ = unsafe { call(number::WRITE, [1, bytes.as_ptr().addr(), bytes.len(), 0, 0]) };
}

/// mount(2).
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: usize, options: &CStr) -> Result<(), Errno> {
    let args = [address(source), address(target), address(kind), flags, address(options)];
    // SAFETY: C strings.
    unsafe { call(number::MOUNT, args) }.map(|_| ())
}

/// chdir(2).
pub fn change_folder(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a C string.
    unsafe { call(number::CHDIR, [address(path), 0, 0, 0, 0]) }.map(|_| ())
}

/// chroot(2).
pub fn change_root(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a C string.
    unsafe { call(number::CHROOT, [address(path), 0, 0, 0, 0]) }.map(|_| ())
}

/// unlink(2). A file that stays only takes memory.
pub fn remove(path: &CStr) {
    // SAFETY: a C string.
    let _ = unsafe { call(number::UNLINKAT, [AT_FDCWD, address(path), 0, 0, 0]) };
}

/// Milliseconds since the boot.
pub fn now() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0u64; 2];
    // SAFETY: room for a timespec. The clock is always there.
    let _ = unsafe { call(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, time.as_mut_ptr().addr(), 0, 0, 0]) };
    time[0] * 1000 + time[1] / 1_000_000
}

/// execve(2); it answers only when it fails.
///
/// # Safety
/// `argv` and `envp` are lists of C strings that end with a null pointer.
pub unsafe fn execute(path: &CStr, argv: *const *const u8, envp: *const *const u8) -> Errno {
    // SAFETY: the caller's contract.
    match unsafe { call(number::EXECVE, [address(path), argv.addr(), envp.addr(), 0, 0]) } {
        Err(error) => error,
        Ok(_) => Errno(0),
    }
}

/// Switches the machine off, or starts it again where it has no such switch.
pub fn power_off() -> ! {
    const MAGIC: [usize; 2] = [0xfee1_dead, 672_274_793];
    const POWER_OFF: usize = 0x4321_fedc;
    const RESTART: usize = 0x0123_4567;
    // SAFETY: no pointers.
    unsafe {
        let _ = call(number::SYNC, [0; 5]);
        let _ = call(number::REBOOT, [MAGIC[0], MAGIC[1], POWER_OFF, 0, 0]);
        let _ = call(number::REBOOT, [MAGIC[0], MAGIC[1], RESTART, 0, 0]);
    }
    loop {
        core::hint::spin_loop();
    }
}
