//! The probe's guest on x86_64: flat 32-bit protected mode without paging, reporting through an I/O port.

use kvm_bindings::kvm_segment;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

/// Where the code is put and begun.
pub(super) const CODE: u64 = 0x1000;

/// Rounds of the loop whose pace is taken: 10 000 instructions.
pub(super) const ROUNDS: u32 = 5000;

/// The instruction that hardware runs and KVM's emulator does not.
pub(super) const SPECIAL: &str = "the BMI2 instruction shlx";

/// What the guest reports after it.
pub(super) const SPECIAL_RESULT: u8 = 1 << 5;

/// The port that the guest reports through; nothing is emulated there.
const PORT: u16 = 0xf4;

/// Whether this CPU has [`SPECIAL`].
pub(super) fn has_special() -> bool {
    std::arch::is_x86_feature_detected!("bmi2")
}

/// The guest's code: report once; with `special`, run that instruction and report its result; then for ever run the loop
/// and report.
pub(super) fn code(special: bool) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, reason = "the port fits the short form of `out`")]
    const OUT: [u8; 2] = [0xe6, PORT as u8]; // out PORT, al
    let mut code = vec![0xb0, 1]; // mov al, 1
    code.extend(OUT);
    if special {
        code.extend([0xb8, 1, 0, 0, 0]); // mov eax, 1
        code.extend([0xb9, 5, 0, 0, 0]); // mov ecx, 5
        code.extend([0xc4, 0xe2, 0x71, 0xf7, 0xc0]); // shlx eax, eax, ecx
        code.extend(OUT);
    }
    code.push(0xb9); // mov ecx, ROUNDS
    code.extend(ROUNDS.to_le_bytes());
    code.push(0x49); // dec ecx
    code.extend([0x75, 0xfd]); // jnz to the dec
    code.extend(OUT);
    code.extend([0xeb, 0xf4]); // jmp to the mov, 12 bytes before its own end
    code
}

/// A guest that never stops: jmp to itself.
#[cfg(test)]
pub(super) const ENDLESS: [u8; 2] = [0xeb, 0xfe];

/// What KVM needs before the first CPU is made.
pub(super) fn prepare_vm(vm: &VmFd) {
    // Intel CPUs without "unrestricted guest" need three pages for a task state segment and one for an identity map
    // (Documentation/virt/kvm/api.rst, 4.35 and 4.47). Where KVM has no use for them, its refusal does no harm.
    let _ = vm.set_identity_map_address(0xfffb_c000);
    let _ = vm.set_tss_address(0xfffb_d000);
}

/// Brings the CPU to the first instruction.
pub(super) fn prepare_vcpu(_vm: &VmFd, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let data = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0x10,
        type_: 3, // data, writable, accessed
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs = kvm_segment { selector: 0x08, type_: 11, ..data }; // code, readable, accessed
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr0 |= 1; // protected mode
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = CODE;
    regs.rflags = 2; // bit 1 is always set
    vcpu.set_regs(&regs)
}

/// What the guest reports by this exit, if it is a report.
pub(super) fn report(exit: &VcpuExit<'_>) -> Option<u8> {
    match exit {
        VcpuExit::IoOut(PORT, [value]) => Some(*value),
        _ => None,
    }
}

/// The guest's loop, run here.
#[allow(unsafe_code, reason = "the very same instructions are needed, not what a compiler makes of a loop")]
pub(super) fn loop_on_host() {
    // SAFETY: counts a register of its own down to zero; touches no memory.
    unsafe {
        std::arch::asm!("2: dec {n:e}", "jnz 2b", n = inout(reg) ROUNDS => _, options(nomem, nostack));
    }
}
