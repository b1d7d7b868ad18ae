//! Time since boot, from the time stamp counter, whose rate is measured or told by the hypervisor, never assumed.
//!
//! - KVM: its clock page states the rate exactly (Linux `Documentation/virt/kvm/x86/msr.rst`, `MSR_KVM_SYSTEM_TIME_NEW`).
//! - Otherwise: measured against the PIT (i8254), 1 193 182 Hz, over at least [`WINDOW_US`].
//! - Without a PIT (`pit=off` of a microvm): against the local APIC's timer, which counts at 1 GHz in QEMU
//!   (`hw/intc/apic.c`) as in KVM (`KVM_CAP_X86_APIC_BUS_CYCLES_NS`, default 1 ns).
//!
//! The measurement begins with the kernel and ends when the time is first needed, so that the window costs no waiting as
//! long as something else took that long.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::ports::{inb, outb, wrmsr};
use super::{apic, paging};

/// Shortest measurement: the PIT's tick of 0.84 us is 0.04 % of it.
const WINDOW_US: u64 = 2_000;

const PIT_HZ: u64 = 1_193_182;
/// Channel 0: the only one that a microvm can use, as the gate of channel 2 is a port that it lacks.
const PIT_CHANNEL: u16 = 0x40;
const PIT_MODE: u16 = 0x43;

/// Local APIC timer ticks a second.
const APIC_HZ: u64 = 1_000_000_000;

static START: AtomicU64 = AtomicU64::new(0);
/// First reading of the PIT and of the time stamp counter with it; the latter 0 without a PIT.
static PIT_START: AtomicU64 = AtomicU64::new(0);
static PIT_START_TICKS: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds for each tick of the counter, times 2^32. Zero until [`calibrate`] has run.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// KVM's clock page, `pvclock_vcpu_time_info`.
#[repr(C, align(64))]
struct PvClock {
    version: u32,
    pad0: u32,
    tsc_timestamp: u64,
    system_time: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    pad: [u8; 2],
}

struct PvClockPage(UnsafeCell<PvClock>);

// SAFETY: there is one CPU, and the page is only touched by `kvm_scale`.
unsafe impl Sync for PvClockPage {}

static PVCLOCK: PvClockPage = PvClockPage(UnsafeCell::new(PvClock {
    version: 0,
    pad0: 0,
    tsc_timestamp: 0,
    system_time: 0,
    tsc_to_system_mul: 0,
    tsc_shift: 0,
    flags: 0,
    pad: [0; 2],
}));

/// The time stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: the instruction exists on every x86_64 and has no side effect.
    unsafe { _rdtsc() }
}

/// Notes the start and sets the reference clocks going.
pub fn begin() {
    outb(PIT_MODE, 0b0011_0000); // channel 0, low byte then high byte, mode 0: count down once
    outb(PIT_CHANNEL, 0xff);
    outb(PIT_CHANNEL, 0xff);
    START.store(ticks(), Ordering::Relaxed);
    if let Some((reading, at)) = sample(pit) {
        PIT_START.store(reading, Ordering::Relaxed);
        PIT_START_TICKS.store(at, Ordering::Relaxed);
    }
}

/// Finds the rate of the time stamp counter.
pub fn calibrate() {
    let scale = kvm_scale().or_else(pit_scale).unwrap_or_else(apic_scale);
    SCALE.store(scale, Ordering::Relaxed);
}

/// Time since [`begin`].
pub fn now() -> Duration {
    let elapsed = ticks().wrapping_sub(START.load(Ordering::Relaxed));
    let nanos = (u128::from(elapsed) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32;
    Duration::from_nanos(nanos as u64)
}

fn scale(nanos: u64, ticks: u64) -> u64 {
    ((u128::from(nanos) << 32) / u128::from(ticks.max(1))) as u64
}

fn kvm_scale() -> Option<u64> {
    const HYPERVISOR: u32 = 1 << 31;
    const CLOCKSOURCE2: u32 = 1 << 3;
    const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    const ENABLE: u64 = 1;

    if __cpuid(1).ecx & HYPERVISOR == 0 {
        return None;
    }
    let vendor = __cpuid(0x4000_0000);
    let name = [vendor.ebx, vendor.ecx, vendor.edx].map(u32::to_le_bytes);
    if name.as_flattened() != b"KVMKVMKVM\0\0\0" || __cpuid(0x4000_0001).eax & CLOCKSOURCE2 == 0 {
        return None;
    }
    let page = PVCLOCK.0.get();
    // SAFETY: the feature bit promises the register. KVM writes to the page only while it is enabled, and nothing holds a
    // reference to it; volatile reads as another party writes.
    let (mul, shift) = unsafe {
        wrmsr(MSR_KVM_SYSTEM_TIME_NEW, page as u64 | ENABLE);
        let mul = (&raw const (*page).tsc_to_system_mul).read_volatile();
        let shift = (&raw const (*page).tsc_shift).read_volatile();
        wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0);
        (mul, shift)
    };
    let scale = if shift >= 0 { u64::from(mul) << shift } else { u64::from(mul) >> -shift };
    (scale != 0).then_some(scale)
}

/// A reading of a reference clock, in its own unit, and of the time stamp counter at the same moment: the tightest of a few
/// tries, as the host may take the CPU away between the two.
fn sample(reference: impl Fn() -> Option<u64>) -> Option<(u64, u64)> {
    const TRIES: usize = 5;
    let mut best = (u64::MAX, (0, 0));
    for _ in 0..TRIES {
        let before = ticks();
        let reading = reference()?;
        let width = ticks().wrapping_sub(before);
        if width < best.0 {
            best = (width, (reading, before + width / 2));
        }
    }
    Some(best.1)
}

/// Measures from `start` on against a reference clock of `hz` that counts up. `None` when the reference ends.
fn measure(hz: u64, start: (u64, u64), reference: impl Fn() -> Option<u64>) -> Option<u64> {
    loop {
        let (reading, at) = sample(&reference)?;
        let elapsed = reading.wrapping_sub(start.0);
        if elapsed * 1_000_000 >= hz * WINDOW_US {
            return Some(scale(elapsed * 1_000_000_000 / hz, at.wrapping_sub(start.1)));
        }
    }
}

/// PIT ticks since [`begin`]; `None` once the counter has run out, or without a PIT.
fn pit() -> Option<u64> {
    const OUTPUT: u8 = 1 << 7;
    outb(PIT_MODE, 0b1100_0010); // read-back: status and count of channel 0
    let status = inb(PIT_CHANNEL);
    let count = u16::from_le_bytes([inb(PIT_CHANNEL), inb(PIT_CHANNEL)]);
    (status & OUTPUT == 0).then(|| u64::from(0xffff - count))
}

fn pit_scale() -> Option<u64> {
    let start = (PIT_START.load(Ordering::Relaxed), PIT_START_TICKS.load(Ordering::Relaxed));
    if start.1 == 0 {
        return None;
    }
    measure(PIT_HZ, start, pit)
}

fn apic_scale() -> u64 {
    paging::map(apic::LOCAL, 4096);
    apic::start_timer(u32::MAX);
    let count = || Some(u64::from(u32::MAX - apic::timer_count()));
    // The reference never ends: the timer takes four seconds, of which two milliseconds are used.
    sample(count).and_then(|start| measure(APIC_HZ, start, count)).unwrap_or(0)
}
