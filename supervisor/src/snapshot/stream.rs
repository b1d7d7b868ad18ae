//! The device state as QEMU writes it, as far as midge has to understand it.
//!
//! A machine that boots itself is saved by `migrate` with `x-ignore-shared`: its RAM is a shared file and stays out, what remains of the
//! section `ram` are the firmware's ROMs and ACPI tables (about 200 KB). A clone's RAM is private, so `migrate` would write all of it; its
//! state is saved by `xen-save-devices-state`, which leaves the section `ram` out altogether. A QEMU that loads such a state
//! runs, but its ROMs are empty, because an incoming QEMU does not fill them (`rom_reset()` in `hw/core/loader.c`): the guest hangs
//! when it resets. ROMs do not change while a machine lives, so [`splice`] takes the section `ram` from the state that the clone was loaded
//! from. Then all states have one form, and one way of loading serves them all.
//!
//! The format (QEMU, `migration/savevm.c`, `migration/ram.c`; numbers are big-endian, tried with 7.2 and 10.0):
//!
//! ```text
//! state    "QEVM", version 3 (32 bits), sections, 0 (end)
//! section  type (8 bits), id (32), and with type 1 (start) and 4 (full): length of name (8), name, instance (32), version (32);
//!          then what its device writes, then 0x7e, id (32)
//! command  8 (8), number (16), length (16), bytes: such as "the source stands still from here on", between the parts of `ram`
//! ram      records, each an address with flags in its low bits (64), until the flag 0x10 (end):
//!          0x04 a list of blocks (name, size, address) whose sizes sum to the address part,
//!          0x02 a page of one byte, 0x08 a page; both with a block's name unless flag 0x20 says that it is the last one's
//! ```

use super::error::SnapshotError;

const MAGIC: &[u8; 8] = b"QEVM\0\0\0\x03";
const SECTION_START: u8 = 1;
const SECTION_PART: u8 = 2;
const SECTION_END: u8 = 3;
const COMMAND: u8 = 8;
const FOOTER: u8 = 0x7e;

const ZERO_PAGE: u64 = 0x02;
const BLOCKS: u64 = 0x04;
const PAGE: u64 = 0x08;
const END: u64 = 0x10;
const SAME_BLOCK: u64 = 0x20;
/// Flags lie below the smallest page.
const FLAGS: u64 = 0xfff;
/// QEMU's own unit for the guests that midge runs, whatever the host's pages are.
const GUEST_PAGE: usize = 4096;

/// The state of a clone: what `xen-save-devices-state` wrote, with the section `ram` of the state that the clone was loaded from.
pub fn splice(parent: &[u8], devices: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let ram = ram_section(parent)?;
    let Some(sections) = devices.strip_prefix(MAGIC) else {
        return Err(broken("it does not begin as one does"));
    };
    if matches!(sections.first(), Some(&(SECTION_START | SECTION_PART | SECTION_END))) {
        return Err(broken("it has a section `ram` where there should be none"));
    }
    Ok([MAGIC, ram, sections].concat())
}

/// The section `ram` of a state that `migrate` wrote: all parts of it, which come before those of the devices.
fn ram_section(state: &[u8]) -> Result<&[u8], SnapshotError> {
    let Some(sections) = state.strip_prefix(MAGIC) else {
        return Err(broken("it does not begin as one does"));
    };
    let mut reader = Reader { bytes: sections, at: 0 };
    let mut ended = false;
    while let Some(kind @ (SECTION_START | SECTION_PART | SECTION_END | COMMAND)) = reader.peek() {
        if ended {
            break;
        }
        reader.take(1)?;
        if kind == COMMAND {
            reader.take(2)?;
            let length = reader.take(2)?;
            reader.take(usize::from(u16::from_be_bytes([length[0], length[1]])))?;
            continue;
        }
        let id = reader.take(4)?;
        if kind == SECTION_START {
            if reader.name()? != b"ram" {
                return Err(broken("it has a section in parts that is not `ram`"));
            }
            reader.take(8)?;
        }
        reader.ram_records()?;
        if reader.take(1)? != [FOOTER] || reader.take(4)? != id {
            return Err(broken("a section does not end where it should"));
        }
        ended |= kind == SECTION_END;
    }
    if ended { Ok(&sections[..reader.at]) } else { Err(broken("its section `ram` is missing or has no end")) }
}

