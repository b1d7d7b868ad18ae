//! What a guest is told at its boot: its name, its identity, who may log in, files, and a file system as large as its disk; by systemd's
//! credentials and by cloud-init. And the small initial RAM disk that it boots with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Sandbox;
use common::lan::{HOST, Lan, ROUTER};
use serde_json::{Value, json};

/// Runs a line of shell in a guest; its output.
#[track_caller]
fn shell(sandbox: &Sandbox, vm: &str, script: &str) -> String {
    sandbox.ok(&["exec", vm, "--", "sh", "-c", script])
}

fn write(sandbox: &Sandbox, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = sandbox.path().join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A host program's output; the program must succeed.
#[track_caller]
fn host(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}; scripts/setup.sh --tests installs it"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn credentials_tell_a_guest_who_it_is_and_who_may_come_in() {
    let mut sandbox = Sandbox::with_debian();
    // A network that gives no addresses: who is not told one has none.
    let lan = Lan::without_dhcp(sandbox.path());
    sandbox.enter(&lan.host);
    let fixed = format!("bridge=br0,ip={FIXED}/24,gateway={ROUTER},dns={ROUTER},dns={HOST}");
    let noise: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let file = write(&sandbox, "a file", &noise);
    host("chmod", &["640", &file], b"");
    let motd = write(&sandbox, "motd", "100% midge\n");
    sandbox.ok(&[
        "create",
        "no",
        "--image",
        "debian:12",
        "--user",
        "pi",
        "--file",
        &format!("{file}:/etc/a b%d\"\\.bin"),
        "--file",
        &format!("{motd}:/etc/motd"),
        "--disk",
        "3G",
        "--net",
        "user",
        "--net",
        &fixed,
    ]);
    sandbox.ok(&["start", "no", "--wait"]);

    // The guest is known before anybody has met it, and the first meeting is no matter of trust.
    let key = fs::read_to_string(sandbox.vm_file("no", "ssh_host_ed25519_key.pub")).unwrap();
    let key = key.split(' ').nth(1).unwrap();
    let known = || fs::read_to_string(sandbox.vm_file("no", "known_hosts")).unwrap();
    assert_eq!(known(), format!("no ssh-ed25519 {key}\n"));
    sandbox.ok(&["wait", "no", "ssh"]);
    assert_eq!(sandbox.ok(&["ssh", "no", "--", "whoami"]), "pi\n");
    assert_eq!(sandbox.ok(&["ssh", "no", "-l", "root", "--", "whoami"]), "root\n");
    assert_eq!(known(), format!("no ssh-ed25519 {key}\n"));
    assert!(shell(&sandbox, "no", "cat /etc/ssh/ssh_host_ed25519_key.pub").contains(key));
    fs::write(sandbox.vm_file("no", "known_hosts"), "").unwrap();
    let unknown = sandbox.run(&["ssh", "no", "--", "true"]);
    assert_eq!(unknown.code, 255, "a guest that is not known was trusted");

    // Neither the private key nor any other is where every user of this host can read it.
    let command_line = sandbox.ok(&["cmdline", "no"]);
    assert!(!command_line.contains("PRIVATE") && !command_line.contains("AAAA"), "{command_line}");
    let seed = sandbox.run_dir().join("vms/no/seed");
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(&seed), mode(&seed.join("tmpfiles.extra"))), (0o700, 0o600));

    let id = sandbox.inspect("no")["record"]["id"].as_str().map(str::to_owned);
    let record: Value = serde_json::from_slice(&fs::read(sandbox.vm_file("no", "vm.json")).unwrap()).unwrap();
    let id = id.unwrap_or_else(|| record["id"].as_str().unwrap().to_owned());
    let told = shell(
        &sandbox,
        "no",
        "hostname; cat /etc/machine-id; stat -c %a '/etc/a b%d\"\\.bin'; cat /etc/motd",
    );
    assert_eq!(told, format!("no\n{}\n640\n100% midge\n", id.replace('-', "")));
    let back = sandbox.path().join("back");
    sandbox.ok(&["cp", "no:/etc/a b%d\"\\.bin", back.to_str().unwrap()]);
    assert!(fs::read(&back).unwrap() == noise, "the file was changed on its way");
    assert_eq!(
        shell(&sandbox, "no", "stat -c %U:%a /home/pi /home/pi/.ssh/authorized_keys"),
        "pi:755\npi:600\n"
    );
    assert_eq!(shell(&sandbox, "no", "systemctl --failed --no-legend --plain"), "", "units failed");

    // The one interface has the address that it was told, and the other asked for its own.
    assert!(lan.router.reaches(FIXED));
    let name = has_fixed_address(&sandbox, "no");
    let servers = shell(&sandbox, "no", &format!("resolvectl dns {name}"));
    assert!(servers.trim_end().ends_with(&format!("): {ROUTER} {HOST}")), "{servers}");

    // The file system fills the disk, and that is on record.
    let size: u64 = shell(&sandbox, "no", "df -B1 --output=size / | tail -1").trim().parse().unwrap();
    let grown = || {
        let events = sandbox.events("no");
        events.iter().find(|event| event["event"] == "disk-grown").cloned()
    };
    common::eventually("the disk's growth", || grown().is_some());
    assert_eq!(grown().unwrap()["file_system"], json!(size));
    assert!(size > 5 << 29, "{size}");

    // It booted with the small initial RAM disk.
    assert!(sandbox.console("no").contains("midge: root file system up"));
    let initrds = sandbox.home().join("initrd");
    let line = sandbox.ok(&["cmdline", "no"]);
    assert!(line.contains(initrds.to_str().unwrap()), "{line}");
    assert_eq!(shell(&sandbox, "no", "dmesg | grep -c 'midge: cannot load' || true"), "0\n");

    // An emulated guest is spared what a real CPU needs.
    let emulated = sandbox.inspect("no")["run"]["accel"] == "tcg";
    let words = shell(&sandbox, "no", "cat /proc/cmdline");
    assert_eq!(words.contains("mitigations=off"), emulated, "{words}");
    let kernels = sandbox.home().join("kernels");
    assert_eq!(line.contains(kernels.to_str().unwrap()), emulated, "{line}");

    // A file that was changed in the guest stays so.
    shell(&sandbox, "no", "echo changed > /etc/motd");
    sandbox.ok(&["stop", "no"]);
    assert!(!seed.exists(), "a private key is left in the run folder");
    sandbox.ok(&["rename", "no", "off"]);
    sandbox.ok(&["start", "off", "--wait"]);
    assert_eq!(shell(&sandbox, "off", "hostname; cat /etc/motd"), "off\nchanged\n");
    sandbox.ok(&["wait", "off", "ssh"]);
    assert_eq!(sandbox.ok(&["ssh", "off", "--", "whoami"]), "pi\n");
    let none = sandbox.fails(4, &["wait", "off", "cloud-init"]);
    assert!(none.contains("no cloud-init"), "{none}");
}

