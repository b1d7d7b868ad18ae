//! virtme-ng as a peer of the fast path: both boot the same kernel with the same disk as their root.
//!
//! It needs a kernel with 9p, by which it hands its own programs to the guest. Debian's cloud kernel has none, so both boot Debian's
//! ordinary one here. What they do for it is not the same, and cannot be: virtme-ng runs a command below a small init of its own and
//! starts neither systemd nor a network; midge boots the whole system until its SSH server greets. With `--systemd` virtme-ng boots the
//! system as well, without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::common::Sandbox;
use super::support::{Report, Samples, run};
use super::{Case, boot, image_part};

/// The flags of the fast path.
const FAST: Case = Case { what: "fast path", flags: &["--provision", "credentials"], own_initrd: false };

/// The fast path and virtme-ng, in turns.
pub struct Peers {
    sandbox: Sandbox,
    program: PathBuf,
    kernel: PathBuf,
    disk: PathBuf,
    initrd: PathBuf,
    /// midge, virtme-ng, virtme-ng with systemd.
    times: [Samples; 3],
    cpu: [Samples; 3],
}

impl Peers {
    /// Finds the program, builds the image, and unpacks its root file system, in which virtme-ng looks for the kernel's modules; that
    /// needs root. Says why not where it cannot be.
    pub fn find() -> Result<Self, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| {
            let mut found = std::env::split_paths(&path).map(|folder| folder.join(name));
            found.find(|path| path.is_file()).ok_or_else(|| format!("there is no `{name}`"))
        };
        let program = find("vng").map_err(|why| format!("{why}; `pip install virtme-ng` brings it"))?;
        for (name, package) in [("modprobe", "kmod"), ("busybox", "busybox-static")] {
            find(name)
                .map_err(|why| format!("{why}, which virtme-ng needs: install the package {package}"))?;
        }
        let sandbox = Sandbox::new();
        sandbox.ok(&["image", "build", "debian:12", "--with", "linux-image-amd64"]);
        let [disk, initrd] = ["disk", "initrd"].map(|part| image_part(&sandbox, part));
        let root = unpack(&sandbox, &disk)?;
        let files = fs::read_dir(root.join("boot")).map_err(|e| e.to_string())?.flatten();
        let mut kernels = files.map(|file| file.path());
        let kernel = kernels.find(|path| path.to_string_lossy().contains("vmlinuz-"));
        let kernel = kernel.ok_or("the image has no kernel")?;
        let row = |what: &str, unit: &str| Samples::new(format!("ordinary kernel, {what}: {unit}"), "s");
        let names =
            ["midge until SSH greets", "virtme-ng until `true` has run", "virtme-ng --systemd likewise"];
        let found = Self {
            sandbox,
            program,
            kernel,
            disk,
            initrd,
            times: names.map(|what| row(what, "clock")),
            cpu: names.map(|what| row(what, "CPU time")),
        };
        found.works()?;
        Ok(found)
    }

    /// One boot of each.
    pub fn round(&mut self) {
        let one = boot(&self.sandbox, &FAST, &self.initrd);
        self.times[0].push(one.took.as_secs_f64());
        self.cpu[0].push(one.cpu);
        for (index, systemd) in [(1, false), (2, true)] {
            let before = children();
            let mut command = self.command(systemd);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            self.times[index].push(run(command).as_secs_f64());
            self.cpu[index].push((children() - before).as_secs_f64());
        }
    }

    /// The rows, and the promises.
    pub fn tell(self, report: &mut Report) {
        let [midge, bare, systemd] = &self.times;
        let what = "the fast path's part of virtme-ng's time";
        report.promise(what, midge.median() / bare.median(), 1.0, "");
        report.promise(
            &format!("{what}, where that boots the system too (--systemd)"),
            midge.median() / systemd.median(),
            1.0,
            "",
        );
        self.times.into_iter().chain(self.cpu).for_each(|row| report.row(row));
    }

    fn command(&self, systemd: bool) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--run").arg(&self.kernel).arg("--root-disk").arg(&self.disk);
        command.args(["--root-dev", "/dev/vda", "--root-fstype", "ext4"]);
        command.args(["--disable-kvm", "--memory", "512M", "--cpus", "1", "--exec", "true"]);
        if systemd {
            command.arg("--systemd");
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs it once, to see whether it works here.
    fn works(&self) -> Result<(), String> {
        let output = self.command(false).output().map_err(|e| e.to_string())?;
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().last().unwrap_or("without a word").to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("it does not run here: {last}")) }
    }
}

/// Unpacks the root file system of a disk by e2fsprogs' own reader: nothing is mounted.
fn unpack(sandbox: &Sandbox, disk: &Path) -> Result<PathBuf, String> {
    let (raw, root) = (sandbox.path().join("root.raw"), sandbox.path().join("root"));
    fs::create_dir(&root).map_err(|e| e.to_string())?;
    let step = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{program}: {words}")) }
    };
    let text = |path: &Path| path.to_str().unwrap_or_default().to_owned();
    step("qemu-img", &["convert", "-O", "raw", &text(disk), &text(&raw)])?;
    step("/sbin/debugfs", &["-R", &format!("rdump / {}", root.display()), &text(&raw)])?;
    fs::remove_file(&raw).map_err(|e| e.to_string())?;
    Ok(root)
}

/// The CPU time of all children that have ended (getrusage(2)).
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it cannot fail");
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(value.tv_sec() * 1_000_000 + value.tv_usec()).unwrap_or(0))
    };
    time(usage.user_time()) + time(usage.system_time())
}
