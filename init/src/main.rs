//! The first program of the small initial RAM disk: it loads the kernel modules that were put beside it, in the order of `/modules`,
//! mounts the root file system that the kernel's command line names, and becomes its init.
//!
//! It knows block devices and file systems, nothing else: no RAID, no encryption, no network. When the root does not come up it says
//! why on the console and switches the machine off, and whoever watches boots with the image's own initial RAM disk.
#![no_std]
#![no_main]

mod memfn;
mod sys;

use core::ffi::CStr;
use core::fmt::{self, Write};

use midge_init::cmdline::Wanted;
use midge_init::disk::{self, Root};
use midge_init::{FAILED, UP};
use sys::{Errno, File};

/// The list of modules, a path a line.
const MODULES: &CStr = c"/modules";
/// Where the root file system is mounted before it becomes the root.
const NEW_ROOT: &CStr = c"/root";
/// File systems that are tried where the command line names none.
const KINDS: &str = "ext4,xfs,btrfs";
/// How long the root's device is waited for, in milliseconds. Devices appear while their driver is loaded, so this is for slow ones.
const PATIENCE: u64 = 10_000;
/// The longest command line (Linux, COMMAND_LINE_SIZE in arch/x86/include/asm/setup.h and arch/arm64/include/uapi/asm/setup.h).
const LONGEST: usize = 2048;

// The kernel starts a program with argc, argv and envp on the stack (System V ABI for AMD64, 3.4.1; Linux, fs/binfmt_elf.c).
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "bl {begin}",
    "brk 1",
    begin = sym begin,
);

/// # Safety
/// `stack` is what the kernel left there.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: argc, then so many pointers and a null, then the environment's and a null.
    let (argv, envp) = unsafe {
        let argc = stack.read();
        (stack.add(1).cast::<*const u8>().cast_mut(), stack.add(argc + 2).cast::<*const u8>())
    };
    let mut command_line = [0; LONGEST];
    // SAFETY: as above.
    let Err(reason) = unsafe { run(argv, envp, &mut command_line) };
    let mut line = Text::<256>::new();
    let _ = writeln!(line, "{FAILED}{reason}");
    sys::console(line.bytes());
    sys::power_off()
}

