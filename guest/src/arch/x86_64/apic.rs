//! The local APIC, its timer, and the IOAPIC: only what waking an idle CPU takes.
//!
//! Registers: Intel SDM volume 3, chapter 12; 82093AA IOAPIC datasheet.

use super::paging;

/// Physical address of the local APIC's registers; it is where the reset puts it and nobody moves it.
pub const LOCAL: u64 = 0xfee0_0000;
/// Physical address of the IOAPIC's two registers, on q35, pc and microvm alike.
const IO: u64 = 0xfec0_0000;
/// A microvm with ACPI can have a second one.
const IO_SECOND: u64 = 0xfec1_0000;
/// Interrupts of the first IOAPIC in QEMU.
const IO_PINS: u8 = 24;

const TASK_PRIORITY: u64 = 0x80;
const SPURIOUS: u64 = 0xf0;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;

const MASKED: u32 = 1 << 16;
const ENABLE: u32 = 1 << 8;
/// Divide by 1.
const DIVIDE_1: u32 = 0b1011;

fn read(register: u64) -> u32 {
    // SAFETY: a register of the local APIC, mapped by `enable` or by the clock; no reference to it exists.
    unsafe { ((LOCAL + register) as *const u32).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as in `read`; none of the registers written here changes memory.
    unsafe { ((LOCAL + register) as *mut u32).write_volatile(value) }
}

/// Switches the local APIC on, with every source but messages and the timer masked.
pub fn enable(spurious_vector: u8, timer_vector: u8) {
    paging::map(LOCAL, 4096);
    write(TASK_PRIORITY, 0);
    write(LVT_LINT0, MASKED); // the old interrupt controller's way in
    write(SPURIOUS, ENABLE | u32::from(spurious_vector));
    write(LVT_TIMER, u32::from(timer_vector)); // one shot
    write(TIMER_DIVIDE, DIVIDE_1);
}

/// Starts the timer: one interrupt after so many ticks; 0 stops it.
pub fn start_timer(ticks: u32) {
    write(TIMER_DIVIDE, DIVIDE_1);
    write(TIMER_INITIAL, ticks);
}

/// Ticks left.
pub fn timer_count() -> u32 {
    read(TIMER_CURRENT)
}

/// Sends an input of an IOAPIC to this CPU as an edge: all users here clear the cause before they look at the device, so
/// an edge that comes later is a new one, and no end-of-interrupt has to reach the IOAPIC.
pub fn route(input: u8, vector: u8) {
    let (base, pin) = if input < IO_PINS { (IO, input) } else { (IO_SECOND, input - IO_PINS) };
    paging::map(base, 4096);
    let redirection = 0x10 + 2 * u32::from(pin);
    let destination = read(0x20) & 0xff00_0000; // our own APIC id
    for (register, value) in
        [(redirection, MASKED), (redirection + 1, destination), (redirection, u32::from(vector))]
    {
        // SAFETY: index and data registers of the IOAPIC, mapped above; no reference to them exists. Without an IOAPIC
        // there the writes go nowhere.
        unsafe {
            (base as *mut u32).write_volatile(register);
            ((base + 0x10) as *mut u32).write_volatile(value);
        }
    }
}
