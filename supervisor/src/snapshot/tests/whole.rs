//! From a running guest to a snapshot in the store and back, with everything between.

use std::path::{Path, PathBuf};

use super::guest::{Bench, Guest, PATIENCE, installed, oldest};
use super::{READY, engine};
use crate::host::QemuFacts;
use crate::image::overlay;
use crate::machine::{DiskFormat, Ram, ResolvedAccel, Resources};
use crate::snapshot::check::{HostView, check, machine_differences};
use crate::snapshot::manifest::{DISK, KERNEL, MANIFEST_SCHEMA, Machine, Manifest, Source};
use crate::snapshot::ram::unwatched;
use crate::snapshot::save::{self, Captured, CloneSource};
use crate::snapshot::store::{Draft, Removal, Snapshot, SnapshotStore, User};
use crate::snapshot::{SnapshotName, archive, migratable};
use crate::spec::Kind;
use crate::store::{Home, Origin, Record, VmDir};

/// A home of its own beside a bench.
struct Whole {
    bench: Bench,
    home: Home,
    store: SnapshotStore,
    image_disk: PathBuf,
    _folder: tempfile::TempDir,
}

impl Whole {
    fn new(qemu: QemuFacts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("state"), folder.path().join("run"));
        let image_disk = home.images().join("img/disk-0.raw");
        std::fs::create_dir_all(image_disk.parent().unwrap()).unwrap();
        std::fs::File::create(&image_disk).unwrap().set_len(8 << 20).unwrap();
        let bench = Bench::new(qemu, 64);
        Self { bench, store: SnapshotStore::new(&home), home, image_disk, _folder: folder }
    }

    fn vm(&self, name: &str, base: &Path, format: DiskFormat, origin: Option<&Snapshot>) -> VmDir {
        let record = Record {
            schema: crate::store::SCHEMA,
            id: uuid::Uuid::new_v4(),
            created: jiff::Timestamp::now(),
            spec: crate::spec::VmSpec { name: name.to_owned(), ..self.bench.spec.clone() },
            image: None,
            macs: vec!["52:54:00:00:00:01".to_owned()],
        };
        let made = self.home.create_vm::<crate::store::StoreError>(&record, |folder| {
            overlay::create(&folder.join("disk.qcow2"), base, format, None).unwrap();
            origin.map_or(Ok(()), |o| Origin { snapshot: o.id(), memory: true }.write_to(folder))
        });
        made.unwrap()
    }

    fn host(&self) -> HostView {
        HostView {
            qemu: self.bench.qemu.clone(),
            kvm: false,
            cpu: None,
            features: vec![],
            page_size: crate::snapshot::ram::page_size() as u64,
        }
    }

    /// Publishes what was captured.
    fn publish(
        &self,
        draft: Draft,
        name: &SnapshotName,
        parent: Option<&Snapshot>,
        guest: &Guest,
        captured: Captured,
    ) -> Snapshot {
        let arguments = guest.arguments();
        let kernel = draft.copy_in(KERNEL, &self.bench.path("hello")).unwrap();
        let manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            id: draft.id(),
            name: name.clone(),
            taken: jiff::Timestamp::now(),
            pause_us: captured.pause.and_then(|pause| u64::try_from(pause.as_micros()).ok()),
            note: None,
            parent: parent.map(Snapshot::id),
            source: Source {
                id: uuid::Uuid::nil(),
                macs: vec![],
                hostname: None,
                addresses: vec![],
                heard: Vec::new(),
                machine_id: None,
            },
            spec: self.bench.spec.clone(),
            kind: Kind::Other,
            image: Some(Self::image()),
            machine: Machine::of(&arguments, &self.bench.spec, ResolvedAccel::Tcg, &self.host()),
            tied: migratable::judge(&self.bench.spec, &arguments, &Ram::File("/x".into())).tied,
            state: captured.state,
            kernel: Some(kernel),
            initrd: None,
            ram: captured.ram,
            disk: captured.disk,
        };
        let snapshot = draft.publish(&manifest, captured.digests).unwrap();
        assert_eq!(check(&snapshot.manifest, &self.host()), []);
        let wrong = self.store.verify(&snapshot, &mut unwatched);
        assert!(wrong.is_empty(), "{wrong:?}");
        snapshot
    }

    fn image() -> crate::image::Manifest {
        let part = crate::image::Part { file: "disk-0.raw".into(), size: 8 << 20, sha256: String::new() };
        let json = serde_json::json!({
            "schema": 1, "name": "img", "digest": "sha256:0", "kind": "other", "arch": "x86_64", "created": "",
        });
        let mut image: crate::image::Manifest = serde_json::from_value(json).unwrap();
        image.disk = Some(crate::image::ImageDisk { part, format: DiskFormat::Raw, virtual_size: 8 << 20 });
        image
    }

    /// Clones a snapshot: a VM of this name, running.
    async fn clone_of(&self, snapshot: &Snapshot, name: &str) -> (VmDir, Guest) {
        let _pins = self.store.pin(snapshot).unwrap();
        let vm = self.vm(name, &snapshot.path(DISK), DiskFormat::Qcow2, Some(snapshot));
        let flat = self.store.flat_ram(snapshot).unwrap();
        let kernel = snapshot.manifest.kernel.as_ref().map(|part| snapshot.path(&part.file));
        let resources = self.bench.resources(Ram::Private(flat), Some(&vm.disk()));
        let mut guest = self.bench.start(Resources { kernel, ..resources }).await;
        let saved = &snapshot.manifest.machine.as_ref().unwrap().arguments;
        assert_eq!(machine_differences(saved, &guest.arguments()), []);
        save::load(&self.store, snapshot, &guest.monitor, guest.pid(), Some(&guest.stderr)).await.unwrap();
        engine::resume(&guest.monitor).await.unwrap();
        guest.answers().await;
        assert_eq!(guest.complaints(), "");
        (vm, guest)
    }

    /// A VM that booted itself, with something on its disk.
    async fn booted(&self, name: &str) -> (VmDir, PathBuf, Guest) {
        let vm = self.vm(name, &self.image_disk, DiskFormat::Raw, None);
        let ram = self.bench.ram(&format!("{name}.ram"));
        let mut guest = self.bench.template(&ram, Some(&vm.disk())).await;
        engine::resume(&guest.monitor).await.unwrap();
        guest.hear(READY).await;
        super::io(&guest, "write -P 0x11 1M 64k").await;
        (vm, ram, guest)
    }
}

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

