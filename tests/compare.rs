//! `midge compare`: guests side by side, those that do not behave among them, and a report that can be read anywhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::lan::Namespace;
use common::{Sandbox, eventually};
use serde_json::{Value, json};
use supervisor::host::proc::Signal;

/// Compares and answers the results. `words` may be spaces apart.
#[track_caller]
fn compare(sandbox: &Sandbox, folder: &str, words: &str) -> Value {
    let report = sandbox.path().join(folder);
    let words: Vec<&str> = words.split_whitespace().collect();
    let flags = ["compare", "--report", report.to_str().unwrap(), "--accel", "tcg", "-q"];
    sandbox.ok(&[&flags[..], &words].concat());
    results(&report)
}

fn results(report: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(report.join("results.json")).unwrap()).unwrap()
}

fn text(report: &Path, file: &str) -> String {
    fs::read_to_string(report.join(file)).unwrap()
}

/// A kernel that writes every byte there is to the serial port, then `junk ready` and a line, and stands still: an ELF with a PVH note
/// (Xen, docs/misc/pvh.pandoc), made here so that no toolchain is needed.
fn junk_kernel(path: &Path) {
    const BASE: u32 = 0x10_0000;
    let mut code: Vec<u8> = vec![
        0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
        0x31, 0xc9, // xor ecx, ecx
        0x88, 0xc8, 0xee, 0xfe, 0xc1, 0x75, 0xf9, // mov al, cl; out dx, al; inc cl; jnz
        0xbe, 0, 0, 0, 0, // mov esi, message
        0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // lodsb; test al, al; jz; out dx, al; jmp
        0xf4, 0xeb, 0xfd, // hlt; jmp
    ];
    let header: u32 = 64 + 2 * 56;
    let note = [4_u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()).chain(*b"Xen\0");
    let note: Vec<u8> = note.chain(u64::from(BASE + header + 24).to_le_bytes()).collect();
    let message = BASE + header + 24 + u32::try_from(code.len()).unwrap();
    code[15..19].copy_from_slice(&message.to_le_bytes());
    code.extend(b"\r\n<b>|junk|</b> ready\r\n\0");
    let size = u64::from(header) + 24 + code.len() as u64;
    let mut elf: Vec<u8> = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let half = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let word = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let long = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    // An executable for x86-64 with two program headers behind this one.
    elf.extend(
        [half(&[2, 62]), word(&[1]), long(&[u64::from(BASE + header + 24), 64, 0]), word(&[0])].concat(),
    );
    elf.extend(half(&[64, 56, 2, 64, 0, 0]));
    for (kind, offset, length) in [(1, 0, size), (4, u64::from(header), 24)] {
        let address = u64::from(BASE) + offset;
        elf.extend([word(&[kind, 7]), long(&[offset, address, address, length, length, 4])].concat());
    }
    elf.extend(note);
    elf.extend(code);
    fs::write(path, elf).unwrap();
}

