//! Exceptions, and waking up from idle.
//!
//! The kernel runs with interrupts off, except in [`idle`]. An interrupt means "look again" and nothing more: its handler
//! acknowledges it and continues behind `idle`'s `hlt`. So nothing is ever interrupted in the middle, no register needs
//! saving, and no `iret` is needed, which KVM's instruction emulator does not have in 64-bit mode (`em_iret` of
//! `arch/x86/kvm/emulate.c`); hosts exist where guest kernels only run on that emulator.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::time::Duration;

use super::ports::outb;
use super::{apic, clock};

/// Vector of the timer.
const WAKE_TIMER: u8 = 0x20;
/// Vector of the serial port.
pub const WAKE_SERIAL: u8 = 0x21;
/// Vector of the network device.
pub const WAKE_NET: u8 = 0x22;
/// Vector of interrupts that vanished before they were taken; they want no acknowledgement. Its low four bits are set, as
/// old APICs demand.
const SPURIOUS: u8 = 0x2f;

const EXCEPTIONS: usize = 32;
const VECTORS: usize = 0x30;

/// The timer's frequency in MHz: see clock.rs for why it is known.
const TIMER_MHZ: u64 = 1_000;

global_asm!(
    r#"
    .section .text.interrupts, "ax"
    // Sleeps until an interrupt comes. `sti` takes effect after the instruction behind it, so none is lost in between.
    .global idle_until_interrupt
idle_until_interrupt:
    sti
    hlt
    cli                            // not reached by way of our own vectors
    ret

wake:
    mov eax, 0xfee000b0            // end of interrupt; rax is free to use, as `idle_until_interrupt` is a C function
    mov dword ptr [rax], 0
wake_spurious:
    mov rsp, [rsp + 24]            // the stack as it was: its top is the return address of `idle_until_interrupt`
    ret                            // with interrupts off, as the gate switched them off

    // One entry for each exception, 16 bytes apart: vector and error code (or 0) on the stack.
    .balign 16
exception_entries:
    .set vector, 0
    .rept 32
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    push 0
    .endif
    push vector
    jmp exception_common
    .set vector, vector + 1
    .endr

exception_common:
    mov rdi, rsp
    cld
    and rsp, -16
    call {exception}

    .section .bss.interrupts, "aw", @nobits
    .balign 16
    .skip 8192
fault_stack_top:
    "#,
    exception = sym exception
);

unsafe extern "C" {
    fn idle_until_interrupt();
    static wake: u8;
    static wake_spurious: u8;
    static exception_entries: u8;
    static fault_stack_top: u8;
    static gdt: SharedGdt;
}

/// A gate of the interrupt descriptor table: Intel SDM volume 3, 7.14.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const EMPTY: Self = Self { low: 0, high: 0 };

    /// An interrupt gate of ring 0 in code segment 0x08, on stack `ist` of the task state segment, 0 being the current one.
    fn new(handler: u64, ist: u64) -> Self {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e;
        let low = handler & 0xffff
            | 0x08 << 16
            | ist << 32
            | PRESENT_INTERRUPT_GATE << 40
            | (handler >> 16 & 0xffff) << 48;
        Self { low, high: handler >> 32 }
    }
}

/// The task state segment of 64-bit mode, in 32-bit words: Intel SDM volume 3, 9.7. Only the stacks matter.
type Tss = [u32; 26];
/// Words of the TSS that hold stack 1 of the interrupt stack table.
const IST1: usize = 9;

struct Tables {
    idt: [Gate; VECTORS],
    tss: Tss,
}

#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);
type SharedGdt = Shared<[u64; 5]>;

// SAFETY: there is one CPU, and the tables are written once, before anything uses them.
unsafe impl<T> Sync for Shared<T> {}

static TABLES: Shared<Tables> = Shared(UnsafeCell::new(Tables { idt: [Gate::EMPTY; VECTORS], tss: [0; 26] }));