async fn from_a_vm_to_its_clones_clones(qemu: QemuFacts) {
    let whole = Whole::new(qemu);
    let (vm, ram, guest) = whole.booted("web").await;

    // The guest goes on as the first clone of its snapshot.
    let web = name("web@ready");
    let draft = whole.store.begin(&web, &[]).unwrap();
    engine::check_migratable(&guest.monitor).await.unwrap();
    let next = save::prepare_disk(&draft, &vm.disk()).unwrap();
    let mut new = whole.bench.clone_of(&ram, Some(&next)).await;
    let discard = || async { unreachable!("nothing fails") };
    let handed = save::hand_over(
        &guest.monitor,
        &new.monitor,
        Some(&vm.disk()),
        Some(&new.stderr),
        true,
        |_| (),
        discard,
    )
    .await
    .unwrap();
    let captured = save::finish_hand_over(&whole.store, &draft, &handed, &ram, &mut unwatched).unwrap();
    let snapshot = whole.publish(draft, &web, None, &guest, captured);
    vm.write_origin(Origin { snapshot: snapshot.id(), memory: true }).unwrap();
    guest.quit().await;
    new.answers().await;
    assert!(!next.exists());
    super::io(&new, "write -P 0x22 1M 64k").await;

    // Two clones see the disk as it was, and the VM what it has become.
    let (first_vm, first) = whole.clone_of(&snapshot, "first").await;
    let (_, second) = whole.clone_of(&snapshot, "second").await;
    for clone in [&first, &second] {
        super::io(clone, "read -P 0x11 1M 64k").await;
    }
    super::all_done(second, 1).await;
    super::io(&first, "write -P 0x33 1M 64k").await;

    // A clone is saved: what differs, and no more.
    let deeper = name("first@deeper");
    let draft = whole.store.begin(&deeper, std::slice::from_ref(&snapshot)).unwrap();
    let state = whole.store.state(&snapshot).unwrap().unwrap();
    let source = CloneSource {
        monitor: &first.monitor,
        pid: first.pid(),
        state: &state,
        base: whole.store.ram_base(&snapshot),
        goes_on: true,
        mapped: &whole.store.flat_ram(&snapshot).unwrap(),
        disk: Some(&first_vm.disk()),
    };
    let captured = save::save_clone(&whole.store, &draft, &source, &mut unwatched).await.unwrap();
    let child = whole.publish(draft, &deeper, Some(&snapshot), &first, captured);
    let sizes = whole.store.sizes(&child).unwrap();
    // With blocks that files share it is a whole file, which counts in full.
    assert!(sizes.own < 2 << 20 && sizes.shared > 128 << 10, "{sizes:?}");
    super::io(&first, "write -P 0x44 1M 64k").await;
    super::all_done(first, 3).await;

    // And so is the VM that went on, which maps the file that it had.
    let again = name("web@again");
    let draft = whole.store.begin(&again, std::slice::from_ref(&snapshot)).unwrap();
    let source = CloneSource {
        monitor: &new.monitor,
        pid: new.pid(),
        state: &state,
        base: whole.store.ram_base(&snapshot),
        goes_on: true,
        mapped: &ram,
        disk: Some(&vm.disk()),
    };
    let captured = save::save_clone(&whole.store, &draft, &source, &mut unwatched).await.unwrap();
    let sibling = whole.publish(draft, &again, Some(&snapshot), &new, captured);
    super::all_done(new, 1).await;

    // Clones of both, after their parent has been removed.
    whole.store.remove(&web, Removal::Detach).unwrap();
    for (number, (from, pattern)) in [(&child, "0x33"), (&sibling, "0x22")].into_iter().enumerate() {
        let (_, mut guest) = whole.clone_of(from, &format!("deep{number}")).await;
        super::io(&guest, &format!("read -P {pattern} 1M 64k")).await;
        guest.say("reset").await;
        guest.hear(READY).await;
        super::all_done(guest, 1).await;
    }
    assert!(whole.store.users(child.id()).unwrap().contains(&User::Clone("deep0".to_owned())));

    // On another host, from one stream.
    let stream = whole.store.export(&child, Vec::new(), archive::Level::default(), &mut unwatched).unwrap();
    let other = Whole::new(whole.bench.qemu.clone());
    let imported = other.store.import(stream.as_slice(), None, &mut unwatched).unwrap();
    let (_, mut guest) = other.clone_of(&imported, "far").await;
    super::io(&guest, "read -P 0x33 1M 64k").await;
    guest.say("reset").await;
    guest.hear(READY).await;
    super::all_done(guest, 1).await;

    // Nothing is left when nobody is.
    for vm in whole.home.vm_names().unwrap() {
        whole.home.vm(&vm).remove(&whole.home).unwrap();
    }
    for name in [deeper, again] {
        whole.store.remove(&name, Removal::Refuse).unwrap();
    }
    assert!(whole.store.list().unwrap().snapshots.is_empty());
}

