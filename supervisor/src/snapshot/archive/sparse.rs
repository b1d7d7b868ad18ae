//! The map of a sparse file in the data of its entry (GNU tar manual, "Storing Sparse Files", PAX format 1.0): numbers in decimal, a line
//! each, first how many extents, then each one's offset and length; filled up with zeros to a whole block.

use std::io::{self, Read};

use crate::snapshot::ram::Extent;

/// tar's unit.
const BLOCK: usize = 512;
/// The most lines that are read: a map of 16 million extents would be one of 64 GiB in which every other page is a hole.
const MOST: u64 = 16 << 20;

/// The map of these extents in a file of this size.
pub(super) fn write_map(extents: &[Extent], size: u64) -> Vec<u8> {
    // An empty extent at the end tells the size of a file that ends with a hole.
    let tail =
        extents.last().is_none_or(|last| last.end() < size).then_some(Extent { offset: size, length: 0 });
    let mut text = format!("{}\n", extents.len() + usize::from(tail.is_some()));
    for extent in extents.iter().chain(&tail) {
        text.push_str(&format!("{}\n{}\n", extent.offset, extent.length));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// Reads a map of a file of this size, and leaves the reader at the first byte of data.
pub(super) fn read_map(reader: &mut impl Read, size: u64) -> io::Result<Vec<Extent>> {
    let mut lines = Lines { reader, block: [0; BLOCK], at: BLOCK };
    let count = lines.number()?;
    if count > MOST {
        return Err(wrong("it has more extents than any file"));
    }
    let mut extents: Vec<Extent> = Vec::new();
    let mut end = 0;
    for _ in 0..count {
        let (offset, length) = (lines.number()?, lines.number()?);
        if offset < end || offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(wrong("its extents are out of order or lie outside of the file"));
        }
        end = offset + length;
        if length > 0 {
            extents.push(Extent { offset, length });
        }
    }
    Ok(extents)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the map of a sparse file makes no sense: {what}"))
}

struct Lines<'a, R> {
    reader: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut number: u64 = 0;
        let mut digits = 0;
        loop {
            if self.at == BLOCK {
                self.reader.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' if digits > 0 => return Ok(number),
                b'0'..=b'9' => {
                    let next = number.checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0')));
                    number = next.ok_or_else(|| wrong("a number is too large"))?;
                    digits += 1;
                }
                _ => return Err(wrong("there is something else than numbers")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_map_is_read_as_it_was_written(parts in prop::collection::vec((0_u64..9000, 1_u64..9000), 0..200), tail in 0_u64..9) {
            let mut at = 0;
            let extents: Vec<Extent> = parts
                .into_iter()
                .map(|(gap, length)| {
                    let extent = Extent { offset: at + gap, length };
                    at = extent.end();
                    extent
                })
                .collect();
            let map = write_map(&extents, at + tail);
            prop_assert_eq!(map.len() % BLOCK, 0);
            let mut data = map.as_slice().chain(&b"data"[..]);
            prop_assert_eq!(read_map(&mut data, at + tail).unwrap(), extents);
            let mut rest = String::new();
            data.read_to_string(&mut rest).unwrap();
            prop_assert_eq!(rest, "data");
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..1200), text in "[0-9\n]{0,600}") {
            let _ = read_map(&mut bytes.as_slice(), 1 << 40);
            let mut text = text.into_bytes();
            text.resize(1024, 0);
            if let Ok(extents) = read_map(&mut text.as_slice(), 1 << 40) {
                prop_assert!(extents.iter().all(|extent| extent.end() <= 1 << 40));
            }
        }
    }
}
