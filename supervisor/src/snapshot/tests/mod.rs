//! Snapshots of real guests on the real QEMU: the installed one and the oldest that midge supports.

mod guest;
mod whole;

use std::path::Path;

use serde_json::json;
use uuid::Uuid;

use super::engine::{self, HandedOver};
use super::ram::process::Mapping;
use super::ram::{self, delta, unwatched};
use super::*;
use crate::host::QemuFacts;
use crate::image::overlay;
use crate::machine::{DiskFormat, ResolvedAccel};
use crate::spec::Size;
use guest::{Bench, Guest, PATIENCE};

const READY: &str = "[init done]";

/// Lets a template go on as the first clone of its own snapshot.
async fn hand_over(bench: &Bench, template: Guest, ram: &Path) -> (Guest, HandedOver) {
    let new = bench.clone_of(ram, None).await;
    // A QEMU that waits has touched nothing: what it had would hide what the first one writes until it stops.
    let mapping = Mapping::private_of(new.pid(), ram).unwrap();
    assert_eq!(mapping.own_pages().unwrap(), []);
    let discard = || async { unreachable!("nothing fails") };
    let handed = engine::hand_over(&template.monitor, &new.monitor, Some(&new.stderr), true, |_| (), discard)
        .await
        .unwrap();
    assert_eq!(template.complaints(), "");
    template.quit().await;
    (new, handed)
}

/// A clone of a flat RAM file, running.
async fn clone_of(bench: &Bench, ram: &Path, state: &[u8]) -> Guest {
    let clone = bench.clone_of(ram, None).await;
    engine::load(&clone.monitor, state, Some(&clone.stderr)).await.unwrap();
    engine::resume(&clone.monitor).await.unwrap();
    clone
}

async fn a_guest_is_handed_over_and_cloned_and_its_clone_is_cloned(bench: Bench) {
    let source = bench.ram("ram");
    let mut template = bench.template(&source, None).await;
    engine::check_migratable(&template.monitor).await.unwrap();
    engine::resume(&template.monitor).await.unwrap();
    template.hear(READY).await;

    let (mut first, handed) = hand_over(&bench, template, &source).await;
    first.answers().await;

    // The file that was handed over becomes the snapshot's.
    let flat = bench.path("snapshot-ram");
    let copied = ram::copy(&source, &flat, &mut unwatched).unwrap();
    assert!(copied.written < 4 << 20, "{} bytes of 64 MiB were written", copied.written);
    let mut clones =
        [clone_of(&bench, &flat, &handed.state).await, clone_of(&bench, &flat, &handed.state).await];
    for clone in &mut clones {
        clone.answers().await;
        assert_eq!(clone.complaints(), "");
    }
    // What they wrote is their own.
    copied.digests.verify(&flat, &mut unwatched).unwrap();
    let [second, mut third] = clones;
    // A clone can reset: it has its firmware.
    third.say("reset").await;
    third.hear(READY).await;

    // A clone of the clone: its memory is the clone's to the last byte.
    engine::check_migratable(&second.monitor).await.unwrap();
    engine::pause(&second.monitor).await.unwrap();
    let state = engine::state_of_clone(&second.monitor, &handed.state).await.unwrap();
    let mapping = Mapping::private_of(second.pid(), &flat).unwrap();
    let own = mapping.own_pages().unwrap();
    assert!(!own.is_empty());
    let memory = mapping.memory().unwrap();
    let (file, base) = (bench.path("delta"), Uuid::new_v4());
    let bytes = bench.spec.memory.bytes();
    delta::write(&file, base, bytes, &own, |at, into| memory.read(at, into)).unwrap();
    let wanted = second.memory(&bench).await;
    engine::resume(&second.monitor).await.unwrap();

    let mut grandchild = bench.clone_of(&flat, None).await;
    let mapping = Mapping::private_of(grandchild.pid(), &flat).unwrap();
    delta::Delta::open(&file).unwrap().apply_to_process(&mapping, &mut unwatched).unwrap();
    engine::load(&grandchild.monitor, &state, Some(&grandchild.stderr)).await.unwrap();
    let found = grandchild.memory(&bench).await;
    let page = ram::page_size();
    let differing: Vec<usize> = (0..found.len() / page)
        .filter(|n| wanted[n * page..(n + 1) * page] != found[n * page..(n + 1) * page])
        .collect();
    // The generation that QEMU tells the guest of is new in each.
    assert!(differing.len() <= 1, "pages {differing:?} differ");
    engine::resume(&grandchild.monitor).await.unwrap();
    grandchild.answers().await;
    grandchild.say("reset").await;
    grandchild.hear(READY).await;
    assert_eq!(grandchild.complaints(), "");
    copied.digests.verify(&flat, &mut unwatched).unwrap();
}

