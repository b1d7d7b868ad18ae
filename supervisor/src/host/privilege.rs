//! What this process may do to the host's networks.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::spec::Net;

/// `CAP_NET_ADMIN` (capabilities(7)), by its number.
const CAP_NET_ADMIN: u32 = 12;

/// The network of a VM whose user names none: midge's own where this process may make it, else QEMU's user-mode network.
#[must_use]
pub fn default_net() -> Net {
    if may_make_networks() {
        Net::Nat { forwards: Vec::new(), mac: None, ip: None::<Ipv4Addr> }
    } else {
        Net::User { forwards: Vec::new(), mac: None }
    }
}

/// Whether this process may make bridges and taps: it may change the host's networks, and the kernel offers taps.
#[must_use]
pub fn may_make_networks() -> bool {
    may_change_networks() && Path::new("/dev/net/tun").exists()
}

/// Whether this process has `CAP_NET_ADMIN`. Being root alone says nothing in a container.
#[must_use]
pub fn may_change_networks() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status) >> CAP_NET_ADMIN & 1 == 1
}

/// The effective capabilities in `/proc/PID/status` (proc_pid_status(5)).
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_the_one_that_counts() {
        let status =
            "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert_eq!(effective(status), 1 << CAP_NET_ADMIN);
        assert_eq!(effective("Name:\tx\n"), 0);
    }
}
