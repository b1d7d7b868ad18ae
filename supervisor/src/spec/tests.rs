//! What a spec accepts, and how it tells what it does not.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn valid() -> VmSpec {
    let boot = Boot { image: Some("debian:12".into()), ..Boot::default() };
    VmSpec { boot, arch: Arch::X86_64, ..VmSpec::named("vm") }
}

/// The errors of a spec, one text each.
fn errors(spec: &VmSpec) -> Vec<String> {
    spec.validate().err().map_or_else(Vec::new, |errors| errors.0.iter().map(ToString::to_string).collect())
}

/// The errors of a description that starts from a valid one and has these fields besides.
fn json_errors(fields: Value) -> Vec<String> {
    let mut whole = json!({ "name": "vm", "boot": { "image": "debian:12" }, "arch": "x86_64" });
    let Value::Object(fields) = fields else { panic!("an object is meant") };
    whole.as_object_mut().unwrap().extend(fields);
    VmSpec::from_json(&whole)
        .err()
        .map_or_else(Vec::new, |errors| errors.to_string().lines().map(str::to_owned).collect())
}

#[test]
fn names_are_dns_labels() {
    for name in ["a", "vm-1", "0", &"a".repeat(63)] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    for (name, text) in [
        ("", "name: a VM needs a name".to_owned()),
        ("a/b", "name: `a/b` holds '/': a name is made of a-z, 0-9 and `-` (`a-b` would do)".to_owned()),
        (
            "My VM",
            "name: `My VM` holds 'M': a name is made of a-z, 0-9 and `-` (`my-vm` would do)".to_owned(),
        ),
        ("-a", "name: `-a` starts or ends with `-` (`a` would do)".to_owned()),
        ("..", "name: `..` holds '.': a name is made of a-z, 0-9 and `-`".to_owned()),
        (
            &"a".repeat(200),
            format!("name: a name has at most 63 characters, this one 200 (`{}` would do)", "a".repeat(63)),
        ),
    ] {
        assert_eq!(check_name(name).unwrap_err().to_string(), text);
    }
}

#[test]
fn all_errors_are_told_at_once_each_on_its_line() {
    let spec = VmSpec {
        name: "a/b".into(),
        boot: Boot::default(),
        cpus: 0,
        memory: Size::from_mib(0),
        ttl_seconds: Some(0),
        ..valid()
    };
    let text = spec.validate().unwrap_err().to_string();
    let fields: Vec<_> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(fields, ["name", "boot", "cpus", "memory", "ttl_seconds"], "{text}");
}

#[test]
fn memory_has_bounds() {
    let with = |memory| errors(&VmSpec { memory, ..valid() });
    assert_eq!(
        with(Size::from_mib(0)),
        ["memory: 0K is not from 4M to 960G (a bare number is MiB; a small Debian wants 512M)"]
    );
    assert_eq!(
        with("1T".parse().unwrap()),
        ["memory: 1T is not from 4M to 960G (a bare number is MiB; a small Debian wants 512M)"]
    );
    assert_eq!(with("5000K".parse().unwrap()), ["memory: 5000K is not a whole number of MiB"]);
    assert_eq!(with(MIN_MEMORY), Vec::<String>::new());
    assert_eq!(with(MAX_MEMORY), Vec::<String>::new());
}

#[test]
fn sizes_are_checked_against_the_host_apart() {
    let spec = VmSpec { memory: Size::from_mib(4096), cpus: 4, ..valid() };
    assert_eq!(spec.validate_against(4 << 30, 4), Ok(()));
    assert_eq!(
        spec.validate_against(2 << 30, 2).unwrap_err().to_string(),
        "memory: 4G is more than this host's 2G (ask for at most 2G)\n\
         cpus: 4 are more than this host's 2 (ask for 1 to 2)"
    );
}

#[test]
fn a_boot_source_is_needed() {
    let with = |boot| errors(&VmSpec { boot, ..valid() });
    assert_eq!(with(Boot::default()), ["boot: there is nothing to boot (name an image or a kernel)"]);
    let rest = Boot { initrd: Some("/i".into()), append: Some("quiet".into()), ..Boot::default() };
    assert_eq!(with(rest).len(), 3);
    let both = Boot { append: Some("a\nb".into()), kernel: Some("/k".into()), ..Boot::default() };
    assert_eq!(with(both), ["boot.append: a kernel command line is a single line"]);
}

