//! The few places where KVM's interface asks for trust.
#![allow(unsafe_code, reason = "guest memory, a missing ioctl, a union and a signal to one thread")]

use std::os::fd::AsRawFd as _;
use std::os::unix::thread::JoinHandleExt as _;
use std::thread::JoinHandle;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuFd, VmFd};
use nix::libc;
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

use super::{Failure, KICK, MEMORY};

/// Makes `memory` the VM's memory at address 0. The caller keeps it mapped as long as the VM can run.
pub(super) fn give_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), Failure> {
    let address = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| Failure::Strange(format!("the probe's memory has no address: {error}")))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: address as u64,
    };
    // SAFETY: the region is MEMORY bytes of an anonymous mapping that `memory` owns and nothing in this process has
    // a reference to; the caller drops it after the VM.
    unsafe { vm.set_user_memory_region(region) }.map_err(Failure::from)
}

/// Has [`KICK`], and it alone, end `KVM_RUN` with EINTR, while it stays blocked in the thread itself: `KVM_SET_SIGNAL_MASK`
/// (api.rst, 4.22), which kvm-ioctls does not have.
pub(super) fn let_kick_through(vcpu: &VcpuFd) -> Result<(), Failure> {
    /// `struct kvm_signal_mask` with the kernel's 8 bytes of signal set behind it.
    #[repr(C)]
    struct Mask {
        length: u32,
        set: [u8; 8],
    }
    /// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`: the struct counts as its first 4 bytes.
    const KVM_SET_SIGNAL_MASK: libc::Ioctl = 0x4004_ae8b;

    // A set bit blocks; signal N is bit N - 1.
    let blocked = !(1_u64 << (KICK as i32 - 1));
    let mask = Mask { length: 8, set: blocked.to_ne_bytes() };
    // SAFETY: the descriptor is a vCPU's, and the kernel reads 4 + `length` bytes from a live struct of that size.
    let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const mask) };
    if result == 0 { Ok(()) } else { Err(Failure::Host(std::io::Error::last_os_error())) }
}

/// Calls the CPU back from the thread that runs it.
pub(super) fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: a thread that has not been joined keeps its pthread_t, ended or not; the signal is blocked in it since its
    // beginning, so it ends KVM_RUN and does nothing else.
    let _ = unsafe { libc::pthread_kill(thread.as_pthread_t(), KICK as i32) };
}

/// What KVM says after `KVM_EXIT_INTERNAL_ERROR`.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: `internal` is the member of the union for the exit reason just returned; all its bytes are plain numbers.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    match suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => {
            "KVM internal error, emulation failed (suberror 1)".to_owned()
        }
        number => format!("KVM internal error (suberror {number})"),
    }
}
