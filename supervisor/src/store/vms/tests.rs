//! Records and folders, on a real file system.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::spec::VmSpec;

fn home(tmp: &tempfile::TempDir) -> Home {
    Home::new(tmp.path().join("home"), tmp.path().join("run"))
}

fn record(name: &str) -> Record {
    let mut spec = VmSpec::named(name);
    spec.boot.kernel = Some("/boot/kernel".into());
    Record {
        schema: SCHEMA,
        id: uuid::Uuid::new_v4(),
        created: jiff::Timestamp::UNIX_EPOCH,
        spec,
        image: None,
        macs: vec!["52:54:00:00:00:01".to_owned()],
    }
}

fn create(home: &Home, name: &str) -> VmDir {
    home.create_vm::<StoreError>(&record(name), |_| Ok(())).unwrap()
}

#[test]
fn a_vm_appears_whole_and_its_name_is_taken_then() {
    let tmp = tempfile::tempdir().unwrap();
    let home = home(&tmp);
    let failed = home.create_vm::<StoreError>(&record("web"), |folder| {
        fs::write(folder.join("disk.qcow2"), b"half").unwrap();
        Err(StoreError::Taken("anything that fails".to_owned()))
    });
    assert!(failed.is_err());
    assert_eq!(home.vm_names().unwrap(), Vec::<String>::new(), "nothing half-made is seen");
    assert_eq!(fs::read_dir(home.state().join("tmp")).unwrap().count(), 0, "nor left behind");

    let vm = create(&home, "web");
    assert_eq!(vm.record().unwrap().spec.name, "web");
    let again = home.create_vm::<StoreError>(&record("web"), |_| Ok(()));
    assert!(matches!(again, Err(StoreError::Taken(name)) if name == "web"));
}

#[test]
fn of_many_that_create_one_name_one_succeeds() {
    let tmp = tempfile::tempdir().unwrap();
    let home = home(&tmp);
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| home.create_vm::<StoreError>(&record("web"), |_| Ok(())).is_ok()))
            .collect();
        threads.into_iter().map(|t| usize::from(t.join().unwrap())).sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn unknown_names_are_met_with_the_nearest_one() {
    let tmp = tempfile::tempdir().unwrap();
    let home = home(&tmp);
    create(&home, "webserver");
    let error = home.existing_vm("webservr").unwrap_err().to_string();
    assert!(error.contains("did you mean `webserver`?"), "{error}");
    for name in ["..", "a/b", "", "/etc"] {
        assert!(matches!(home.existing_vm(name), Err(StoreError::NotFound { .. })), "{name:?}");
    }
}

#[test]
fn damaged_and_newer_records_are_told_apart() {
    let tmp = tempfile::tempdir().unwrap();
    let home = home(&tmp);
    let vm = create(&home, "web");
    let path = vm.state_dir().join("vm.json");
    let whole = fs::read_to_string(&path).unwrap();

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(vm.record(), Err(StoreError::Damaged { .. })));

    fs::write(&path, whole.replacen("\"schema\": 1", "\"schema\": 2", 1)).unwrap();
    assert!(matches!(vm.record(), Err(StoreError::Newer { found: 2, .. })));

    fs::write(&path, whole.replacen("\"memory\"", "\"memry\"", 1)).unwrap();
    let error = vm.record().unwrap_err().to_string();
    assert!(error.contains("memry") && error.contains("memory"), "{error}");

    fs::remove_file(&path).unwrap();
    assert!(matches!(vm.record(), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_rename_is_seen_in_the_name_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let home = home(&tmp);
    create(&home, "other");
    let vm = create(&home, "web");
    let id = vm.record().unwrap().id;
    assert!(matches!(vm.rename(&home, "other"), Err(StoreError::Taken(_))));
    let renamed = vm.rename(&home, "www").unwrap();
    assert_eq!((renamed.record().unwrap().id, renamed.record().unwrap().spec.name.as_str()), (id, "www"));
    // Killed between its two steps, the record would still say `web`.
    let old = record("web");
    renamed.write_record(&old).unwrap();
    assert_eq!(renamed.record().unwrap().spec.name, "www");
}

#[test]
fn a_removed_vm_is_gone_for_whoever_waited_for_it() {
    let tmp = tempfile::tempdir().unwrap();
    let home = home(&tmp);
    let vm = create(&home, "web");
    let lock = vm.lock().unwrap();
    assert!(vm.try_lock().unwrap().is_none(), "held");
    let (waiting, waits) = mpsc::channel();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            waiting.send(()).unwrap();
            vm.lock().map(drop)
        });
        waits.recv_timeout(Duration::from_secs(10)).unwrap();
        vm.remove(&home).unwrap();
        drop(lock);
        assert!(matches!(waiter.join().unwrap(), Err(StoreError::NotFound { .. })));
    });
    assert!(!vm.state_dir().exists() && !vm.run_dir().exists());
}

#[test]
fn the_sweep_takes_what_nobody_works_on() {
    let tmp = tempfile::tempdir().unwrap();
    let home = home(&tmp);
    let held = home.scratch("create").unwrap();
    let left = home.state().join("tmp").join("create-left");
    fs::create_dir(&left).unwrap();
    fs::write(left.join(".lock"), b"").unwrap();
    fs::write(left.join("disk.qcow2"), b"half").unwrap();
    assert_eq!(home.sweep().unwrap(), std::slice::from_ref(&left));
    assert!(!left.exists() && held.path().exists());
}