#[test]
fn boards_and_kinds_must_fit_the_instruction_set() {
    let with = |arch, machine, kind| errors(&VmSpec { kind, arch, machine, ..valid() });
    let (x86, arm) = (Arch::X86_64, Arch::Aarch64);
    let none: [&str; 0] = [];
    assert_eq!(with(x86, Machine::Microvm, Kind::Hermit), none);
    assert_eq!(with(arm, Machine::Auto, Kind::Linux), none);
    assert_eq!(
        with(arm, Machine::Microvm, Kind::Linux),
        ["machine: `microvm` is no machine for aarch64 (use virt, or leave it to midge)"]
    );
    assert_eq!(
        with(x86, Machine::Virt, Kind::Linux),
        ["machine: `virt` is no machine for x86_64 (use q35 or microvm, or leave it to midge)"]
    );
    assert_eq!(
        with(arm, Machine::Auto, Kind::Solo5),
        ["kind: Solo5 has no virtio target for aarch64, so its unikernels cannot run under QEMU there \
          (build it for x86_64)"]
    );
    assert_eq!(
        with(x86, Machine::Microvm, Kind::Solo5),
        ["machine: Solo5 finds its devices on PCI only, and a microvm has none (use q35)"]
    );
}

#[test]
fn interfaces_must_fit_and_differ() {
    let net = |forwards: &[&str], mac: Option<&str>| Net::User {
        forwards: forwards.iter().map(|text| text.parse().unwrap()).collect(),
        mac: mac.map(|text| text.parse().unwrap()),
    };
    let with = |nets| errors(&VmSpec { nets, ..valid() });
    assert_eq!(
        with(vec![net(&["8080:80"], Some("52:54:00:00:00:01")), net(&["22:22", "0.0.0.0:8080:81"], None)]),
        [
            "nets[1].forwards[1]: port 8080 of 0.0.0.0 is taken by nets[0].forwards[0] already (choose another host port)"
        ]
    );
    assert_eq!(
        with(vec![
            net(&[], Some("52:54:00:00:00:01")),
            Net::None { mac: Some("52:54:00:00:00:01".parse().unwrap()) }
        ]),
        ["nets[1].mac: 52:54:00:00:00:01 is nets[0]'s address already"]
    );
    assert_eq!(with(vec![Net::None { mac: None }; 17]).len(), 1);
    let crowded = VmSpec { nets: vec![Net::None { mac: None }; 6], machine: Machine::Microvm, ..valid() };
    assert_eq!(
        errors(&crowded),
        ["nets: a microvm has room for 5 network interfaces, and there are 6 (use q35)"]
    );
}

#[test]
fn ssh_keys_are_public_and_whole() {
    let good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@home";
    let with = |key: &str| errors(&VmSpec { ssh_keys: vec![key.into()], ..valid() });
    assert_eq!(with(good), Vec::<String>::new());
    assert_eq!(with(&format!("{good}\n")), Vec::<String>::new());
    for (key, problem) in [
        ("", "is not a public key"),
        ("ssh-ed25519", "is not a public key"),
        (&format!("{good}\n{good}"), "is more than one line"),
        ("hello world", "does not start with a key type"),
        ("ssh-ed25519 ???", "is damaged: not base64"),
        (&good.replace("ssh-ed25519", "ssh-rsa"), "is damaged: the key is not of the type it says"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA", "is a private key"),
    ] {
        let errors = with(key);
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("ssh_keys[0]: {problem}")),
            "{key}: {errors:?}"
        );
    }
}

#[test]
fn labels_cpu_models_and_qemu_words_have_forms() {
    let label = |key: &str, value: &str| {
        errors(&VmSpec { labels: BTreeMap::from([(key.into(), value.into())]), ..valid() }).len()
    };
    assert_eq!(
        (label("ci/job.id_1-a", "x y"), label("", "x"), label("Big", "x"), label("a", "x\ny")),
        (0, 1, 1, 1)
    );
    let cpu = |model: &str| errors(&VmSpec { cpu: Some(model.into()), ..valid() }).len();
    assert_eq!((cpu("Haswell-v4,avx2=off,+x"), cpu(""), cpu("a b"), cpu("-x")), (0, 1, 1, 1));
    let words = |words: &[&str]| {
        errors(&VmSpec { qemu_args: words.iter().map(|word| (*word).to_owned()).collect(), ..valid() }).len()
    };
    assert_eq!((words(&["-device", "edu"]), words(&["-daemonize"]), words(&["--pidfile", "x\0"])), (0, 1, 2));
}

