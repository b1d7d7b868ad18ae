//! The lists handed to the installed QEMU: it takes every word, says nothing on stderr, and builds the NIC
//! that was asked for.
//!
//! QEMU 7.2 to the newest are meant. `MIDGE_TEST_QEMU` names another binary (and, after spaces, words to put
//! in front of the list, such as `-L` and a folder of firmware); it takes the place of `qemu-system-x86_64`.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, StorageOpenOptions};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

use super::*;

/// Longer than any healthy answer, on a busy host too.
const DEADLINE: Duration = Duration::from_mins(1);

/// An installed QEMU.
struct Qemu {
    program: PathBuf,
    words: Vec<String>,
    facts: QemuFacts,
}

impl Qemu {
    /// The QEMU for these guests, or none where it is not installed.
    fn find(arch: Arch) -> Option<Self> {
        let named = std::env::var("MIDGE_TEST_QEMU").ok().filter(|_| arch == Arch::X86_64);
        let line = named.unwrap_or_else(|| format!("qemu-system-{arch}"));
        let mut words = line.split_whitespace().map(str::to_owned);
        let program = PathBuf::from(words.next()?);
        let words: Vec<String> = words.collect();
        let ask = |question: &[&str]| {
            let output =
                Command::new(&program).args(&words).args(question).stdin(Stdio::null()).output().ok()?;
            assert!(output.status.success(), "{program:?} {question:?}: {output:?}");
            Some(String::from_utf8(output.stdout).unwrap())
        };
        let version_line = ask(&["--version"])?;
        let number = version_line.split("version ").nth(1)?.split_whitespace().next()?;
        let mut numbers = number.split('.').map(|part| part.parse().unwrap());
        let version = (numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0));
        let first = |text: String| {
            text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
        };
        let quoted = ask(&["-device", "help"])?;
        let devices = quoted.lines().filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect();
        let facts = QemuFacts {
            path: program.clone(),
            arch,
            version,
            version_line: version_line.lines().next()?.to_owned(),
            machines: first(ask(&["-machine", "help"])?),
            devices,
            cpus: first(ask(&["-cpu", "help"])?),
        };
        Some(Self { program, words, facts })
    }

    /// The QEMU for x86_64, which these tests need.
    fn x86() -> Self {
        Self::find(Arch::X86_64).expect("qemu-system-x86_64 is missing: install the package qemu-system-x86")
    }
}

/// A QEMU of the tests' own, ended with them.
struct Running {
    child: Child,
    reader: BufReader<UnixStream>,
    folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder whose name holds what QEMU's option syntax would trip over.
fn nasty_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("midge, it's=\"a\\ b\",,fd=0;{x} é").tempdir().unwrap()
}

fn create_disk(path: &Path, format: DiskFormat) {
    let file = std::fs::File::create_new(path).unwrap();
    match format {
        DiskFormat::Raw => file.set_len(1 << 20).unwrap(),
        DiskFormat::Qcow2 => {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let options = StorageOpenOptions::new().filename(path).write(true);
            let file = ImagoFile::from_open_file(file, options).unwrap();
            Qcow2::<ImagoFile>::create_builder(file).size(1 << 20).create().unwrap();
        }
    }
}

