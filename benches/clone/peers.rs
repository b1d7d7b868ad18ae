//! The clones of other tools. What they make differs from a running VM; each row says what it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::has;
use super::support::{self, Report, Samples};
use super::template::Template;

pub fn measure(template: &Template, rounds: usize, report: &mut Report) {
    let folder = template.sandbox.path().join("peers");
    let root = root_folder(&folder.join("base/rootfs"));
    if has(report, "lxc-copy", &["--version"]) {
        report.rows_with_tail([lxc_copy(&folder, rounds)]);
    }
    if has(report, "systemd-nspawn", &["--version"]) {
        report.rows_with_tail([nspawn(&root, rounds)]);
    }
}

/// A root folder with one program in it, `/bin/true`, and what that needs.
fn root_folder(root: &Path) -> PathBuf {
    for folder in ["usr/bin", "usr/lib", "etc", "proc", "sys", "dev", "run", "tmp", "var"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib"), ("sbin", "usr/bin")]
    {
        symlink(target, root.join(link)).unwrap();
    }
    fs::write(root.join("etc/os-release"), "ID=bench\n").unwrap();
    fs::copy("/bin/true", root.join("usr/bin/true")).unwrap();
    let output = Command::new("ldd").arg("/bin/true").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(library).file_name().unwrap();
        let target = root.join("usr/lib").join(name);
        fs::copy(library, &target).unwrap();
        // Debian's own folder for libraries of this machine.
        let parent = Path::new(library).parent().unwrap().strip_prefix("/").unwrap();
        if !root.join(parent).join(name).exists() {
            fs::create_dir_all(root.join(parent)).unwrap();
            fs::copy(library, root.join(parent).join(name)).unwrap();
        }
    }
    root.to_owned()
}

/// A stopped container on an overlay of another's files.
fn lxc_copy(path: &Path, rounds: usize) -> Samples {
    let root = path.join("base/rootfs");
    let config = format!("lxc.rootfs.path = dir:{}\nlxc.uts.name = base\n", root.display());
    fs::write(path.join("base/config"), config).unwrap();
    let mut samples = Samples::new("lxc-copy -B overlay -s: a stopped container", "ms");
    for round in 0..=rounds {
        let name = format!("copy-{round}");
        let mut command = Command::new("lxc-copy");
        command.arg("-P").arg(path).args(["-n", "base", "-N", &name, "-B", "overlay", "-s"]);
        let took = support::run(command);
        fs::remove_dir_all(path.join(name)).unwrap();
        if round > 0 {
            samples.time(took);
        }
    }
    samples
}

/// A container of one program on a copy of its files, from its start to its end.
fn nspawn(root: &Path, rounds: usize) -> Samples {
    let mut samples = Samples::new("systemd-nspawn --ephemeral: a container that runs `true` and ends", "ms");
    for round in 0..=rounds {
        let mut command = Command::new("systemd-nspawn");
        command.args(["--quiet", "--ephemeral", "--register=no", "--keep-unit", "--as-pid2", "--directory"]);
        command.arg(root).arg("/bin/true");
        let took = support::run(command);
        if round > 0 {
            samples.time(took);
        }
    }
    // It leaves an empty folder behind for each where /run is on a disk.
    let left = fs::read_dir("/run/systemd/nspawn/propagate").into_iter().flatten().flatten();
    for entry in left.filter(|entry| entry.file_name().to_string_lossy().starts_with("rootfs-")) {
        let _ = fs::remove_dir(entry.path());
    }
    samples
}
