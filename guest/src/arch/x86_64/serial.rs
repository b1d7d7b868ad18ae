//! COM1, a 16550: every QEMU machine of this architecture has it at the same port and interrupt.

use super::apic;
use super::interrupts::WAKE_SERIAL;
use super::ports::{inb, outb};

const COM1: u16 = 0x3f8;
const IER: u16 = COM1 + 1;
const FCR: u16 = COM1 + 2;
const LCR: u16 = COM1 + 3;
const MCR: u16 = COM1 + 4;
const LSR: u16 = COM1 + 5;

/// Line status: a byte has come in.
const DATA_READY: u8 = 1;
/// Line status: the transmitter takes a byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;

/// The interrupt's number at the IOAPIC.
const IRQ: u8 = 4;

/// Sends one byte.
pub fn put(byte: u8) {
    // QEMU's transmitter is never busy for long; without a COM1 the port reads 0xff, which passes too.
    while inb(LSR) & TRANSMIT_EMPTY == 0 {}
    outb(COM1, byte);
}

/// Takes a byte that has come in.
pub fn get() -> Option<u8> {
    let status = inb(LSR);
    (status != 0xff && status & DATA_READY != 0).then(|| inb(COM1))
}

/// Lets incoming bytes end [`super::interrupts::idle`].
pub fn enable_interrupt() {
    outb(LCR, 3); // 8N1, and IER instead of the divisor at COM1 + 1
    outb(FCR, 1); // FIFO on, interrupt from the first byte on
    outb(MCR, 0b1011); // DTR, RTS, and OUT2, which gates the interrupt on a PC
    outb(IER, 1); // data available
    apic::route(IRQ, WAKE_SERIAL);
}
