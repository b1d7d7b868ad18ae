//! Which networks VMs of this user can be on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use netbr::Namespace;
use netbr::link::{LinkError, Links};

use super::super::facts::Device;
use super::super::privilege::may_change_networks;
use super::Check;
use crate::setup::{PreparedTap, lender};

/// What decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Networks {
    /// Whether taps and bridges may be made.
    pub(super) privileged: bool,
    /// Whether taps can be opened.
    pub(super) tun: Device,
    /// How many taps root has prepared for this user, by bridge.
    pub(super) prepared: BTreeMap<String, usize>,
    /// Whether the program that lends sockets to watch them by is there.
    pub(super) lender: bool,
}

impl Networks {
    /// Looks at this process and at the host's interfaces. What cannot be read is not there.
    pub(super) fn of(tun: Device) -> Self {
        let prepared = prepared(nix::unistd::geteuid().as_raw()).unwrap_or_default();
        Self { privileged: may_change_networks(), tun, prepared, lender: lender::path().is_file() }
    }

    pub(super) fn check(&self) -> Check {
        const ID: &str = "network";
        const USER_ONLY: &str = "VMs have QEMU's user-mode network only";
        const SETUP: &str = "sudo midge net setup --user $USER";
        if self.tun != Device::Ready {
            let next = match self.tun {
                Device::NoPermission => {
                    "sudo chmod 666 /dev/net/tun  # as udev does; it gives no privilege away"
                }
                _ => "sudo modprobe tun",
            };
            return Check::warn(ID, format!("{USER_ONLY}, as taps cannot be opened"), next);
        }
        if self.privileged {
            return Check::ok(ID, "VMs can be on bridges and on midge's own network");
        }
        if self.prepared.is_empty() {
            return Check::warn(ID, format!("{USER_ONLY}, without root"), SETUP);
        }
        let mut summary = String::from("VMs can be on");
        for (index, (bridge, count)) in self.prepared.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(summary, "{comma} {bridge} ({count} at a time)");
        }
        if self.lender {
            Check::ok(ID, summary)
        } else {
            Check::warn(ID, format!("{summary}, but their addresses cannot be watched"), SETUP)
        }
    }
}

fn prepared(uid: u32) -> Result<BTreeMap<String, usize>, LinkError> {
    // Netlink is spoken on a runtime, and whoever checks has none.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|_| LinkError::Closed)?;
    runtime.block_on(async {
        let links = Links::open(&Namespace::current())?.list().await?;
        let mut counts = BTreeMap::new();
        for tap in PreparedTap::among(&links).iter().filter(|tap| tap.uid == uid) {
            let bridge = links.iter().find(|link| tap.link.master == Some(link.index));
            if let Some(bridge) = bridge {
                *counts.entry(bridge.name.clone()).or_default() += 1;
            }
        }
        Ok(counts)
    })
}
