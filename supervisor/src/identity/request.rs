//! The program that runs in the guest, and the request that it reads (`identify/src/request.rs` has the format).

use std::hash::Hasher;

use uuid::Uuid;

use super::{IdentityError, Wanted};
use crate::image::digest;
use crate::spec::Arch;

#[cfg(identify_x86_64)]
const PROGRAM_X86_64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/identify-x86_64"));
#[cfg(not(identify_x86_64))]
const PROGRAM_X86_64: &[u8] = &[];
#[cfg(identify_aarch64)]
const PROGRAM_AARCH64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/identify-aarch64"));
#[cfg(not(identify_aarch64))]
const PROGRAM_AARCH64: &[u8] = &[];

/// The most interfaces that the program takes, and the longest request, in bytes.
const MOST_NICS: usize = 8;
const LONGEST: usize = 16 << 10;

/// The program for guests of this architecture.
pub(super) fn program(arch: Arch) -> Result<&'static [u8], IdentityError> {
    let program = match arch {
        Arch::X86_64 => PROGRAM_X86_64,
        Arch::Aarch64 => PROGRAM_AARCH64,
    };
    if program.is_empty() { Err(IdentityError::NoProgram(arch)) } else { Ok(program) }
}

/// Where it is in a guest. Another version's is elsewhere.
pub(super) fn path(program: &[u8]) -> String {
    format!("/run/midge-identify-{:.16}", digest::of_bytes(program))
}

/// The request. `clock` is what the guest's clock is to be put forward by, in nanoseconds.
pub(super) fn request(wanted: &Wanted, clock: Option<i64>) -> Result<Vec<u8>, IdentityError> {
    let mut request = Vec::new();
    let mut field = |name: &str, value: &[u8]| {
        request.extend_from_slice(format!("{name} {}\n", value.len()).as_bytes());
        request.extend_from_slice(value);
        request.push(b'\n');
    };
    if wanted.nics.len() > MOST_NICS {
        return Err(IdentityError::TooMuch(format!("{} interfaces", wanted.nics.len())));
    }
    for nic in &wanted.nics {
        let address = nic.address.map(|ip| format!(" {ip}")).unwrap_or_default();
        field("nic", format!("{} {}{address}", nic.old, nic.new).as_bytes());
    }
    if let Some(name) = &wanted.hostname {
        field("hostname", name.as_bytes());
    }
    if let Some(id) = &wanted.machine_id {
        field("machine-id", id.simple().to_string().as_bytes());
        field("duid", duid(*id).as_bytes());
    }
    if let Some(key) = &wanted.host_key {
        field("host-key", key.private.as_bytes());
        field("host-public-key", key.public.as_bytes());
    }
    if let Some(seed) = &wanted.seed {
        field("seed", seed.bytes());
    }
    if let Some(nanoseconds) = clock {
        field("clock", nanoseconds.to_string().as_bytes());
    }
    if let Some(renew) = wanted.renew {
        field("renew", b"");
        if let Some(within) = renew.within_ms {
            field("wait", within.to_string().as_bytes());
        }
    }
    if request.len() > LONGEST {
        return Err(IdentityError::TooMuch(format!("{} bytes", request.len())));
    }
    Ok(request)
}

/// The DUID that systemd-networkd makes of a machine-id when it starts, as `DUIDRawData=` has it (systemd, src/libsystemd-network/
/// dhcp-identifier.c): its enterprise number, then a keyed hash.
fn duid(id: Uuid) -> String {
    const ENTERPRISE: u32 = 43793;
    const KEY: [u64; 2] = [0xee03_4afe_c28c_1180, 0x0914_3936_6f0c_d63e];
    // Deprecated for it may not stay SipHash-2-4, which the test would tell.
    #[allow(deprecated)]
    let mut hasher = std::hash::SipHasher::new_with_keys(KEY[0], KEY[1]);
    hasher.write(id.as_bytes());
    let bytes = [&ENTERPRISE.to_be_bytes()[..], &hasher.finish().to_le_bytes()].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Nic, Renew};

    #[test]
    fn the_duid_is_the_one_that_networkd_makes() {
        // Read from /run/systemd/netif/links of a Debian 12 with that machine-id.
        let id = "d1cbef1e28f74cdaadf731cbc0cd24fe".parse().unwrap();
        assert_eq!(duid(id), "00:00:ab:11:00:16:ca:92:81:40:f9:cd");
    }

    #[test]
    fn only_what_is_wanted_is_asked_for() {
        assert_eq!(request(&Wanted::default(), None).unwrap(), b"");
        let wanted = Wanted { hostname: Some("web".to_owned()), clock: true, ..Wanted::default() };
        assert_eq!(request(&wanted, Some(-5)).unwrap(), b"hostname 3\nweb\nclock 2\n-5\n");
        let nic = Nic {
            old: "52:54:00:00:00:01".parse().unwrap(),
            new: "52:54:00:00:00:02".parse().unwrap(),
            address: Some([10, 0, 0, 7].into()),
        };
        let renew = Some(Renew { within_ms: Some(9) });
        let wanted = Wanted { nics: vec![nic], renew, ..Wanted::default() };
        let expected: &[u8] = b"nic 44\n52:54:00:00:00:01 52:54:00:00:00:02 10.0.0.7\nrenew 0\n\nwait 1\n9\n";
        assert_eq!(request(&wanted, None).unwrap(), expected);
        let wanted = Wanted { nics: vec![nic; MOST_NICS + 1], ..Wanted::default() };
        assert!(matches!(request(&wanted, None), Err(IdentityError::TooMuch(_))));
    }
}
