use super::*;
use crate::host::kvm::KvmAbsence;

fn context(folder: &Path) -> Context {
    Context {
        root: HostRoot::system(),
        cache: Cache::at(folder.join("cache")),
        state_dir: folder.join("state"),
        run_dir: folder.join("run"),
        path: std::env::var_os("PATH").unwrap(),
    }
}

/// Each check that is not well says what to do.
fn assert_helpful(check: &Check) {
    assert!(!check.summary.is_empty());
    assert_eq!(check.status == Status::Ok, check.next.is_none(), "{check:?}");
}

#[test]
fn checks_of_this_host_are_complete_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let checks = checks(&context(folder.path()));
    let ids: Vec<_> = checks.iter().map(|check| check.id).collect();
    let (mine, other) = match Arch::host() {
        Arch::X86_64 => ("qemu-x86_64", "qemu-aarch64"),
        Arch::Aarch64 => ("qemu-aarch64", "qemu-x86_64"),
    };
    let expected = [
        mine,
        other,
        "kvm",
        "kernel",
        "memory",
        "cgroup",
        "tun",
        "network",
        "vsock",
        "ram-files",
        "disk",
        "state-folder",
        "run-folder",
        "ssh",
        "image-tools",
    ];
    assert_eq!(ids, expected);
    checks.iter().for_each(assert_helpful);
    assert!(!folder.path().join("state").exists() && !folder.path().join("run").exists());
}

#[test]
fn check_qemu_fails_only_when_there_is_none_at_all() {
    let missing = || Err(QemuError::NotFound { arch: Arch::X86_64 });
    let alone = check_qemu(Arch::X86_64, &missing(), false);
    assert_eq!((alone.id, alone.status), ("qemu-x86_64", Status::Fail));
    assert_eq!(alone.next.as_deref(), Some("sudo apt-get install qemu-system-x86"));
    assert_eq!(check_qemu(Arch::X86_64, &missing(), true).status, Status::Warn);
}

#[test]
fn check_qemu_tells_the_cause_of_the_cause() {
    let source = std::io::Error::from_raw_os_error(nix::libc::ENOEXEC);
    let error = Err(QemuError::Spawn { path: PathBuf::from("/opt/qemu"), source });
    let check = check_qemu(Arch::Aarch64, &error, true);
    let detail = check.detail.unwrap();
    assert!(detail.contains("/opt/qemu") && detail.contains("Exec format error"), "{detail}");
}

#[test]
fn check_kvm_is_never_a_failure_and_always_has_a_next_step() {
    assert_eq!(check_kvm(&KvmState::Works).status, Status::Ok);
    let reasons = [
        KvmAbsence::NotLoaded { module: "kvm_intel".to_owned() },
        KvmAbsence::NoDevice,
        KvmAbsence::NoCpuSupport,
        KvmAbsence::NestedOff,
        KvmAbsence::NoPermission { group: Some("kvm".to_owned()) },
        KvmAbsence::NoPermission { group: None },
        KvmAbsence::Busy,
        KvmAbsence::Stalled,
        KvmAbsence::Other,
    ];
    for reason in reasons {
        let check = check_kvm(&KvmState::Absent { reason, detail: "cause".to_owned() });
        assert_eq!((check.status, check.detail.as_deref()), (Status::Warn, Some("cause")));
        assert_helpful(&check);
    }
    let emulates = check_kvm(&KvmState::Emulates { detail: "cause".to_owned() });
    assert_eq!(emulates.status, Status::Warn);
    assert_helpful(&emulates);
}

#[test]
fn check_memory_goes_by_the_tighter_of_host_and_group() {
    let memory = |available| Memory {
        total: 4 << 30,
        available,
        swap_total: 1 << 30,
        swap_free: 1 << 29,
        zram: 1 << 30,
    };
    let status = |available, limit: Option<u64>| {
        let limit = limit.map(|bytes| MemoryLimit { bytes, used: 0, group: PathBuf::from("/g") });
        let check = check_memory(&memory(available), limit.as_ref());
        assert_helpful(&check);
        check.status
    };
    assert_eq!(status(2 << 30, None), Status::Ok);
    assert_eq!(status(256 << 20, None), Status::Warn);
    assert_eq!(status(2 << 30, Some(256 << 20)), Status::Warn);
    assert_eq!(status(8 << 20, None), Status::Fail);
    let detail = check_memory(&memory(2 << 30), None).detail.unwrap();
    assert_eq!(detail, "swap 512 MiB of 1024 MiB free, 1024 MiB of it compressed memory (zram)");
}