#[test]
fn guests_that_fail_are_told_and_never_dropped() {
    let sandbox = Sandbox::new();
    let (junk, list) = (sandbox.path().join("junk.elf"), sandbox.path().join("guests.yaml"));
    junk_kernel(&junk);
    let yaml = format!(
        "guests:\n  never: {{image: hello, ready: 'serial:never shown'}}\n  dies: {{image: hello, append: exit=3, ready: 'serial:never shown'}}\n  \
         early: {{image: hello, append: panic}}\n  junk: {{kernel: {0}, ready: 'serial:junk.*ready'}}\n  mute: {{kernel: {0}, ready: 'serial:never shown'}}\n",
        junk.display()
    );
    fs::write(&list, yaml).unwrap();
    let words = format!(
        "hello never dies early junk mute --file {} --only boot --runs 1 --memory 32M --timeout 3s",
        list.display()
    );
    let found = compare(&sandbox, "report", &words);
    assert_eq!((&found["schema"], &found["partial"]), (&json!(1), &json!(false)));
    let guest =
        |name: &str| found["guests"].as_array().unwrap().iter().find(|g| g["name"] == name).unwrap().clone();
    let failures = |name: &str| {
        let boots = guest(name)["boots"].as_array().unwrap().clone();
        assert_eq!(boots.len(), 2, "{name}: {boots:?}");
        boots.iter().map(|boot| boot["failed"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    for good in ["hello", "junk"] {
        assert_eq!(failures(good), ["", ""], "{good}");
    }
    for (bad, why) in [
        ("never", "not ready within 3 s"),
        ("dies", "ended before it was ready: exit 3"),
        ("early", "said that it was ready, and ended"),
        ("mute", "not ready within 3 s"),
    ] {
        assert!(failures(bad).iter().all(|failed| failed.contains(why)), "{bad}: {:?}", failures(bad));
    }
    // What they reached and said is there, and the junk does no harm to whoever reads it.
    assert!(
        guest("never")["boots"][0]["phases"]
            .as_array()
            .unwrap()
            .iter()
            .any(|phase| phase["name"] == "network")
    );
    let report = sandbox.path().join("report");
    let (page, markdown) = (text(&report, "report.html"), text(&report, "comparison_results.md"));
    assert!(page.contains("&lt;b&gt;|junk|&lt;/b&gt; ready") && !page.contains("<b>"), "{page}");
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!page.contains(control) && !markdown.contains(control));
    assert!(page.contains("8 boots failed"), "{page}");
    assert_eq!(sandbox.ok(&["ls", "-q"]), "", "every VM is gone");
}

#[test]
fn a_unikernel_is_measured_and_its_report_made_again_from_the_results() {
    let sandbox = Sandbox::new();
    let found = compare(&sandbox, "report", "hello --runs 4 --memory 48M --load 1s --cold");
    let guest = &found["guests"][0];
    let boots = guest["boots"].as_array().unwrap();
    assert_eq!(boots.len(), 5);
    let ready = |boot: &Value| {
        let phases = boot["phases"].as_array().unwrap().clone();
        phases.iter().find(|phase| phase["name"] == "ready").unwrap()["ms"].as_f64().unwrap()
    };
    assert!(boots.iter().all(|boot| ready(boot) > 0.0 && boot["memory"]["nonzero"].as_u64() > Some(1 << 18)));
    assert_eq!(guest["size"]["value"]["files"][0]["role"], "kernel");
    let idle = &guest["idle"]["value"];
    let number = |key: &str| idle[key].as_u64().unwrap();
    assert!(number("touched") >= number("nonzero") && number("nonzero") >= number("equal"), "{idle}");
    // QEMU's own memory is its own: the guest's whole RAM would be more.
    assert!(number("private") > 1 << 20 && number("pss") > number("private") / 2, "{idle}");
    let least = &guest["least"]["value"];
    assert!(
        least["memory"].as_u64().unwrap() < 48 << 20 && !least["tried"].as_array().unwrap().is_empty(),
        "{least}"
    );
    let facts = &guest["surface"]["facts"];
    assert_eq!(facts["writable_code"]["value"]["count"], 0, "{facts}");
    assert!(facts["processes"]["not_applicable"].as_str().unwrap().contains("unikernel"), "{facts}");
    assert!(guest["surface"]["tcp"]["not_applicable"].as_str().unwrap().contains("user-mode"));
    let http = guest["workload"]["http"].as_array().unwrap();
    assert_eq!(
        http.iter().map(|http| http["value"]["connections"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(8), Some(64)]
    );
    assert!(http.iter().all(|http| http["value"]["p50"].as_f64() > Some(0.0)), "{http:?}");

    // The same again from the file alone, in a place without any state.
    let (report, again) = (sandbox.path().join("report"), sandbox.path().join("again"));
    let json = report.join("results.json");
    let from = ["compare", "--from", json.to_str().unwrap(), "--report", again.to_str().unwrap()];
    let done = Sandbox::finish(sandbox.midge().env("MIDGE_HOME", "/nonexistent/home").args(from));
    assert_eq!(done.code, 0, "{}", done.stderr);
    for file in ["results.json", "comparison_results.md", "report.html", "command_lines.txt"] {
        assert_eq!(text(&report, file), text(&again, file), "{file}");
    }
    assert!(done.stdout.contains("hello"), "{}", done.stdout);

    // Against itself nothing has changed; against one whose kernel was smaller, that has.
    let mut old = found.clone();
    old["guests"][0]["size"]["value"]["files"][0]["length"] = json!(5);
    fs::write(sandbox.path().join("old.json"), old.to_string()).unwrap();
    for (other, said) in [("report/results.json", "nothing changed"), ("old.json", "kernel, file: 5 B")] {
        let other = sandbox.path().join(other);
        let done = sandbox.ok(&[&from[..], &["--against", other.to_str().unwrap()]].concat());
        assert!(done.contains(said), "{done}");
    }
    assert!(text(&again, "report.html").contains("Since the earlier comparison"));
    let printed = sandbox.json(&[&from[..], &["-o", "json"]].concat());
    assert_eq!(printed, found);
}

/// Debian, the least Linux and a unikernel: the flags are the same, as the report itself shows, and all serve the same page.
#[test]
fn a_unikernel_a_debian_and_the_least_linux_side_by_side() {
    let sandbox = Sandbox::with_debian();
    let found = compare(
        &sandbox,
        "report",
        "hello busybox debian:12 --runs 1 --memory 256M --load 1s --only boot,size,surface,workload",
    );
    let report = sandbox.path().join("report");
    let markdown = text(&report, "comparison_results.md");
    let guests = found["guests"].as_array().unwrap();
    for guest in guests {
        assert!(guest["boots"].as_array().unwrap().iter().all(|boot| boot["failed"].is_null()), "{guest}");
        let http = guest["workload"]["http"].as_array().unwrap();
        assert!(http.iter().all(|http| http["value"]["p50"].as_f64() > Some(0.0)), "{http:?}");
        let body = |index: usize| http[index]["value"]["body"].as_u64().unwrap();
        assert!(
            body(0).abs_diff(guests[0]["workload"]["http"][0]["value"]["body"].as_u64().unwrap()) < 8,
            "{http:?}"
        );
    }
    // What differs between the command lines, as the report has it: what is booted, and what belongs to one VM.
    let proof = markdown.split("### hello against debian:12").nth(1).unwrap().split("###").next().unwrap();
    let options: Vec<&str> =
        proof.lines().filter_map(|line| line.strip_prefix("| -")?.split(' ').next()).collect();
    assert!(options.contains(&"kernel") && options.contains(&"initrd"), "{proof}");
    for option in &options {
        let of_one_vm = [
            "append", "blockdev", "chardev", "device", "fw\\_cfg", "initrd", "kernel", "name", "object",
            "smbios", "uuid",
        ];
        assert!(of_one_vm.contains(option), "-{option} differs: {proof}");
    }
    let debian = &guests[2];
    let systemd = &debian["systemd"]["value"];
    assert!(
        systemd["kernel"].as_f64() > Some(0.0) && systemd["slowest"].as_array().unwrap().len() == 10,
        "{systemd}"
    );
    let count = |key: &str| debian["surface"]["facts"][key]["value"]["count"].as_u64().unwrap();
    assert!(count("processes") > 3 && count("suid") > 3 && count("packages") > 50 && count("syscalls") > 200);
    assert!(
        debian["workload"]["cpu"]["value"].as_array().is_some_and(|times| times.len() == 5),
        "{}",
        debian["workload"]
    );
    let virtual_size =
        debian["size"]["value"]["files"].as_array().unwrap().iter().find(|file| file["role"] == "disk");
    assert_eq!(virtual_size.unwrap()["virtual_size"], 2_u64 << 30);
    assert!(markdown.contains("BusyBox httpd") && markdown.contains("the same bytes"), "{markdown}");
}

#[test]
fn on_a_tap_the_guest_is_pinged_and_its_ports_are_found() {
    let mut sandbox = Sandbox::new();
    let namespace = Namespace::new("compare");
    sandbox.enter(&namespace);
    let found = compare(&sandbox, "report", "hello --runs 1 --memory 32M --load 1s --only surface,workload");
    let guest = &found["guests"][0];
    let tcp = &guest["surface"]["tcp"]["value"];
    assert_eq!((&tcp["open"], &tcp["tried"]), (&json!([80]), &json!(65535)), "{}", guest["surface"]);
    let udp = &guest["surface"]["udp"];
    assert!(udp["value"]["open"].as_array().is_some_and(Vec::is_empty), "{udp}");
    let ping = guest["workload"]["ping"]["value"].as_array().unwrap();
    assert!(ping.len() > 40, "{ping:?}");
    assert!(guest["workload"]["path"].as_str().unwrap().contains("through its tap"));
}

#[test]
fn an_interrupt_leaves_what_there_is_marked_and_no_vm() {
    let sandbox = Sandbox::new();
    let report = sandbox.path().join("report");
    let flags = ["compare", "hello", "--runs", "500", "--memory", "32M", "--accel", "tcg", "--only", "boot"];
    let midge = sandbox.spawn(&[&flags[..], &["--report", report.to_str().unwrap()]].concat());
    let vms = || fs::read_dir(sandbox.home().join("vms")).map(Iterator::count).unwrap_or_default();
    eventually("a VM is up", || vms() > 0);
    midge.signal(Signal::INT);
    let done = midge.wait();
    assert_eq!(done.code, 130, "{}", done.stderr);
    assert!(done.stderr.contains("marked as partial"), "{}", done.stderr);
    let found = results(&report);
    assert_eq!(found["partial"], true);
    assert!(
        found["guests"][0]["boots"].as_array().unwrap().iter().all(|boot| boot["failed"].is_null()),
        "{found}"
    );
    assert!(text(&report, "report.html").contains("cut short"));
    assert_eq!(sandbox.ok(&["ls", "-q"]), "");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_booted() {
    let sandbox = Sandbox::new();
    let report = sandbox.path().join("report");
    let junk = sandbox.path().join("junk.elf");
    junk_kernel(&junk);
    let (report, junk) = (report.to_str().unwrap(), junk.to_str().unwrap());
    let fails = |code: i32, words: &[&str]| {
        sandbox.fails(code, &[&["compare", "--report", report][..], words].concat())
    };
    assert!(fails(3, &["helo"]).contains("did you mean `hello`?"));
    assert!(fails(2, &["hello", "hello"]).contains("named twice"));
    assert!(fails(2, &[junk]).contains("--until"));
    assert!(fails(3, &["--from", "/nowhere.json"]).contains("cannot read"));
    fs::write(sandbox.path().join("new.json"), r#"{"schema":99}"#).unwrap();
    let newer = sandbox.path().join("new.json");
    assert!(fails(2, &["--from", newer.to_str().unwrap()]).contains("newer midge"));
    sandbox.hello_up("web", &[]);
    assert!(fails(4, &["web"]).contains("midge stop web"));
    assert_eq!(sandbox.ok(&["ls", "-q"]), "web\n");
}

/// Where a browser is: Debian's chromium, or another of its family.
fn browser() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file())
}

/// The example that is shown to users, with all there can be in it, as a phone and a desk see it, by day and by night.
#[test]
fn the_report_opens_in_a_browser_without_an_error_or_a_request() {
    let Some(browser) = browser() else {
        println!("skipped: there is no Chromium here (Debian: apt-get install chromium)");
        return;
    };
    let sandbox = Sandbox::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/comparison/results.json");
    let report = sandbox.path().join("report");
    sandbox.ok(&["compare", "--from", example.to_str().unwrap(), "--report", report.to_str().unwrap()]);
    let mut pictures = Vec::new();
    for (width, scheme) in [(390, 0), (390, 1), (1200, 0), (1200, 1)] {
        let (picture, log) = (sandbox.path().join("page.png"), sandbox.path().join("net.json"));
        let _ = fs::remove_file(&picture);
        let output = Command::new(&browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--enable-logging=stderr",
            ])
            .args(["--disable-component-update", "--disable-background-networking", "--no-first-run"])
            .arg(format!("--user-data-dir={}", sandbox.path().join("browser").display()))
            .arg(format!("--window-size={width},1200"))
            // 0 is dark, 1 is light (Blink, PreferredColorScheme).
            .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
            .arg(format!("--screenshot={}", picture.display()))
            .arg(format!("--log-net-log={}", log.display()))
            .arg(format!("file://{}", report.join("report.html").display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("CONSOLE"), "{said}");
        let requests = fs::read_to_string(&log).unwrap();
        assert!(requests.contains("\"constants\""), "the log was written");
        for line in requests.lines().filter(|line| line.contains("\"url\":\"http")) {
            // Nothing of the page's: it has no address of its own but that of a file.
            assert!(!line.contains("\"initiator\":\"file"), "{line}");
        }
        pictures.push(fs::read(&picture).unwrap());
    }
    assert!(pictures[0] != pictures[1] && pictures[2] != pictures[3], "dark and light look different");
}
