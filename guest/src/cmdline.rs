//! The kernel command line: words separated by spaces, unknown ones ignored as Linux does.

use alloc::vec::Vec;

use crate::command::Command;

/// The name when the command line has none.
pub const DEFAULT_NAME: &str = "hello";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// `name=NAME`: shown on the web page and sent as the DHCP host name. At most 63 bytes are taken, as of a DNS label.
    pub name: &'a str,
    /// A command to carry out right after `[init done]`; the last one counts.
    pub command: Option<Command>,
    /// The devices of `virtio_mmio.device=` words.
    pub mmio: Vec<MmioDevice>,
}

/// A virtio-mmio device as QEMU's microvm names it: `virtio_mmio.device=512@0xfeb00e00:12`.
///
/// Format: the kernel's `drivers/virtio/virtio_mmio.c`, `SIZE[K|M|G]@BASE:IRQ[:ID]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioDevice {
    /// Physical address of the registers.
    pub base: u64,
    /// Their size in bytes.
    pub size: u64,
    /// The interrupt's number at the first IOAPIC.
    pub irq: u8,
}

/// Reads a command line.
pub fn parse(line: &str) -> Options<'_> {
    let mut options = Options { name: DEFAULT_NAME, command: None, mmio: Vec::new() };
    for word in line.split_ascii_whitespace() {
        if let Some(name) = word.strip_prefix("name=").filter(|name| !name.is_empty()) {
            options.name = name.get(..63).unwrap_or(name);
        } else if let Some(device) = word.strip_prefix("virtio_mmio.device=") {
            options.mmio.extend(parse_mmio(device));
        } else if let Some(command) = Command::from_word(word) {
            options.command = Some(command);
        }
    }
    options
}

fn parse_mmio(text: &str) -> Option<MmioDevice> {
    let (size, rest) = text.split_once('@')?;
    let mut rest = rest.split(':');
    let base = parse_number(rest.next()?)?;
    let irq = u8::try_from(parse_number(rest.next()?)?).ok()?;
    let (digits, shift) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 10),
        b'M' => (&size[..size.len() - 1], 20),
        b'G' => (&size[..size.len() - 1], 30),
        _ => (size, 0),
    };
    let size = parse_number(digits)?.checked_mul(1 << shift)?;
    Some(MmioDevice { base, size, irq })
}

fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn an_empty_line_gives_the_defaults() {
        assert_eq!(parse(""), Options { name: "hello", command: None, mmio: vec![] });
    }

    #[test]
    fn known_words_are_taken_and_others_ignored() {
        let options = parse("console=ttyS0 name=web-1 exit=5 quiet name=");
        assert_eq!(options, Options { name: "web-1", command: Some(Command::Exit(5)), mmio: vec![] });
    }

    #[test]
    fn the_last_command_counts() {
        assert_eq!(parse("exit poweroff").command, Some(Command::Poweroff));
    }

    #[test]
    fn names_are_cut_at_the_length_of_a_dns_label() {
        let line = alloc::format!("name={}", "x".repeat(80));
        assert_eq!(parse(&line).name.len(), 63);
    }

    #[test]
    fn virtio_mmio_devices_are_read_as_linux_does() {
        let options = parse("virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=4K@0x1000:5:3");
        let expected = vec![
            MmioDevice { base: 0xfeb0_0e00, size: 512, irq: 12 },
            MmioDevice { base: 0x1000, size: 4096, irq: 5 },
        ];
        assert_eq!(options.mmio, expected);
    }

    #[test]
    fn broken_virtio_mmio_words_are_ignored() {
        for word in
            ["", "512", "512@", "512@0x1000", "512@0x1000:", "512@0x1000:999", "@0x1:1", "99999999999G@0:1"]
        {
            let line = alloc::format!("virtio_mmio.device={word}");
            assert_eq!(parse(&line).mmio, vec![], "{word:?}");
        }
    }
}
