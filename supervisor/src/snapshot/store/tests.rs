//! Folders, names, users and damage, on files that look as those of real snapshots.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::image::overlay;
use crate::machine::{DiskFormat, ResolvedAccel};
use crate::snapshot::manifest::{
    DISK, Disk, MANIFEST_SCHEMA, Machine, Part, RAM, RAM_DELTA, Ram, STATE, Source,
};
use crate::snapshot::ram::{self, Extent, delta, unwatched};
use crate::spec::{Arch, Kind, VmSpec};
use crate::store::{Origin, Record};

const MEMORY: u64 = 5 << 20;

/// A home of its own, with a disk that stands for an image's.
pub(in crate::snapshot) struct Place {
    _folder: tempfile::TempDir,
    pub(in crate::snapshot) home: Home,
    pub(in crate::snapshot) store: SnapshotStore,
    pub(in crate::snapshot) image_disk: PathBuf,
}

impl Place {
    pub(in crate::snapshot) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("state"), folder.path().join("run"));
        let image = home.images().join("img");
        fs::create_dir_all(&image).unwrap();
        let image_disk = image.join("disk-0123.raw");
        File::create(&image_disk).unwrap().set_len(1 << 20).unwrap();
        Self { store: SnapshotStore::new(&home), home, image_disk, _folder: folder }
    }

    /// A VM with a disk on `base`.
    fn vm(&self, name: &str, base: &Path, format: DiskFormat, origin: Option<&Origin>) -> PathBuf {
        let record = Record {
            schema: crate::store::SCHEMA,
            id: Uuid::new_v4(),
            created: jiff::Timestamp::UNIX_EPOCH,
            spec: VmSpec::named(name),
            image: None,
            macs: vec![],
        };
        let vm = self.home.create_vm::<SnapshotError>(&record, |folder| {
            overlay::create(&folder.join("disk.qcow2"), base, format, None).unwrap();
            origin.map_or(Ok(()), |origin| Ok(origin.write_to(folder)?))
        });
        vm.unwrap().disk()
    }

    fn image() -> crate::image::Manifest {
        let part = crate::image::Part { file: "disk-0123.raw".into(), size: 1 << 20, sha256: String::new() };
        crate::image::Manifest {
            schema: 1,
            name: "img".to_owned(),
            digest: String::new(),
            kind: Kind::Linux,
            arch: Arch::X86_64,
            created: String::new(),
            disk: Some(crate::image::ImageDisk { part, format: DiskFormat::Raw, virtual_size: 1 << 20 }),
            kernel: None,
            initrd: None,
            append: String::new(),
            agent: false,
            ssh: false,
            os: None,
            firmware: None,
            systemd: None,
            cloud_init: false,
            network_credentials: false,
            ready: None,
            source: String::new(),
            origin: None,
        }
    }

    fn manifest(&self, draft: &Draft, name: &SnapshotName, parent: Option<&Snapshot>) -> Manifest {
        let part =
            |file: &str| Part { file: file.into(), size: fs::metadata(draft.path(file)).unwrap().len() };
        let delta = draft.path(RAM_DELTA).exists();
        let base = parent.map(|parent| {
            let of_delta = parent.manifest.ram.as_ref().and_then(|ram| ram.base);
            of_delta.unwrap_or(parent.id())
        });
        Manifest {
            schema: MANIFEST_SCHEMA,
            id: draft.id(),
            name: name.clone(),
            taken: jiff::Timestamp::now(),
            pause_us: Some(7000),
            note: None,
            parent: parent.map(Snapshot::id),
            source: Source {
                id: Uuid::nil(),
                macs: vec![],
                hostname: None,
                addresses: vec![],
                heard: Vec::new(),
                machine_id: None,
            },
            spec: VmSpec::named(name.vm()),
            kind: Kind::Linux,
            image: Some(Self::image()),
            machine: Some(Machine {
                arch: Arch::X86_64,
                qemu: (10, 0, 2),
                qemu_line: String::new(),
                machine_type: "pc-q35-10.0".to_owned(),
                cpu: "Westmere-v1".to_owned(),
                accel: ResolvedAccel::Tcg,
                cpus: 1,
                memory: MEMORY,
                page_size: 4096,
                host_cpu: None,
                features: vec![],
                arguments: vec![],
            }),
            tied: vec![],
            state: Some(part(STATE)),
            kernel: None,
            initrd: None,
            ram: Some(Ram { part: part(if delta { RAM_DELTA } else { RAM }), base: base.filter(|_| delta) }),
            disk: Some(Disk {
                layers: vec![part(DISK)],
                base: self.store.disk_base(&draft.path(DISK)).unwrap(),
                virtual_size: 1 << 20,
            }),
        }
    }

    /// Saves a VM as the engine would: its disk is taken in and it goes on with a new one.
    fn save(&self, vm: &str, name: &str, parent: Option<&Snapshot>) -> Snapshot {
        self.try_save(vm, name, parent).unwrap()
    }

    fn try_save(&self, vm: &str, name: &str, parent: Option<&Snapshot>) -> Result<Snapshot, SnapshotError> {
        let name: SnapshotName = name.parse()?;
        let needs: Vec<Snapshot> = parent.into_iter().cloned().collect();
        let draft = self.store.begin(&name, &needs)?;
        self.fill(&draft, vm, parent);
        let manifest = self.manifest(&draft, &name, parent);
        draft.publish(&manifest, BTreeMap::new())
    }

    fn fill(&self, draft: &Draft, vm: &str, parent: Option<&Snapshot>) {
        draft.write(STATE, b"QEVM: a state").unwrap();
        if let Some(parent) = parent {
            let base = parent.manifest.ram.as_ref().and_then(|ram| ram.base).unwrap_or(parent.id());
            let own = [Extent { offset: 8192, length: 4096 }];
            let fill = |_: u64, into: &mut [u8]| {
                into.fill(9);
                Ok(())
            };
            delta::write(&draft.path(RAM_DELTA), base, MEMORY, &own, fill).unwrap();
        } else {
            let source = draft.folder().join("source");
            let file = File::create(&source).unwrap();
            file.set_len(MEMORY).unwrap();
            file.write_all_at(&[5; 4096], 3 << 20).unwrap();
            ram::copy(&source, &draft.path(RAM), &mut unwatched).unwrap();
            fs::remove_file(source).unwrap();
        }
        let disk = self.home.vm(vm).disk();
        let below = draft.link_disk(&disk).unwrap();
        let next = disk.with_file_name("next.qcow2");
        overlay::create(&next, &below, DiskFormat::Qcow2, None).unwrap();
        fs::rename(&next, &disk).unwrap();
    }

    pub(in crate::snapshot) fn folders(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.store.ids().unwrap().iter().map(ToString::to_string).collect();
        ids.sort();
        ids
    }
}

