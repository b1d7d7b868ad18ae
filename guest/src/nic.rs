//! A virtio network device as smoltcp wants to see it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::array;
use core::cell::RefCell;

use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use virtio_drivers::Result;
use virtio_drivers::device::net::VirtIONetRaw;

use crate::virtio::{Hal, Wired};

/// Descriptors of each queue.
const QUEUE: usize = 64;
/// Largest frame: an MTU of 1500 and the Ethernet header.
const FRAME: usize = 1514;
/// A frame and the header that virtio puts before it, at most 12 bytes.
const BUFFER: usize = FRAME + 14;

type Buffer = Box<[u8; BUFFER]>;

/// The device, with buffers that are allocated once.
pub struct Nic {
    raw: VirtIONetRaw<Hal, Wired, QUEUE>,
    /// Buffers for receiving, by the token under which the device has them.
    receiving: [Option<Buffer>; QUEUE],
    /// Buffers on their way out and how much of each is used, by token.
    sending: [Option<(Buffer, usize)>; QUEUE],
    /// Buffers to send in.
    free: Vec<Buffer>,
    interrupts: bool,
    wants_ack: bool,
}

fn buffer() -> Buffer {
    Box::new([0; BUFFER])
}

impl Nic {
    /// Starts the device.
    pub fn new(transport: Wired) -> Result<Self> {
        let (interrupts, wants_ack) = (transport.interrupts(), transport.wants_ack());
        let mut nic = Self {
            raw: VirtIONetRaw::new(transport)?,
            receiving: array::from_fn(|_| None),
            sending: array::from_fn(|_| None),
            free: (0..QUEUE).map(|_| buffer()).collect(),
            interrupts,
            wants_ack,
        };
        for _ in 0..QUEUE {
            nic.receive_into(buffer())?;
        }
        Ok(nic)
    }

    /// The device's address.
    pub fn mac(&self) -> [u8; 6] {
        self.raw.mac_address()
    }

    /// The device wakes the CPU when a frame comes in.
    pub fn interrupts(&self) -> bool {
        self.interrupts
    }

    /// Nothing can be sent at the moment. The end of this state is not announced.
    pub fn is_congested(&mut self) -> bool {
        self.reclaim();
        self.free.is_empty()
    }

    /// Clears the device's interrupt. To be called before looking for frames.
    pub fn ack(&mut self) {
        if self.wants_ack {
            self.raw.ack_interrupt();
        }
    }

    fn receive_into(&mut self, mut buffer: Buffer) -> Result<()> {
        // SAFETY: the buffer is kept, untouched and unmoved on the heap, until the device gives it back.
        let token = unsafe { self.raw.receive_begin(&mut buffer[..]) }?;
        self.receiving[usize::from(token)] = Some(buffer);
        Ok(())
    }

    /// The next frame and where in its buffer it is.
    fn take(&mut self) -> Option<(Buffer, core::ops::Range<usize>)> {
        let token = self.raw.poll_receive()?;
        let mut buffer = self.receiving.get_mut(usize::from(token))?.take()?;
        // SAFETY: this is the buffer that was given away under this token.
        let (header, length) = unsafe { self.raw.receive_complete(token, &mut buffer[..]) }.ok()?;
        Some((buffer, header..header + length))
    }

    /// Takes back what the device has sent.
    fn reclaim(&mut self) {
        while let Some(token) = self.raw.poll_transmit() {
            let Some((buffer, length)) = self.sending.get_mut(usize::from(token)).and_then(Option::take)
            else {
                return;
            };
            // SAFETY: this is what was given away under this token.
            if unsafe { self.raw.transmit_complete(token, &buffer[..length]) }.is_err() {
                return;
            }
            self.free.push(buffer);
        }
    }

    /// Hands a frame to the device. `buffer` starts with the header that [`VirtIONetRaw::fill_buffer_header`] wrote.
    fn send(&mut self, buffer: Buffer, length: usize) {
        // SAFETY: the buffer is kept, untouched and unmoved on the heap, until the device gives it back.
        match unsafe { self.raw.transmit_begin(&buffer[..length]) } {
            Ok(token) => self.sending[usize::from(token)] = Some((buffer, length)),
            // Lost, as frames can be; those above send again.
            Err(_) => self.free.push(buffer),
        }
    }
}

/// The device between the two sides that use it at once: smoltcp answers a frame while it reads it.
pub struct Link(pub RefCell<Nic>);

/// Promise of a frame that has come in.
pub struct RxToken<'a>(&'a RefCell<Nic>);

/// Promise of a buffer to send in.
pub struct TxToken<'a>(&'a RefCell<Nic>);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_frame: F) -> R {
        let Some((buffer, frame)) = self.0.borrow_mut().take() else { return use_frame(&[]) };
        let result = use_frame(buffer.get(frame).unwrap_or(&[]));
        // The queue had room for this buffer a moment ago.
        let _ = self.0.borrow_mut().receive_into(buffer);
        result
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut nic = self.0.borrow_mut();
        let mut buffer = nic.free.pop().unwrap_or_else(buffer);
        let header = nic.raw.fill_buffer_header(&mut buffer[..]).unwrap_or(0);
        let end = BUFFER.min(header + length);
        let result = fill(&mut buffer[header..end]);
        nic.send(buffer, end);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let nic = self.0.get_mut();
        nic.raw.poll_receive()?;
        (!nic.is_congested()).then_some((RxToken(&self.0), TxToken(&self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (!self.0.get_mut().is_congested()).then_some(TxToken(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}