fn broken(what: &str) -> SnapshotError {
    SnapshotError::State(what.to_owned())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], SnapshotError> {
        let end = self.at.checked_add(count).ok_or_else(|| broken("it is cut short"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| broken("it is cut short"))?;
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, SnapshotError> {
        let bytes = self.take(8)?;
        Ok(u64::from_be_bytes(std::array::from_fn(|i| bytes[i])))
    }

    /// A name behind its length.
    fn name(&mut self) -> Result<&'a [u8], SnapshotError> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    fn ram_records(&mut self) -> Result<(), SnapshotError> {
        loop {
            let word = self.number()?;
            let (address, flags) = (word & !FLAGS, word & FLAGS);
            match flags & !SAME_BLOCK {
                END => return Ok(()),
                BLOCKS => {
                    let mut left = address;
                    while left > 0 {
                        self.name()?;
                        let size = self.number()?;
                        // The block's address in the guest, which `x-ignore-shared` adds.
                        self.number()?;
                        left = left
                            .checked_sub(size)
                            .filter(|_| size > 0)
                            .ok_or_else(|| broken("the sizes of its blocks do not sum to what it says"))?;
                    }
                }
                kind @ (ZERO_PAGE | PAGE) => {
                    if flags & SAME_BLOCK == 0 {
                        self.name()?;
                    }
                    self.take(if kind == PAGE { GUEST_PAGE } else { 1 })?;
                }
                other => {
                    return Err(broken(&format!("its section `ram` has a record of the kind {other:#x}")));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn section(kind: u8, records: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0, 2];
        if kind == SECTION_START {
            bytes.extend(b"\x03ram\0\0\0\0\0\0\0\x04");
        }
        bytes.extend(records);
        bytes.extend([FOOTER, 0, 0, 0, 2]);
        bytes
    }

    fn record(address: u64, flags: u64, rest: &[u8]) -> Vec<u8> {
        [&(address | flags).to_be_bytes(), rest].concat()
    }

    /// A state with two blocks, a page of each kind, and one device.
    fn migrated() -> (Vec<u8>, Vec<u8>) {
        let block = |name: &[u8], size: u64| {
            [&[u8::try_from(name.len()).unwrap()], name, &size.to_be_bytes(), &0xfffc_0000_u64.to_be_bytes()]
                .concat()
        };
        let end = record(0, END, b"");
        let blocks = [block(b"ram", 0x4000), block(b"pc.bios", 0x2000)].concat();
        let ram = [
            section(SECTION_START, &[record(0x6000, BLOCKS, &blocks), end.clone()].concat()),
            section(
                SECTION_PART,
                &[record(0, PAGE, &[b"\x07pc.bios".as_slice(), &[0xea; 4096]].concat()), end.clone()]
                    .concat(),
            ),
            // MIG_CMD_SWITCHOVER_START, as QEMU 10 sends it.
            b"\x08\0\x0b\0\0".to_vec(),
            section(SECTION_END, &[record(0x1000, ZERO_PAGE | SAME_BLOCK, &[0]), end].concat()),
        ]
        .concat();
        let state = [MAGIC.as_slice(), &ram, b"\x04\0\0\0\x05\x05timer", &[0; 9]].concat();
        (state, ram)
    }

    const DEVICES: &[u8] = b"QEVM\0\0\0\x03\x04\0\0\0\x05\x05timerchanged\0";

    #[test]
    fn a_clones_state_gets_the_roms_of_its_parent() {
        let (parent, ram) = migrated();
        let spliced = splice(&parent, DEVICES).unwrap();
        assert_eq!(spliced, [MAGIC, ram.as_slice(), &DEVICES[8..]].concat());
        // And a clone of that one those of the clone's.
        assert_eq!(splice(&spliced, DEVICES).unwrap(), spliced);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let (parent, _) = migrated();
        let why = |parent: &[u8], devices: &[u8]| splice(parent, devices).unwrap_err().to_string();
        assert!(why(b"", DEVICES).contains("does not begin"));
        assert!(why(&parent, b"QEVM").contains("does not begin"));
        assert!(why(&parent, &parent).contains("where there should be none"));
        assert!(why(DEVICES, DEVICES).contains("missing or has no end"));
        for cut in (8..parent.len() - 20).step_by(97) {
            splice(&parent[..cut], DEVICES).unwrap_err();
        }
        let mut strange = parent.clone();
        let at = parent.windows(8).position(|w| w == (0x6000_u64 | BLOCKS).to_be_bytes()).unwrap();
        strange[at + 6] |= 1;
        assert!(why(&strange, DEVICES).contains("a record of the kind 0x104"));
    }

    proptest! {
        /// No input makes it panic or run on.
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..200) {
            let _ = splice(&bytes, DEVICES);
            let (mut parent, _) = migrated();
            for (place, byte) in (at..).zip(&bytes) {
                if let Some(target) = parent.get_mut(place) {
                    *target = *byte;
                }
            }
            let _ = splice(&parent, DEVICES);
        }
    }
}
