//! Importing images: the format is found by the content, what lies or leads elsewhere is refused, and what is in a disk is found out
//! well enough to boot it directly.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Done, Sandbox, eventually};
use serde_json::Value;

/// Runs a tool that makes what is to be imported.
#[track_caller]
fn tool(folder: &Path, program: &str, arguments: &[&str]) {
    feed(folder, program, arguments, "");
}

#[track_caller]
fn feed(folder: &Path, program: &str, arguments: &[&str], input: &str) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("PATH", path);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap_or_else(|e| panic!("this test needs {program}: {e}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A raw disk of 8 MiB with a partition table and some content.
fn partitioned(folder: &Path) -> PathBuf {
    let path = folder.join("raw");
    let file = fs::File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    feed(folder, "sfdisk", &["--quiet", "raw"], "label: gpt\nstart=2048, size=2048\nstart=4096, size=8192\n");
    file.write_all_at(&vec![0xaa; 1 << 20], 2 << 20).unwrap();
    path
}

/// The manifest and the disk's file of an image.
fn image(sandbox: &Sandbox, name: &str) -> (Value, PathBuf) {
    let image = sandbox.json(&["image", "inspect", name]);
    let file = image["manifest"]["disk"]["file"].as_str().unwrap_or_default();
    let path = PathBuf::from(image["folder"].as_str().unwrap()).join(file);
    (image["manifest"].clone(), path)
}

/// Nothing was made, and nothing unfinished is left.
#[track_caller]
fn untouched(sandbox: &Sandbox) {
    assert_eq!(sandbox.ok(&["image", "ls", "-q"]), "hello\n");
    assert_eq!(fs::read_dir(sandbox.home().join("tmp")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_base_and_a_vm_of_it_are_one_line_each_and_may_be_asked_for_again() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path();
    partitioned(folder);
    tool(folder, "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "raw", "debian.qcow2"]);
    let disk = folder.join("debian.qcow2");
    let import = ["image", "import", disk.to_str().unwrap(), "--name", "vm-base", "-o", "json"];
    let one_line = |words: &[&str]| {
        let text = sandbox.ok(words);
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let first = one_line(&import);
    assert_eq!((first["schema"].as_u64(), first["manifest"]["name"].as_str()), (Some(1), Some("vm-base")));
    let again = one_line(&[&import[..], &["--if-not-exists"]].concat());
    assert_eq!(again, first);
    let said = sandbox.fails(4, &import);
    assert!(said.contains("--if-not-exists"), "{said}");
    // The file may go: the image is whole without it.
    fs::remove_file(&disk).unwrap();
    assert_eq!(one_line(&[&import[..], &["--if-not-exists"]].concat()), first);
    sandbox.ok(&["image", "verify", "vm-base"]);

    let create = ["create", "vm-1", "--image", "vm-base", "-o", "json", "--if-not-exists"];
    let vm = one_line(&create);
    assert_eq!(vm["name"], "vm-1");
    assert_eq!(one_line(&create), vm);
    assert_eq!(sandbox.ok(&["create", "vm-1", "--image", "vm-base", "--if-not-exists"]), "vm-1\n");
    sandbox.fails(4, &["create", "vm-1", "--image", "vm-base"]);
    let overlay = fs::metadata(sandbox.vm_file("vm-1", "disk.qcow2")).unwrap();
    assert!(overlay.blocks() * 512 <= 16 << 10, "{} blocks", overlay.blocks());
    let used = sandbox.fails(4, &["image", "rm", "vm-base"]);
    assert!(used.contains("vm-1"), "{used}");
}

#[test]
fn disks_of_every_format_are_told_by_their_content() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path();
    partitioned(folder);
    // Under names that lie.
    for (name, format, options) in [
        ("a.raw", "qcow2", ""),
        ("b.qcow2", "vmdk", ""),
        ("c.img", "vmdk", "subformat=streamOptimized"),
        ("d.vmdk", "vhdx", ""),
    ] {
        let mut arguments = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        tool(folder, "qemu-img", &[&arguments[..], &["raw", name]].concat());
    }
    fs::copy(folder.join("raw"), folder.join("e.vhdx")).unwrap();
    for (file, name) in [("a.raw", "a"), ("b.qcow2", "b"), ("c.img", "c"), ("d.vmdk", "d"), ("e.vhdx", "e")] {
        let path = folder.join(file);
        assert_eq!(sandbox.ok(&["image", "import", path.to_str().unwrap()]), format!("{name}\n"));
        let (manifest, disk) = image(&sandbox, name);
        assert_eq!(manifest["disk"]["virtual_size"], 8 << 20, "{file}");
        let format = manifest["disk"]["format"].as_str().unwrap().to_owned();
        let disk = disk.to_str().unwrap();
        tool(folder, "qemu-img", &["compare", "-f", "raw", "-F", &format, "raw", disk]);
        assert_eq!(manifest["firmware"]["firmware"], "bios", "nothing to boot directly");
    }
    sandbox.ok(&["image", "verify"]);
}

#[test]
fn disks_that_lead_elsewhere_or_lie_are_refused() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path();
    partitioned(folder);
    let qemu_img = |arguments: &[&str]| tool(folder, "qemu-img", arguments);
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "raw", "good"]);
    // A file of the host's that is nobody's business.
    fs::write(folder.join("secret"), vec![b's'; 1 << 20]).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "secret", "-F", "raw", "backed"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "loop-a", "8M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "loop-a", "-F", "qcow2", "loop-b"]);
    qemu_img(&["rebase", "-q", "-u", "-f", "qcow2", "-b", "loop-b", "-F", "qcow2", "loop-a"]);
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "--object",
        "secret,id=k,data=x",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10",
        "encrypted",
        "8M",
    ]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "data_file=data", "external", "8M"]);
    let short = fs::read(folder.join("good")).unwrap();
    fs::write(folder.join("short"), &short[..short.len() / 2]).unwrap();
    fs::write(folder.join("tiny"), &short[..20]).unwrap();
    let mut lying = short.clone();
    lying[24..32].copy_from_slice(&(1_u64 << 45).to_be_bytes());
    fs::write(folder.join("lying"), lying).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", "raw", "flat"]);
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "raw", "child"]);
    let child = fs::read(folder.join("child")).unwrap();
    let at = child.windows(18).position(|bytes| bytes == b"parentCID=ffffffff").unwrap();
    let mut parent = child.clone();
    parent[at..at + 18].copy_from_slice(b"parentCID=12345678");
    fs::write(folder.join("child"), &parent).unwrap();
    let mut described = child;
    described[12..20].fill(0);
    fs::write(folder.join("described"), &described).unwrap();
    let mut overlapping = fs::read(folder.join("raw")).unwrap();
    overlapping[1024 + 40] ^= 4;
    fs::write(folder.join("torn"), overlapping).unwrap();
    fs::write(folder.join("odd"), &fs::read(folder.join("raw")).unwrap()[..(4 << 20) + 100]).unwrap();

    for (file, code, says) in [
        ("backed", 1, "stands on another file (`secret`)"),
        ("loop-a", 1, "stands on another file (`loop-b`)"),
        ("loop-b", 1, "stands on another file (`loop-a`)"),
        ("encrypted", 1, "encrypted"),
        ("external", 1, "external data file"),
        ("short", 1, "cut off"),
        ("tiny", 1, "cut off within its header"),
        ("lying", 1, "too small for its disk"),
        ("flat", 2, "several files"),
        ("child", 1, "stands on another disk"),
        ("described", 1, "in other files"),
        ("torn", 1, "list of partitions of the partition table (GPT) is damaged"),
        ("odd", 1, "no whole number of sectors"),
        ("secret", 2, "looks like text"),
        (".", 2, "no plain file"),
        ("absent", 3, "absent"),
    ] {
        let path = folder.join(file);
        let said = sandbox.fails(code, &["image", "import", path.to_str().unwrap(), "--name", "x"]);
        assert!(said.contains(says), "{file}: {said}");
    }
    tool(folder, "mkfifo", &["pipe"]);
    let pipe = folder.join("pipe");
    assert!(sandbox.fails(2, &["image", "import", pipe.to_str().unwrap()]).contains("no plain file"));
    let said =
        sandbox.fails(2, &["image", "import", folder.join("good").to_str().unwrap(), "--name", "../x"]);
    assert!(said.contains("not the name of an image"), "{said}");
    untouched(&sandbox);
}

