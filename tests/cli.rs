//! The command line as people and scripts meet it: what is refused and how it is told, the forms of output, exit codes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use common::Sandbox;
use serde_json::Value;

/// What every refusal has: what failed on its first line, and nothing on stdout.
#[track_caller]
fn refused(sandbox: &Sandbox, code: i32, args: &[&str], words: &[&str]) {
    let done = sandbox.run(args);
    assert_eq!(done.code, code, "{args:?}: {done:?}");
    assert_eq!(done.stdout, "", "{args:?}");
    // clap's own refusals of a flag begin with `error: `.
    let begin = if done.stderr.starts_with("error: ") { "error: " } else { "midge: error: " };
    assert!(done.stderr.starts_with(begin), "{args:?}: {}", done.stderr);
    for word in words {
        assert!(done.stderr.contains(word), "{args:?}: `{word}` is missing in {}", done.stderr);
    }
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

#[test]
fn unknown_images_are_refused_with_the_nearest_name() {
    let sandbox = Sandbox::new();
    refused(&sandbox, 3, &["create", "web", "--image", "helo"], &["no image `helo`", "hint: ", "`hello`"]);
    refused(&sandbox, 3, &["run", "debain:12", "-d"], &["no image `debain:12`", "`debian:12`"]);
    refused(&sandbox, 3, &["create", "web", "--os", "windows"], &["no image `windows`", "midge image ls"]);
    refused(&sandbox, 2, &["create", "web"], &["nothing to boot"]);
    assert_eq!(sandbox.ok(&["ls", "-q"]), "");
}

#[test]
fn what_an_image_cannot_be_built_with_is_refused() {
    let sandbox = Sandbox::new();
    refused(&sandbox, 2, &["image", "build", "debian:12", "--with", "Nginx;"], &["Nginx;", "package"]);
    refused(&sandbox, 2, &["image", "build", "debian:12", "--mirror", "ftp://x"], &["ftp://x", "mirror"]);
    refused(&sandbox, 3, &["image", "build", "debian:9", "--with", "nginx"], &["debian:9", "debian:12"]);
}

#[test]
fn bad_names_are_refused_with_a_good_one() {
    let sandbox = Sandbox::new();
    let long = "a".repeat(200);
    for (name, words) in [
        ("a/b", ["name", "`a-b`"]),
        ("../up", ["name", "`up`"]),
        ("Web_1", ["name", "`web-1`"]),
        (long.as_str(), ["200", "63"]),
        ("", ["name", "needs a name"]),
        ("-a", ["-a", "-a"]),
        ("a b", ["name", "`a-b`"]),
        ("wéb", ["name", "`w-b`"]),
    ] {
        refused(&sandbox, 2, &["create", &format!("--name={name}"), "--image", "hello"], &words);
    }
    // Such a name leads nowhere, also where something is looked for.
    refused(&sandbox, 3, &["inspect", "../../etc"], &["no VM named"]);
    refused(&sandbox, 3, &["rm", "--force", ".."], &["no VM named"]);

    sandbox.hello("web", &[]);
    refused(&sandbox, 4, &["create", "web", "--image", "hello"], &["exists already", "midge rm web"]);
    refused(&sandbox, 3, &["start", "wbe"], &["did you mean `web`?"]);
    assert_eq!(sandbox.ok(&["create", "web", "--image", "hello", "--if-not-exists"]), "web\n");
    sandbox.ok(&["rm", "--if-exists", "other", "web"]);
    refused(&sandbox, 3, &["rm", "web"], &["no VM named `web`"]);
}

#[test]
fn bad_sizes_are_refused() {
    let sandbox = Sandbox::new();
    let create = |flag: &str, value: &str, words: &[&str]| {
        refused(&sandbox, 2, &["create", "web", "--image", "hello", flag, value], words);
    };
    create("--memory", "0", &["memory"]);
    create("--memory", "1T", &["memory", "960G"]);
    create("--ram", "abc", &["`abc` is not a size", "512M"]);
    create("--memory", "-5", &["-5"]);
    create("--memory", "99999999999999999999G", &["not a size"]);
    create("--cpus", "0", &["cpus"]);
    create("--cpus", "100000", &["cpus", "255"]);
    create("--disk", "abc", &["not a size", "GiB"]);
    create("--ttl", "soon", &["soon"]);
    create("--publish", "99999:80", &["99999:80"]);
    create("--ready", "tcp:0", &["tcp:0"]);
    create("--machine", "virt", &["virt", "q35"]);
    create("--no-such-flag", "", &["--no-such-flag"]);
    assert_eq!(sandbox.ok(&["ls", "-q"]), "");
}

#[test]
fn memory_and_cpus_that_the_host_does_not_have_are_refused() {
    let sandbox = Sandbox::new();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let mib = total.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024;
    let more = format!("{}M", mib + 1024);
    let words = ["too small", "memory", "hint: ", "at most"];
    refused(&sandbox, 8, &["create", "web", "--image", "hello", "-m", &more], &words);
    refused(&sandbox, 8, &["run", "hello", "-d", "-m", &more], &words);
    refused(
        &sandbox,
        6,
        &["create", "web", "--image", "hello", "-c", "255"],
        &["too small", "cpus", "ask for"],
    );
    sandbox.hello("web", &[]);
    refused(&sandbox, 8, &["set", "web", "-m", &more], &words);
    assert_eq!(sandbox.inspect("web")["record"]["spec"]["memory"], "32M");
}

#[test]
fn the_older_tools_flags_work() {
    let sandbox = Sandbox::new();
    let done = sandbox.run(&["create", "testvm", "--os", "hello", "--cpus", "1", "--ram", "512"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "testvm\n"), "{done:?}");
    let spec = sandbox.inspect("testvm")["record"]["spec"].clone();
    assert_eq!((spec["memory"].as_str(), spec["cpus"].as_u64()), (Some("512M"), Some(1)));
    // A bare size of a disk is GiB.
    let dry = sandbox.json(&[
        "create",
        "x",
        "--os",
        "debian",
        "--cpus",
        "1",
        "--ram",
        "512",
        "--disk",
        "5",
        "--dry-run",
    ]);
    assert_eq!((dry["disk"].as_str(), dry["schema"].as_u64()), (Some("5G"), Some(1)));
    assert_eq!(dry["boot"]["image"], "debian");
    refused(&sandbox, 3, &["inspect", "x"], &["no VM"]);
}

#[test]
fn what_is_no_kernel_is_refused() {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("text"), "no kernel at all\n".repeat(100)).unwrap();
    fs::write(path("short"), "x").unwrap();
    std::os::unix::fs::symlink("/nowhere/kernel", path("dangling")).unwrap();
    refused(&sandbox, 3, &["create", "--kernel", &path("missing")], &["cannot read the kernel", "missing"]);
    refused(&sandbox, 3, &["run", &path("dangling"), "-d"], &["cannot read the kernel"]);
    refused(&sandbox, 2, &["create", "--kernel", "/"], &["not a file"]);
    refused(&sandbox, 3, &["create", "--image", "hello", "--initrd", &path("none")], &["initrd"]);
    for (vm, file) in [("text", "text"), ("short", "short"), ("host", env!("CARGO_BIN_EXE_midge"))] {
        let file = if file.starts_with('/') { file.to_owned() } else { path(file) };
        let words: &[&str] = &["kernel", &file];
        // Whether it is told by create or by start, no QEMU is started for it and nothing is left that runs.
        let created = sandbox.run(&["create", vm, "--kernel", &file]);
        if created.code == 0 {
            let said = sandbox.fails(2, &["start", vm]);
            let said_so = said.contains("no kernel") || said.contains("cannot be booted");
            assert!(said_so && words.iter().all(|word| said.contains(word)), "{said}");
            assert_eq!(sandbox.state(vm), "stopped");
        } else {
            assert_eq!(created.code, 2, "{created:?}");
        }
    }
}