#[tokio::test]
async fn a_guest_is_handed_over_and_cloned() {
    a_guest_is_handed_over_and_cloned_and_its_clone_is_cloned(Bench::new(guest::installed(), 64)).await;
}

#[tokio::test]
async fn a_guest_is_handed_over_and_cloned_by_the_oldest_qemu() {
    a_guest_is_handed_over_and_cloned_and_its_clone_is_cloned(Bench::new(guest::oldest(), 64)).await;
}

#[tokio::test]
async fn a_guest_is_handed_over_and_cloned_under_kvm_where_it_can_be_used() {
    if !matches!(crate::host::kvm::state(), crate::host::KvmState::Absent { .. }) {
        let bench = Bench { accel: ResolvedAccel::Kvm, ..Bench::new(guest::installed(), 16) };
        a_guest_is_handed_over_and_cloned_and_its_clone_is_cloned(bench).await;
    }
}

#[tokio::test]
async fn a_guest_goes_on_in_the_same_qemu_after_a_copy() {
    let bench = Bench::new(guest::installed(), 32);
    let source = bench.ram("ram");
    let mut template = bench.template(&source, None).await;
    engine::resume(&template.monitor).await.unwrap();
    template.hear(READY).await;
    for round in 0..2 {
        engine::pause(&template.monitor).await.unwrap();
        let state = engine::state_of_template(&template.monitor).await.unwrap();
        let flat = bench.path(&format!("flat-{round}"));
        ram::copy(&source, &flat, &mut unwatched).unwrap();
        engine::resume(&template.monitor).await.unwrap();
        template.answers().await;
        clone_of(&bench, &flat, &state).await.answers().await;
    }
    assert_eq!(template.complaints(), "");
}

/// Has QEMU itself write to the guest's disk or read from it; it tells of that on its standard output when it ends.
async fn io(guest: &Guest, command: &str) {
    let line = format!("qemu-io -d disk0/virtio-backend \"{command}\"");
    let said = guest.monitor.human(&line, PATIENCE).await.unwrap();
    assert_eq!(said.trim(), "", "{command}");
}

/// Checks what [`io`] came to, and that the disk held what it was compared with.
async fn all_done(guest: Guest, count: usize) {
    let said = guest.quit().await;
    let done = said.matches(" 65536/65536 bytes at offset 1048576").count();
    assert!(done == count && !said.contains("failed"), "{count} were asked: {said}");
}

async fn a_disk_keeps_what_it_held_at_the_pause(qemu: QemuFacts) {
    let bench = Bench::new(qemu, 32);
    let base = bench.path("base.raw");
    std::fs::File::create(&base).unwrap().set_len(8 << 20).unwrap();
    let disk = bench.path("disk.qcow2");
    overlay::create(&disk, &base, DiskFormat::Raw, Some(Size::from_mib(8))).unwrap();
    let source = bench.ram("ram");
    let mut template = bench.template(&source, Some(&disk)).await;
    engine::resume(&template.monitor).await.unwrap();
    template.hear(READY).await;
    io(&template, "write -P 0x11 1M 64k").await;

    // In the same QEMU: a new layer, twice.
    let mut layers = vec![disk];
    let mut states = Vec::new();
    for round in 0..2_u64 {
        let layer = bench.path(&format!("layer-{round}.qcow2"));
        overlay::create(&layer, layers.last().unwrap(), DiskFormat::Qcow2, None).unwrap();
        engine::pause(&template.monitor).await.unwrap();
        assert!(engine::switch_disk(&template.monitor, &layer, &round.to_string()).await.unwrap());
        let flat = bench.path(&format!("flat-{round}"));
        let state = engine::state_of_template(&template.monitor).await.unwrap();
        ram::copy(&source, &flat, &mut unwatched).unwrap();
        engine::resume(&template.monitor).await.unwrap();
        states.push((state, flat));
        layers.push(layer);
        io(&template, &format!("write -P 0x2{round} 1M 64k")).await;
    }
    template.answers().await;

    // Each clone sees its own moment, while the source still runs, and writes to a layer of its own.
    for (round, (state, flat)) in states.iter().enumerate() {
        let layer = bench.path(&format!("clone-{round}.qcow2"));
        overlay::create(&layer, &layers[round], DiskFormat::Qcow2, None).unwrap();
        let mut clone = bench.clone_of(flat, Some(&layer)).await;
        engine::load(&clone.monitor, state, Some(&clone.stderr)).await.unwrap();
        engine::resume(&clone.monitor).await.unwrap();
        clone.answers().await;
        let pattern = ["0x11", "0x20"][round];
        io(&clone, &format!("read -P {pattern} 1M 64k")).await;
        io(&clone, "write -P 0x33 1M 64k").await;
        all_done(clone, 2).await;
    }
    io(&template, "read -P 0x21 1M 64k").await;

    // To another QEMU: it takes the disk over while the first one still has it open.
    let next = bench.path("next.qcow2");
    overlay::create(&next, layers.last().unwrap(), DiskFormat::Qcow2, None).unwrap();
    let mut new = bench.clone_of(&source, Some(&next)).await;
    let discard = || async { unreachable!("nothing fails") };
    engine::hand_over(&template.monitor, &new.monitor, Some(&new.stderr), true, |_| (), discard)
        .await
        .unwrap();
    io(&new, "read -P 0x21 1M 64k").await;
    io(&new, "write -P 0x44 1M 64k").await;
    new.answers().await;
    assert_eq!((template.complaints(), new.complaints()), (String::new(), String::new()));
    all_done(template, 4).await;
    all_done(new, 2).await;
}

