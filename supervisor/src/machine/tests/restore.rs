//! A QEMU that loads a snapshot has the machine of the one that was saved.

use super::*;

fn restored(given: Resources, machine_type: &str, cpu: &str) -> Resources {
    let restore = Restore { machine_type: machine_type.to_owned(), cpu: cpu.to_owned() };
    Resources { ram: Ram::Private("/snapshots/ram".into()), restore: Some(restore), ..given }
}

/// Option, part, property and right side of each difference.
fn differences(left: &[String], right: &[String]) -> Vec<String> {
    diff(left, right)
        .into_iter()
        .map(|d| {
            let words = [Some(d.option), d.part, d.property, d.right];
            words.into_iter().flatten().collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[test]
fn a_restored_machine_differs_in_its_ram_alone() {
    for (machine, arch) in BOARDS {
        for accel in [ResolvedAccel::Kvm, ResolvedAccel::Tcg] {
            for kind in Kind::ALL {
                let spec = spec(machine, arch);
                let qemu = facts(arch, (10, 0, 2));
                let given = resources(&spec, *kind, accel);
                let source = arguments(&spec, &qemu, &given).unwrap();
                let machine_type = value(&source, "-machine").unwrap().split(',').next().unwrap().to_owned();
                let cpu = value(&source, "-cpu").unwrap().to_owned();
                let list = arguments(&spec, &qemu, &restored(given, &machine_type, &cpu)).unwrap();
                assert_eq!(
                    differences(&source, &list),
                    [
                        "-object ram mem-path /snapshots/ram",
                        "-object ram share off",
                        "-object ram readonly on",
                        "-object ram rom off",
                        "-incoming defer",
                    ],
                    "{kind} on {machine}"
                );
            }
        }
    }
}

#[test]
fn a_newer_qemu_restores_with_the_sources_machine_type_and_cpu() {
    let spec = spec(Machine::Auto, Arch::X86_64);
    let given = restored(resources(&spec, Kind::Linux, ResolvedAccel::Kvm), "pc-q35-7.2", "host");
    let list = arguments(&spec, &facts(Arch::X86_64, (10, 0, 2)), &given).unwrap();
    assert!(value(&list, "-machine").unwrap().starts_with("pc-q35-7.2,"), "{list:?}");
    assert_eq!(value(&list, "-cpu"), Some("host"));
}

#[test]
fn ram_is_mapped_from_a_file_that_is_only_read_where_qemu_can() {
    let spec = spec(Machine::Auto, Arch::X86_64);
    for (version, words) in
        [((7, 2, 22), "share=off"), ((8, 1, 0), "share=off"), ((8, 2, 0), "share=off,readonly=on,rom=off")]
    {
        let given = restored(resources(&spec, Kind::Linux, ResolvedAccel::Tcg), "pc-q35-7.2", "x");
        let list = arguments(&spec, &facts(Arch::X86_64, version), &given).unwrap();
        let memory = value(&list, "-object").unwrap();
        assert!(memory.ends_with(words) && memory.contains("mem-path=/snapshots/ram,"), "{memory}");
    }
}
