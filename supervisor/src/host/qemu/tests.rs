use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// An executable file that stands where QEMU is expected.
fn program_with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qemu-system-x86_64");
    write_program(&path, text);
    (folder, path)
}

/// Written by another process: a descriptor open for writing in this one could be inherited by what another thread
/// spawns at that moment, and running the file would fail with ETXTBSY.
fn write_program(path: &Path, text: &str) {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
}

fn probe(path: &Path) -> Result<QemuFacts, QemuError> {
    facts_of(path, Arch::X86_64, &Cache::none())
}

/// The QEMU of the host's architecture; every machine that midge's tests run on has it.
fn installed() -> PathBuf {
    find(Arch::host(), None, std::env::var_os("PATH").as_deref()).unwrap()
}

#[test]
fn installed_qemu_tells_what_it_can_do() {
    let path = installed();
    let facts = facts_of(&path, Arch::host(), &Cache::none()).unwrap();
    assert!(facts.version >= OLDEST);
    let printed = Command::new(&path).arg("--version").output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    assert_eq!(printed.lines().next(), Some(facts.version_line.as_str()));

    let has = |list: &[String], name: &str| list.iter().any(|item| item == name);
    let (major, minor, _) = facts.version;
    match Arch::host() {
        Arch::X86_64 => {
            assert!(has(&facts.machines, &format!("pc-q35-{major}.{minor}")), "{:?}", facts.machines);
            assert!(has(&facts.machines, "microvm"));
            assert!(has(&facts.cpus, "qemu64"));
            assert!(has(&facts.devices, "vmgenid") && has(&facts.devices, "isa-debug-exit"));
        }
        Arch::Aarch64 => {
            assert!(has(&facts.machines, &format!("virt-{major}.{minor}")), "{:?}", facts.machines);
            assert!(has(&facts.cpus, "cortex-a72"));
        }
    }
    assert!(has(&facts.devices, "virtio-net-pci") && has(&facts.devices, "virtio-rng-pci"));
    assert!(!facts.devices.iter().any(|device| device.ends_with("-cpu")));
}

#[test]
fn second_look_is_answered_by_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let first = facts_of(&installed(), Arch::host(), &cache).unwrap();
    let file = std::fs::read_dir(folder.path().join("qemu")).unwrap().next().unwrap().unwrap().path();
    // A mark in the file shows where the second answer comes from.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&first.version_line, "the cached line")).unwrap();
    let second = facts_of(&installed(), Arch::host(), &cache).unwrap();
    assert_eq!(second, QemuFacts { version_line: "the cached line".to_owned(), ..first.clone() });

    std::fs::write(&file, "{\"key\": damaged").unwrap();
    assert_eq!(facts_of(&installed(), Arch::host(), &cache).unwrap(), first);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn changed_binary_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let (_keep, path) = program_with(&format!("#!/bin/sh\nexec {} \"$@\"\n", installed().display()));
    facts_of(&path, Arch::host(), &cache).unwrap();
    write_program(&path, "#!/bin/sh\necho broken >&2\nexit 3\n");
    let error = facts_of(&path, Arch::host(), &cache).unwrap_err();
    assert!(matches!(error, QemuError::Died { .. }), "{error}");
}

#[test]
fn find_without_any_names_the_package() {
    let error = find(Arch::Aarch64, None, Some(OsStr::new("/nonexistent:relative"))).unwrap_err();
    assert!(matches!(error, QemuError::NotFound { arch: Arch::Aarch64 }));
    assert!(error.to_string().contains("apt-get install qemu-system-arm"), "{error}");
}

#[test]
fn find_takes_the_first_executable_in_path() {
    let (first, plain) = program_with("");
    let (second, good) = program_with("");
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    let both = std::env::join_paths([first.path(), second.path()]).unwrap();
    assert_eq!(find(Arch::X86_64, None, Some(&both)).unwrap(), good);
    let error = find(Arch::X86_64, None, Some(first.path().as_os_str())).unwrap_err();
    assert!(matches!(error, QemuError::NotExecutable { path } if path == plain));
}

