//! The heap.

use linked_list_allocator::LockedHeap;

/// Most that the heap takes: a few hundred connections fit.
pub const MAX_HEAP: u64 = 16 << 20;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives the heap its memory.
///
/// # Safety
/// Once only, with mapped RAM that nothing else uses.
pub unsafe fn init(start: usize, length: usize) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(start as *mut u8, length) }
}
