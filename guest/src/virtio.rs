//! What `virtio-drivers` needs from this kernel, and a transport that knows how its device interrupts.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, SomeTransport, Transport};
use virtio_drivers::{BufferDirection, PAGE_SIZE, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::arch::paging;

/// Memory for devices: virtual and physical addresses are the same here.
pub struct Hal;

fn pages(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE)
        .expect("a queue is far smaller than the address space")
}

// SAFETY: memory is mapped one to one and the heap is contiguous; pages come zeroed from the allocator, which hands out
// nothing twice; registers are mapped and never handed out by the allocator.
unsafe impl virtio_drivers::Hal for Hal {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = pages(count);
        // SAFETY: queues have at least one page.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(pointer) => (start as PhysAddr, pointer),
            // Address 0 is virtio-drivers' sign of failure.
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, start: NonNull<u8>, count: usize) -> i32 {
        // SAFETY: the caller passes what `dma_alloc` gave, with the same count.
        unsafe { dealloc(start.as_ptr(), pages(count)) }
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        paging::map(address, size as u64);
        NonNull::new(address as *mut u8).expect("a BAR without an address")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.addr().get() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// How a device's interrupts reach the CPU.
pub enum Wiring {
    /// Not at all: the device must be looked at from time to time.
    None,
    /// By a line that stays up until the device's interrupt status is read.
    Line,
    /// As a message; the address is that of the common configuration structure.
    MsiX(u64),
}

/// A transport together with its wiring. It does what `virtio-drivers` leaves out: telling the device which message a queue
/// sends.
pub struct Wired {
    inner: SomeTransport<'static>,
    wiring: Wiring,
}

impl Wired {
    /// Puts the two together.
    pub fn new(inner: SomeTransport<'static>, wiring: Wiring) -> Self {
        Self { inner, wiring }
    }

    /// The device wakes the CPU.
    pub fn interrupts(&self) -> bool {
        !matches!(self.wiring, Wiring::None)
    }

    /// The interrupt status must be read for the next interrupt to come.
    pub fn wants_ack(&self) -> bool {
        matches!(self.wiring, Wiring::Line)
    }
}

impl Transport for Wired {
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        /// Offsets of `queue_select` and `queue_msix_vector`: virtio 1.2, 4.1.4.3.
        const QUEUE_SELECT: u64 = 0x16;
        const QUEUE_MSIX_VECTOR: u64 = 0x1a;
        const RECEIVE: u16 = 0;

        if let Wiring::MsiX(common) = self.wiring
            && queue == RECEIVE
        {
            // Only the receive queue gets a message: sent buffers are taken back when the next one is sent.
            // SAFETY: registers of the device, which `inner` accesses by the same addresses but not at this moment.
            unsafe {
                ((common + QUEUE_SELECT) as *mut u16).write_volatile(queue);
                ((common + QUEUE_MSIX_VECTOR) as *mut u16).write_volatile(0);
            }
        }
        self.inner.queue_set(queue, size, descriptors, driver, device);
    }

    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }
    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features()
    }
    fn write_driver_features(&mut self, features: u64) {
        self.inner.write_driver_features(features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
    }
    fn set_guest_page_size(&mut self, size: u32) {
        self.inner.set_guest_page_size(size);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }
    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        self.inner.read_config_space(offset)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<()> {
        self.inner.write_config_space(offset, value)
    }
}