#[test]
fn ten_gigabytes_of_zeros_cost_next_to_nothing() {
    let sandbox = Sandbox::new();
    let path = sandbox.path().join("zeros.img");
    fs::File::create(&path).unwrap().set_len(10 << 30).unwrap();
    sandbox.ok(&["image", "import", path.to_str().unwrap()]);
    let (manifest, disk) = image(&sandbox, "zeros");
    assert_eq!(manifest["disk"]["virtual_size"], 10_u64 << 30);
    assert!(fs::metadata(disk).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_file_that_shrinks_meanwhile_is_no_image() {
    let sandbox = Sandbox::new();
    let path = partitioned(sandbox.path());
    let file = fs::File::options().write(true).open(&path).unwrap();
    // Long enough to be shortened in the middle of it.
    let piece: Vec<u8> = (0..1 << 20).map(|at: u32| u8::try_from(at % 251).unwrap()).collect();
    for at in 2..384 {
        file.write_all_at(&piece, at << 20).unwrap();
    }
    let import = sandbox.spawn(&["image", "import", path.to_str().unwrap()]);
    let tmp = sandbox.home().join("tmp");
    let begun = || {
        let folders = fs::read_dir(&tmp).into_iter().flatten().flatten();
        let sizes = folders.filter_map(|folder| fs::metadata(folder.path().join("disk.qcow2")).ok());
        sizes.map(|about| about.len()).sum::<u64>() > 2 << 20
    };
    eventually("the import's first megabytes", begun);
    file.set_len(4 << 20).unwrap();
    let done = import.wait();
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("was changed while it was imported"), "{}", done.stderr);
    untouched(&sandbox);
}

#[test]
fn kernels_are_unpacked_and_boot() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path();
    // hello's file is made when it is first used.
    sandbox.hello("first", &[]);
    let hello = sandbox.json(&["image", "inspect", "hello"]);
    let kernel = Path::new(hello["folder"].as_str().unwrap())
        .join(hello["manifest"]["kernel"]["file"].as_str().unwrap());
    let packed = folder.join("packed.gz");
    let output = Command::new("gzip").arg("-c").arg(&kernel).output().unwrap();
    fs::write(&packed, output.stdout).unwrap();
    assert_eq!(sandbox.ok(&["image", "import", packed.to_str().unwrap()]), "packed\n");
    let manifest = sandbox.json(&["image", "inspect", "packed"])["manifest"].clone();
    assert_eq!(manifest["kernel"]["sha256"], hello["manifest"]["kernel"]["sha256"]);
    sandbox.ok(&["create", "vm", "--image", "packed", "--memory", "32M", "--accel", "tcg"]);
    sandbox.ok(&["start", "vm", r"--wait=serial:\[init done\]"]);

    // An EFI zboot for Arm, with an Image in it.
    let mut arm = vec![0; 64 << 10];
    arm[56..60].copy_from_slice(b"ARM\x64");
    fs::write(folder.join("Image"), &arm).unwrap();
    let gzip = Command::new("gzip").arg("-c").arg(folder.join("Image")).output().unwrap().stdout;
    let mut zboot = vec![0; 0x100];
    zboot[..8].copy_from_slice(b"MZ\0\0zimg");
    zboot[8..12].copy_from_slice(&0x100_u32.to_le_bytes());
    zboot[12..16].copy_from_slice(&u32::try_from(gzip.len()).unwrap().to_le_bytes());
    zboot[24..28].copy_from_slice(b"gzip");
    zboot[0x3c] = 0x80;
    zboot[0x80..0x86].copy_from_slice(b"PE\0\0\x64\xaa");
    zboot.extend_from_slice(&gzip);
    let path = folder.join("vmlinuz.efi");
    fs::write(&path, &zboot).unwrap();
    sandbox.ok(&["image", "import", path.to_str().unwrap(), "--name", "arm"]);
    let inspected = sandbox.json(&["image", "inspect", "arm"]);
    assert_eq!(inspected["manifest"]["arch"], "aarch64");
    assert_eq!(inspected["manifest"]["kernel"]["size"], arm.len());
    let said =
        sandbox.fails(2, &["image", "import", path.to_str().unwrap(), "--name", "x", "--arch", "amd64"]);
    assert!(said.contains("made for aarch64"), "{said}");
    zboot.truncate(0x120);
    fs::write(&path, &zboot).unwrap();
    assert!(
        sandbox.fails(1, &["image", "import", path.to_str().unwrap(), "--name", "x"]).contains("damaged")
    );
}