/// Why there is no root file system.
enum Reason<'a> {
    Call(&'static str, Errno),
    NoRoot,
    Unknown(&'a str),
    Absent(&'a str),
    Mount(&'a str, Errno),
    Init(&'a str, Errno),
    TooLong,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(what, Errno(number)) => write!(f, "cannot {what}: error {number}"),
            Self::NoRoot => write!(f, "the kernel's command line has no root="),
            Self::Unknown(root) => write!(f, "root={root} is of no kind known here"),
            Self::Absent(root) => write!(f, "no disk or partition is {root}"),
            Self::Mount(root, Errno(number)) => write!(f, "cannot mount {root}: error {number}"),
            Self::Init(path, Errno(number)) => write!(f, "cannot run {path}: error {number}"),
            Self::TooLong => write!(f, "a name is too long"),
        }
    }
}

/// # Safety
/// `argv` and `envp` are those of this program. `line` is room for the kernel's command line.
unsafe fn run(
    argv: *mut *const u8,
    envp: *const *const u8,
    line: &mut [u8],
) -> Result<core::convert::Infallible, Reason<'_>> {
    // Before all else: device nodes, among them the one to speak to the kernel's log by.
    sys::mount(c"dev", c"/dev", c"devtmpfs", sys::MS_NOSUID, c"mode=0755")
        .map_err(|e| Reason::Call("mount /dev", e))?;
    log("midge: user space\n");
    let events = File::device_events().ok();
    load_modules();
    // They go along to the system, which takes them as they are.
    let harmless = sys::MS_NOSUID | sys::MS_NODEV | sys::MS_NOEXEC;
    sys::mount(c"proc", c"/proc", c"proc", harmless, c"").map_err(|e| Reason::Call("mount /proc", e))?;
    sys::mount(c"sysfs", c"/sys", c"sysfs", harmless, c"").map_err(|e| Reason::Call("mount /sys", e))?;

    let length = File::read_only(c"/proc/cmdline")
        .and_then(|file| file.read(line))
        .map_err(|e| Reason::Call("read /proc/cmdline", e))?;
    let text = core::str::from_utf8(&line[..length]).unwrap_or_default();
    let wanted = Wanted::of(text);
    let word = wanted.root.ok_or(Reason::NoRoot)?;
    let root = Root::of(word).ok_or(Reason::Unknown(word))?;
    let device = find(&root, events.as_ref()).ok_or(Reason::Absent(word))?;
    mount_root(device.c_str().ok_or(Reason::TooLong)?, &wanted).map_err(|e| Reason::Mount(word, e))?;

    let init = Text::<256>::of(format_args!("{}", wanted.init));
    let init = init.c_str().ok_or(Reason::TooLong)?;
    hand_over().map_err(|e| Reason::Call("change to the root file system", e))?;
    log_line(UP);
    // SAFETY: there is at least this program's own name; a list that ends as it did.
    let error = unsafe {
        argv.write(init.as_ptr().cast());
        sys::execute(init, argv, envp)
    };
    Err(Reason::Init(wanted.init, error))
}

/// Loads every module of the list. One that fails may be one that this machine does not need.
fn load_modules() {
    let mut list = [0; 8192];
    let Ok(length) = File::read_only(MODULES).and_then(|file| file.read(&mut list)) else { return };
    for line in list[..length].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let path = Text::<256>::of(format_args!("{}", core::str::from_utf8(line).unwrap_or_default()));
        let Some(path) = path.c_str() else { continue };
        match File::read_only(path).and_then(|file| file.load_module()) {
            Ok(()) | Err(sys::EEXIST) => {}
            Err(Errno(number)) => {
                let mut text = Text::<256>::new();
                let _ = writeln!(
                    text,
                    "midge: cannot load {}: error {number}",
                    path.to_str().unwrap_or_default()
                );
                log(text.str());
            }
        }
        // What is loaded is not needed twice.
        sys::remove(path);
    }
    sys::remove(MODULES);
    sys::remove(c"/init");
}

/// The node of the root's device, waited for where it is not there yet.
fn find(root: &Root<'_>, events: Option<&File>) -> Option<Text<256>> {
    let given_up = sys::now() + PATIENCE;
    loop {
        if let Some(found) = look(root) {
            return Some(found);
        }
        let left = given_up.checked_sub(sys::now()).filter(|left| *left > 0)?;
        let events = events?;
        if !events.wait(left) {
            return None;
        }
        // What they say is of no interest: some device has come.
        let mut heap = [0; 4096];
        while events.read(&mut heap).is_ok() {}
    }
}

fn look(root: &Root<'_>) -> Option<Text<256>> {
    if let Root::Node(node) = root {
        let path = Text::of(format_args!("/dev/{node}"));
        return File::read_only(path.c_str()?).is_ok().then_some(path);
    }
    let folder = File::read_only(c"/sys/class/block").ok()?;
    let mut entries = [0; 4096];
    loop {
        let length = folder.entries(&mut entries).ok().filter(|length| *length > 0)?;
        let mut rest = &entries[..length];
        // struct linux_dirent64 (getdents64(2)): its length at 16, the name from 19 on, ended by a zero.
        while let (Some(size), Some(name)) = (rest.get(16..18), rest.get(19..)) {
            let size = usize::from(u16::from_le_bytes([size[0], size[1]]));
            if let Ok(name) = CStr::from_bytes_until_nul(name)
                && let Ok(name) = name.to_str()
                && !name.starts_with('.')
                && is_meant(root, name).unwrap_or(false)
            {
                return Some(Text::of(format_args!("/dev/{name}")));
            }
            rest = rest.get(size.max(19)..)?;
        }
    }
}