#[test]
fn a_description_with_several_errors_is_told_all_of_them() {
    let sandbox = Sandbox::new();
    let file = sandbox.path().join("vm.json");
    fs::write(
        &file,
        r#"{"boot":{"image":"hello"},"memry":"1G","cpus":0,"restart":"allways","nets":[{"type":"usr"}]}"#,
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let words = ["memry", "`memory`", "cpus", "restart", "always", "nets[0]"];
    refused(&sandbox, 2, &["create", "Web", "--spec", file], &words);
    fs::write(file, "{\"boot\":").unwrap();
    refused(&sandbox, 2, &["create", "web", "--spec", file], &[file]);
    refused(&sandbox, 3, &["create", "web", "--spec", "/nowhere.json"], &["/nowhere.json"]);
    // What --dry-run prints is a description, also from stdin.
    let dry = sandbox.ok(&["create", "web", "--image", "hello", "--label", "a=b", "--dry-run"]);
    fs::write(file, &dry).unwrap();
    sandbox.ok(&["create", "--spec", file]);
    let done = Sandbox::finish(
        sandbox.midge().args(["create", "two", "--spec", "-"]).stdin(fs::File::open(file).unwrap()),
    );
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(sandbox.inspect("two")["record"]["spec"]["labels"]["a"], "b");
}

#[test]
fn wrong_command_lines_end_with_2_and_help_with_0() {
    let sandbox = Sandbox::new();
    for args in [
        &[][..],
        &["strat", "web"],
        &["start"],
        &["start", "web", "--wiat"],
        &["wait", "web", "later"],
        &["run", "hello", "--wait"],
        &["ls", "-o", "xml"],
        &["rm"],
    ] {
        let done = sandbox.run(args);
        assert_eq!(done.code, 2, "{args:?}: {done:?}");
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{args:?}: {done:?}");
    }
    assert!(sandbox.fails(2, &["strat"]).contains("start"));
    let help = sandbox.ok(&["--help"]);
    assert!(help.contains("Exit codes") && help.contains("doctor"), "{help}");
    for verb in ["run", "create", "start", "image build", "exec"] {
        let args: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        assert!(sandbox.ok(&args).contains("Usage"), "{verb}");
    }
}

#[test]
fn aliases_lead_to_their_verbs() {
    let sandbox = Sandbox::new();
    let flags = ["--accel", "tcg", "-m", "32M"];
    assert_eq!(sandbox.ok(&[&["launch", "hello", "-n", "web", "-d"], &flags[..]].concat()), "web\n");
    for list in [&["list"][..], &["ps"], &["ls", "-a"]] {
        assert!(sandbox.ok(list).contains("web"), "{list:?}");
    }
    assert_eq!(sandbox.json(&["info", "web"])["name"], "web");
    assert_eq!(sandbox.json(&["show", "web"])["name"], "web");
    sandbox.ok(&["log", "web"]);
    assert!(sandbox.ok(&["images", "list"]).contains("hello"));
    let said = sandbox.fails(2, &["shell"]);
    assert!(said.contains("midge ssh"), "{said}");
    let said = sandbox.fails(2, &["copy"]);
    assert!(said.contains("midge cp"), "{said}");
    sandbox.ok(&["delete", "--force", "web"]);
    sandbox.ok(&["remove", "--if-exists", "web"]);
}

#[test]
fn every_json_document_begins_with_its_schema() {
    let sandbox = Sandbox::new();
    let flags = ["--image", "hello", "-m", "32M", "--accel", "tcg"];
    let first = |args: &[&str]| -> Value {
        let text = sandbox.ok(args);
        assert!(
            text.starts_with("{\"schema\":1") || text.starts_with("{\n  \"schema\": 1"),
            "{args:?}: {text}"
        );
        let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        documents.next().unwrap().unwrap()
    };
    assert_eq!(first(&[&["create", "web", "-o", "json"], &flags[..]].concat())["name"], "web");
    first(&["create", "dry", "--image", "hello", "--dry-run"]);
    first(&["start", "web", "--wait", "-o", "json"]);
    for args in [
        &["ls", "-o", "json"][..],
        &["inspect", "web"],
        &["ip", "web", "-o", "json"],
        &["stats", "web", "-o", "json"],
        &["stats", "-o", "json"],
        &["events", "web", "-o", "json"],
        &["cmdline", "web", "-o", "json"],
        &["wait", "web", "-o", "json"],
        &["image", "ls", "-o", "json"],
        &["image", "inspect", "hello"],
        &["doctor", "-o", "json"],
        &["version", "-o", "json"],
        &["restart", "web", "-o", "json"],
        &["inspect", "web", "-o", "json"],
        &["image", "inspect", "hello", "-o", "json"],
        &["image", "verify", "hello", "-o", "json"],
    ] {
        first(args);
    }
    assert_eq!(first(&["pause", "web", "-o", "json"])["paused"], true);
    assert_eq!(first(&["resume", "web", "-o", "json"])["paused"], false);
    let ended = first(&["stop", "web", "-o", "json"]);
    assert_eq!((&ended["already"], &ended["end"]["cause"]), (&false.into(), &"killed".into()), "{ended}");
    assert_eq!(first(&["stop", "web", "-o", "json"])["already"], true);
    sandbox.ok(&["start", "web"]);
    assert_eq!(first(&["kill", "web", "-o", "json"])["end"]["asked_by"], "user");
    let changed = first(&["set", "web", "-m", "48M", "-o", "json"]);
    assert_eq!(changed["record"]["spec"]["memory"], "48M");
    assert_eq!(first(&["rename", "web", "www", "-o", "json"])["before"], "web");
    assert_eq!(first(&["rm", "www", "-o", "json"])["removed"], true);
    assert_eq!(first(&["rm", "www", "--if-exists", "-o", "json"])["removed"], false);
    // The variable is the flag's default.
    let done = Sandbox::finish(sandbox.midge().args(["version"]).env("MIDGE_OUTPUT", "json"));
    assert!(done.stdout.starts_with("{\"schema\":1"), "{done:?}");
    // A failure leaves stdout empty in every format.
    refused(&sandbox, 3, &["start", "nobody", "-o", "json"], &[]);
}

#[test]
fn doctor_tells_what_the_host_can_do() {
    let sandbox = Sandbox::new();
    let report = sandbox.json(&["doctor", "-o", "json"]);
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warn", "fail"].contains(&status), "{check}");
        assert!(check["summary"].is_string(), "{check}");
        assert_eq!(status != "ok", check["next"].is_string(), "{check}");
    }
    let mut ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"kvm") && ids.contains(&"memory"), "{ids:?}");
    let table = sandbox.ok(&["doctor"]);
    assert!(ids.iter().all(|id| table.contains(id)), "{table}");
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is there twice");
    // Without a QEMU the host is unfit.
    let done = Sandbox::finish(sandbox.midge().args(["doctor", "-o", "json"]).env("PATH", "/nowhere"));
    assert_eq!(done.code, 6, "{done:?}");
    assert!(done.stdout.contains("apt-get install"), "{done:?}");
}

