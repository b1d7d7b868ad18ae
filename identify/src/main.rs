//! Gives the running guest that it is started in an identity of its own: midge has put it there through the guest agent, and starts it in
//! a guest that was resumed from a snapshot, with a request on its standard input.
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

use midge_identify::report::{Outcome, Report};
use midge_identify::request::Request;
use network::Network;

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
    let envp = unsafe { stack.add(stack.read() + 2).cast::<*const u8>() };
    let mut bytes = [0; LONGEST];
    let Some(request) = sys::input(&mut bytes).ok().and_then(Request::of) else {
        say(b"the request is damaged\n");
        sys::exit(1);
    };
    say(perform(&request, envp).text().bytes());
    sys::exit(0)
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