/// An address of the test's network that nobody else has.
const FIXED: &str = "10.77.1.66";

/// Checks that the guest's second interface has its fixed address and the route that goes with it, and the first one QEMU's; answers the
/// second one's name.
#[track_caller]
fn has_fixed_address(sandbox: &Sandbox, vm: &str) -> String {
    let links: Value = serde_json::from_str(&shell(sandbox, vm, "ip -json address")).unwrap();
    let macs = sandbox.inspect(vm)["record"]["macs"].clone();
    let of = |net: usize| links.as_array().unwrap().iter().find(|link| link["address"] == macs[net]).unwrap();
    let addresses = |net: usize| {
        let all = of(net)["addr_info"].as_array().unwrap().iter();
        let ipv4 = all.filter(|address| address["family"] == "inet");
        ipv4.map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"]))
            .collect()
    };
    let found: [Vec<String>; 2] = [addresses(0), addresses(1)];
    assert_eq!(found, [vec!["10.0.2.15/24".to_owned()], vec![format!("{FIXED}/24")]]);
    let name = of(1)["ifname"].as_str().unwrap().to_owned();
    let route = shell(sandbox, vm, &format!("ip -4 route show default dev {name}"));
    assert!(route.starts_with(&format!("default via {ROUTER} ")), "{route}");
    name
}

