//! The devices of every guest, whatever its kind.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;

use crate::spec::{Kind, Mac, Net};

use super::choose::NicMode;
use super::option::Opt;
use super::{Board, Disk, DiskFormat, List, MachineError, Resources};

/// Transports for virtio devices on a microvm without a second I/O APIC (QEMU, `hw/i386/microvm.c`).
pub const MICROVM_SLOTS: usize = 8;

/// The id of the disk's device (QMP `query-block`, `qdev`).
pub const DISK_DEVICE: &str = "disk0";

/// Where a microvm's first transport lies, and the size of each (`include/hw/i386/microvm.h`).
const MICROVM_BASE: usize = 0xfeb0_0000;
const MICROVM_SLOT_SIZE: usize = 512;
/// The first transport's interrupt on a microvm with ACPI and one I/O APIC.
const MICROVM_FIRST_IRQ: usize = 16;

/// Hands out virtio devices for a board: a PCI device, or one on the next free microvm transport.
#[derive(Debug)]
pub(super) struct Bus {
    board: Board,
    used: usize,
}

impl Bus {
    pub(super) const fn new(board: Board) -> Self {
        Self { board, used: 0 }
    }

    /// A virtio device of this type (`net`, `blk`, …) with its place on the board.
    ///
    /// On a microvm the place is named, from the top down, as QEMU would fill it: kernels that learn of the
    /// transports by [`super::kernel_words`] need fixed addresses.
    fn device(&mut self, kind: &str) -> Result<Opt, MachineError> {
        if self.board.pci() {
            return Ok(Opt::word(&format!("virtio-{kind}-pci")));
        }
        self.used += 1;
        let slot = MICROVM_SLOTS.checked_sub(self.used).ok_or(MachineError::Slots)?;
        Ok(Opt::word(&format!("virtio-{kind}-device")).show("bus", format_args!("virtio-mmio-bus.{slot}")))
    }
}

/// How a kernel without ACPI and device tree learns of the `count` uppermost transports of a microvm: Linux's
/// `virtio_mmio.device=SIZE@BASE:IRQ` (kernel-parameters.txt), which Unikraft, Nanos and Hermit read as well.
pub(super) fn microvm_words(count: usize) -> impl Iterator<Item = String> {
    (0..MICROVM_SLOTS).rev().take(count).map(|slot| {
        let base = MICROVM_BASE + slot * MICROVM_SLOT_SIZE;
        format!("virtio_mmio.device={MICROVM_SLOT_SIZE}@{base:#x}:{}", MICROVM_FIRST_IRQ + slot)
    })
}

/// The network interfaces.
pub(super) fn nics(
    list: &mut List,
    bus: &mut Bus,
    nets: &[Net],
    kind: Kind,
    macs: &[Mac],
    taps: &[Option<i32>],
) -> Result<(), MachineError> {
    if macs.len() != nets.len() {
        return Err(MachineError::Macs { nets: nets.len(), macs: macs.len() });
    }
    for (index, (net, mac)) in nets.iter().zip(macs).enumerate() {
        let word = if net.has_tap() { "tap" } else { "user" };
        let mut backend = Opt::word(word).show("id", format_args!("net{index}"));
        match net {
            // The tap is there already, and a port: QEMU needs no privilege, and runs no script (qemu(1), `-netdev tap`).
            // QEMU sees by itself whether frames carry virtio-net headers (TUNGETIFF, net/tap-linux.c).
            Net::Bridge { .. } | Net::Nat { .. } => {
                let fd = taps.get(index).copied().flatten().ok_or(MachineError::Tap { net: index })?;
                backend = backend.show("fd", fd);
            }
            Net::User { forwards, .. } => {
                for forward in forwards {
                    let (address, host, guest) = (forward.address, forward.host, forward.guest);
                    backend = backend.show("hostfwd", hostfwd(address, host, guest));
                }
            }
            // A NIC without a peer makes QEMU warn on stderr. So it gets one that leads nowhere, and the
            // supervisor takes its link down before the first instruction: see `unplugged`.
            Net::None { .. } => backend = backend.switch("restrict", true),
        }
        list.pair("-netdev", backend);

        let mut nic = bus
            .device("net")?
            .show("id", format_args!("nic{index}"))
            .show("netdev", format_args!("net{index}"))
            .show("mac", mac);
        if bus.board.pci() {
            // Written out although it is the default on the root bus: behind a PCI Express port it would not
            // be.
            let mode = NicMode::of(kind);
            nic = nic
                .switch("disable-legacy", mode.disable_legacy)
                .switch("disable-modern", mode.disable_modern)
                // No network boot ROM: saves its banner and its time, and QEMU 7.2 would not start without a
                // file that comes in another package.
                .set("romfile", "");
        }
        list.pair("-device", nic);
    }
    Ok(())
}

fn hostfwd(address: Ipv4Addr, host: u16, guest: u16) -> String {
    format!("tcp:{address}:{host}-:{guest}")
}