/// The smallest guest: writes `!` to the serial port and ends.
fn kernel(arch: Arch) -> Vec<u8> {
    match arch {
        // An ELF file with the note that names a PVH kernel's 32-bit entry (Xen,
        // `xen/include/public/elfnote.h`): file header, one segment to load at 1 MiB and one of notes, the
        // note, the code.
        Arch::X86_64 => {
            const BASE: u64 = 1 << 20;
            let code = [
                &[0xba, 0xf8, 0x03, 0, 0, 0xb0, b'!', 0xee][..], // mov edx, 0x3f8; mov al, '!'; out dx, al
                &[0xba, 0xf4, 0x00, 0, 0, 0xb0, 16, 0xee], // mov edx, 0xf4; mov al, 16; out dx, al: status 33
                &[0xf4, 0xeb, 0xfd],                       // hlt; jmp to it
            ]
            .concat();
            let (headers, note) = (64 + 2 * 56, 24);
            let entry = BASE + headers + note;
            let size = headers + note + u64::try_from(code.len()).unwrap();
            let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
            let put = |elf: &mut Vec<u8>, fields: &[(u64, usize)]| {
                for (value, bytes) in fields {
                    elf.extend_from_slice(&value.to_le_bytes()[..*bytes]);
                }
            };
            put(
                &mut elf,
                &[(2, 2), (62, 2), (1, 4), (entry, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2)],
            );
            put(&mut elf, &[(64, 2), (0, 2), (0, 2)]);
            put(&mut elf, &[(1, 4), (5, 4), (0, 8), (BASE, 8), (BASE, 8), (size, 8), (size, 8), (4096, 8)]);
            let at = BASE + headers;
            put(&mut elf, &[(4, 4), (4, 4), (headers, 8), (at, 8), (at, 8), (note, 8), (note, 8), (4, 8)]);
            put(
                &mut elf,
                &[(4, 4), (8, 4), (18, 4), (u64::from(u32::from_le_bytes(*b"Xen\0")), 4), (entry, 8)],
            );
            elf.extend(code);
            elf
        }
        // A flat image: QEMU jumps to its first byte.
        Arch::Aarch64 => [
            0xd2a1_2001_u32, // movz x1, #0x900, lsl #16: the PL011
            0x5280_0420,     // movz w0, #'!'
            0x3900_0020,     // strb w0, [x1]
            0x5280_0100,     // movz w0, #8
            0x72b0_8000,     // movk w0, #0x8400, lsl #16: PSCI SYSTEM_OFF
            0xd400_0002,     // hvc #0
            0x1400_0000,     // b .
        ]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect(),
    }
}

/// Held from the moment that sockets can be inherited until they are closed here: a second QEMU that is spawned
/// in between would keep them open, and the end of the first would go unnoticed.
static SPAWN: Mutex<()> = Mutex::new(());

/// Binds the sockets in `folder`, starts QEMU with the list for `spec` and `given` on them, and connects to its
/// monitor.
fn spawn(qemu: &Qemu, spec: &VmSpec, given: Resources, folder: tempfile::TempDir) -> Running {
    let at = |name: &str| folder.path().join(name);
    let guard = SPAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let sockets = ["monitor", "serial", "agent"].map(|name| {
        let socket = UnixListener::bind(at(name)).unwrap();
        // QEMU inherits it by number.
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        socket
    });
    let [monitor_fd, serial_fd, agent_fd] = sockets.each_ref().map(AsRawFd::as_raw_fd);
    let given = Resources { monitor_fd, serial_fd, agent_fd, serial_log: at("serial.log"), ..given };
    let list = arguments(spec, &qemu.facts, &given).unwrap();

    let monitor = UnixStream::connect(at("monitor")).unwrap();
    monitor.set_read_timeout(Some(DEADLINE)).unwrap();
    let child = Command::new(&qemu.program)
        .args(&qemu.words)
        .args(&list)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(at("stderr")).unwrap())
        .spawn()
        .unwrap();
    drop(sockets);
    drop(guard);
    Running { child, reader: BufReader::new(monitor), folder }
}

/// Starts QEMU with the smallest guest on the list for `spec`, and negotiates with its monitor.
fn start(qemu: &Qemu, spec: &VmSpec, kind: Kind, disk: Option<DiskFormat>, file_ram: bool) -> Running {
    let folder = nasty_folder();
    let at = |name: &str| folder.path().join(name);
    let disk = disk.map(|format| {
        create_disk(&at("disk"), format);
        Disk { path: at("disk"), format }
    });
    std::fs::write(at("kernel"), kernel(spec.arch)).unwrap();
    std::fs::write(at("initrd"), "nothing").unwrap();
    std::fs::write(at("keys"), "ssh-ed25519 AAAA a,b\n").unwrap();
    let seed = disk.as_ref().map(|_| at("seed"));
    if let Some(seed) = &seed {
        std::fs::write(seed, vec![0; 1 << 20]).unwrap();
    }
    let given = Resources {
        kernel: Some(at("kernel")),
        initrd: Some(at("initrd")),
        disk,
        ram: if file_ram { Ram::File(at("ram")) } else { Ram::Anonymous },
        credentials: vec![("ssh.authorized_keys.root".to_owned(), at("keys"))],
        seed,
        ..resources(spec, kind, ResolvedAccel::Tcg)
    };
    let mut running = spawn(qemu, spec, given, folder);
    let greeting = running.answer();
    assert!(greeting.get("QMP").is_some(), "{greeting}");
    running.ask(&json!({ "execute": "qmp_capabilities" }));
    running
}

