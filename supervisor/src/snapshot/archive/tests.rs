//! Archives of snapshots: what goes in comes out, and nothing that is damaged does.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::image::overlay;
use crate::machine::DiskFormat;
use crate::snapshot::SnapshotError;
use crate::snapshot::manifest::{DISK, DiskBase, Manifest, RAM, RAM_DELTA, STATE};
use crate::snapshot::ram::delta::Delta;
use crate::snapshot::ram::{self, unwatched};
use crate::snapshot::store::tests::{Place, name, saved, saved_twice};
use crate::snapshot::store::{Removal, Snapshot};

use super::Level;

fn exported(place: &Place, snapshot: &Snapshot) -> Vec<u8> {
    place.store.export(snapshot, Vec::new(), Level::default(), &mut unwatched).unwrap()
}

#[test]
fn a_snapshot_of_a_clone_is_whole_on_another_host() {
    let (place, first, second) = saved_twice();
    let archive = exported(&place, &second);
    assert!(archive.len() < 64 << 10, "{} bytes for a few pages", archive.len());
    let other = Place::new();
    let mut told = (0, 0);
    let imported =
        other.store.import(archive.as_slice(), None, &mut |done, total| told = (done, total)).unwrap();
    assert!(told.0 == told.1 && told.1 > 0);
    assert_eq!(imported.names, [name("clone@two")]);
    assert_ne!(imported.id(), second.id());
    assert!(other.store.verify(&imported, &mut unwatched).is_empty());
    let wanted = Manifest {
        id: imported.id(),
        ram: imported.manifest.ram.clone(),
        disk: imported.manifest.disk.clone(),
        ..second.manifest.clone()
    };
    assert_eq!(imported.manifest, wanted);
    assert_eq!(fs::read(imported.path(STATE)).unwrap(), fs::read(second.path(STATE)).unwrap());

    // The memory is the base's with the clone's pages.
    let whole = place.home.state().join("whole");
    fs::copy(first.path(RAM), &whole).unwrap();
    fs::set_permissions(&whole, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    Delta::open(&second.path(RAM_DELTA)).unwrap().apply_to_file(&whole, &mut unwatched).unwrap();
    assert!(fs::read(imported.path(RAM)).unwrap() == fs::read(whole).unwrap());
    let scan = ram::RamFile::open(&imported.path(RAM)).unwrap().scan(&mut unwatched).unwrap();
    assert!(scan.allocated < 256 << 10, "holes stay holes: {scan:?}");

    // The disk's layers stand on each other and on the image that is there.
    let disk = imported.manifest.disk.as_ref().unwrap();
    assert_eq!((disk.layers.len(), disk.base), (2, DiskBase::Image));
    let below = |file: &str| crate::snapshot::qcow2::backing(&imported.path(file)).unwrap().unwrap();
    assert_eq!(
        (below(DISK), below("disk-1.qcow2")),
        (imported.path("disk-1.qcow2"), other.image_disk.clone())
    );

    // It can be a base itself, and goes as any other.
    let clone = other.home.state().join("overlay.qcow2");
    overlay::create(&clone, &imported.path(DISK), DiskFormat::Qcow2, None).unwrap();
    other.store.remove(&name("clone@two"), Removal::Refuse).unwrap();
    assert!(other.folders().is_empty());
}

#[test]
fn a_flat_snapshot_comes_back_under_another_name() {
    let (place, first) = saved();
    let archive = exported(&place, &first);
    let taken = place.store.import(archive.as_slice(), None, &mut unwatched);
    assert!(matches!(taken, Err(SnapshotError::Taken(_))));
    let again = place.store.import(archive.as_slice(), Some(&name("web@again")), &mut unwatched).unwrap();
    assert!(fs::read(again.path(RAM)).unwrap() == fs::read(first.path(RAM)).unwrap());
    assert_eq!(place.store.list().unwrap().snapshots.len(), 2);
    // And so does what was imported.
    let twice = exported(&place, &again);
    place.store.import(twice.as_slice(), Some(&name("web@twice")), &mut unwatched).unwrap();
}

#[test]
fn without_its_image_nothing_is_read() {
    let (place, first) = saved();
    let archive = exported(&place, &first);
    let other = Place::new();
    fs::remove_file(&other.image_disk).unwrap();
    let error = other.store.import(archive.as_slice(), None, &mut unwatched).unwrap_err();
    assert!(matches!(&error, SnapshotError::NoImage { name, .. } if name == "img"), "{error}");
    assert!(other.folders().is_empty());
}

#[test]
fn a_damaged_snapshot_is_not_exported() {
    let (place, first) = saved();
    let path = first.path(STATE);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"QEVM: b state").unwrap();
    let error = place.store.export(&first, Vec::new(), Level::default(), &mut unwatched).unwrap_err();
    assert!(matches!(&error, SnapshotError::Damaged { path: found, .. } if *found == path), "{error}");
}

