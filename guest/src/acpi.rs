//! The few facts of the ACPI tables that switching off and resetting need.
//!
//! Tables are read as bytes at physical addresses; getting those bytes is the caller's matter. Offsets: ACPI
//! specification 6.5, 5.2.5 (RSDP), 5.2.7 (RSDT), 5.2.8 (XSDT), 5.2.9 (FADT) and 4.8.3.7 (sleep control register).

/// Signature and length of every table but the RSDP.
pub const HEADER: usize = 8;
/// Bytes of the common table header.
const SDT_HEADER: usize = 36;

/// `HW_REDUCED_ACPI`, bit 20 of the FADT's flags.
const HW_REDUCED: u32 = 1 << 20;
/// `RESET_REG_SUP`, bit 10.
const RESET_REG_SUP: u32 = 1 << 10;

/// A register: generic address structure, 5.2.3.2, of the two kinds that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// Address space 0.
    Memory(u64),
    /// Address space 1.
    Port(u16),
}

/// How to switch off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    /// Write this 16-bit value to the PM1a control port.
    Pm1a {
        /// The port.
        port: u16,
        /// `SLP_TYP` and `SLP_EN`.
        value: u16,
    },
    /// Write this byte to the sleep control register of hardware-reduced ACPI, as of a microvm.
    Control {
        /// The register.
        register: Register,
        /// `SLP_TYP` and `SLP_EN`.
        value: u8,
    },
}

/// What the tables say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Power {
    /// How to switch off.
    pub sleep: Option<Sleep>,
    /// The reset register and what to write to it.
    pub reset: Option<(Register, u8)>,
}

/// Reads the tables from the root pointer at `rsdp` on. `table(address, length)` gives the bytes of physical memory.
/// `None` when what is found is no set of ACPI tables.
pub fn power<'a>(rsdp: u64, table: impl Fn(u64, usize) -> &'a [u8]) -> Option<Power> {
    let root = table(rsdp, 36);
    if !root.starts_with(b"RSD PTR ") {
        return None;
    }
    let whole = |address: u64| -> Option<&'a [u8]> {
        let length = u32_at(table(address, HEADER), 4)? as usize;
        (address != 0 && (SDT_HEADER..1 << 20).contains(&length)).then(|| table(address, length))
    };
    // From revision 2 on there may be an XSDT, and a microvm has nothing else.
    let xsdt = if *root.get(15)? >= 2 { u64_at(root, 24)? } else { 0 };
    let (list, entry) = if xsdt != 0 { (xsdt, 8) } else { (u32_at(root, 16)?.into(), 4) };
    let fadt = whole(list)?
        .get(SDT_HEADER..)?
        .chunks_exact(entry)
        .filter_map(|entry| whole(u64_at(entry, 0).or_else(|| u32_at(entry, 0).map(u64::from))?))
        .find(|table| table.starts_with(b"FACP"))?;

    let flags = u32_at(fadt, 112)?;
    let dsdt = whole(u32_at(fadt, 40)?.into()).or_else(|| whole(u64_at(fadt, 140)?))?;
    let sleep = s5_type(dsdt).and_then(|slp_typ| {
        if flags & HW_REDUCED == 0 {
            // SLP_EN is bit 13, SLP_TYP bits 10 to 12: 4.8.3.2.1.
            let port = u16::try_from(u32_at(fadt, 64)?).ok()?;
            Some(Sleep::Pm1a { port, value: (u16::from(slp_typ) << 10) | 1 << 13 })
        } else {
            // SLP_EN is bit 5, SLP_TYP bits 2 to 4: 4.8.3.7.
            Some(Sleep::Control { register: register_at(fadt, 244)?, value: slp_typ << 2 | 1 << 5 })
        }
    });
    let reset =
        (flags & RESET_REG_SUP != 0).then(|| Some((register_at(fadt, 116)?, *fadt.get(128)?))).flatten();
    Some(Power { sleep, reset })
}

/// The first element of the package `\_S5`: the value of `SLP_TYP` that means soft off. Found by its AML encoding, as an
/// interpreter would be a thousand times the size.
pub fn s5_type(dsdt: &[u8]) -> Option<u8> {
    const PACKAGE: u8 = 0x12;
    const BYTE: u8 = 0x0a;
    let at = dsdt.windows(5).position(|bytes| bytes == b"_S5_\x12")?;
    let package = &dsdt[at + 4..];
    debug_assert_eq!(package[0], PACKAGE);
    // The top two bits of the first length byte count the length bytes that follow it; then comes the element count.
    let elements = 3 + usize::from(package.get(1)? >> 6);
    match *package.get(elements)? {
        value @ 0..=1 => Some(value), // ZeroOp, OneOp
        BYTE => package.get(elements + 1).copied().filter(|&value| value < 8),
        _ => None,
    }
}

