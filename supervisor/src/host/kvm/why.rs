//! Why KVM cannot be opened: what the files of the host tell.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustix::io::Errno;

use super::{DEVICE, KvmAbsence, KvmState, first_cpu, modules};
use crate::host::root::HostRoot;

/// The state that follows from an error of opening `/dev/kvm` or making a VM.
pub(super) fn absent(root: &HostRoot, error: &io::Error) -> KvmState {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // ENXIO and ENODEV: a node without a driver behind it.
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => no_device(root),
        Some(Errno::ACCESS | Errno::PERM) => no_permission(root, error),
        // KVM_CREATE_VM, when virtualisation is switched on already by someone else.
        Some(Errno::BUSY) => {
            state(KvmAbsence::Busy, format!("another hypervisor uses the CPU's virtualisation: {error}"))
        }
        _ => state(KvmAbsence::Other, format!("/dev/kvm cannot be used: {error}")),
    }
}

fn state(reason: KvmAbsence, detail: String) -> KvmState {
    KvmState::Absent { reason, detail }
}

fn no_device(root: &HostRoot) -> KvmState {
    let loaded = modules(root);
    let cpu = first_cpu(root).unwrap_or_default();
    let has = |flag: &str| {
        cpu.lines().filter_map(|line| line.split_once(':')).any(|(name, value)| {
            name.trim() == "flags" && value.split_ascii_whitespace().any(|word| word == flag)
        })
    };
    let module = match (has("vmx"), has("svm")) {
        (true, _) => Some("kvm_intel"),
        (_, true) => Some("kvm_amd"),
        _ => None,
    };
    let has_back_end = if cfg!(target_arch = "aarch64") {
        !loaded.is_empty()
    } else {
        loaded.iter().any(|name| name.starts_with("kvm_"))
    };
    match module {
        Some(module) if !loaded.iter().any(|name| name == module) => state(
            KvmAbsence::NotLoaded { module: module.to_owned() },
            format!("the CPU has virtualisation, but the kernel module {module} is not loaded"),
        ),
        Some(module) => state(
            KvmAbsence::NoDevice,
            format!("the kernel module {module} is loaded, but there is no usable /dev/kvm here"),
        ),
        // A back end that needs no CPU feature, or Arm, where KVM is part of the kernel and no CPU feature is listed.
        None if has_back_end => {
            state(KvmAbsence::NoDevice, "the kernel has KVM, but there is no usable /dev/kvm here".to_owned())
        }
        None if cfg!(target_arch = "aarch64") => state(
            KvmAbsence::NoCpuSupport,
            "there is no /dev/kvm: the kernel was built without KVM or was not started in hypervisor mode (EL2)".to_owned(),
        ),
        None if has("hypervisor") => state(
            KvmAbsence::NestedOff,
            "no vmx or svm in /proc/cpuinfo: the host of this virtual machine does not pass them on".to_owned(),
        ),
        None => state(
            KvmAbsence::NoCpuSupport,
            "no vmx or svm in /proc/cpuinfo: the CPU lacks them or the firmware has switched them off".to_owned(),
        ),
    }
}

fn no_permission(root: &HostRoot, error: &io::Error) -> KvmState {
    let Ok(about) = root.path(DEVICE).metadata() else {
        return state(
            KvmAbsence::NoPermission { group: None },
            format!("/dev/kvm may not be opened: {error}"),
        );
    };
    let mode = about.permissions().mode() & 0o777;
    // A group that may read and write, and that is not root's own, is one to join.
    let open_to_group = mode & 0o060 == 0o060 && about.gid() != 0;
    let group = group_name(root, about.gid());
    let shown = group.clone().unwrap_or_else(|| about.gid().to_string());
    state(
        KvmAbsence::NoPermission { group: open_to_group.then(|| shown.clone()) },
        format!("/dev/kvm may not be opened ({error}): it belongs to the group {shown}, mode {mode:o}"),
    )
}

/// The name of a group, from `/etc/group` (group(5)).
fn group_name(root: &HostRoot, gid: u32) -> Option<String> {
    let text = root.read("etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn write(tree: &Path, file: &str, text: &str) {
        let path = tree.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn reason_of(flags: &str, loaded: &[&str], errno: Errno) -> KvmAbsence {
        let tree = tempfile::tempdir().unwrap();
        write(
            tree.path(),
            "proc/cpuinfo",
            &format!("processor\t: 0\nflags\t\t: fpu {flags} nx\n\nprocessor\t: 1\n"),
        );
        for module in loaded {
            std::fs::create_dir_all(tree.path().join("sys/module").join(module)).unwrap();
        }
        match absent(&HostRoot::at(tree.path()), &errno.into()) {
            KvmState::Absent { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn missing_device_is_explained_by_cpu_and_modules() {
        let not_loaded = |module: &str| KvmAbsence::NotLoaded { module: module.to_owned() };
        assert_eq!(reason_of("vmx", &[], Errno::NOENT), not_loaded("kvm_intel"));
        assert_eq!(reason_of("svm hypervisor", &["kvm"], Errno::NOENT), not_loaded("kvm_amd"));
        assert_eq!(reason_of("vmx", &["kvm", "kvm_intel"], Errno::NOENT), KvmAbsence::NoDevice);
        assert_eq!(reason_of("hypervisor", &["kvm"], Errno::NOENT), KvmAbsence::NestedOff);
        assert_eq!(reason_of("hypervisor", &["kvm", "kvm_other"], Errno::NODEV), KvmAbsence::NoDevice);
        assert_eq!(reason_of("sse2", &[], Errno::NXIO), KvmAbsence::NoCpuSupport);
    }

    #[test]
    fn other_errors_have_their_own_reason() {
        assert_eq!(reason_of("vmx", &["kvm_intel"], Errno::BUSY), KvmAbsence::Busy);
        assert_eq!(reason_of("vmx", &["kvm_intel"], Errno::NOMEM), KvmAbsence::Other);
    }

    #[test]
    fn permission_names_the_group_to_join() {
        let tree = tempfile::tempdir().unwrap();
        write(tree.path(), "dev/kvm", "");
        let device = tree.path().join("dev/kvm");
        std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o660)).unwrap();
        let gid = device.metadata().unwrap().gid();
        write(tree.path(), "etc/group", &format!("other:x:{}:\nvirtual:x:{gid}:me\n", gid + 1));
        let KvmState::Absent { reason, detail } = absent(&HostRoot::at(tree.path()), &Errno::ACCESS.into())
        else {
            panic!("absent by name")
        };
        // Files made by root belong to root's group, which nobody is told to join.
        let expected = (gid != 0).then(|| "virtual".to_owned());
        assert_eq!(reason, KvmAbsence::NoPermission { group: expected });
        assert!(detail.contains("group virtual") && detail.contains("mode 660"), "{detail}");
    }

    #[test]
    fn device_closed_to_its_group_names_none() {
        let tree = tempfile::tempdir().unwrap();
        write(tree.path(), "dev/kvm", "");
        std::fs::set_permissions(tree.path().join("dev/kvm"), std::fs::Permissions::from_mode(0o600))
            .unwrap();
        let state = absent(&HostRoot::at(tree.path()), &Errno::ACCESS.into());
        let KvmState::Absent { reason, .. } = &state else { panic!("absent by name") };
        assert_eq!(*reason, KvmAbsence::NoPermission { group: None });
        assert!(state.next_step().is_some_and(|step| step.contains("chmod 660")));
    }
}