impl Running {
    fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// The monitor's next line that is no event.
    fn answer(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line);
            assert!(matches!(read, Ok(1..)), "QEMU left its monitor: {read:?}, stderr: {}", self.stderr());
            let value: Value = serde_json::from_str(&line).unwrap();
            if value.get("event").is_none() {
                return value;
            }
        }
    }

    fn ask(&mut self, command: &Value) -> Value {
        self.reader.get_mut().write_all(command.to_string().as_bytes()).unwrap();
        let answer = self.answer();
        answer.get("return").unwrap_or_else(|| panic!("{command}: {answer}")).clone()
    }

    /// Lets the guest run to its end, and ends QEMU where that has not happened with it. Gives the exit
    /// status.
    fn run(mut self, what: &str) -> Option<i32> {
        self.reader.get_mut().write_all(b"{\"execute\": \"cont\"}").unwrap();
        loop {
            let mut line = String::new();
            // Before QEMU 10 `isa-debug-exit` ends QEMU at once.
            if self.reader.read_line(&mut line).is_ok_and(|read| read == 0) {
                break;
            }
            let value: Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{what}: {e}, {line:?}"));
            if value["event"] == "SHUTDOWN" {
                self.reader.get_mut().write_all(b"{\"execute\": \"quit\"}").unwrap();
                break;
            }
        }
        let status = self.child.wait().unwrap();
        assert_eq!(self.stderr(), "", "{what}");
        let log = std::fs::read(self.folder.path().join("serial.log")).unwrap();
        // A PC's firmware writes nothing there.
        assert_eq!(String::from_utf8_lossy(&log), "!", "{what}");
        status.code()
    }

    /// The PCI ids of virtio NICs.
    fn nic_ids(&mut self) -> Vec<u64> {
        let buses = self.ask(&json!({ "execute": "query-pci" }));
        let devices = buses.as_array().unwrap().iter().flat_map(|bus| bus["devices"].as_array().unwrap());
        let nics = devices.filter(|device| device["class_info"]["class"] == 0x0200);
        nics.map(|device| device["id"]["device"].as_u64().unwrap()).collect()
    }

    /// Ends it, and checks that it had nothing to complain of.
    fn quit(mut self, what: &str) {
        self.ask(&json!({ "execute": "quit" }));
        let status = self.child.wait().unwrap();
        assert_eq!(self.stderr(), "", "{what}");
        assert!(status.success(), "{what}: {status}");
    }
}

/// Every set of interfaces that a spec can ask for, in small.
fn net_variants() -> Vec<Vec<Net>> {
    vec![
        vec![],
        vec![Net::User { forwards: vec![], mac: None }],
        vec![Net::User { forwards: vec![], mac: None }, Net::None { mac: None }],
    ]
}

fn every_list_is_taken(qemu: &Qemu, machine: Machine, arch: Arch) {
    let disks = [None, Some(DiskFormat::Raw), Some(DiskFormat::Qcow2)];
    // Each value of each dimension comes once with each of its neighbours.
    for (round, nets) in net_variants().into_iter().enumerate() {
        for (index, disk) in disks.into_iter().enumerate() {
            let kind = Kind::ALL[(round * disks.len() + index) % Kind::ALL.len()];
            let on_reset = OnReset::ALL[(round + index) % 2];
            let (cpus, file_ram) = (1 + u32::try_from(index).unwrap(), (round + index) % 2 == 0);
            let spec = VmSpec { nets: nets.clone(), cpus, on_reset, ..spec(machine, arch) };
            let what =
                format!("{machine} {kind} {disk:?} {nets:?} {on_reset} cpus={cpus} file_ram={file_ram}");
            let mut running = start(qemu, &spec, kind, disk, file_ram);
            let status = running.ask(&json!({ "execute": "query-status" }));
            assert_eq!(status["status"], "prelaunch", "{what}");
            for id in unplugged(&spec) {
                running.ask(&json!({ "execute": "set_link", "arguments": { "name": id, "up": false } }));
            }
            // One QEMU thread per CPU.
            let cpu_list = running.ask(&json!({ "execute": "query-cpus-fast" }));
            assert_eq!(cpu_list.as_array().unwrap().len(), usize::try_from(cpus).unwrap(), "{what}");
            let log = running.folder.path().join("serial.log");
            assert!(log.exists(), "{what}");
            running.quit(&what);
        }
    }
}

