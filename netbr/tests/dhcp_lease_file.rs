//! The file of leases under several writers, kills and damage.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dhcp_support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use dhcp_support::{at, ip, mac, network};
use netbr::dhcp::LeaseFile;
use netbr::dhcp::lease_file::LeaseFileError;
use netbr::dhcp::leases::Refusal;

/// Set for this program when it is to be one of several writers: the file, its number, and how often it writes.
const WRITER: &str = "DHCP_LEASE_WRITER";

/// Starts this program again as a writer, by the test of this name.
fn writer(file: &Path, number: u8, times: u32) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_writer_writes", "--nocapture"]).stdout(Stdio::piped());
    command.env(WRITER, format!("{number} {times} {}", file.display()));
    command
}

/// What a writer does; alone, it writes a little into a folder of its own.
#[test]
fn a_writer_writes() {
    let folder = tempfile::tempdir().unwrap();
    let told = std::env::var(WRITER)
        .unwrap_or_else(|_| format!("0 3 {}", folder.path().join("leases.json").display()));
    let [number, times, file] = told.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let (number, times): (u8, u32) = (number.parse().unwrap(), times.parse().unwrap());
    let file = LeaseFile::open(Path::new(file)).unwrap();
    let network = network(200);
    println!("writing");
    for time in 0..times {
        let who = mac(number * 20 + u8::try_from(time % 20).unwrap());
        let given = file.transaction(|leases| leases.choose(&network, at(time.into()), who, None)).unwrap();
        assert!(given.is_ok());
        // Something that changes the file each time.
        let toggled = file.transaction(|leases| match leases.reservation(who) {
            Some(_) => leases.unreserve(who),
            None => drop(leases.reserve(&network, at(0), who, ip(240 + number))),
        });
        toggled.unwrap();
    }
}

#[test]
fn eight_processes_write_at_once_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net/leases.json");
    let mut writers: Vec<_> = (0..8).map(|number| writer(&path, number, 20).spawn().unwrap()).collect();
    // Threads of one process exclude each other, too.
    std::thread::scope(|scope| {
        for number in 8..10 {
            let path = &path;
            scope.spawn(move || {
                let file = LeaseFile::open(path).unwrap();
                for n in 0..20 {
                    let choice =
                        file.transaction(|l| l.choose(&network(200), at(0), mac(number * 20 + n), None));
                    assert!(choice.unwrap().is_ok());
                }
            });
        }
    });
    let ended: Vec<_> = writers.iter_mut().map(|writer| writer.wait().unwrap()).collect();
    assert!(ended.iter().all(std::process::ExitStatus::success), "{ended:?}");
    let leases = LeaseFile::open(&path).unwrap().read().unwrap();
    let held: BTreeSet<_> = (0..200).map(|n| leases.get(mac(n)).unwrap().address).collect();
    assert_eq!(held.len(), 200);
    assert!(matches!(
        leases.clone().choose(&network(200), at(0), mac(200), None),
        Err(Refusal::Exhausted { .. })
    ));
}

#[test]
fn a_writer_that_is_killed_at_any_moment_leaves_a_file_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.json");
    let file = LeaseFile::open(&path).unwrap();
    for round in 0..40 {
        let mut child = writer(&path, 0, u32::MAX).spawn().unwrap();
        let mut said = [0; 1];
        let mut output = child.stdout.take().unwrap();
        // From here on it writes without pause; each round kills it somewhere else.
        while said[0] != b'g' {
            output.read_exact(&mut said).unwrap();
        }
        for _ in 0..round * 2000 {
            std::hint::black_box(round);
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let leases = file.read().unwrap();
        let next = file.transaction(|leases| leases.choose(&network(200), at(0), mac(99), None)).unwrap();
        assert!(next.is_ok());
        drop(leases);
        assert!(!path.with_file_name("leases.json.corrupt").exists());
    }
    let leases = file.read().unwrap();
    assert!((0..20).any(|n| leases.get(mac(n)).is_some()), "no writer ever came to write");
}

#[test]
fn a_damaged_file_is_set_aside_and_service_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.json");
    let file = LeaseFile::open(&path).unwrap();
    for damage in [
        "",
        "{",
        "[1, 2]",
        r#"{"version":1}"#,
        r#"{"version":1,"records":{"x":1},"reserved":{},"avoided":{}}"#,
    ] {
        fs::write(&path, damage).unwrap();
        assert!(file.read().unwrap().list(at(0)).is_empty());
        assert_eq!(fs::read_to_string(folder.path().join("leases.json.corrupt")).unwrap(), damage);
        file.transaction(|leases| leases.reserve(&network(9), at(0), mac(1), ip(12))).unwrap().unwrap();
        assert_eq!(file.read().unwrap().reservation(mac(1)), Some(ip(12)));
    }
}

#[test]
fn a_later_releases_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.json");
    fs::write(&path, r#"{"version":2,"leases":[]}"#).unwrap();
    let error = LeaseFile::open(&path).unwrap().transaction(|_| ()).unwrap_err();
    assert!(matches!(error, LeaseFileError::Version { version: 2, .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"version":2,"leases":[]}"#);
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.json");
    let file = LeaseFile::open(&path).unwrap();
    file.transaction(|leases| leases.list(at(0)).len()).unwrap();
    assert!(!path.exists());
}