/// Operand of `lidt`.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Makes exceptions panic with their name instead of resetting the machine. Runs once, first of all.
pub fn init_exceptions() {
    // SAFETY: nothing else refers to these tables yet; the handlers they name exist for ever; the descriptor of the task
    // state segment has the form that the SDM asks for (volume 3, 9.2.3).
    unsafe {
        let tables = &mut *TABLES.0.get();
        for (vector, gate) in tables.idt.iter_mut().enumerate() {
            *gate = match vector {
                0..EXCEPTIONS => Gate::new((&raw const exception_entries) as u64 + 16 * vector as u64, 1),
                v if v == usize::from(SPURIOUS) => Gate::new((&raw const wake_spurious) as u64, 0),
                _ => Gate::new((&raw const wake) as u64, 0),
            };
        }
        let stack = (&raw const fault_stack_top) as u64;
        tables.tss[IST1] = stack as u32;
        tables.tss[IST1 + 1] = (stack >> 32) as u32;

        let base = tables.tss.as_ptr() as u64;
        let limit = size_of::<Tss>() as u64 - 1;
        let available_tss = 0x89;
        let descriptors = &mut *gdt.0.get();
        descriptors[3] = limit | (base & 0xff_ffff) << 16 | available_tss << 40 | (base >> 24 & 0xff) << 56;
        descriptors[4] = base >> 32;
        asm!("ltr {:x}", in(reg) 0x18, options(nostack, preserves_flags));
        load_idt(&tables.idt);
    }
}

/// Sets up what ends [`idle`]: the local APIC. The old interrupt controllers are silenced.
pub fn init() {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    apic::enable(SPURIOUS, WAKE_TIMER);
}

/// Sleeps until an interrupt comes, at most for this long. Interrupts that came since the last sleep end it at once.
pub fn idle(limit: Duration) {
    let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    let ticks = micros.saturating_mul(TIMER_MHZ).min(u64::from(u32::MAX)) as u32;
    apic::start_timer(ticks.max(1));
    // SAFETY: a C function that changes no memory; the interrupts that it lets in only return from it.
    unsafe { idle_until_interrupt() }
}

/// # Safety
/// The gates must name handlers.
unsafe fn load_idt(idt: &'static [Gate]) {
    let pointer = TablePointer { limit: (size_of_val(idt).max(1) - 1) as u16, base: idt.as_ptr() as u64 };
    // SAFETY: the caller's promise; the CPU reads the pointer at once.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags, readonly)) }
}

/// Takes all handlers away and faults, which no CPU gets out of: a triple fault, which resets the machine.
pub fn triple_fault() -> ! {
    // SAFETY: nothing runs after this; the page at 0 is read-only.
    unsafe {
        load_idt(&[]);
        asm!("mov byte ptr [0], 0", "2: hlt", "jmp 2b", options(noreturn));
    }
}

/// Executes an instruction that the emulator of KVM does not know, with no handlers in place: on hosts where guest kernels
/// run on that emulator, a "KVM internal error"; elsewhere a triple fault.
pub fn breakpoint_without_handlers() -> ! {
    // SAFETY: nothing runs after this.
    unsafe {
        load_idt(&[]);
        asm!("int3", "2: hlt", "jmp 2b", options(noreturn));
    }
}

/// What the CPU and the entries above leave on the stack.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

extern "C" fn exception(frame: &Frame) -> ! {
    const NAMES: [&str; EXCEPTIONS] = [
        "divide error",
        "debug",
        "NMI",
        "breakpoint",
        "overflow",
        "bound range",
        "invalid opcode",
        "no FPU",
        "double fault",
        "?",
        "invalid TSS",
        "no segment",
        "stack fault",
        "general protection",
        "page fault",
        "?",
        "FPU error",
        "alignment",
        "machine check",
        "SIMD error",
        "?",
        "control protection",
        "?",
        "?",
        "?",
        "?",
        "?",
        "?",
        "?",
        "?",
        "?",
        "?",
    ];
    let address: u64;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) }
    panic!(
        "exception {} ({}), error {:#x}, at {:#x}, stack {:#x}, address {address:#x}, {:?} after the start",
        frame.vector,
        NAMES[frame.vector as usize % EXCEPTIONS],
        frame.error,
        frame.rip,
        frame.rsp,
        clock::now()
    )
}