#[test]
fn qemu_takes_every_list_for_q35() {
    every_list_is_taken(&Qemu::x86(), Machine::Q35, Arch::X86_64);
}

#[test]
fn qemu_takes_every_list_for_microvm() {
    every_list_is_taken(&Qemu::x86(), Machine::Microvm, Arch::X86_64);
}

#[test]
fn qemu_takes_every_list_for_virt_where_it_is_installed() {
    if let Some(qemu) = Qemu::find(Arch::Aarch64) {
        every_list_is_taken(&qemu, Machine::Virt, Arch::Aarch64);
    }
}

fn a_kernel_boots(qemu: &Qemu, machine: Machine, arch: Arch, status: i32) {
    for kind in [Kind::Linux, Kind::Hermit] {
        let spec = spec(machine, arch);
        let running = start(qemu, &spec, kind, Some(DiskFormat::Qcow2), true);
        let what = format!("{kind} on {machine}");
        assert_eq!(running.run(&what), Some(status), "{what}");
    }
}

#[test]
fn a_kernel_boots_on_q35_and_its_exit_status_is_kept() {
    a_kernel_boots(&Qemu::x86(), Machine::Q35, Arch::X86_64, 33);
}

#[test]
fn a_kernel_boots_on_microvm_and_its_exit_status_is_kept() {
    a_kernel_boots(&Qemu::x86(), Machine::Microvm, Arch::X86_64, 33);
}

#[test]
fn a_kernel_boots_on_virt_where_it_is_installed() {
    if let Some(qemu) = Qemu::find(Arch::Aarch64) {
        a_kernel_boots(&qemu, Machine::Virt, Arch::Aarch64, 0);
    }
}

#[test]
fn the_nic_speaks_the_generations_that_its_guest_needs() {
    let qemu = Qemu::x86();
    let spec = spec(Machine::Q35, Arch::X86_64);
    // The ids of a transitional and of a modern NIC (virtio 1.2, 5.1 and 4.1.2.1).
    for (kind, id) in
        [(Kind::Linux, 0x1000), (Kind::Unikraft, 0x1000), (Kind::Solo5, 0x1000), (Kind::Hermit, 0x1041)]
    {
        let mut running = start(&qemu, &spec, kind, None, false);
        assert_eq!(running.nic_ids(), [id], "{kind}");
        running.quit(kind.word());
    }
}

#[test]
fn a_forwarded_port_is_open_on_the_host() {
    let qemu = Qemu::x86();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let forward = format!("{port}:80").parse().unwrap();
    let nets = vec![Net::User { forwards: vec![forward], mac: None }];
    let spec = VmSpec { nets, ..spec(Machine::Q35, Arch::X86_64) };
    let running = start(&qemu, &spec, Kind::Linux, None, false);
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_err());
    running.quit("a forwarded port");
}

#[test]
fn two_qemus_cannot_open_one_disk() {
    let qemu = Qemu::x86();
    let spec = spec(Machine::Q35, Arch::X86_64);
    let first = start(&qemu, &spec, Kind::Linux, Some(DiskFormat::Qcow2), false);
    let disk = Disk { path: first.folder.path().join("disk"), format: DiskFormat::Qcow2 };
    let given = Resources {
        disk: Some(disk),
        kernel: None,
        ram: Ram::Anonymous,
        credentials: Vec::new(),
        ..resources(&spec, Kind::Linux, ResolvedAccel::Tcg)
    };
    let mut second = spawn(&qemu, &spec, given, nasty_folder());
    // It ends instead of greeting.
    let mut line = String::new();
    let read = second.reader.read_line(&mut line);
    let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(read.as_ref().map_or_else(reset, |read| *read == 0), "{read:?} {line}");
    assert!(!second.child.wait().unwrap().success());
    assert!(second.stderr().contains("lock"), "{}", second.stderr());
    first.quit("the first of two");
}