/// User-data of many formats in one, as `cloud-init devel make-mime` makes it, and packed.
fn user_data() -> Vec<u8> {
    let parts = [
        (
            "text/cloud-config",
            "#cloud-config\nhostname: theirs\nwrite_files:\n- path: /etc/theirs\n  content: \"yes\"\n",
        ),
        ("text/x-shellscript", "#!/bin/sh\necho script >> /etc/ran\n"),
        (
            "text/jinja2",
            "## template: jinja\n#cloud-config\nruncmd:\n- echo {{ v1.instance_id }} >> /etc/ran\n",
        ),
    ];
    let mut text = String::from("Content-Type: multipart/mixed; boundary=\"part\"\nMIME-Version: 1.0\n\n");
    for (kind, content) in parts {
        text.push_str(&format!("--part\nContent-Type: {kind}; charset=\"utf-8\"\n\n{content}\n"));
    }
    text.push_str("--part--\n");
    host("gzip", &[], text.as_bytes())
}

/// A disk with a GPT, one partition with an ext4 file system in its beginning, and room behind it.
fn small_partition(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.path().join(name);
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    let disk = path.to_str().unwrap();
    host("/sbin/sfdisk", &["-q", disk], b"label: gpt\nstart=2048\n");
    host("/sbin/mke2fs", &["-q", "-t", "ext4", "-L", name, "-E", "offset=1048576", disk, "60M"], b"");
    file.set_len(256 << 20).unwrap();
    path
}