/// Entropy, the guest agent's port, signs of a panic and the way out for guests without ACPI.
pub(super) fn common(
    list: &mut List,
    bus: &mut Bus,
    devices: &[String],
    resources: &Resources,
) -> Result<(), MachineError> {
    list.pair("-object", Opt::word("rng-random").set("id", "entropy").set("filename", "/dev/urandom"));
    list.pair("-device", bus.device("rng")?.set("id", "rng0").set("rng", "entropy"));

    list.pair(
        "-chardev",
        Opt::word("socket")
            .set("id", "agent")
            .show("fd", resources.agent_fd)
            .switch("server", true)
            .switch("wait", false),
    );
    list.pair("-device", bus.device("serial")?.set("id", "ports"));
    list.pair(
        "-device",
        // The port's name is the agent's default (qemu-ga(8)).
        // Without an id QEMU sends no VSERPORT_CHANGE when the guest opens the port (hw/char/virtio-console.c).
        Opt::word("virtserialport")
            .set("id", "agent-port")
            .set("bus", "ports.0")
            .set("chardev", "agent")
            .set("name", "org.qemu.guest_agent.0"),
    );

    let has = |name: &str| devices.iter().any(|device| device == name);
    match bus.board {
        Board::Q35 | Board::Microvm => {
            if has("pvpanic") {
                list.pair("-device", Opt::word("pvpanic"));
            }
            // A write to port 0xf4 ends QEMU with the status (value << 1) | 1.
            list.pair("-device", Opt::word("isa-debug-exit").set("iobase", "0xf4").set("iosize", "4"));
        }
        Board::Virt => {
            if has("pvpanic-pci") {
                list.pair("-device", Opt::word("pvpanic-pci"));
            }
        }
    }
    // A new generation at each start of QEMU: the guest's kernel reseeds after a restore. A microvm would
    // take the device, but has no ACPI table to show it by.
    if bus.board == Board::Q35 && has("vmgenid") {
        list.pair("-device", Opt::word("vmgenid").set("id", "vmgenid0").set("guid", "auto"));
    }
    Ok(())
}

/// What QMP's `blockdev-add` is to be told, one after the other, to open the qcow2 file `path` as a further layer on the VM's disk: the
/// nodes that [`super::arguments`] describes for the command line, under names that end in `suffix`. The last one's name is given too.
///
/// What lies below is not opened: `blockdev-snapshot` puts the layer on the node in use.
#[must_use]
pub fn disk_layer(path: &str, suffix: &str) -> (Vec<serde_json::Value>, String) {
    let (file, disk) = (format!("disk-file-{suffix}"), format!("disk-{suffix}"));
    let nodes = vec![
        json!({
            "driver": "file", "node-name": file, "filename": path, "locking": "on",
            "cache": {"direct": false}, "aio": "threads", "discard": "unmap",
        }),
        json!({
            "driver": "qcow2", "node-name": disk, "file": file, "backing": null,
            "discard": "unmap", "detect-zeroes": "unmap",
        }),
    ];
    (nodes, disk)
}

/// The volume for cloud-init, and the word that keeps cloud-init from looking for its data anywhere else: where there is SMBIOS, as the
/// system's serial number (cloud-init's documentation, "NoCloud"); a microvm has none.
pub(super) fn seed(list: &mut List, bus: &mut Bus, volume: &Path) -> Result<(), MachineError> {
    list.pair(
        "-blockdev",
        Opt::word("")
            .set("driver", "file")
            .set("node-name", "seed-file")
            .path("filename", volume)?
            .switch("read-only", true),
    );
    list.pair(
        "-blockdev",
        Opt::word("")
            .set("driver", "raw")
            .set("node-name", "seed")
            .set("file", "seed-file")
            .switch("read-only", true),
    );
    list.pair("-device", bus.device("blk")?.set("id", "seed0").set("drive", "seed"));
    if bus.board != Board::Microvm {
        list.pair("-smbios", Opt::word("").set("type", "1").set("serial", "ds=nocloud"));
    }
    Ok(())
}

/// The VM's own disk.
pub(super) fn disk(list: &mut List, bus: &mut Bus, disk: &Disk) -> Result<(), MachineError> {
    list.pair(
        "-blockdev",
        Opt::word("")
            .set("driver", "file")
            .set("node-name", "disk-file")
            .path("filename", &disk.path)?
            // Two QEMUs on one image would destroy it.
            .switch("locking", true)
            // Through the page cache: tmpfs takes no direct I/O on older kernels, and clones share their
            // base's pages.
            .switch("cache.direct", false)
            // Works on every file system and under every sandbox; io_uring is often switched off by the host.
            .set("aio", "threads")
            .set("discard", "unmap"),
    );
    let driver = match disk.format {
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
    };
    list.pair(
        "-blockdev",
        Opt::word("")
            .set("driver", driver)
            .set("node-name", "disk")
            .set("file", "disk-file")
            .set("discard", "unmap")
            .set("detect-zeroes", "unmap"),
    );
    // A full host disk pauses the guest instead of handing it an I/O error; it goes on where it was.
    list.pair(
        "-device",
        bus.device("blk")?
            .set("id", DISK_DEVICE)
            .set("drive", "disk")
            .set("werror", "stop")
            .set("rerror", "stop"),
    );
    Ok(())
}