#[test]
fn find_override_comes_before_path_and_must_exist() {
    let (_keep, path) = program_with("");
    assert_eq!(find(Arch::X86_64, Some(path.as_os_str()), None).unwrap(), path);
    let error = find(Arch::X86_64, Some(OsStr::new("/nonexistent/qemu")), None).unwrap_err();
    assert!(matches!(error, QemuError::Override { .. }));
    assert!(error.to_string().contains("MIDGE_QEMU"), "{error}");
}

#[test]
fn probe_of_one_that_dies_shows_its_stderr_and_status() {
    let (_keep, path) =
        program_with("#!/bin/sh\necho 'error while loading shared libraries: libx.so' >&2\nexit 127\n");
    let error = probe(&path).unwrap_err();
    assert!(matches!(error, QemuError::Died { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("exit status: 127") && text.contains("libx.so"), "{text}");
}

#[test]
fn probe_of_one_killed_by_a_signal_names_it() {
    let (_keep, path) = program_with("#!/bin/sh\nkill -SEGV $$\n");
    let text = probe(&path).unwrap_err().to_string();
    assert!(text.contains("SIGSEGV") && text.contains("wrote nothing"), "{text}");
}

#[test]
fn probe_of_an_old_one_names_both_versions() {
    let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 1, "minor": 2, "major": 5}, "package": "Debian"}, "capabilities": []}}"#;
    let (_keep, path) = program_with(&format!("#!/bin/sh\necho '{greeting}'\nexec cat >/dev/null\n"));
    let error = probe(&path).unwrap_err();
    assert!(matches!(error, QemuError::TooOld { found: (5, 2, 1), .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("5.2.1") && text.contains("7.2.0"), "{text}");
}

#[test]
fn probe_of_another_machines_program_says_so() {
    let (_keep, path) = program_with("\u{7f}ELF no program of this machine");
    let error = probe(&path).unwrap_err();
    // Run under qemu-user, a failing exec shows only as the child's exit status, 127 (posix_spawn(3)).
    let told = match &error {
        QemuError::Spawn { source, .. } => source.raw_os_error() == Some(nix::libc::ENOEXEC),
        QemuError::Died { status, .. } => status.contains("127"),
        _ => false,
    };
    assert!(told, "{error:?}");
}

#[test]
fn probe_of_something_else_quotes_it() {
    for text in ["#!/bin/sh\necho hello\n", "#!/bin/sh\nprintf hello\n"] {
        let (_keep, path) = program_with(text);
        let error = probe(&path).unwrap_err();
        assert!(matches!(error, QemuError::Output { .. }), "{error:?}");
        assert!(error.to_string().contains("`hello`"), "{error}");
    }
}

#[test]
fn probe_of_one_that_never_answers_ends() {
    let (_keep, path) = program_with("#!/bin/sh\necho waiting >&2\nexec sleep 1000\n");
    let error = talk::probe_within(&path, Arch::X86_64, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(&error, QemuError::Timeout { stderr, .. } if stderr == "waiting"), "{error:?}");
}

#[test]
fn probe_for_other_guests_than_it_runs_is_refused() {
    let other = match Arch::host() {
        Arch::X86_64 => Arch::Aarch64,
        Arch::Aarch64 => Arch::X86_64,
    };
    let error = facts_of(&installed(), other, &Cache::none()).unwrap_err();
    assert!(matches!(error, QemuError::WrongTarget { .. }), "{error:?}");
}

#[test]
fn facts_of_one_path_serve_only_the_architecture_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    facts_of(&installed(), Arch::host(), &cache).unwrap();
    let other = if Arch::host() == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
    assert!(matches!(facts_of(&installed(), other, &cache), Err(QemuError::WrongTarget { .. })));
}