#[test]
fn cloud_init_gets_midges_configuration_and_its_users() {
    let mut sandbox = Sandbox::new();
    sandbox.ok(&[
        "image",
        "build",
        "debian:12",
        "--cloud-init",
        "--with",
        "cloud-guest-utils",
        "--with",
        "sudo",
    ]);
    let lan = Lan::without_dhcp(sandbox.path());
    sandbox.enter(&lan.host);
    let data = write(&sandbox, "user-data", user_data());
    let file = write(&sandbox, "file", "ours\n");
    let mut flags = vec!["create".to_owned(), "yes".to_owned(), "--image".to_owned(), "debian:12".to_owned()];
    flags.extend(
        ["--user", "pi", "--cloud-init", &data, "--file", &format!("{file}:/etc/ours")].map(str::to_owned),
    );
    flags.extend(
        ["--net", "user", "--net", &format!("bridge=br0,ip={FIXED}/24,gateway={ROUTER}")].map(str::to_owned),
    );
    for name in ["grow", "resize"] {
        let disk = small_partition(&sandbox, name);
        flags.push("--qemu-arg=-drive".to_owned());
        flags.push(format!("--qemu-arg=file={},if=virtio,format=raw", disk.display()));
    }
    sandbox.ok(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    sandbox.ok(&["start", "yes", "--wait"]);
    assert_eq!(sandbox.ok(&["wait", "yes", "cloud-init"]), "done\n", "{}", sandbox.logs());
    let report = sandbox.json(&["wait", "yes", "cloud-init", "-o", "json"]);
    assert_eq!(report["cloud_init"]["status"], "done");

    // midge's part and the user's, and of the same key the user's.
    assert_eq!(shell(&sandbox, "yes", "cat /etc/ours /etc/theirs; echo; hostname"), "ours\nyes\ntheirs\n");
    assert_eq!(sandbox.ok(&["ssh", "yes", "--", "sudo", "-n", "whoami"]), "root\n");
    assert_eq!(sandbox.ok(&["ssh", "yes", "-l", "root", "--", "whoami"]), "root\n");
    let key = fs::read_to_string(sandbox.vm_file("yes", "ssh_host_ed25519_key.pub")).unwrap();
    let own = shell(&sandbox, "yes", "cat /etc/ssh/ssh_host_ed25519_key.pub");
    assert_eq!(own.split(' ').nth(1), key.split(' ').nth(1));

    has_fixed_address(&sandbox, "yes");
    assert!(lan.router.reaches(FIXED));

    // It is this instance, and no other source was asked.
    let record: Value =
        serde_json::from_slice(&fs::read(sandbox.vm_file("yes", "vm.json")).unwrap()).unwrap();
    let id = record["id"].as_str().unwrap();
    assert_eq!(shell(&sandbox, "yes", "sort /etc/ran"), format!("{id}\nscript\n"));
    let told =
        shell(&sandbox, "yes", "cat /var/lib/cloud/data/instance-id; cat /sys/class/dmi/id/product_serial");
    assert_eq!(told, format!("{id}\nds=nocloud\n"));
    let found = shell(&sandbox, "yes", "cat /run/cloud-init/cloud.cfg");
    assert!(found.contains("NoCloud") && !found.contains("Ec2"), "{found}");
    let logs = sandbox.ok(&["logs", "yes", "--source", "cloud-init"]);
    assert!(logs.contains("DataSourceNoCloud") && logs.contains("finished at"), "{logs}");
    assert_eq!(shell(&sandbox, "yes", "systemctl --failed --no-legend --plain"), "", "units failed");

    // What the agent is to do for images whose system does not grow by itself: by either tool, and again in vain.
    for (name, prepare) in [("grow", "true"), ("resize", "mv $(command -v growpart) /root")] {
        shell(&sandbox, "yes", &format!("{prepare} && mkdir /mnt/{name} && mount LABEL={name} /mnt/{name}"));
        for _ in 0..2 {
            let place = format!("/mnt/{name}");
            let grown =
                sandbox.ok(&["exec", "yes", "--", "sh", "-c", supervisor::vm::GROW_SCRIPT, "grow", &place]);
            let size: u64 = grown.trim().parse().unwrap();
            assert!(size > 200 << 20, "{name}: {size}");
        }
    }
    let odd = sandbox.run(&["exec", "yes", "--", "sh", "-c", supervisor::vm::GROW_SCRIPT, "grow", "/proc"]);
    assert_eq!((odd.code, odd.stderr.as_str()), (1, "/proc is on proc, which is no disk\n"));
}

#[test]
fn a_root_that_does_not_come_up_is_booted_with_the_images_own_initial_ram_disk() {
    let sandbox = Sandbox::with_debian();
    sandbox.ok(&["create", "deb", "--image", "debian:12"]);
    // The command line is planned as for a start, which makes the archive.
    let planned = sandbox.ok(&["cmdline", "deb"]);
    let folder = sandbox.home().join("initrd");
    let archive = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    assert!(planned.contains(archive.to_str().unwrap()), "{planned}");
    // The same archive without a list of modules: no driver, no disk.
    let mut bytes = fs::read(&archive).unwrap();
    let list = b"/m/virtio_ring.ko\n";
    let at = bytes.windows(list.len()).position(|window| window == list).expect("the list is in there");
    let start = bytes[..at].iter().rposition(|byte| *byte == 0).map_or(0, |zero| zero + 1);
    let end = at + bytes[at..].iter().position(|byte| *byte == 0).unwrap();
    bytes[start..end].fill(b'\n');
    fs::write(&archive, bytes).unwrap();

    let started = sandbox.run(&["start", "deb", "--wait"]);
    assert_eq!(started.code, 0, "{}{}", started.stderr, sandbox.logs());
    assert!(
        started.stderr.contains("booting with the image's own, now and from now on"),
        "{}",
        started.stderr
    );
    let events = sandbox.events("deb");
    let failed = events.iter().find(|event| event["event"] == "initrd-failed").expect("it is an event");
    assert_eq!(failed["reason"], "no disk or partition is /dev/vda");
    assert!(!events.iter().any(|event| event["event"] == "ended"), "{events:?}");
    assert_eq!(sandbox.inspect("deb")["state"], "running");
    assert_eq!(shell(&sandbox, "deb", "hostname"), "deb\n");
    sandbox.ok(&["stop", "deb"]);
    // For every VM of the image, and at every later start.
    sandbox.ok(&["create", "other", "--image", "debian:12"]);
    for vm in ["deb", "other"] {
        let line = sandbox.ok(&["cmdline", vm]);
        assert!(!line.contains(folder.to_str().unwrap()) && line.contains("initrd-"), "{line}");
    }
}

#[test]
fn broken_user_data_is_told_with_its_place_before_anything_is_made() {
    let sandbox = Sandbox::new();
    let cases: [(&str, &[u8], &str); 14] = [
        ("tab", b"#cloud-config\npackages:\n\t- nginx\n", "line 3, column 1"),
        ("quote", b"#cloud-config\nfoo: \"unclosed\n", "line 2, column 6"),
        ("bracket", b"#cloud-config\nfoo: [1, 2\nbar: 3\n", "line 3, column 4"),
        ("twice", b"#cloud-config\nfoo: 1\nfoo: 2\n", "line 2, column 1"),
        ("indentation", b"#cloud-config\na: 1\n  b: 2\n", "line 3, column 4"),
        ("alias", b"#cloud-config\na: *nowhere\n", "line 2, column 4"),
        ("words", b"#cloud-config\njust words\n", "line 2, column 1"),
        ("list", b"#cloud-config\n- a\n", "line 2, column 1"),
        ("control", b"#cloud-config\na: \x01\n", "line 2, column 4"),
        ("bytes", b"#cloud-config\na: \xff\n", "line 2, column 4"),
        ("shape", b"#cloud-config\na: 1\nruncmd: echo\n", "line 3, column 1"),
        ("documents", b"#cloud-config\na: 1\n---\nb: 2\n", "line 3, column 1"),
        ("header", b"packages: [nginx]\n", "line 1, column 1"),
        ("archive", b"#cloud-config-archive\na: 1\n", "line 2, column 1"),
    ];
    for (name, content, place) in cases {
        let file = write(&sandbox, name, content);
        let told = sandbox.fails(2, &["create", name, "--image", "debian:12", "--cloud-init", &file]);
        assert!(told.contains(place) && told.contains(&file), "{name}: {told}");
    }
    let packed = write(&sandbox, "packed", &host("gzip", &[], b"#!/bin/sh\n")[..20]);
    let told = sandbox.fails(2, &["create", "packed", "--image", "debian:12", "--cloud-init", &packed]);
    assert!(told.contains("gzip"), "{told}");
    sandbox.fails(3, &["create", "none", "--image", "debian:12", "--cloud-init", "/nowhere"]);
    assert_eq!(sandbox.ok(&["ls", "-q"]), "");

    // Good user-data that nobody in the guest would read, or that the way of provisioning does not fit.
    let good = write(&sandbox, "good", "#!/bin/sh\n");
    let told = sandbox.fails(
        2,
        &["create", "web", "--image", "hello", "--cloud-init", &good, "--provision", "credentials"],
    );
    assert!(told.contains("provision"), "{told}");
    sandbox.ok(&["create", "web", "--image", "hello", "--cloud-init", &good, "--accel", "tcg"]);
    let told = sandbox.fails(2, &["start", "web"]);
    assert!(told.contains("cloud-init") && told.contains("--with cloud-init"), "{told}");
    // From a pipe, and as it was in the description of a VM.
    let mut command = sandbox.midge();
    command.args(["create", "piped", "--image", "hello", "--cloud-init", "-", "--dry-run"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"#!/bin/sh\n").unwrap();
    let spec: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(spec["cloud_init"], "#!/bin/sh\n");
}
