//! What the kernel itself keeps: random numbers and the clock.

use core::ffi::CStr;

use midge_identify::report::Outcome;

use crate::files;
use crate::sys::{self, ENOENT, File};

/// What systemd adds to the random numbers at the next boot (systemd-random-seed.service(8)): other machines have it too.
const SAVED: &CStr = c"/var/lib/systemd/random-seed";
/// The most bytes of a seed.
const MOST: usize = 512;

/// Adds bytes to the kernel's entropy, then has it make a new key of it at once (random(4)).
pub(crate) fn reseed(seed: &[u8]) -> Outcome {
    const RNDADDENTROPY: usize = 0x4008_5203;
    const RNDRESEEDCRNG: usize = 0x5207;
    /// `struct rand_pool_info`.
    #[repr(C)]
    struct Entropy {
        bits: i32,
        size: i32,
        bytes: [u8; MOST],
    }
    let mut entropy = Entropy { bits: seed.len() as i32 * 8, size: seed.len() as i32, bytes: [0; MOST] };
    let Some(place) = entropy.bytes.get_mut(..seed.len()) else {
        return Outcome::failed(format_args!("the seed has more than {MOST} bytes"));
    };
    place.copy_from_slice(seed);
    let device = match File::read_only(c"/dev/urandom") {
        Ok(device) => device,
        Err(e) => return Outcome::failed(format_args!("cannot open /dev/urandom: {e}")),
    };
    // SAFETY: a struct of at least `size` bytes after its head.
    if let Err(e) = unsafe { device.control(RNDADDENTROPY, (&raw const entropy).addr()) } {
        return Outcome::failed(format_args!("RNDADDENTROPY: {e}"));
    }
    // SAFETY: no argument.
    if let Err(e) = unsafe { device.control(RNDRESEEDCRNG, 0) } {
        return Outcome::failed(format_args!("RNDRESEEDCRNG: {e}"));
    }
    match sys::remove(SAVED) {
        Ok(()) | Err(ENOENT) => Outcome::done(format_args!("{} bytes from the host", seed.len())),
        Err(e) => Outcome::failed(format_args!("cannot remove /var/lib/systemd/random-seed: {e}")),
    }
}

/// Whether the guest's kernel reseeds by itself when it is resumed elsewhere (Linux, drivers/virt/vmgenid.c): `driver`, `device` where
/// there is a device and no driver for it, or `none`.
pub(crate) fn generation_id() -> &'static str {
    if sys::exists(c"/sys/bus/acpi/drivers/vmgenid/QEMUVGID:00")
        || sys::exists(c"/sys/bus/platform/drivers/vmgenid/QEMUVGID:00")
    {
        "driver"
    } else if sys::exists(c"/sys/bus/acpi/devices/QEMUVGID:00") {
        "device"
    } else {
        "none"
    }
}

/// This boot's id: a snapshot's, and shared by all that came of it.
pub(crate) fn boot_id(into: &mut [u8]) -> &str {
    files::read_text(c"/proc/sys/kernel/random/boot_id", into).trim_ascii()
}

/// Puts the clock right.
pub(crate) fn shift_clock(nanoseconds: i64) -> Outcome {
    match sys::shift_clock(nanoseconds) {
        Ok(()) => Outcome::done(format_args!("put forward by {} ms", nanoseconds / 1_000_000)),
        Err(e) => Outcome::failed(format_args!("cannot set the clock: {e}")),
    }
}
