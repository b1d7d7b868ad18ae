//! Ways out: debug exit, power off, reset, and telling the host about a panic.

use hello::acpi::{self, Register, Sleep};
use hello::command::MAX_EXIT_CODE;

use super::ports::{inb, outb, outw};
use super::{clock, devices, interrupts, paging};

/// `-device isa-debug-exit,iobase=0xf4,iosize=4`, the place that unikernels and the Rust OS community use; QEMU's own default is 0x501.
const DEBUG_EXIT: u16 = 0xf4;
/// `-device pvpanic`: QEMU `docs/specs/pvpanic.rst`.
const PVPANIC: u16 = 0x505;
/// Reset control of the PC chipsets.
const RESET_CONTROL: u16 = 0xcf9;
/// Command port of the keyboard controller.
const KEYBOARD: u16 = 0x64;

/// Ends QEMU with the status `(code << 1) | 1`. Returns when the device is not there.
pub fn exit(code: u8) {
    outb(DEBUG_EXIT, code.min(MAX_EXIT_CODE));
    linger();
}

/// Waits for the end. QEMU ends on another thread than the one that runs this CPU, which goes on for a moment.
fn linger() {
    /// About half a second, by the rates that time stamp counters have; the time may not be calibrated yet.
    const TICKS: u64 = 1 << 30;
    let start = clock::ticks();
    while clock::ticks().wrapping_sub(start) < TICKS {
        core::hint::spin_loop();
    }
}

/// Switches off by ACPI. Returns when the machine has none, as `microvm,acpi=off`.
pub fn poweroff() {
    match devices::acpi().and_then(|power| power.sleep) {
        Some(Sleep::Pm1a { port, value }) => outw(port, value),
        Some(Sleep::Control { register, value }) => write(register, value),
        None => return,
    }
    linger();
}

/// Resets the machine, by the politest way that works.
pub fn reset() -> ! {
    if let Some((register, value)) = devices::acpi().and_then(|power| power.reset) {
        write(register, value);
        linger();
    }
    outb(RESET_CONTROL, 0x06);
    outb(KEYBOARD, 0xfe);
    linger();
    interrupts::triple_fault()
}

/// Tells the host that this guest has panicked. Whether it runs on is up to QEMU's `-action panic=`.
pub fn notify_panic() {
    const PANICKED: u8 = 1;
    let supported = inb(PVPANIC);
    if supported != 0xff && supported & PANICKED != 0 {
        outb(PVPANIC, PANICKED);
    }
}

/// Ends the guest without a handler having a say: see [`interrupts::breakpoint_without_handlers`].
pub fn crash() -> ! {
    interrupts::breakpoint_without_handlers()
}

fn write(register: acpi::Register, value: u8) {
    match register {
        Register::Port(port) => outb(port, value),
        Register::Memory(address) => {
            paging::map(address, 1);
            // SAFETY: ACPI names this as a register of the machine; it is mapped, and no reference to it exists.
            unsafe { (address as *mut u8).write_volatile(value) }
        }
    }
}
