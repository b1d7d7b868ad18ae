//! The memory functions that compiled code calls and that a libc would provide. Volatile, so that the compiler does not make calls of
//! themselves of them.

use core::ffi::c_int;

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    let mut done = 0;
    // Eight bytes at a time: unaligned ones are no trouble on either architecture.
    while n - done >= 8 {
        // SAFETY: the caller's contract is memcpy's.
        unsafe {
            let word = from.add(done).cast::<[u8; 8]>().read_volatile();
            to.add(done).cast::<[u8; 8]>().write_volatile(word);
        }
        done += 8;
    }
    while done < n {
        // SAFETY: as above.
        unsafe { to.add(done).write_volatile(from.add(done).read_volatile()) };
        done += 1;
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if to.addr() <= from.addr() || from.addr() + n <= to.addr() {
        for index in 0..n {
            // SAFETY: the caller's contract is memmove's; each byte is read before it is overwritten.
            unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        }
    } else {
        for index in (0..n).rev() {
            // SAFETY: as above, from the other end.
            unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
        }
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: c_int, n: usize) -> *mut u8 {
    let bytes = [byte as u8; 8];
    let mut done = 0;
    while n - done >= 8 {
        // SAFETY: the caller's contract is memset's.
        unsafe { to.add(done).cast::<[u8; 8]>().write_volatile(bytes) };
        done += 8;
    }
    while done < n {
        // SAFETY: as above.
        unsafe { to.add(done).write_volatile(bytes[0]) };
        done += 1;
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> c_int {
    for index in 0..n {
        // SAFETY: the caller's contract is memcmp's.
        let (a, b) = unsafe { (a.add(index).read_volatile(), b.add(index).read_volatile()) };
        if a != b {
            return c_int::from(a) - c_int::from(b);
        }
    }
    0
}

/// # Safety
/// As `memcmp`; only whether it is zero counts.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, n) }
}