fn register_at(table: &[u8], offset: usize) -> Option<Register> {
    let address = u64_at(table, offset + 4)?;
    match table.get(offset)? {
        0 if address != 0 => Some(Register::Memory(address)),
        1 => u16::try_from(address).ok().filter(|&port| port != 0).map(Register::Port),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    const S5_QEMU: &[u8] = b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00";
    const S5_MICROVM: &[u8] = b"\x08_S5_\x12\x08\x04\x0a\x05\x00\x00\x00";

    fn table(signature: &[u8], body: &[u8]) -> Vec<u8> {
        let mut table = vec![0; SDT_HEADER];
        table[..4].copy_from_slice(signature);
        table.extend_from_slice(body);
        let length = u32::try_from(table.len()).expect("small");
        table[4..8].copy_from_slice(&length.to_le_bytes());
        table
    }

    fn fadt(flags: u32, dsdt: u32) -> Vec<u8> {
        let mut fadt = table(b"FACP", &[0; 276 - SDT_HEADER]);
        fadt[40..44].copy_from_slice(&dsdt.to_le_bytes());
        fadt[64..68].copy_from_slice(&0x604_u32.to_le_bytes());
        fadt[112..116].copy_from_slice(&flags.to_le_bytes());
        fadt[116] = 1;
        fadt[120..128].copy_from_slice(&0xcf9_u64.to_le_bytes());
        fadt[128] = 0x0f;
        fadt[248..256].copy_from_slice(&0xfea0_0000_u64.to_le_bytes());
        fadt
    }

    /// Memory with an RSDP at 0, an RSDT at 0x100, a FADT at 0x200 and a DSDT at 0x400.
    fn memory(flags: u32, s5: &[u8]) -> Vec<u8> {
        let mut memory = vec![0; 0x1000];
        let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"RSD PTR ");
        put(16, &0x100_u32.to_le_bytes());
        put(0x100, &table(b"RSDT", &0x200_u32.to_le_bytes()));
        put(0x200, &fadt(flags, 0x400));
        put(0x400, &table(b"DSDT", s5));
        memory
    }

    fn read(memory: &[u8]) -> Option<Power> {
        power(0, |address, length| {
            let at = usize::try_from(address).expect("small");
            memory.get(at..at + length).unwrap_or(&[])
        })
    }

    #[test]
    fn a_pc_sleeps_by_its_pm1a_port() {
        let power = read(&memory(RESET_REG_SUP, S5_QEMU)).expect("tables");
        assert_eq!(power.sleep, Some(Sleep::Pm1a { port: 0x604, value: 0x2000 }));
        assert_eq!(power.reset, Some((Register::Port(0xcf9), 0x0f)));
    }

    #[test]
    fn a_microvm_sleeps_by_its_control_register() {
        let power = read(&memory(HW_REDUCED, S5_MICROVM)).expect("tables");
        assert_eq!(
            power.sleep,
            Some(Sleep::Control { register: Register::Memory(0xfea0_0000), value: 0x34 })
        );
        assert_eq!(power.reset, None);
    }

    #[test]
    fn an_xsdt_goes_before_the_rsdt() {
        let mut memory = memory(0, S5_QEMU);
        memory[15] = 2;
        memory[16..20].fill(0);
        memory[24..32].copy_from_slice(&0x180_u64.to_le_bytes());
        let xsdt = table(b"XSDT", &0x200_u64.to_le_bytes());
        memory[0x180..0x180 + xsdt.len()].copy_from_slice(&xsdt);
        assert!(read(&memory).expect("tables").sleep.is_some());
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0; 64]), None);
        let good = memory(0, S5_QEMU);
        for cut in [20, 0x104, 0x120, 0x204, 0x250] {
            assert_eq!(read(&good[..cut]), None, "cut at {cut:#x}");
        }
    }

    #[test]
    fn tables_without_s5_cannot_sleep() {
        assert_eq!(read(&memory(0, b"nothing")).expect("tables").sleep, None);
    }

    #[test]
    fn s5_is_read_from_its_aml() {
        assert_eq!(s5_type(S5_QEMU), Some(0));
        assert_eq!(s5_type(S5_MICROVM), Some(5));
        assert_eq!(s5_type(b"_S5_\x12\x40\x00\x04\x0a\x07"), Some(7), "two length bytes");
        for broken in [
            &b""[..],
            b"_S5_",
            b"_S5_\x12",
            b"_S5_\x12\x06\x04",
            b"_S5_\x12\x06\x04\x0a",
            b"_S5_\x12\x06\x04\x0a\x99",
        ] {
            assert_eq!(s5_type(broken), None, "{broken:?}");
        }
    }
}