pub(in crate::snapshot) fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

/// A VM `web` and its snapshot.
pub(in crate::snapshot) fn saved() -> (Place, Snapshot) {
    let place = Place::new();
    place.vm("web", &place.image_disk, DiskFormat::Raw, None);
    let snapshot = place.save("web", "web@one", None);
    (place, snapshot)
}

/// And a clone of it with a snapshot of its own.
pub(in crate::snapshot) fn saved_twice() -> (Place, Snapshot, Snapshot) {
    let (place, first) = saved();
    let origin = Origin { snapshot: first.id(), memory: true };
    place.vm("clone", &first.path(DISK), DiskFormat::Qcow2, Some(&origin));
    let second = place.save("clone", "clone@two", Some(&first));
    (place, first, second)
}

#[test]
fn a_snapshot_is_found_as_it_was_saved() {
    let (place, snapshot) = saved();
    assert_eq!(place.store.get(&name("web@one")).unwrap(), snapshot);
    assert_eq!(place.store.by_id(snapshot.id()).unwrap().as_ref(), Some(&snapshot));
    let text = snapshot.manifest.text().unwrap();
    assert_eq!(Manifest::parse(&text, Path::new("x")).unwrap(), snapshot.manifest);
    let listing = place.store.list().unwrap();
    assert_eq!((listing.snapshots, listing.damaged.len()), (vec![snapshot.clone()], 0));
    assert!(place.store.verify(&snapshot, &mut unwatched).is_empty());
    assert_eq!(place.store.state(&snapshot).unwrap().unwrap(), b"QEVM: a state");
    assert_eq!(place.store.images().unwrap()[0].0, "web@one");
    let error = place.store.get(&name("web@on")).unwrap_err().to_string();
    assert_eq!(error, "there is no snapshot `web@on`; did you mean `web@one`?");
}

