//! The first instructions: from the PVH entry (32-bit protected mode, no paging) to 64-bit Rust.
//!
//! Protocol: Xen's `docs/misc/pvh.pandoc`. QEMU finds the entry by the ELF note and passes `hvm_start_info` in `ebx`.

use core::arch::global_asm;
use core::ffi::CStr;

use hello::memmap;

use super::{clock, devices, interrupts, paging};
use crate::{Machine, mem};

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18                 // lengths of name and value, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

    .section .text.boot, "ax"
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    mov esp, offset stack_top
    mov edi, ebx                   // first argument of enter()
    // Identity map of the first 32 MiB in pages of 2 MiB; paging.rs adds what else is needed. The first 2 MiB get a
    // finer map there, until then all is writable.
    mov eax, offset pdpt_low + 3
    mov dword ptr [pml4], eax
    mov eax, offset pd_low + 3
    mov dword ptr [pdpt_low], eax
    mov eax, 0x83                  // present, writable, 2 MiB
    xor ecx, ecx
2:  mov dword ptr [pd_low + ecx*8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 16
    jne 2b
    mov eax, offset pml4
    mov cr3, eax
    mov eax, cr4
    or  eax, 0x620                 // PAE; OSFXSR and OSXMMEXCPT, for a build that does use SSE
    mov cr4, eax
    mov ecx, 0xc0000080            // EFER: LME and, where the CPU has it, NXE
    rdmsr
    or  eax, 0x100
    mov esi, eax
    mov eax, 0x80000001
    push ebx
    cpuid
    pop ebx
    mov eax, esi
    bt  edx, 20
    jnc 3f
    or  eax, 0x800
3:  mov ecx, 0xc0000080
    xor edx, edx
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb            // EM off
    or  eax, 0x80010003            // PG, WP, MP, PE
    mov cr0, eax
    lgdt [gdt_pointer]
    .byte 0xea                     // far jump to 0x08:start64, which the assembler has no syntax for here
    .long start64
    .word 0x08
    .code64
start64:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    call {enter}

    .section .data.gdt, "aw"
    .balign 8
    .global gdt
gdt:
    .quad 0
    .quad 0x00af9a000000ffff       // 0x08: 64-bit code
    .quad 0x00cf92000000ffff       // 0x10: data
    .quad 0, 0                     // 0x18: the task state segment, filled in by interrupts.rs
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global pml4, pd_low, pt_low, stack_guard
pml4:     .skip 4096
pdpt_low: .skip 4096
pd_low:   .skip 4096
pt_low:   .skip 4096
stack_guard: .skip 4096            // unmapped by paging.rs
    .skip 131072
stack_top:
    "#,
    enter = sym enter
);

/// `hvm_start_info` of Xen's `include/public/arch-x86/hvm/start_info.h`, version 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    reserved: u32,
}

const START_INFO_MAGIC: u32 = 0x336e_c578;

extern "C" fn enter(info: u64) -> ! {
    clock::begin();
    paging::protect();
    interrupts::init_exceptions();

    paging::map(info, size_of::<StartInfo>() as u64);
    // SAFETY: the protocol passes the address of this structure, which is mapped now and never written.
    let info = unsafe { &*(info as *const StartInfo) };
    assert!(
        info.magic == START_INFO_MAGIC && info.version >= 1,
        "not booted by the PVH protocol, version 1: magic {:#x}, version {}",
        info.magic,
        info.version
    );

    paging::map(info.memmap, u64::from(info.memmap_entries) * size_of::<memmap::Entry>() as u64);
    let entries = match info.memmap_entries {
        0 => &[][..],
        // SAFETY: as above; the length is the protocol's.
        n => unsafe { core::slice::from_raw_parts(info.memmap as *const memmap::Entry, n as usize) },
    };
    let end = paging::kernel_end();
    let Some((start, length)) = memmap::heap(entries, end, mem::MAX_HEAP) else {
        panic!("no free memory behind the kernel, which ends at {end:#x}");
    };
    paging::map(start, length);
    // SAFETY: this is RAM by the machine's map, behind the kernel, mapped, and given to the heap only here.
    unsafe { mem::init(start as usize, length as usize) }

    let cmdline = if info.cmdline == 0 {
        ""
    } else {
        // A page more than the longest command line that fits a boot protocol's page.
        paging::map(info.cmdline, 8192);
        // SAFETY: the protocol passes a string that ends with a zero byte; nothing writes there.
        unsafe { CStr::from_ptr(info.cmdline as *const _) }.to_str().unwrap_or("")
    };
    devices::set_rsdp(info.rsdp);
    crate::main(&Machine { memory_mib: memmap::total_mib(entries), cmdline })
}
