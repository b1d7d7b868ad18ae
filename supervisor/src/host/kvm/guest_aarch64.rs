//! The probe's guest on aarch64: EL1 with the MMU off, reporting by stores to an address without memory.

use kvm_bindings::kvm_vcpu_init;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

/// Where the code is put and begun.
pub(super) const CODE: u64 = 0x1000;

/// Rounds of the loop whose pace is taken: 10 000 instructions.
pub(super) const ROUNDS: u32 = 5000;

/// No instruction is known that an emulating KVM would lack; the pace alone tells.
pub(super) const SPECIAL: &str = "";

/// Never reported.
pub(super) const SPECIAL_RESULT: u8 = 0;

/// The address that the guest reports to.
const MMIO: u64 = 0x0800_0000;

/// The program counter in KVM's numbering: `KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE` and its offset in
/// `struct kvm_regs` in 32-bit words (Documentation/virt/kvm/api.rst, 4.68).
const PC: u64 = 0x6030_0000_0010_0000 | 64;

/// Whether this CPU has [`SPECIAL`].
pub(super) fn has_special() -> bool {
    false
}

/// The guest's code: report once, then for ever run the loop and report.
pub(super) fn code(_special: bool) -> Vec<u8> {
    let words: [u32; 8] = [
        0xd2a1_0001,               // movz x1, #0x0800, lsl #16 (MMIO)
        0x5280_0020,               // movz w0, #1
        0xb900_0020,               // str w0, [x1]
        0x5280_0002 | ROUNDS << 5, // movz w2, #ROUNDS
        0x7100_0442,               // subs w2, w2, #1
        0x54ff_ffe1,               // b.ne to the subs
        0xb900_0020,               // str w0, [x1]
        0x17ff_fffc,               // b to the second movz of the loop, 4 words back
    ];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// A guest that never stops: b to itself.
#[cfg(test)]
pub(super) const ENDLESS: [u8; 4] = 0x1400_0000_u32.to_le_bytes();

/// What KVM needs before the first CPU is made: nothing.
pub(super) fn prepare_vm(_vm: &VmFd) {}

/// Brings the CPU to the first instruction.
pub(super) fn prepare_vcpu(vm: &VmFd, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target)?;
    vcpu.vcpu_init(&target)?;
    vcpu.set_one_reg(PC, &CODE.to_le_bytes()).map(|_size| ())
}

/// What the guest reports by this exit, if it is a report.
pub(super) fn report(exit: &VcpuExit<'_>) -> Option<u8> {
    match exit {
        VcpuExit::MmioWrite(MMIO, [value, ..]) => Some(*value),
        _ => None,
    }
}

/// The guest's loop, run here.
#[allow(unsafe_code, reason = "the very same instructions are needed, not what a compiler makes of a loop")]
pub(super) fn loop_on_host() {
    // SAFETY: counts a register of its own down to zero; touches no memory.
    unsafe {
        std::arch::asm!("2: subs {n:w}, {n:w}, #1", "b.ne 2b", n = inout(reg) ROUNDS => _, options(nomem, nostack));
    }
}