/// The disk of a Debian 13, put into a partition as its cloud images have it, is taken apart and boots to its agent without a boot loader, and
/// with a small initial RAM disk made from its own modules.
#[test]
fn a_partitioned_debian_boots_directly() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["image", "build", "debian:13"]);
    let folder = sandbox.path();
    let (manifest, built) = image(&sandbox, "debian:13");
    tool(folder, "qemu-img", &["convert", "-f", "qcow2", "-O", "raw", built.to_str().unwrap(), "root.raw"]);
    let root = folder.join("root.raw");
    let kernels =
        Command::new("/usr/sbin/debugfs").args(["-R", "ls -p /boot"]).arg(&root).output().unwrap().stdout;
    let kernels = String::from_utf8(kernels).unwrap();
    let version =
        kernels.split('/').find_map(|name| name.strip_prefix("vmlinuz-")).expect("a kernel").to_owned();
    let config = format!(
        "menuentry 'Debian GNU/Linux' {{\n\tlinux\t/boot/vmlinuz-{version} root=PARTUUID=0b3a1b5c-0000-4000-8000-00000000000a \
         ro console=tty0 console=ttyS0,115200 cryptomgr.notests\n\tinitrd\t/boot/initrd.img-{version}\n}}\n"
    );
    fs::write(folder.join("grub.cfg"), config).unwrap();
    fs::write(folder.join("fstab"), "PARTUUID=0b3a1b5c-0000-4000-8000-00000000000a / ext4 rw 0 1\n").unwrap();
    let commands =
        "mkdir /boot/grub\nwrite grub.cfg /boot/grub/grub.cfg\nrm /etc/fstab\nwrite fstab /etc/fstab\n";
    feed(folder, "debugfs", &["-w", "-f", "/dev/stdin", "root.raw"], commands);

    let sectors = fs::metadata(&root).unwrap().len() / 512;
    let disk = fs::File::create(folder.join("disk.raw")).unwrap();
    disk.set_len((sectors + 4096) * 512).unwrap();
    let script =
        format!("label: gpt\nstart=2048, size={sectors}, uuid=0b3a1b5c-0000-4000-8000-00000000000a\n");
    feed(folder, "sfdisk", &["--quiet", "disk.raw"], &script);
    tool(
        folder,
        "dd",
        &["if=root.raw", "of=disk.raw", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"],
    );
    fs::remove_file(&root).unwrap();
    tool(folder, "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "cloud.img"]);

    sandbox.ok(&["image", "import", folder.join("cloud.img").to_str().unwrap(), "--name", "cloud"]);
    let (found, _) = image(&sandbox, "cloud");
    assert_eq!(found["kernel"]["sha256"], manifest["kernel"]["sha256"]);
    assert_eq!(found["initrd"]["sha256"], manifest["initrd"]["sha256"]);
    assert_eq!(found["append"], "root=PARTUUID=0b3a1b5c-0000-4000-8000-00000000000a ro cryptomgr.notests");
    for fact in ["agent", "ssh", "systemd", "network_credentials", "arch", "kind", "ready"] {
        assert_eq!(found[fact], manifest[fact], "{fact}");
    }
    assert!(found["os"].as_str().unwrap().starts_with("Debian GNU/Linux 13"), "{found}");
    sandbox.ok(&["create", "vm", "--image", "cloud"]);
    sandbox.ok(&["start", "vm", "--wait", "--timeout", "280s"]);
    let mounted = sandbox.ok(&["exec", "vm", "--", "findmnt", "-no", "SOURCE", "/"]);
    assert_eq!(mounted.trim(), "/dev/vda1");
    assert!(sandbox.console("vm").contains("midge: root file system up"));
    sandbox.ok(&["kill", "vm"]);

    // That one is kept for as long as the image, or a VM of it, is there.
    let initrds = || fs::read_dir(sandbox.home().join("initrd")).unwrap().count();
    let prune = |words: &[&str]| {
        let mut command = sandbox.midge();
        command.env("XDG_CACHE_HOME", sandbox.path().join("cache")).args(["image", "prune"]).args(words);
        Sandbox::finish(&mut command).stdout
    };
    assert_eq!((prune(&[]).as_str(), initrds()), ("", 1));
    sandbox.ok(&["rm", "vm"]);
    sandbox.ok(&["image", "rm", "cloud"]);
    assert!(prune(&["--dry-run"]).contains(".cpio") && initrds() == 1);
    assert!(prune(&[]).contains(".cpio") && initrds() == 0);
}

/// Runs a script in a mount namespace of its own, where `$MIDGE` is `midge` and `$MIDGE_HOME` lies below the folder `mnt`.
fn in_namespace(sandbox: &Sandbox, script: &str, words: &[&str]) -> Done {
    let midge = sandbox.midge();
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-eu", "-c", script, "sh"]).args(words);
    for (key, value) in midge.get_envs().filter_map(|(key, value)| Some((key, value?))) {
        outer.env(key, value);
    }
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    outer
        .env("MIDGE", midge.get_program())
        .env("MIDGE_HOME", sandbox.path().join("mnt/home"))
        .env("PATH", path);
    Sandbox::finish(outer.current_dir(sandbox.path()).stdin(Stdio::null()))
}

/// Needs root, for loop devices.
#[test]
fn raw_disks_share_blocks_where_the_file_system_can() {
    assert!(nix::unistd::Uid::effective().is_root(), "this test mounts file systems: run it as root");
    for make in ["mkfs.btrfs -q fs", "mkfs.xfs -q -m reflink=1 fs", "mkfs.ext4 -q fs"] {
        let sandbox = Sandbox::new();
        let raw = partitioned(sandbox.path());
        // Most of it written, so that it stays raw.
        fs::File::options()
            .write(true)
            .open(raw)
            .unwrap()
            .write_all_at(&vec![0x55; 5 << 20], 3 << 20)
            .unwrap();
        let script = r#"
            truncate -s 400M fs; $1 > /dev/null; mkdir mnt; mount -o loop fs mnt
            cp raw mnt/raw
            "$MIDGE" image import mnt/raw --name base -o json
            "$MIDGE" create auto --image base --disk 64M >&2
            "$MIDGE" create overlay --image base --cow qcow2 >&2
            code=0; "$MIDGE" create shared --image base --cow reflink >&2 || code=$?
            echo "code: $code"
            for vm in auto overlay shared; do (cd mnt/home/vms/$vm 2> /dev/null && ls disk.*) || echo none; done
            "$MIDGE" cmdline auto | tr ' ,' '\n\n' | grep '^driver=\|^format=' | sort -u | tr '\n' ' '; echo
            stat -c %s mnt/home/vms/auto/disk.*
            umount mnt"#;
        let done = in_namespace(&sandbox, script, &[make]);
        assert_eq!(done.code, 0, "{make}: {}{}", done.stdout, done.stderr);
        let mut lines = done.stdout.lines();
        let first = lines.next().unwrap_or_default();
        let imported: Value = serde_json::from_str(first)
            .unwrap_or_else(|e| panic!("{make}: {e}: {}{}", done.stdout, done.stderr));
        let rest: Vec<&str> = lines.collect();
        let format = imported["manifest"]["disk"]["format"].as_str().unwrap();
        if make.contains("ext4") {
            assert_eq!(format, "qcow2", "a raw file is of no use where it cannot be shared");
            assert_eq!(rest[..4], ["code: 6", "disk.qcow2", "disk.qcow2", "none"], "{}", done.stderr);
            assert!(done.stderr.contains("--cow qcow2"), "{}", done.stderr);
        } else {
            assert_eq!(format, "raw", "{make}: {}", done.stderr);
            assert_eq!(
                rest[..4],
                ["code: 0", "disk.raw", "disk.qcow2", "disk.raw"],
                "{make}: {}",
                done.stderr
            );
            assert!(rest[4].contains("raw"), "{make}: {rest:?}");
            assert_eq!(rest[5], (64 << 20).to_string());
        }
    }
}

#[test]
fn a_missing_converter_is_named_and_other_formats_do_without() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path();
    partitioned(folder);
    tool(folder, "qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "raw", "disk.vmdk"]);
    let import = |file: &str| {
        let mut command = sandbox.midge();
        command.env("PATH", "/nonexistent").args(["image", "import"]).arg(folder.join(file));
        Sandbox::finish(&mut command)
    };
    let done = import("disk.vmdk");
    assert_eq!(done.code, 6, "{}", done.stderr);
    assert!(done.stderr.contains("install the package qemu-utils"), "{}", done.stderr);
    assert_eq!(import("raw").stdout, "raw\n");
}

/// A small disk in a mount namespace of its own.
#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    assert!(nix::unistd::Uid::effective().is_root(), "this test mounts file systems: run it as root");
    let sandbox = Sandbox::new();
    let raw = partitioned(sandbox.path());
    let noise = vec![0x55; 6 << 20];
    fs::File::options().write(true).open(raw).unwrap().write_all_at(&noise, 2 << 20).unwrap();
    tool(sandbox.path(), "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "raw", "disk.qcow2"]);
    let script = r#"
        mkdir mnt; mount -t tmpfs -o size=3m tmpfs mnt
        for file in raw disk.qcow2; do
            code=0; "$MIDGE" image import $file --name x || code=$?
            echo "$code $("$MIDGE" image ls -q) $(ls mnt/home/tmp | wc -l)"
        done"#;
    let done = in_namespace(&sandbox, script, &[]);
    assert_eq!(done.stdout, "8 hello 0\n8 hello 0\n", "{}", done.stderr);
}
