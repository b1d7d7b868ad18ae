use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::boot::BootPath;
use super::*;

/// The beginning of a bzImage, as far as it is looked at.
fn bzimage() -> Vec<u8> {
    let mut kernel = vec![7; 1 << 20];
    kernel[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    kernel
}

fn run(program: &str, arguments: &[&str], input: &str) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let mut command = Command::new(program);
    let child = command
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with a disk in the making.
struct Maker {
    folder: tempfile::TempDir,
}

impl Maker {
    /// One with a system as Debian's cloud images have it.
    fn new() -> Self {
        let maker = Self { folder: tempfile::tempdir().unwrap() };
        maker.file("root/etc/os-release", b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n");
        maker.file("root/boot/vmlinuz-6.1.0-18-cloud-amd64", &bzimage());
        maker.file("root/boot/initrd.img-6.1.0-18-cloud-amd64", b"070701 and so on");
        maker.file("root/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so", b"");
        maker.file("root/usr/bin/cloud-init", b"");
        maker.file("root/usr/sbin/sshd", b"");
        let entry = "menuentry 'Debian' {\n linux /boot/vmlinuz-6.1.0-18-cloud-amd64 root=PARTUUID=x ro console=ttyS0 a=1\n \
                     initrd /boot/initrd.img-6.1.0-18-cloud-amd64\n}\n";
        maker.file("root/boot/grub/grub.cfg", entry.as_bytes());
        maker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn remove(&self, name: &str) {
        let path = self.path(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// A disk that is one ext4 file system with these features (ext4(5)), with the system in it.
    fn bare(&self, features: &str) -> Vec<u8> {
        let (disk, root) = (self.path("bare"), self.path("root"));
        let (disk, root) = (disk.to_str().unwrap(), root.to_str().unwrap());
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-O", features, "-d", root, disk, "32M"], "");
        fs::read(disk).unwrap()
    }

    /// A disk with partitions by sfdisk's words, of which some hold ext4 with the content of a folder: (first sector, MiB, folder).
    fn disk(&self, script: &str, trees: &[(u64, u64, &str)]) -> Vec<u8> {
        let disk = self.path("disk");
        let file = fs::File::create(&disk).unwrap();
        file.set_len(64 << 20).unwrap();
        let name = disk.to_str().unwrap();
        if !script.is_empty() {
            run("sfdisk", &["--quiet", name], script);
        }
        for (sector, mebibytes, folder) in trees {
            let offset = format!("offset={}", sector * 512);
            let folder = self.path(folder);
            let arguments = ["-q", "-F", "-t", "ext4", "-d", folder.to_str().unwrap(), "-E", &offset, name];
            run("mke2fs", &[&arguments[..], &[&format!("{mebibytes}M")]].concat(), "");
        }
        fs::read(disk).unwrap()
    }
}

const CLOUD: &str = "label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\n\
                     start=4096, size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
                     start=12288, size=98304, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=0B3A1B5C-0000-4000-8000-00000000000A\n";

fn cloud(maker: &Maker) -> Vec<u8> {
    maker.disk(CLOUD, &[(12288, 48, "root")])
}

fn read(disk: Vec<u8>) -> Result<Contents, ContentsError> {
    Contents::read(&(Rc::new(disk) as Rc<dyn ReadAt>))
}

fn extracted(contents: &Contents, path: &BootPath) -> Vec<u8> {
    let mut bytes = Vec::new();
    contents.extract(path, &mut bytes).unwrap();
    bytes
}

/// A stranger's text, with its causes.
fn chain(error: &ContentsError) -> String {
    crate::error::chain(error)
}

#[test]
fn a_debian_cloud_image_boots_directly() {
    let contents = read(cloud(&Maker::new())).unwrap();
    let facts = OsFacts {
        name: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        systemd: Some(252),
        cloud_init: true,
        network_credentials: false,
        agent: false,
        ssh: true,
    };
    assert_eq!(contents.os, Some(facts));
    let boot = contents.boot.as_ref().unwrap();
    assert_eq!((boot.arch, boot.append.as_str()), (Arch::X86_64, "root=PARTUUID=x ro a=1"));
    assert_eq!(extracted(&contents, &boot.kernel), bzimage());
    assert_eq!(extracted(&contents, boot.initrd.as_ref().unwrap()), b"070701 and so on");
    // No boot code was written to it, and it has an EFI partition.
    assert_eq!(contents.firmware, Some(Firmware::Uefi));
}

#[test]
fn without_grub_the_newest_kernel_boots_with_the_partitions_own_id() {
    let maker = Maker::new();
    maker.remove("root/boot/grub");
    maker.file("root/boot/vmlinuz-5.10.0-9-amd64", b"old");
    maker.file("root/etc/default/grub", b"GRUB_CMDLINE_LINUX=\"net.ifnames=0 console=ttyS0\"\n");
    let contents = read(cloud(&maker)).unwrap();
    let boot = contents.boot.unwrap();
    assert!(boot.initrd.is_some());
    assert_eq!(boot.append, "root=PARTUUID=0b3a1b5c-0000-4000-8000-00000000000a net.ifnames=0 ro");
}

#[test]
fn a_boot_partition_of_its_own_is_looked_into() {
    let maker = Maker::new();
    fs::rename(maker.path("root/boot"), maker.path("boot")).unwrap();
    fs::create_dir(maker.path("root/boot")).unwrap();
    let entry = "menuentry x {\nlinux /vmlinuz-6.1.0-18-cloud-amd64 root=LABEL=root\ninitrd /initrd.img-6.1.0-18-cloud-amd64\n}";
    maker.file("boot/grub/grub.cfg", entry.as_bytes());
    let script = "label: dos\nlabel-id: 0x1234abcd\nstart=2048, size=40960, type=83\nstart=43008, size=81920, type=83\n";
    let contents = read(maker.disk(script, &[(2048, 20, "boot"), (43008, 40, "root")])).unwrap();
    let boot = contents.boot.as_ref().unwrap();
    assert_eq!(boot.append, "root=LABEL=root ro");
    assert_eq!(extracted(&contents, &boot.kernel), bzimage());
}

#[test]
fn a_disk_without_partitions_has_its_root_at_once() {
    let maker = Maker::new();
    maker.remove("root/boot/grub");
    let contents = read(maker.disk("", &[(0, 64, "root")])).unwrap();
    assert_eq!(contents.boot.unwrap().append, "root=/dev/vda ro");
    assert_eq!(contents.firmware, None);
}

#[test]
fn ext4_of_any_release_is_read_or_said_to_be_unknown() {
    let maker = Maker::new();
    // As Debian 13 makes it, as Debian 11 made it, and the plainest.
    for features in
        ["metadata_csum_seed,orphan_file", "^metadata_csum", "^has_journal,^64bit,^extent,^dir_index"]
    {
        let contents = read(maker.bare(features)).unwrap();
        assert_eq!(extracted(&contents, &contents.boot.as_ref().unwrap().kernel), bzimage(), "{features}");
    }
    let mut narrow = maker.bare("^64bit,^metadata_csum");
    narrow[1024 + 0x150..][..4].fill(0xa1);
    assert!(chain(&read(narrow).unwrap_err()).contains("larger than the place it is in"));
    let unknown = read(maker.bare("meta_bg,^resize_inode")).unwrap().boot.unwrap_err();
    assert!(unknown.to_string().contains("features unknown here"), "{unknown}");
}

#[test]
fn where_it_cannot_look_it_says_why() {
    let maker = Maker::new();
    let script = "label: gpt\nstart=2048, size=114688\n";
    let with = |offset: usize, mark: &[u8]| {
        let mut disk = maker.disk(script, &[]);
        disk[(2048 << 9) + offset..][..mark.len()].copy_from_slice(mark);
        read(disk).unwrap().boot.unwrap_err()
    };
    assert_eq!(with(0x1_0040, b"_BHRfS_M"), NoDirectBoot::FileSystem(vec!["btrfs"]));
    assert_eq!(with(0, b"XFSB").to_string(), "midge looks into ext4 only, and its file systems are xfs");
    assert_eq!(with(0, b"XXXX"), NoDirectBoot::Empty);
    assert_eq!(read(vec![0; 4096]).unwrap().boot.unwrap_err(), NoDirectBoot::Empty);
    assert_eq!(read(Vec::new()).unwrap().boot.unwrap_err(), NoDirectBoot::Empty);

    fs::create_dir_all(maker.path("data/photos")).unwrap();
    assert_eq!(read(maker.disk("", &[(0, 64, "data")])).unwrap().boot.unwrap_err(), NoDirectBoot::NoSystem);
    maker.file("root/boot/vmlinuz-6.1.0-18-cloud-amd64", &[1; 4096]);
    let odd = read(cloud(&maker)).unwrap().boot.unwrap_err();
    assert!(odd.to_string().contains("vmlinuz-6.1.0-18-cloud-amd64"), "{odd}");
    maker.remove("root/boot");
    assert_eq!(read(cloud(&maker)).unwrap().boot.unwrap_err(), NoDirectBoot::NoKernel);
}

/// Changes a GPT and makes its checksums fit again.
fn with_gpt(disk: &[u8], change: impl FnOnce(&mut [u8], &mut [u8])) -> Vec<u8> {
    let mut disk = disk.to_vec();
    let (start, rest) = disk.split_at_mut(1024);
    change(&mut start[512..604], &mut rest[..128 * 128]);
    let mut sum = gpt_crc(&rest[..128 * 128]);
    start[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
    start[512 + 16..512 + 20].fill(0);
    sum = gpt_crc(&start[512..604]);
    start[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
    disk
}

/// CRC-32 as GPT has it (UEFI Specification, 5.3.2), bit by bit.
fn gpt_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[test]
fn a_partition_table_that_lies_is_refused() {
    let disk = cloud(&Maker::new());
    let entry = |entries: &mut [u8], index: usize, field: usize, value: u64| {
        entries[128 * index + field..][..8].copy_from_slice(&value.to_le_bytes());
    };
    assert!(read(with_gpt(&disk, |_, _| {})).unwrap().boot.is_ok());
    let refused = |change: &dyn Fn(&mut [u8], &mut [u8])| chain(&read(with_gpt(&disk, change)).unwrap_err());
    assert_eq!(refused(&|_, entries| entry(entries, 1, 40, 20000)), "partitions 2 and 3 overlap");
    assert_eq!(
        refused(&|_, entries| entry(entries, 0, 32, 12288 + 5)),
        "partition 1 ends beyond the disk's end, or before it begins"
    );
    assert!(refused(&|_, entries| entry(entries, 2, 40, 1 << 40)).starts_with("partition 3 ends beyond"));
    assert!(refused(&|_, entries| entry(entries, 2, 40, u64::MAX)).starts_with("partition 3 ends beyond"));
    assert!(refused(&|header, _| header[12] = 93).contains("its header has a size"));
    assert!(
        refused(&|header, _| header[80..84].copy_from_slice(&[0xff; 4]))
            .contains("more room than any disk needs")
    );
    assert!(refused(&|header, _| header[84] = 3).contains("its entries have a size"));
    assert!(refused(&|header, _| header[72..80].copy_from_slice(&[0xff; 8])).contains("is damaged"));

    let mut torn = disk.clone();
    torn[520] ^= 1;
    assert!(chain(&read(torn).unwrap_err()).contains("header of the partition table (GPT) is damaged"));
    let mut torn = disk;
    torn[1024 + 40] ^= 1;
    assert!(chain(&read(torn).unwrap_err()).contains("list of partitions"));
}

#[test]
fn a_damaged_ext4_is_an_error_and_never_a_crash() {
    let disk = cloud(&Maker::new());
    let start = 12288 << 9;
    let mut torn = disk.clone();
    // The number of inodes in a group (ext4 documentation, "The Super Block", s_inodes_per_group).
    torn[start + 1024 + 0x28..][..4].fill(0);
    let said = chain(&read(torn).unwrap_err());
    assert!(
        said.starts_with("cannot read the superblock in the ext4 file system of partition 3: "),
        "{said}"
    );
    // Sizes by which the library would reserve memory: the number of blocks, a block's size, blocks in a group.
    for (at, value) in [(4, u32::MAX), (0x18, 20), (0x18, u32::MAX), (0x20, 0), (0x150, u32::MAX)] {
        let mut torn = disk.clone();
        torn[start + 1024 + at..][..4].copy_from_slice(&value.to_le_bytes());
        let said = chain(&read(torn).unwrap_err());
        assert!(said.contains("larger than the place it is in"), "{at:#x}: {said}");
    }

    // Noise over what is in use, here and there: whatever comes of it, it comes to an end.
    let disk = Rc::new(disk);
    let used =
        (start..start + (8 << 20)).step_by(512).filter(|at| disk[*at..*at + 512].iter().any(|b| *b != 0));
    let used: Vec<usize> = used.collect();
    let mut errors = 0;
    for (index, at) in used.iter().enumerate().filter(|(index, _)| *index < 200 || index % 29 == 0) {
        let noise = |step: usize| u8::try_from((index * 7 + step * 13) % 251).unwrap();
        let noise =
            disk[*at..*at + 512].iter().enumerate().map(|(step, byte)| byte.wrapping_mul(31) ^ noise(step));
        let torn = Torn { disk: Rc::clone(&disk), at: *at, noise: noise.collect() };
        errors += usize::from(Contents::read(&(Rc::new(torn) as Rc<dyn ReadAt>)).is_err());
    }
    assert!(errors > 0, "no damage was noticed at all");
}

/// A disk with noise at one place.
struct Torn {
    disk: Rc<Vec<u8>>,
    at: usize,
    noise: Vec<u8>,
}

impl ReadAt for Torn {
    fn size(&self) -> u64 {
        self.disk.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.disk.read_at(offset, buffer)?;
        for (byte, place) in buffer.iter_mut().zip(usize::try_from(offset).unwrap()..) {
            if let Some(noise) = place.checked_sub(self.at).and_then(|index| self.noise.get(index)) {
                *byte = *noise;
            }
        }
        Ok(())
    }
}

#[test]
fn reading_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    fs::File::create(&path).unwrap().set_len(3 << 30).unwrap();
    let disk = GuestDisk::open(&fs::File::open(&path).unwrap(), crate::machine::DiskFormat::Raw).unwrap();
    let mut buffer = vec![0; 64 << 20];
    let read = (0..100).find(|_| disk.read_at(0, &mut buffer).is_err()).unwrap();
    assert_eq!(read, 32);
    assert!(disk.read_at(3 << 30, &mut buffer[..1]).is_err());
}

#[test]
fn a_qcow2_disk_is_read_like_the_raw_one_it_was_made_of() {
    let maker = Maker::new();
    let raw = cloud(&maker);
    for options in [&["-c"][..], &[]] {
        let (from, to) = (maker.path("disk"), maker.path("disk.qcow2"));
        let arguments = [&["convert", "-f", "raw", "-O", "qcow2"][..], options].concat();
        run("qemu-img", &[&arguments[..], &[from.to_str().unwrap(), to.to_str().unwrap()]].concat(), "");
        let file = fs::File::open(&to).unwrap();
        let disk = GuestDisk::open(&file, crate::machine::DiskFormat::Qcow2).unwrap();
        assert_eq!(disk.size(), raw.len() as u64);
        assert_eq!(Contents::of(disk).unwrap().boot.unwrap(), read(raw.clone()).unwrap().boot.unwrap());
    }
}

/// A file with holes where nothing is, for tests that need a path.
#[test]
fn files_are_read_at_any_place() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("f");
    let file = fs::File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.write_all_at(b"end", 1 << 30).unwrap();
    let mut found = [0; 3];
    ReadAt::read_at(&file, 1 << 30, &mut found).unwrap();
    assert_eq!((&found, file.size()), (b"end", (1 << 30) + 3));
    assert!(ReadAt::read_at(&file, (1 << 30) + 1, &mut found).is_err());
}

proptest! {
    #[test]
    fn any_first_sectors_give_an_answer(mut start in proptest::collection::vec(any::<u8>(), 2048), mark: bool, gpt: bool) {
        if mark {
            start[510..512].copy_from_slice(&[0x55, 0xaa]);
        }
        if gpt {
            start[512..520].copy_from_slice(b"EFI PART");
        }
        let _ = partitions::read(&start);
    }
}
