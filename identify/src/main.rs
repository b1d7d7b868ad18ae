//! Gives the running guest that it is started in an identity of its own: midge sends it through the guest agent into a guest that was
//! resumed from a snapshot, with a request behind it in its own file.
//!
//! Everything is done by system calls and in one process: in an emulated guest, each program that is started takes longer than
//! all of this together. What it did it says at the end, at once, on standard output.
#![no_std]
#![no_main]

mod files;
mod kernel;
mod memfn;
mod names;
mod network;
mod ssh;
mod sys;

use core::ffi::CStr;

use midge_identify::report::{Outcome, Report};
use midge_identify::request::{Request, TRAILER};
use network::Network;
use sys::File;

/// The longest request, in bytes.
const LONGEST: usize = 16 << 10;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    // The kernel starts a program with argc, argv and envp on the stack (System V ABI for AMD64, 3.4.1).
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
    // As above; the stack is aligned already (ABI for the Arm 64-bit Architecture, 6.4.5.1).
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    begin = sym begin,
);

/// # Safety
/// `stack` is what the kernel left there.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: argc, then so many pointers and a null, then the environment's and a null.
    let (name, envp) = unsafe {
        let argc = stack.read();
        let name = stack.add(1).cast::<*const core::ffi::c_char>().read();
        (CStr::from_ptr(name), stack.add(argc + 2).cast::<*const u8>())
    };
    let mut bytes = [0; LONGEST];
    let request = request(name, &mut bytes);
    // It holds a private key.
    let _ = sys::remove(name);
    let Some(request) = request else {
        say(b"the request behind the program is damaged\n");
        sys::exit(1);
    };
    say(perform(&request, envp).text().bytes());
    sys::exit(0)
}

/// Reads what stands behind the program in its file.
fn request<'a>(path: &CStr, bytes: &'a mut [u8]) -> Option<Request<'a>> {
    let file = File::read_only(path).ok()?;
    let size = file.size().ok()?;
    let mut trailer = [0; TRAILER];
    file.read_at(&mut trailer, size.checked_sub(TRAILER as u64)?).ok()?;
    let length = u64::from_le_bytes(trailer);
    let place = bytes.get_mut(..usize::try_from(length).ok()?)?;
    let read = file.read_at(place, size.checked_sub(TRAILER as u64)?.checked_sub(length)?).ok()?;
    Request::of(place.get(..read)?)
}

fn perform(request: &Request<'_>, envp: *const *const u8) -> Report {
    let mut report = Report::default();
    // Nothing more is sent as the machine that this one was.
    let network = Network::take_down(request);
    let mut item = |name: &str, work: &dyn Fn() -> Outcome| {
        let start = sys::microseconds();
        let outcome = work();
        report.item(name, &outcome, sys::microseconds() - start);
    };
    if let Some(seed) = request.seed {
        item("random-seed", &|| kernel::reseed(seed));
    }
    if let Some(nanoseconds) = request.clock {
        item("clock", &|| kernel::shift_clock(nanoseconds));
    }
    if let Some(name) = request.hostname {
        item("hostname", &|| names::set_hostname(name));
    }
    if let Some(id) = request.machine_id {
        item("machine-id", &|| names::set_machine_id(id));
    }
    if let (Some(private), Some(public)) = (request.host_key, request.host_public_key) {
        item("ssh-host-keys", &|| ssh::set_host_key(private, public));
    }
    network.bring_up(request, envp, &mut report);
    report.fact("vmgenid", format_args!("{}", kernel::generation_id()));
    report.fact("boot-id", format_args!("{}", kernel::boot_id(&mut [0; 64])));
    report
}

/// Says something on standard output.
fn say(text: &[u8]) {
    // Whoever cannot be told cannot be told of that either.
    let _ = sys::print(text);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    say(b"a fault of its own\n");
    sys::exit(1)
}