#[test]
fn a_name_is_given_once() {
    let (place, snapshot) = saved();
    let taken = |result: Result<Snapshot, SnapshotError>| matches!(result, Err(SnapshotError::Taken(n)) if n == "web@one");
    assert!(taken(place.try_save("web", "web@one", None)));
    // Two at once: the name goes to the first to be published, and the other leaves nothing.
    let two = name("web@two");
    let draft = place.store.begin(&two, &[]).unwrap();
    let second = place.save("web", "web@two", None);
    draft.write(STATE, b"x").unwrap();
    File::create(draft.path(RAM)).unwrap().set_len(MEMORY).unwrap();
    overlay::create(&draft.path(DISK), &place.image_disk, DiskFormat::Raw, None).unwrap();
    let manifest = place.manifest(&draft, &two, None);
    assert!(matches!(draft.publish(&manifest, BTreeMap::new()), Err(SnapshotError::Taken(_))));
    let mut wanted = vec![snapshot.id().to_string(), second.id().to_string()];
    wanted.sort();
    assert_eq!(place.folders(), wanted);
    assert_eq!(place.store.get(&two).unwrap().id(), second.id());
}

#[test]
fn an_unfinished_snapshot_is_seen_by_nobody_and_leaves_nothing() {
    let place = Place::new();
    let draft = place.store.begin(&name("web@x"), &[]).unwrap();
    draft.write(STATE, b"half").unwrap();
    assert!(place.store.list().unwrap().snapshots.is_empty());
    // Held by its maker: nobody sweeps it away.
    assert!(place.store.prune(false).unwrap().is_empty());
    assert!(draft.path(STATE).exists());
    drop(draft);
    assert!(place.folders().is_empty());
}

#[test]
fn what_a_killed_save_leaves_is_removed_but_for_the_disk_that_a_vm_came_to_stand_on() {
    let place = Place::new();
    let disk = place.vm("web", &place.image_disk, DiskFormat::Raw, None);
    let draft = place.store.begin(&name("web@x"), &[]).unwrap();
    place.fill(&draft, "web", None);
    let folder = draft.folder();
    drop(draft);
    assert!(folder.join(DISK).exists() && !folder.join(RAM).exists() && !folder.join(STATE).exists());
    assert_eq!(qcow2_backing(&disk), folder.join(DISK));
    // Saved again, and that one removed: the chain is as long as it must be.
    let next = place.save("web", "web@x", None);
    assert!(place.store.verify(&next, &mut unwatched).is_empty());
    place.store.remove(&name("web@x"), Removal::Detach).unwrap();
    assert!(folder.join(DISK).exists() && next.path(DISK).exists());
    place.home.vm("web").remove(&place.home).unwrap();
    let would = place.store.prune(true).unwrap();
    assert!(would.values().sum::<u64>() > 0);
    assert_eq!(place.store.prune(false).unwrap(), would);
    assert!(place.folders().is_empty());
}

fn qcow2_backing(disk: &Path) -> PathBuf {
    crate::snapshot::qcow2::backing(disk).unwrap().unwrap()
}