#[test]
fn unknown_fields_are_named_with_their_nearest() {
    assert_eq!(json_errors(json!({ "memroy": "1G" })), ["memroy: unknown field (did you mean `memory`?)"]);
    assert_eq!(
        json_errors(json!({ "boot": { "image": "a", "kernal": "/k" } })),
        ["boot.kernal: unknown field (did you mean `kernel`?)"]
    );
    let lines = json_errors(json!({ "nets": [{ "type": "user", "forwards": [{ "hots": 1, "guest": 2 }] }] }));
    assert_eq!(
        lines,
        [
            "nets[0].forwards[0].hots: unknown field (did you mean `host`?)",
            "nets[0].forwards[0].host: is missing"
        ]
    );
    assert!(json_errors(json!({ "zzz": 1 }))[0].contains("known are name, boot, kind"));
}

#[test]
fn forms_and_rules_are_told_together_and_a_field_once() {
    let lines = json_errors(json!({
        "name": "a/b", "memory": "lots", "cpus": -1, "kind": "debian", "ttl_seconds": 0, "frob": true,
        "nets": [{ "type": "macvtap" }, { "type": "user", "forwards": [{ "host": 70000, "guest": 80 }] }, 7],
        "ready": "serial:(",
    }));
    let fields: Vec<_> = lines.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "kind",
            "cpus",
            "memory",
            "nets[0].type",
            "nets[1].forwards[0].host",
            "nets[2]",
            "ready",
            "frob",
            "name",
            "ttl_seconds"
        ],
        "{lines:#?}"
    );
}

#[test]
fn forms_are_told_in_the_words_of_the_command_line() {
    assert_eq!(
        json_errors(json!({ "machine": "pc", "cpus": "two", "memory": ["1G"] })),
        [
            "machine: `pc` is no machine: write auto, q35, microvm or virt",
            "cpus: `\"two\"` is not a whole number from 0 to 4294967295",
            "memory: is a text, not a list"
        ]
    );
}

#[test]
fn a_bare_number_of_memory_is_mib() {
    let json = json!({ "name": "vm", "boot": { "image": "a" }, "memory": 256, "disk": null });
    assert_eq!(VmSpec::from_json(&json).unwrap().memory, Size::from_mib(256));
}

#[test]
fn what_is_no_description_is_refused() {
    let text = |text: &str| text.parse::<VmSpec>().unwrap_err().to_string();
    assert!(text("{").starts_with("the description is not JSON: "), "{}", text("{"));
    assert_eq!(text("[]"), "a VM is described by an object, not by a list");
    assert_eq!(
        text("{}"),
        "name: a VM needs a name\nboot: there is nothing to boot (name an image or a kernel)"
    );
    assert!(text(r#"{"name": 5, "boot": {"image": "a"}}"#).starts_with("name: "));
}

#[test]
fn a_short_description_has_the_defaults() {
    let spec: VmSpec = r#"{ "name": "vm", "boot": { "image": "debian:12" } }"#.parse().unwrap();
    let boot = Boot { image: Some("debian:12".into()), ..Boot::default() };
    assert_eq!(spec, VmSpec { boot, ..VmSpec::named("vm") });
    assert_eq!((spec.cpus, spec.memory, spec.nets.len()), (1, Size::from_mib(512), 1));
}

#[test]
fn serde_and_the_reader_have_the_same_defaults() {
    let text = r#"{ "name": "vm" }"#;
    assert_eq!(serde_json::from_str::<VmSpec>(text).unwrap(), VmSpec::named("vm"));
}

proptest! {
    #[test]
    fn valid_specs_survive_json(spec in arbitrary::spec()) {
        prop_assert_eq!(spec.validate(), Ok(()));
        let json = serde_json::to_value(&spec).unwrap();
        prop_assert_eq!(VmSpec::from_json(&json), Ok(spec.clone()));
        prop_assert_eq!(serde_json::from_value::<VmSpec>(json).unwrap(), spec);
    }

    #[test]
    fn suggested_names_are_valid(text in "\\PC{0,80}") {
        if let Err(FieldError { hint: Some(hint), .. }) = check_name(&text) {
            let name = hint.trim_start_matches('`').split('`').next().unwrap();
            prop_assert_eq!(check_name(name), Ok(()));
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<VmSpec>();
    }

    #[test]
    fn no_value_of_a_field_makes_the_reader_panic(
        field in prop::sample::select(vec!["name", "boot", "nets", "memory", "labels", "ready", "ssh_keys", "x"]),
        value in prop::sample::select(vec![json!(null), json!(1), json!("x"), json!([{}]), json!({ "a": [] }), json!([[1]])]),
    ) {
        let _ = VmSpec::from_json(&json!({ field: value }));
    }
}
