//! An initial RAM disk that is a whole system: BusyBox, the drivers of a virtio network card, and a first program in shell.

use super::archive::Archive;
use super::{InitrdError, modules, source, version};
use crate::image::Image;

/// What the network needs; sockets of packets are for DHCP.
const NEEDED: [&str; 3] = ["virtio_pci", "virtio_net", "af_packet"];
const USEFUL: [&str; 2] = ["virtio_mmio", "virtio_rng"];
/// The first program, and what the DHCP client calls.
const INIT: &[u8] = include_bytes!("busybox-init.sh");
const LEASE: &[u8] = include_bytes!("busybox-lease.sh");

/// The archive for the kernel of an image, of whose disk the modules are taken; `binary` is a BusyBox that needs no libraries.
pub fn busybox(image: &Image, binary: &[u8]) -> Result<Vec<u8>, InitrdError> {
    let manifest = &image.manifest;
    let (Some(disk), Some(path), Some(kernel)) = (&manifest.disk, image.disk(), image.kernel()) else {
        return Err(InitrdError::NothingToBoot);
    };
    let version =
        version::of(&kernel).map_err(|e| InitrdError::Disk(e.to_string()))?.ok_or(InitrdError::NoVersion)?;
    let files = source::Files::open(&path, disk.format)?;
    let modules = modules(&files, &version, &NEEDED, &USEFUL)?;
    let write = || {
        let mut archive = Archive::new(&["bin", "etc", "proc", "run", "sys", "tmp", "www"])?;
        archive.program("bin/busybox", binary)?;
        archive.program("init", INIT)?;
        archive.program("etc/lease.sh", LEASE)?;
        archive.modules(&modules)?;
        archive.finish()
    };
    write().map_err(|e: std::io::Error| InitrdError::Disk(e.to_string()))
}
