//! Valid specs of every shape, for property tests.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A name that a VM may have.
pub(crate) fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
}

/// A signal of readiness.
pub(crate) fn ready() -> impl Strategy<Value = Ready> {
    prop_oneof![
        select(vec![Ready::Agent, Ready::Ssh, Ready::Ip]),
        (1u16..).prop_map(Ready::Tcp),
        "[a-z .*+:]{0,12}".prop_filter_map("an expression", |text| format!("serial:{text}").parse().ok()),
    ]
}

/// A size as a spec may give it, in whole MiB.
pub(crate) fn size(mib: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Size> {
    mib.prop_map(Size::from_mib)
}

/// A public key in OpenSSH's form.
fn ssh_key() -> impl Strategy<Value = String> {
    let body = "AAAAC3NzaC1lZDI1NTE5AAAAI";
    ("[A-Za-z0-9]{43}", "[a-z@ ]{0,8}")
        .prop_map(move |(rest, comment)| format!("ssh-ed25519 {body}{rest} {comment}").trim().to_owned())
}

fn boot() -> impl Strategy<Value = Boot> {
    let path = || "/[ -~]{1,20}".prop_map(PathBuf::from);
    let source = prop_oneof![
        "[a-z]{1,8}:[0-9]{1,2}".prop_map(|image| (Some(image), None)),
        path().prop_map(|kernel| (None, Some(kernel))),
        ("[a-z]{1,8}", path()).prop_map(|(image, kernel)| (Some(image), Some(kernel))),
    ];
    (source, prop::option::of(path()), prop::option::of("[ -~]{0,30}"))
        .prop_map(|((image, kernel), initrd, append)| Boot { image, kernel, initrd, append })
}

/// The board and a kind of guest that runs on it.
fn board() -> impl Strategy<Value = (Arch, Machine, Kind)> {
    let of = |arch, machines: &'static [Machine]| (Just(arch), select(machines), select(Kind::ALL));
    prop_oneof![
        of(Arch::X86_64, &[Machine::Auto, Machine::Q35, Machine::Microvm]),
        of(Arch::Aarch64, &[Machine::Auto, Machine::Virt]),
    ]
    .prop_filter("Solo5 drives PCI on x86_64 only", |(arch, machine, kind)| {
        *kind != Kind::Solo5 || (*arch == Arch::X86_64 && *machine != Machine::Microvm)
    })
}

/// Up to four interfaces, which fit beside every other device of a microvm, whose host ports and addresses are all different.
fn nets() -> impl Strategy<Value = Vec<Net>> {
    let ports = prop::collection::btree_set(1u16.., 0..8);
    let net = (0..4, prop::option::of(any::<[u8; 2]>()), 0usize..3, prop::option::of(any::<[u8; 4]>()));
    (prop::collection::vec(net, 0..=4), ports).prop_map(|(nets, ports): (Vec<_>, BTreeSet<u16>)| {
        let mut ports = ports.into_iter();
        (0u8..)
            .zip(nets)
            .map(|(index, (kind, mac, count, ip))| {
                let mac = mac.map(|[a, b]| Mac::local([a, b, index]));
                match kind {
                    0 => return Net::None { mac },
                    1 => return bridge(format!("br{index}"), mac, ip),
                    _ => {}
                }
                let forwards = ports.by_ref().take(count);
                let forwards = forwards
                    .map(|host| Forward {
                        address: [127, 0, 0, index + 1].into(),
                        host,
                        guest: u16::MAX - host / 2,
                    })
                    .collect();
                if kind == 2 {
                    Net::Nat { forwards, mac, ip: ip.map(Ipv4Addr::from) }
                } else {
                    Net::User { forwards, mac }
                }
            })
            .collect()
    })
}

/// A port of a bridge; where there are four bytes, with an address of the guest's own.
fn bridge(bridge: String, mac: Option<Mac>, bytes: Option<[u8; 4]>) -> Net {
    let Some([a, b, c, d]) = bytes else {
        return Net::Bridge { bridge, mac, ip: None, gateway: None, dns: Vec::new() };
    };
    let gateway = Ipv4Addr::new(10, a, b, c % 128 + 1);
    let dns = vec![Ipv4Addr::new(9, b, c, d); usize::from(d % 3)];
    let gateway = (d % 2 == 0).then_some(gateway);
    let ip = format!("10.{a}.{b}.{}/24", c % 100 + 130).parse().ok();
    Net::Bridge { bridge, mac, ip, gateway, dns }
}

/// A file of any bytes.
fn file() -> impl Strategy<Value = GuestFile> {
    ("(/[a-z.%\" -]{0,5}[a-z])+", 0..=0o7777u16, prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(path, mode, content)| GuestFile { path, mode: FileMode(mode), content: Blob(content) })
}

/// A valid spec.
pub(crate) fn spec() -> impl Strategy<Value = VmSpec> {
    let shape = (name(), boot(), board(), nets(), 1..=MAX_CPUS, size(4..=960 * 1024));
    let choices = (
        select(Accel::ALL),
        select(Provision::ALL),
        select(Restart::ALL),
        select(OnReset::ALL),
        any::<bool>(),
        prop::option::of("[A-Za-z][A-Za-z0-9-]{0,9}(,[a-z0-9]{1,4}=on)?"),
        prop::option::of(size(1..=1 << 20)),
        prop::option::of(1u64..),
    );
    let lists = (
        prop::collection::vec(ssh_key(), 0..3),
        prop::option::of(ready()),
        prop::collection::btree_map("[a-z0-9._/-]{1,10}", "[ -~]{0,10}", 0..3),
        prop::collection::vec("-?[ -~]{0,10}", 0..3),
    );
    let guest = (
        prop::option::of("[a-z_][a-z0-9_-]{0,9}x"),
        prop::collection::vec(file(), 0..3),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
    );
    (shape, choices, lists, guest).prop_map(|(shape, choices, lists, guest)| {
        let (name, boot, (arch, machine, kind), nets, cpus, memory) = shape;
        let (accel, provision, restart, on_reset, ephemeral, cpu, disk, ttl_seconds) = choices;
        let (ssh_keys, ready, labels, qemu_args) = lists;
        let (user, files, cloud_init) = guest;
        let cloud_init =
            cloud_init.filter(|_| matches!(provision, Provision::Auto | Provision::CloudInit)).map(Blob);
        VmSpec {
            name,
            boot,
            kind,
            arch,
            machine,
            accel,
            cpu,
            cpus,
            memory,
            disk,
            nets,
            provision,
            ssh_keys,
            user,
            files,
            cloud_init,
            restart,
            on_reset,
            ttl_seconds,
            ephemeral,
            ready,
            labels,
            qemu_args,
        }
    })
}