#[test]
fn check_disk_grades_by_room() {
    let status = |available| {
        let check = check_disk(Path::new("/x"), Ok(Space { total: 1 << 40, available }));
        assert_helpful(&check);
        check.status
    };
    assert_eq!((status(1 << 40), status(1 << 30), status(1 << 20)), (Status::Ok, Status::Warn, Status::Fail));
    let gone = check_disk(Path::new("/x"), Err(std::io::ErrorKind::NotFound.into()));
    assert_eq!(gone.status, Status::Fail);
}

#[test]
fn check_folder_below_a_file_cannot_be_made() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let check = check_folder("state-folder", "MIDGE_HOME", &folder.path().join("file/below"));
    assert_eq!(check.status, Status::Fail);
    assert!(check.next.is_some_and(|next| next.contains("MIDGE_HOME")));
    assert_eq!(check_folder("state-folder", "MIDGE_HOME", folder.path()).status, Status::Ok);
    assert_eq!(check_folder("state-folder", "MIDGE_HOME", &folder.path().join("a/b")).status, Status::Ok);
}

#[test]
fn check_of_programs_names_those_missing() {
    let check = check_ssh(OsStr::new("/nonexistent"));
    assert_eq!(check.status, Status::Warn);
    assert!(check.summary.contains("ssh and ssh-keygen not found"), "{}", check.summary);
}

#[test]
fn check_kernel_needs_pidfds() {
    let mut facts = HostFacts::of(&HostRoot::system()).unwrap();
    for (release, status) in
        [("6.12.47+rpt-rpi-2712", Status::Ok), ("5.3.0-1", Status::Ok), ("4.19.0-27-amd64", Status::Fail)]
    {
        release.clone_into(&mut facts.kernel);
        let check = check_kernel(&facts);
        assert_eq!(check.status, status, "{release}");
        assert_helpful(&check);
    }
}

#[test]
fn version_of_kernel_releases() {
    assert_eq!(version("6.12.47+rpt-rpi-2712"), Some((6, 12)));
    assert_eq!(version("5.3-rc1"), Some((5, 3)));
    assert_eq!((version(""), version("next")), (None, None));
}

#[test]
fn size_for_people() {
    assert_eq!(
        (size(0), size(512 << 20), size((24 << 30) + (600 << 20))),
        ("0 MiB".to_owned(), "512 MiB".to_owned(), "24.5 GiB".to_owned())
    );
}

#[test]
fn check_is_plain_json() {
    let text = serde_json::to_string(&Check::warn("tun", "no", "do")).unwrap();
    assert_eq!(text, r#"{"id":"tun","status":"warn","summary":"no","next":"do"}"#);
}

#[test]
fn check_network_says_what_this_user_can_have() {
    let prepared = [("br0".to_owned(), 8), ("midge0".to_owned(), 2)].into();
    let user = Networks { privileged: false, tun: Device::Ready, prepared, lender: true };
    let set_up = user.check();
    assert_eq!(set_up.summary, "VMs can be on br0 (8 at a time), midge0 (2 at a time)");
    let none = Networks { prepared: [].into(), ..user.clone() };
    let deaf = Networks { lender: false, ..user.clone() };
    let closed = Networks { tun: Device::NoPermission, ..user.clone() };
    let missing = Networks { tun: Device::Missing, privileged: true, ..user.clone() };
    let root = Networks { privileged: true, ..none.clone() };
    for (networks, status, next) in [
        (user, Status::Ok, ""),
        (root, Status::Ok, ""),
        (none, Status::Warn, "net setup"),
        (deaf, Status::Warn, "net setup"),
        (closed, Status::Warn, "chmod 666"),
        (missing, Status::Warn, "modprobe tun"),
    ] {
        let check = networks.check();
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.next.clone().unwrap_or_default().contains(next), "{check:?}");
        assert_helpful(&check);
    }
}
