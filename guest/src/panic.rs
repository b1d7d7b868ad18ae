//! The end of a kernel that found itself wrong.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::power;
use crate::println;

/// Code that a panic exits with, as Rust programs do: QEMU's status is then 203.
const CODE: u8 = 101;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    if !PANICKING.swap(true, Ordering::Relaxed) {
        let place = info.location();
        let (file, line) = place.map_or(("?", 0), |place| (place.file(), place.line()));
        println!("hello: panic: {} ({file}:{line})", info.message());
        power::notify_panic();
        power::exit(CODE);
    }
    power::reset()
}