#[tokio::test]
async fn a_disk_keeps_what_it_held() {
    a_disk_keeps_what_it_held_at_the_pause(guest::installed()).await;
}

#[tokio::test]
async fn a_disk_keeps_what_it_held_with_the_oldest_qemu() {
    a_disk_keeps_what_it_held_at_the_pause(guest::oldest()).await;
}

#[tokio::test]
async fn a_guest_that_cannot_be_handed_over_goes_on_where_it_is() {
    for qemu in [guest::installed(), guest::oldest()] {
        let bench = Bench::new(qemu, 32);
        let source = bench.ram("ram");
        let mut template = bench.template(&source, None).await;
        engine::resume(&template.monitor).await.unwrap();
        template.hear(READY).await;

        // Another machine: it has one device less.
        let mut other = bench.resources(crate::machine::Ram::Private(source.clone()), None);
        other.macs.clear();
        let mut fewer = Bench::new(bench.qemu.clone(), 32);
        fewer.spec.nets.clear();
        let new = fewer.start(other).await;
        let (monitor, stderr) = (new.monitor.clone(), new.stderr.clone());
        let discard = || async { drop(new) };
        let error = engine::hand_over(&template.monitor, &monitor, Some(&stderr), true, |_| (), discard)
            .await
            .unwrap_err();
        assert!(error.goes_on, "{error}");
        let why = crate::error::chain(&error.source);
        assert!(why.contains("Unknown savevm section"), "QEMU's own words are lost: {why}");
        template.answers().await;
        // And it can still be saved.
        engine::pause(&template.monitor).await.unwrap();
        engine::state_of_template(&template.monitor).await.unwrap();
    }
}

#[tokio::test]
async fn a_state_that_is_not_whole_is_refused() {
    let bench = Bench::new(guest::installed(), 32);
    let source = bench.ram("ram");
    let mut template = bench.template(&source, None).await;
    engine::resume(&template.monitor).await.unwrap();
    template.hear(READY).await;
    engine::pause(&template.monitor).await.unwrap();
    let state = engine::state_of_template(&template.monitor).await.unwrap();
    for cut in [0, 4, state.len() / 2, state.len() - 1] {
        let clone = bench.clone_of(&source, None).await;
        let error = engine::load(&clone.monitor, &state[..cut], Some(&clone.stderr)).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Qemu { what: "load the saved state", .. }), "{error:?}");
    }
}

#[tokio::test]
async fn what_cannot_travel_is_refused_before_the_guest_stops() {
    let mut bench = Bench::new(guest::installed(), 32);
    let image = bench.path("nvme.raw");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let words = [
        "-blockdev".to_owned(),
        format!("driver=file,node-name=n,filename={}", image.display()),
        "-device".to_owned(),
        "nvme,serial=x,drive=n".to_owned(),
    ];
    bench.spec.qemu_args.extend(words);
    let source = bench.ram("ram");
    let guest = bench.template(&source, None).await;
    let error = engine::check_migratable(&guest.monitor).await.unwrap_err();
    assert!(error.to_string().contains("nvme"), "{error}");
    let status = guest.monitor.execute_raw("query-status", json!({}), PATIENCE).await.unwrap();
    assert_eq!(status["status"], "prelaunch");
}