#[test]
fn users_are_named_and_a_needed_snapshot_is_not_removed() {
    let (place, first, second) = saved_twice();
    assert_eq!(
        place.store.users(first.id()).unwrap(),
        [
            User::Clone("clone".to_owned()),
            User::Disk("web".to_owned()),
            User::SnapshotRam("clone@two".to_owned()),
            User::SnapshotDisk("clone@two".to_owned()),
        ]
    );
    let error = place.store.remove(&name("web@one"), Removal::Refuse).unwrap_err();
    assert!(matches!(&error, SnapshotError::InUse { users, .. } if users.len() == 4), "{error}");
    assert_eq!(place.store.get(&name("web@one")).unwrap(), first);
    assert!(place.store.verify(&second, &mut unwatched).is_empty());
}

#[test]
fn a_chain_stays_readable_when_its_parents_are_removed_and_goes_with_the_last_user() {
    let (place, first, second) = saved_twice();
    let removed = place.store.remove(&name("web@one"), Removal::Detach).unwrap();
    assert_eq!(removed.users.len(), 4);
    assert!(place.store.get(&name("web@one")).is_err());
    place.home.vm("web").remove(&place.home).unwrap();
    place.home.vm("clone").remove(&place.home).unwrap();
    assert!(place.store.prune(false).unwrap().is_empty());
    assert!(place.store.verify(&second, &mut unwatched).is_empty());
    assert!(first.path(RAM).exists());
    assert_eq!(place.store.by_id(first.id()).unwrap().unwrap().shown(), "web@one (removed)");

    let removed = place.store.remove(&name("clone@two"), Removal::Refuse).unwrap();
    assert!(removed.users.is_empty() && removed.freed > 0);
    assert!(place.folders().is_empty());
}

#[test]
fn of_a_removed_snapshot_only_what_is_needed_stays() {
    let (place, snapshot) = saved();
    let before = place.store.sizes(&snapshot).unwrap();
    // The VM goes on with a disk that stands on the snapshot's.
    let removed = place.store.remove(&name("web@one"), Removal::Detach).unwrap();
    assert_eq!(removed.users, [User::Disk("web".to_owned())]);
    assert!(removed.freed >= 4096 && removed.freed < before.own);
    assert!(snapshot.path(DISK).exists() && !snapshot.path(RAM).exists() && !snapshot.path(STATE).exists());
    let left = place.store.by_id(snapshot.id()).unwrap().unwrap();
    assert!(place.store.verify(&left, &mut unwatched).is_empty(), "what is left is whole");
}

#[test]
fn a_snapshot_that_is_about_to_be_used_stays() {
    let (place, _first, second) = saved_twice();
    place.home.vm("clone").remove(&place.home).unwrap();
    let pins = place.store.pin(&second).unwrap();
    assert_eq!(pins.len(), 2, "what it stands on is pinned too");
    place.store.remove(&name("clone@two"), Removal::Detach).unwrap();
    assert!(second.path(RAM_DELTA).exists());
    drop(pins);
    place.store.prune(false).unwrap();
    assert!(!second.folder.exists());
    assert!(matches!(place.store.pin(&second), Err(SnapshotError::NotFound { .. })));
}

#[test]
fn sizes_tell_own_from_shared() {
    let (place, first, second) = saved_twice();
    let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    let sizes = place.store.sizes(&second).unwrap();
    assert!(sizes.own < 80 << 10, "{sizes:?}");
    assert_eq!(
        sizes.shared,
        blocks(first.path(RAM)) + blocks(first.path(DISK)) + blocks(place.image_disk.clone())
    );
}

