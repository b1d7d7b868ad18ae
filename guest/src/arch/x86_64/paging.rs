//! Page tables: identity-mapped, each thing with the access it needs and nothing else mapped.
//!
//! boot.rs maps the first 32 MiB. [`protect`] splits the first 2 MiB, where the kernel lies, into pages of 4 KiB and takes
//! write or execute rights away; [`map`] adds memory and device registers when somebody is about to use them.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::ports::rdmsr;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: there is one CPU, and interrupts do not touch page tables.
unsafe impl Sync for Table {}

/// Tables for [`map`]: two for each far apart GiB. Devices below 4 GiB, ACPI tables, the heap and one BAR above make six.
static POOL: [Table; 8] = [const { Table(UnsafeCell::new([0; 512])) }; 8];
static POOL_USED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    static pml4: Table;
    static pd_low: Table;
    static pt_low: Table;
    static stack_guard: u8;
    static text_start: u8;
    static text_end: u8;
    #[link_name = "kernel_end"]
    static kernel_end_symbol: u8;
}

/// First address behind the kernel.
pub fn kernel_end() -> u64 {
    (&raw const kernel_end_symbol) as u64
}

/// `NO_EXECUTE` where boot.rs switched it on; elsewhere the bit is reserved and must stay clear.
fn no_execute() -> u64 {
    const EFER: u32 = 0xc000_0080;
    const NXE: u64 = 1 << 11;
    // SAFETY: the register exists on every x86_64.
    if unsafe { rdmsr(EFER) } & NXE == 0 { 0 } else { NO_EXECUTE }
}

/// Text is read-only and executable, constants and the page at 0 are read-only, the page below the stack is unmapped, and
/// nothing but text is executable.
pub fn protect() {
    const KERNEL: u64 = 0x10_0000;
    let no_execute = no_execute();
    let text = (&raw const text_start) as u64..(&raw const text_end) as u64;
    let guard = (&raw const stack_guard) as u64;
    // SAFETY: the tables are ours alone. The new map differs from the old one only by rights that nobody uses and by the
    // page that nobody touches: everything stays where it is.
    unsafe {
        let small = &mut *pt_low.0.get();
        for (page, entry) in (0..).step_by(PAGE as usize).zip(small.iter_mut()) {
            *entry = if page == guard {
                0
            } else if page == 0 {
                // The boot information can lie here, so reading must be possible.
                page | PRESENT | no_execute
            } else if text.contains(&page) {
                page | PRESENT
            } else if (KERNEL..text.start).contains(&page) {
                page | PRESENT | no_execute
            } else {
                page | PRESENT | WRITABLE | no_execute
            };
        }
        let large = &mut *pd_low.0.get();
        large[0] = small.as_ptr() as u64 | PRESENT | WRITABLE;
        for entry in large.iter_mut().skip(1).take_while(|entry| **entry != 0) {
            *entry |= no_execute;
        }
        load_tables();
    }
}

/// Makes `length` bytes at the physical address `start` readable and writable at the same virtual address. What is mapped
/// already stays as it is.
pub fn map(start: u64, length: u64) {
    let no_execute = no_execute();
    let end = start.saturating_add(length);
    let mut address = start & !(LARGE_PAGE - 1);
    while address < end {
        // SAFETY: the tables are ours alone; entries are only added, which changes nothing that Rust could know of. No
        // flush is needed, as the CPU does not remember absent entries.
        unsafe {
            let pdpt = descend(&pml4, address >> 39 & 511);
            let pd = descend(pdpt, address >> 30 & 511);
            let entry = &mut (*pd.0.get())[(address >> 21 & 511) as usize];
            if *entry == 0 {
                *entry = address | PRESENT | WRITABLE | LARGE | no_execute;
            }
        }
        address += LARGE_PAGE;
    }
}

/// The table that an entry refers to; a new one when it is empty.
///
/// # Safety
/// `table` must be a table above the last level, and no reference into it may be alive.
unsafe fn descend(table: &Table, index: u64) -> &'static Table {
    // SAFETY: the caller's promise.
    let entry = unsafe { &mut (*table.0.get())[index as usize] };
    if *entry == 0 {
        let new = POOL.get(POOL_USED.fetch_add(1, Ordering::Relaxed)).expect("page tables are used up");
        *entry = new.0.get() as u64 | PRESENT | WRITABLE;
    }
    // SAFETY: a present entry of such a table holds the address of a `Table`, all of which live for ever.
    unsafe { &*((*entry & ADDRESS) as *const Table) }
}

/// # Safety
/// The tables at `pml4` must map everything that is in use.
unsafe fn load_tables() {
    // SAFETY: the caller's promise.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) &raw const pml4, options(nostack, preserves_flags)) }
}