/// Whether the block device of this name is the one meant.
fn is_meant(root: &Root<'_>, name: &str) -> Option<bool> {
    let device = |name: &str| File::read_only(Text::<256>::of(format_args!("/dev/{name}")).c_str()?).ok();
    let Root::PartUuid(wanted) = root else {
        let mut start = [0; 2048];
        let length = device(name)?.read(&mut start).ok()?;
        return Some(root.matches(&start[..length]));
    };
    // The partition's number, and the disk that it is a part of: the folder above its own.
    let number = Text::<256>::of(format_args!("/sys/class/block/{name}/partition"));
    let mut digits = [0; 16];
    let length = File::read_only(number.c_str()?).ok()?.read(&mut digits).ok()?;
    let number: u32 = core::str::from_utf8(&digits[..length]).ok()?.trim().parse().ok()?;
    let parent = Text::<256>::of(format_args!("/sys/class/block/{name}/../uevent"));
    let mut about = [0; 512];
    let length = File::read_only(parent.c_str()?).ok()?.read(&mut about).ok()?;
    let about = core::str::from_utf8(&about[..length]).ok()?;
    let disk = device(about.lines().find_map(|line| line.strip_prefix("DEVNAME="))?)?;
    let mut sector = [0; 512];
    disk.read_at(&mut sector, 512).ok()?;
    let entry = disk::gpt_entry(&sector, number)?;
    disk.read_at(&mut sector[..128], entry).ok()?;
    Some(disk::gpt_guid(&sector)? == wanted)
}

fn mount_root(device: &CStr, wanted: &Wanted<'_>) -> Result<(), Errno> {
    let flags = if wanted.writable { 0 } else { sys::MS_RDONLY };
    let options = Text::<256>::of(format_args!("{}", wanted.flags.unwrap_or_default()));
    let options = options.c_str().unwrap_or(c"");
    let mut failed = sys::ENOENT;
    for kind in wanted.fstype.unwrap_or(KINDS).split(',') {
        let kind = Text::<256>::of(format_args!("{kind}"));
        let Some(kind) = kind.c_str() else { continue };
        match sys::mount(device, NEW_ROOT, kind, flags, options) {
            Ok(()) => return Ok(()),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Makes the mounted file system the root (as switch_root(8) does); `/dev`, `/proc` and `/sys` go along.
fn hand_over() -> Result<(), Errno> {
    for (from, to) in [(c"/dev", c"/root/dev"), (c"/proc", c"/root/proc"), (c"/sys", c"/root/sys")] {
        sys::mount(from, to, c"", sys::MS_MOVE, c"")?;
    }
    sys::change_folder(NEW_ROOT)?;
    sys::mount(c".", c"/", c"", sys::MS_MOVE, c"")?;
    sys::change_root(c".")?;
    sys::change_folder(c"/")
}

/// Says something in the kernel's log, at a level that the console shows unless it is to be quiet.
fn log(line: &str) {
    let mut text = Text::<256>::new();
    let _ = write!(text, "<5>{line}");
    if let Ok(file) = File::write_only(c"/dev/kmsg") {
        let _ = file.write(text.bytes());
    }
}

/// Says something on the console, also of a kernel that is to be quiet.
fn log_line(line: &str) {
    let mut text = Text::<256>::new();
    let _ = writeln!(text, "{line}");
    sys::console(text.bytes());
}

/// A text in a fixed place: there is no heap.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn of(text: fmt::Arguments<'_>) -> Self {
        let mut out = Self::new();
        // What does not fit is seen by `c_str`.
        let _ = out.write_fmt(text);
        out
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn str(&self) -> &str {
        core::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    /// As a C string; none where it was too long, or has a zero byte.
    fn c_str(&self) -> Option<&CStr> {
        if self.length == N {
            return None;
        }
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).ok()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = N - self.length;
        let taken = text.len().min(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::console(FAILED.as_bytes());
    sys::console(b"a fault of its own\n");
    sys::power_off()
}