#[test]
fn completions_and_man_pages_come_from_the_same_definitions() {
    let sandbox = Sandbox::new();
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef midge"), ("fish", "complete -c midge")] {
        let script = sandbox.ok(&["completions", shell]);
        assert!(script.contains(sign) && script.contains("if-not-exists"), "{shell}");
        assert!(!script.contains("supervise"), "{shell} offers what is hidden");
    }
    // bash reads its script.
    let script = sandbox.path().join("completion.bash");
    fs::write(&script, sandbox.ok(&["completions", "bash"])).unwrap();
    let read = std::process::Command::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(read.success());
    let folder = sandbox.path().join("man");
    fs::create_dir(&folder).unwrap();
    sandbox.ok(&["man", folder.to_str().unwrap()]);
    for page in ["midge.1", "midge-run.1", "midge-image-build.1"] {
        let text = fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    assert!(!folder.join("midge-supervise.1").exists());
}

#[test]
fn quiet_is_quiet_and_a_pipe_has_no_escape_codes() {
    let sandbox = Sandbox::new();
    let flags = ["--image", "hello", "-m", "32M", "--accel", "tcg"];
    sandbox.ok(&[&["create", "web"], &flags[..]].concat());
    for args in [&["-q", "start", "web", "--wait"][..], &["stop", "-q", "web"]] {
        let done = sandbox.run(args);
        assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""), "{args:?}");
    }
    let done = sandbox.run(&["start", "web", "--wait"]);
    assert!(done.stdout.is_empty() && done.stderr.contains("ready"), "phases are notes, no result: {done:?}");
    for args in [
        &["ls"][..],
        &["ls", "-o", "wide"],
        &["doctor"],
        &["stats"],
        &["events", "web"],
        &["image", "ls"],
        &["--help"],
        &["start", "nobody"],
        &["create", "--no-such-flag"],
        &["restart", "web", "--wait"],
    ] {
        let done = sandbox.run(args);
        assert!(!done.stdout.contains('\x1b') && !done.stderr.contains('\x1b'), "{args:?}: {done:?}");
    }
}