#[tokio::test]
async fn from_a_vm_to_the_clones_of_its_clones() {
    from_a_vm_to_its_clones_clones(installed()).await;
}

#[tokio::test]
async fn from_a_vm_to_the_clones_of_its_clones_with_the_oldest_qemu() {
    from_a_vm_to_its_clones_clones(oldest()).await;
}

#[tokio::test]
async fn a_save_that_fails_leaves_the_vm_as_it_was() {
    let whole = Whole::new(installed());
    let (vm, ram, mut guest) = whole.booted("web").await;
    let below = || crate::snapshot::qcow2::backing(&vm.disk()).unwrap().unwrap();
    for copy in [true, false] {
        let draft = whole.store.begin(&name("web@x"), &[]).unwrap();
        let folder = draft.folder();
        // Where RAM is to go there is something already.
        draft.write("ram", b"in the way").unwrap();
        if copy {
            let saved = save::save_and_stop(
                &whole.store,
                &draft,
                &guest.monitor,
                &ram,
                Some(&vm.disk()),
                &mut unwatched,
            )
            .await;
            saved.unwrap_err();
            drop(draft);
            // The disk has a layer more, and stands on what was kept for it.
            assert_eq!(below(), folder.join(DISK));
        } else {
            let before = below();
            let next = save::prepare_disk(&draft, &vm.disk()).unwrap();
            // Another machine: it has one device less.
            let mut fewer = Bench::new(installed(), 64);
            fewer.spec.nets.clear();
            let mut resources = fewer.resources(Ram::Private(ram.clone()), Some(&next));
            resources.macs.clear();
            let new = fewer.start(resources).await;
            let monitor = new.monitor.clone();
            let discard = || async { drop(new) };
            let failed =
                save::hand_over(&guest.monitor, &monitor, Some(&vm.disk()), None, true, |_| (), discard)
                    .await;
            assert!(failed.unwrap_err().goes_on);
            drop(draft);
            assert!(!next.exists() && !folder.exists());
            assert_eq!(below(), before);
        }
        assert!(whole.store.list().unwrap().snapshots.is_empty());
        guest.answers().await;
    }
    // It can be saved all the same.
    let web = name("web@x");
    let draft = whole.store.begin(&web, &[]).unwrap();
    let captured =
        save::save_and_stop(&whole.store, &draft, &guest.monitor, &ram, Some(&vm.disk()), &mut unwatched)
            .await
            .unwrap();
    let snapshot = whole.publish(draft, &web, None, &guest, captured);
    super::io(&guest, "read -P 0x11 1M 64k").await;
    guest.quit().await;
    let (_, clone) = whole.clone_of(&snapshot, "clone").await;
    super::io(&clone, "read -P 0x11 1M 64k").await;
    super::all_done(clone, 1).await;
}

