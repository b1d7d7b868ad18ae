//! What keeps a VM from being saved, told when that is asked for and not when it fails.

use crate::machine::{Board, Ram};
use crate::spec::VmSpec;

/// What speaks against a snapshot of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it cannot be saved; empty where it can. A snapshot of its disk only is always possible.
    pub refusals: Vec<String>,
    /// Why the snapshot may be of no use elsewhere.
    pub tied: Vec<String>,
}

/// Words in QEMU's arguments of what lives outside of QEMU, or has a state that QEMU does not save, and what that is.
const FOREIGN: [(&str, &str); 8] = [
    ("vhost-user", "a vhost-user device, whose state is another program's"),
    ("-virtfs", "a shared folder (9p), which QEMU does not save while it is mounted"),
    ("-fsdev", "a shared folder (9p), which QEMU does not save while it is mounted"),
    ("virtio-9p", "a shared folder (9p), which QEMU does not save while it is mounted"),
    ("vfio", "a device of the host's (VFIO)"),
    ("usb-host", "a USB device of the host's"),
    ("ivshmem", "memory shared with others (ivshmem)"),
    ("nvme", "an emulated NVMe disk, which QEMU does not save"),
];

/// Judges a VM by its spec, by the command line that its QEMU runs with and by its RAM. QEMU's own word is asked for as well
/// ([`super::engine::check_migratable`]), as a guest can bring about what no argument tells.
#[must_use]
pub fn judge(spec: &VmSpec, arguments: &[String], ram: &Ram) -> Verdict {
    let mut verdict = Verdict::default();
    match Board::of(spec) {
        Ok(board) if board.snapshots() => {}
        Ok(_) => verdict.refusals.push(
            "its machine is a microvm, whose state has no fixed form; create it with `--machine q35`"
                .to_owned(),
        ),
        Err(e) => verdict.refusals.push(e.to_string()),
    }
    if *ram == Ram::Anonymous {
        verdict.refusals.push(
            "its memory is not a file, because no tmpfs had room when it was started; make room and start it anew"
                .to_owned(),
        );
    }
    // An option that says it itself, or the driver of a device or of a network's backend. Values may hold such a word by chance.
    let told: Vec<&str> = arguments
        .windows(2)
        .map(|pair| match pair[0].as_str() {
            "-device" | "-netdev" => pair[1].split(',').next().unwrap_or_default(),
            option => option,
        })
        .collect();
    for (word, what) in FOREIGN {
        let refusal = format!("it has {what}");
        if told.iter().any(|told| told.starts_with(word)) && !verdict.refusals.contains(&refusal) {
            verdict.refusals.push(refusal);
        }
    }
    if !spec.qemu_args.is_empty() {
        verdict.tied.push(format!(
            "it runs with arguments of the user's own ({}), of which midge knows nothing",
            spec.qemu_args.join(" ")
        ));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Machine;

    fn judged(spec: &VmSpec, arguments: &[&str]) -> Verdict {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        judge(spec, &arguments, &Ram::File("/run/ram".into()))
    }

    fn spec() -> VmSpec {
        VmSpec { arch: crate::spec::Arch::X86_64, ..VmSpec::named("vm") }
    }

    #[test]
    fn an_ordinary_vm_can_be_saved() {
        let list = [
            "-name",
            "guest=vfio,process=x",
            "-kernel",
            "/srv/nvme/vfio/vmlinuz",
            "-device",
            "virtio-net-pci,id=nic0",
        ];
        assert_eq!(judged(&spec(), &list), Verdict::default());
    }

    #[test]
    fn what_cannot_travel_is_named_once() {
        let cases = [
            (&["-chardev", "x", "-device", "vhost-user-fs-pci,tag=a"][..], "vhost-user"),
            (&["-virtfs", "local,path=/srv"], "9p"),
            (&["-fsdev", "local,id=f", "-device", "virtio-9p-pci,fsdev=f"], "9p"),
            (&["-device", "vfio-pci,host=01:00.0"], "VFIO"),
            (&["-device", "usb-host,hostbus=1"], "USB"),
        ];
        for (list, word) in cases {
            let refusals = judged(&spec(), list).refusals;
            assert!(refusals.len() == 1 && refusals[0].contains(word), "{list:?}: {refusals:?}");
        }
    }

    #[test]
    fn a_microvm_and_memory_that_is_no_file_are_refused() {
        let microvm = VmSpec { machine: Machine::Microvm, ..spec() };
        assert!(judged(&microvm, &[]).refusals[0].contains("microvm"));
        assert!(judge(&spec(), &[], &Ram::Anonymous).refusals[0].contains("not a file"));
        assert!(
            judge(&spec(), &[], &Ram::Private("/s/ram".into())).refusals.is_empty(),
            "a clone can be saved"
        );
    }

    #[test]
    fn a_users_own_arguments_tie_it_to_its_host() {
        let own = VmSpec { qemu_args: vec!["-device".into(), "edu".into()], ..spec() };
        let verdict = judged(&own, &["-device", "edu"]);
        assert!(verdict.refusals.is_empty() && verdict.tied[0].contains("-device edu"));
    }
}