/// Reads at most so many bytes of an archive.
fn fails(other: &Place, bytes: &[u8], what: &str) {
    let result = other.store.import(bytes, None, &mut unwatched);
    let error = result.map(|_| ()).expect_err(what);
    let known = matches!(error, SnapshotError::Archive(_) | SnapshotError::Newer { .. });
    assert!(known, "{what}: {error:?}");
    assert!(other.folders().is_empty(), "{what} left something behind");
}

#[test]
fn an_archive_that_is_cut_short_or_changed_leaves_nothing() {
    let (place, _first, second) = saved_twice();
    let archive = exported(&place, &second);
    let other = Place::new();
    let step = (archive.len() / 40).max(1);
    for cut in (0..archive.len()).step_by(step).chain([archive.len() - 1]) {
        fails(&other, &archive[..cut], &format!("{cut} of {} bytes", archive.len()));
    }
    let plain = zstd::decode_all(archive.as_slice()).unwrap();
    let mut same = 0;
    for at in (0..archive.len()).step_by(step).chain(archive.len() - 4..archive.len()) {
        let mut bytes = archive.clone();
        bytes[at] ^= 1 << (at % 8);
        // A few bits of a zstd frame mean nothing: with them it is the same archive.
        if zstd::decode_all(bytes.as_slice()).is_ok_and(|content| content == plain) {
            same += 1;
            continue;
        }
        fails(&other, &bytes, &format!("a bit of byte {at} was flipped"));
    }
    assert!(same < 5, "{same} changes changed nothing");
    fails(&other, &[archive.as_slice(), b"more"].concat(), "something follows");
    fails(&other, b"", "nothing");
    fails(&other, b"no archive at all", "another file");
    other.store.import(archive.as_slice(), None, &mut unwatched).unwrap();
}

/// An archive with other content in well-formed clothes: what a checksum of the stream does not find.
fn repacked(archive: &[u8], change: impl Fn(&str, &mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut tar = tar::Archive::new(zstd::Decoder::new(archive).unwrap());
    let mut out = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let words: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .into_iter()
            .flatten()
            .map(|word| word.map(|w| (w.key().unwrap().to_owned(), w.value_bytes().to_vec())).unwrap())
            .collect();
        let path = entry.path().unwrap().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if !change(path.to_str().unwrap(), &mut bytes) {
            continue;
        }
        if !words.is_empty() {
            out.append_pax_extensions(words.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
                .unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        out.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    out.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_archive_that_was_put_together_otherwise_is_refused() {
    let (place, first) = saved();
    let archive = exported(&place, &first);
    let other = Place::new();
    let with = |what: &str, change: &dyn Fn(&str, &mut Vec<u8>) -> bool| {
        fails(&other, &repacked(&archive, change), what);
    };
    for file in ["manifest.json", "digests", "state", "GNUSparseFile.0/ram", "disk.qcow2"] {
        with(&format!("{file} is missing"), &|name, _| name != file);
        with(&format!("{file} is longer"), &|name, bytes| {
            if name == file {
                bytes.push(b' ');
            }
            true
        });
        with(&format!("{file} is another"), &|name, bytes| {
            if name == file {
                let last = bytes.len() - 2;
                bytes[last] ^= 1;
            }
            true
        });
    }
    let replace = |from: &'static str, to: &'static str| {
        move |name: &str, bytes: &mut Vec<u8>| {
            if name == "manifest.json" {
                *bytes = String::from_utf8(bytes.clone()).unwrap().replace(from, to).into_bytes();
            }
            true
        }
    };
    with("a file of another folder", &replace("\"disk.qcow2\"", "\"../disk.qcow2\""));
    with("another name of the state", &replace("\"state\",\n", "\"stata\",\n"));
    with("a newer format", &replace("\"schema\": 1", "\"schema\": 2"));
    // As it was.
    other.store.import(repacked(&archive, |_, _| true).as_slice(), None, &mut unwatched).unwrap();
}

/// Others can read it too.
#[test]
fn gnu_tar_unpacks_it() {
    let (place, first) = saved();
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("archive.tar");
    let mut bytes = Vec::new();
    zstd::Decoder::new(exported(&place, &first).as_slice()).unwrap().read_to_end(&mut bytes).unwrap();
    fs::write(&plain, bytes).unwrap();
    let output = Command::new("tar").arg("-xf").arg(&plain).arg("-C").arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in [STATE, RAM, DISK] {
        assert!(fs::read(folder.path().join(file)).unwrap() == fs::read(first.path(file)).unwrap(), "{file}");
    }
    assert!(!Path::new(&folder.path().join("GNUSparseFile.0")).exists());
}