#[test]
fn no_color_holds_on_a_terminal() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &[]);
    for args in [&["ls"][..], &["create", "--no-such-flag"], &["--help"]] {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let end = || Stdio::from(terminal.slave.try_clone().unwrap());
        let mut child =
            sandbox.midge().args(args).env("NO_COLOR", "1").stdout(end()).stderr(end()).spawn().unwrap();
        drop(terminal.slave);
        let mut shown = Vec::new();
        // A terminal whose other end is closed answers EIO after the last byte.
        let _ = fs::File::from(terminal.master).read_to_end(&mut shown);
        child.wait().unwrap();
        assert!(!shown.is_empty() && !shown.contains(&0x1b), "{args:?}: {}", String::from_utf8_lossy(&shown));
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &[]);
    for args in [
        &["ls"][..],
        &["doctor"],
        &["completions", "bash"],
        &["--help"],
        &["inspect", "web"],
        &["image", "ls"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = Sandbox::finish(sandbox.midge().args(args).stdout(writer));
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{args:?}: {done:?}");
    }
}

#[test]
fn exit_codes_are_those_promised() {
    let sandbox = Sandbox::new();
    sandbox.hello("web", &["--ready", "serial:never"]);
    sandbox.fails(2, &["start"]);
    sandbox.fails(3, &["start", "nobody"]);
    sandbox.fails(4, &["pause", "web"]);
    sandbox.fails(5, &["start", "web", "--wait", "--timeout", "1s"]);
    let done = Sandbox::finish(sandbox.midge().args(["restart", "web"]).env("MIDGE_QEMU", "/nowhere"));
    assert_eq!(done.code, 6, "{done:?}");
    // Several at once: all are tried, and the last failure counts.
    sandbox.fails(3, &["start", "web", "nobody"]);
    assert_eq!(sandbox.state("web"), "booting");
}

#[test]
fn a_command_for_a_guest_without_an_agent_is_refused_at_once() {
    let sandbox = Sandbox::new();
    sandbox.hello_up("web", &[]);
    let done = sandbox.run(&["exec", "web", "true"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.contains("agent"), "{done:?}");
    let done = sandbox.run(&["run", "hello", "-m", "32M", "--accel", "tcg", "--", "true"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.contains("agent"), "{done:?}");
    assert_eq!(sandbox.ok(&["ls", "-q"]), "web\n", "the fresh VM is not left behind");
}

#[test]
fn versions_are_told() {
    let sandbox = Sandbox::new();
    let text = sandbox.ok(&["version"]);
    assert!(
        text.starts_with(&format!("midge {}\n", env!("CARGO_PKG_VERSION"))) && text.contains("qemu"),
        "{text}"
    );
    assert_eq!(sandbox.ok(&["--version"]), format!("midge {}\n", env!("CARGO_PKG_VERSION")));
}