#[tokio::test]
async fn damage_keeps_a_clone_from_starting() {
    let whole = Whole::new(installed());
    let (vm, ram, guest) = whole.booted("web").await;
    let web = name("web@x");
    let draft = whole.store.begin(&web, &[]).unwrap();
    let captured =
        save::save_and_stop(&whole.store, &draft, &guest.monitor, &ram, Some(&vm.disk()), &mut unwatched)
            .await
            .unwrap();
    let snapshot = whole.publish(draft, &web, None, &guest, captured);
    let waiting = whole.bench.clone_of(&snapshot.path("ram"), None).await;
    for (file, at) in [("state", 100), ("digests", 40)] {
        let path = snapshot.path(file);
        super::guest::flip_bit(&path, at);
        let error =
            save::load(&whole.store, &snapshot, &waiting.monitor, waiting.pid(), None).await.unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        super::guest::flip_bit(&path, at);
    }
    // QEMU was not told anything.
    let status = waiting.monitor.execute_raw("query-status", serde_json::json!({}), PATIENCE).await.unwrap();
    assert_eq!(status["status"], "inmigrate");
    for file in ["ram", "disk.qcow2"] {
        let path = snapshot.path(file);
        super::guest::flip_bit(&path, 4096 * 300 % std::fs::metadata(&path).unwrap().len());
        let wrong = whole.store.verify(&snapshot, &mut unwatched);
        assert!(wrong.len() == 1 && wrong[0].to_string().contains(path.to_str().unwrap()), "{wrong:?}");
        super::guest::flip_bit(&path, 4096 * 300 % std::fs::metadata(&path).unwrap().len());
    }
}

#[test]
fn what_a_killed_save_left_of_a_disk_is_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::File::create(at("base.raw")).unwrap().set_len(1 << 20).unwrap();
    let disk = at("disk.qcow2");
    overlay::create(&disk, &at("base.raw"), DiskFormat::Raw, None).unwrap();
    save::settle_disk(&disk).unwrap();

    // Killed when the next layer was whole: the VM may have come to write to it.
    std::fs::hard_link(&disk, at("kept.qcow2")).unwrap();
    overlay::create(&save::next_disk(&disk), &at("kept.qcow2"), DiskFormat::Qcow2, None).unwrap();
    save::settle_disk(&disk).unwrap();
    assert_eq!(crate::snapshot::qcow2::backing(&disk).unwrap(), Some(at("kept.qcow2")));
    assert!(!save::next_disk(&disk).exists());

    // Killed before: nobody has used it, and what it stood on is gone.
    std::fs::write(save::next_disk(&disk), b"").unwrap();
    save::settle_disk(&disk).unwrap();
    overlay::create(&save::next_disk(&disk), &disk, DiskFormat::Qcow2, None).unwrap();
    crate::snapshot::qcow2::set_backing(&save::next_disk(&disk), &at("gone")).unwrap();
    save::settle_disk(&disk).unwrap();
    assert!(!save::next_disk(&disk).exists());
    assert_eq!(crate::snapshot::qcow2::backing(&disk).unwrap(), Some(at("kept.qcow2")));
}