/// Every byte that is changed in any file is found, and its file named.
#[test]
fn damage_to_any_file_is_found_and_named() {
    let (place, first, second) = saved_twice();
    let change = |snapshot: &Snapshot, file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = snapshot.path(file);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        let wrong = place.store.verify(&second, &mut unwatched);
        fs::write(&path, &whole).unwrap();
        assert!(place.store.verify(&second, &mut unwatched).is_empty(), "{file} was put back");
        let told = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(told.contains(path.to_str().unwrap()), "{file}: {told:?}");
    };
    let files = [
        (&first, RAM),
        (&first, STATE),
        (&first, DISK),
        (&second, RAM_DELTA),
        (&second, STATE),
        (&second, DISK),
        (&second, DIGESTS),
    ];
    for (snapshot, file) in files {
        change(snapshot, file, &|bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        });
        change(snapshot, file, &|bytes| bytes.truncate(bytes.len() - 1));
        change(snapshot, file, &|bytes| bytes.push(0));
        change(snapshot, file, &|bytes| bytes.clear());
    }
    // A note that nobody wrote.
    change(&second, MANIFEST, &|bytes| {
        let text =
            String::from_utf8(bytes.clone()).unwrap().replace("\"pause_us\": 7000", "\"pause_us\": 7001");
        *bytes = text.into_bytes();
    });
    // Parts of another snapshot.
    let third = place.save("web", "web@three", None);
    for file in [STATE, DISK, DIGESTS] {
        let other =
            if file == STATE { b"QEVM: another".to_vec() } else { fs::read(third.path(file)).unwrap() };
        change(&first, file, &|bytes| bytes.clone_from(&other));
    }
}

#[test]
fn a_damaged_manifest_is_told_and_can_be_removed() {
    let (place, snapshot) = saved();
    let path = snapshot.path(MANIFEST);
    let whole = fs::read_to_string(&path).unwrap();
    for (text, word) in [
        ("{", "no manifest"),
        (whole.replace("\"schema\": 1", "\"schema\": 99").as_str(), "newer midge"),
        (whole.replace(&snapshot.id().to_string(), &Uuid::nil().to_string()).as_str(), "another snapshot"),
        (whole.replace("\"disk.qcow2\"", "\"../../disk.qcow2\"").as_str(), "not one of its own folder"),
    ] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
        let listing = place.store.list().unwrap();
        assert_eq!(listing.snapshots.len(), 0);
        assert_eq!(listing.damaged[0].names, [name("web@one")]);
        let told = listing.damaged[0].error.to_string();
        assert!(told.contains(word), "{told}");
        assert!(place.store.get(&name("web@one")).is_err());
    }
    place.home.vm("web").remove(&place.home).unwrap();
    place.store.remove(&name("web@one"), Removal::Refuse).unwrap();
    assert!(place.folders().is_empty());
}

#[test]
fn a_disk_that_stands_elsewhere_is_noticed_before_it_is_used() {
    let (place, first, second) = saved_twice();
    place.store.check_links(&second).unwrap();
    fs::rename(first.path(DISK), first.path("disk-moved")).unwrap();
    let error = place.store.check_links(&second).unwrap_err().to_string();
    assert!(error.contains("not there or not what it should stand on"), "{error}");
}

#[test]
fn saving_removing_and_looking_go_on_beside_each_other() {
    let place = Place::new();
    for vm in ["a", "b"] {
        place.vm(vm, &place.image_disk, DiskFormat::Raw, None);
    }
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                place.store.prune(false).unwrap();
                for snapshot in place.store.list().unwrap().snapshots {
                    if let Ok(_pins) = place.store.pin(&snapshot) {
                        assert!(snapshot.path(MANIFEST).exists(), "a pinned snapshot stays");
                    }
                }
            }
        });
        let workers: Vec<_> = ["a", "b"]
            .map(|vm| {
                let place = &place;
                scope.spawn(move || {
                    for round in 0..12 {
                        let tag = format!("{vm}@{round}");
                        let snapshot = place.save(vm, &tag, None);
                        assert!(place.store.verify(&snapshot, &mut unwatched).is_empty());
                        place.store.remove(&name(&tag), Removal::Detach).unwrap();
                    }
                })
            })
            .into_iter()
            .collect();
        let done: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        for result in done {
            result.unwrap();
        }
    });
    for vm in ["a", "b"] {
        place.home.vm(vm).remove(&place.home).unwrap();
    }
    place.store.prune(false).unwrap();
    assert!(place.folders().is_empty());
}
