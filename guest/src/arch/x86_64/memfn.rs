//! The memory functions that compiled code calls and that a libc would provide.
//!
//! String instructions in units of eight bytes: short, fast on hardware, and the fewest steps where a host's KVM only
//! emulates them one unit at a time.

use core::arch::asm;
use core::ffi::{c_char, c_int};

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller's contract is memcpy's; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "mov rcx, {n}", "shr rcx, 3", "rep movsq", "mov rcx, {n}", "and ecx, 7", "rep movsb",
            n = in(reg) n, out("rcx") _, inout("rdi") to => _, inout("rsi") from => _, options(nostack)
        );
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: going upwards reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, n) };
    }
    // SAFETY: the caller's contract is memmove's; going downwards reads each byte before it is overwritten. The direction
    // flag is restored, as the ABI demands.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rcx") n => _, inout("rdi") to.wrapping_add(n).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(n).wrapping_sub(1) => _, options(nostack)
        );
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: c_int, n: usize) -> *mut u8 {
    let word = u64::from(byte as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's contract is memset's; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "mov rcx, {n}", "shr rcx, 3", "rep stosq", "mov rcx, {n}", "and ecx, 7", "rep stosb",
            n = in(reg) n, out("rcx") _, inout("rdi") to => _, in("rax") word, options(nostack)
        );
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, n: usize) -> c_int {
    for i in 0..n {
        // SAFETY: the caller's contract is memcmp's.
        let (l, r) = unsafe { (*left.add(i), *right.add(i)) };
        if l != r {
            return c_int::from(l) - c_int::from(r);
        }
    }
    0
}

/// # Safety
/// As `memcmp`, which it is where only equality matters.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, n: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, n) }
}

/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const c_char) -> usize {
    let mut n = 0;
    // SAFETY: the caller passes a string that ends with a zero byte.
    while unsafe { *text.add(n) } != 0 {
        n += 1;
    }
    n
}

/// Unoptimised builds of `core` name this symbol; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
