//! Pulling images: whatever a server, the network, the disk or a signal does to a download, the store holds whole images or none, and the
//! next pull goes on where one ended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::web::{Gate, Request, Web, file, head, whole};
use common::{Done, Sandbox, eventually};

const IMAGE: &str = "/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2";
const SUMS: &str = "/cloud/bookworm/latest/SHA512SUMS";
const NAME: &str = "debian:12-genericcloud";

/// A disk with content that does not shrink, 4 MiB of it: what is published.
struct Published {
    disk: Vec<u8>,
    sums: Vec<u8>,
}

fn published() -> Arc<Published> {
    let folder = tempfile::tempdir().unwrap();
    let (raw, disk) = (folder.path().join("raw"), folder.path().join("debian-12-genericcloud-amd64.qcow2"));
    let mut noise = vec![0; 4 << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    fs::write(&raw, &noise).unwrap();
    done(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), disk.to_str().unwrap()],
        folder.path(),
    );
    let sums = done("sha512sum", &["debian-12-genericcloud-amd64.qcow2"], folder.path());
    Arc::new(Published { disk: fs::read(disk).unwrap(), sums })
}

fn done(program: &str, arguments: &[&str], folder: &Path) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A server with the sums, and the image as `image` sends it, which is told how often it was asked for before.
fn server(
    published: &Arc<Published>,
    image: impl Fn(usize, &Request, &mut dyn Write, &[u8]) -> std::io::Result<()> + Send + Sync + 'static,
) -> Web {
    let (published, count) = (Arc::clone(published), AtomicUsize::new(0));
    Web::plain(move |request, out| match request.path.as_str() {
        IMAGE => image(count.fetch_add(1, Ordering::SeqCst), request, out, &published.disk),
        SUMS => whole(out, "200 OK", &published.sums),
        _ => whole(out, "404 Not Found", b"no"),
    })
}

/// `midge image pull` by this server.
fn pull_command(sandbox: &Sandbox, web: &Web, words: &[&str]) -> Command {
    let mut command = sandbox.midge();
    for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command.env("MIDGE_MIRROR", web.url("/cloud")).args(["image", "pull"]).args(words);
    command
}

fn pull(sandbox: &Sandbox, web: &Web, words: &[&str]) -> Done {
    Sandbox::finish(&mut pull_command(sandbox, web, words))
}

#[track_caller]
fn pulled(sandbox: &Sandbox, web: &Web) -> String {
    let done = pull(sandbox, web, &[NAME, "--arch", "amd64"]);
    assert_eq!((done.code, done.stdout.trim_end()), (0, NAME), "{}", done.stderr);
    sandbox.ok(&["image", "verify", NAME]);
    assert_eq!(left(sandbox), Vec::<String>::new(), "a finished download leaves nothing");
    done.stderr
}

/// What lies in the folder of downloads.
fn left(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.home().join("downloads")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn part(sandbox: &Sandbox) -> Option<PathBuf> {
    let mut paths = left(sandbox).into_iter().map(|name| sandbox.home().join("downloads").join(name));
    paths.find(|path| path.extension().is_some_and(|suffix| suffix == "part"))
}

fn part_size(sandbox: &Sandbox) -> usize {
    let size = part(sandbox).and_then(|path| fs::metadata(path).ok()).map_or(0, |about| about.len());
    usize::try_from(size).unwrap()
}

#[track_caller]
fn fails(code: i32, done: Done) -> String {
    assert_eq!(done.code, code, "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    done.stderr
}

#[test]
fn an_image_is_pulled_once_and_again_when_its_publisher_has_another() {
    let (sandbox, one) = (Sandbox::new(), published());
    let web = server(&one, |_, request, out, disk| file(request, out, disk, "one"));
    pulled(&sandbox, &web);
    let image = sandbox.json(&["image", "inspect", NAME]);
    assert_eq!(image["manifest"]["origin"]["url"], web.url(IMAGE));
    assert!(image["manifest"]["origin"]["digest"].as_str().unwrap().starts_with("sha512:"));
    assert!(pulled(&sandbox, &web).contains("there already"));
    assert_eq!(web.asked(IMAGE).len(), 1);
    assert_eq!(web.asked(SUMS).len(), 2);
    // `debian:12` alone means the same one.
    assert!(pull(&sandbox, &web, &["debian:12", "--arch", "amd64"]).stderr.contains("there already"));

    // A VM stands on the old one when the new one comes.
    sandbox.ok(&["create", "vm", "--image", NAME]);
    let two = published();
    let web = server(&two, |_, request, out, disk| file(request, out, disk, "two"));
    pulled(&sandbox, &web);
    let new = sandbox.json(&["image", "inspect", NAME]);
    assert_ne!(new["manifest"]["digest"], image["manifest"]["digest"]);
    let disk = |image: &serde_json::Value| {
        PathBuf::from(image["folder"].as_str().unwrap())
            .join(image["manifest"]["disk"]["file"].as_str().unwrap())
    };
    let prune = |words: &[&str]| {
        let mut command = sandbox.midge();
        command.env("XDG_CACHE_HOME", sandbox.path().join("cache")).args(["image", "prune"]).args(words);
        let done = Sandbox::finish(&mut command);
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.stdout
    };
    assert_eq!(prune(&[]), "", "the old one is in use");
    sandbox.ok(&["rm", "vm"]);
    assert!(prune(&["--dry-run"]).contains(disk(&image).to_str().unwrap()));
    assert!(disk(&image).exists());
    prune(&["-o", "json"]);
    assert!(!disk(&image).exists() && disk(&new).exists());
}

#[test]
fn what_is_not_there_or_not_as_published_is_no_image() {
    let (sandbox, published) = (Sandbox::new(), published());
    let nothing = Web::plain(|_, out| whole(out, "404 Not Found", b"no"));
    let said = fails(1, pull(&sandbox, &nothing, &[NAME]));
    assert!(said.contains("cannot be checked") && said.contains("--checksum"), "{said}");

    let only_sums = server(&published, |_, _, out, _| whole(out, "404 Not Found", b"no"));
    let said = fails(3, pull(&sandbox, &only_sums, &[NAME, "--arch", "amd64"]));
    assert!(said.contains("404") && said.contains(IMAGE), "{said}");
    let said = fails(1, pull(&sandbox, &only_sums, &[NAME, "--arch", "arm64"]));
    assert!(said.contains("does not list it"), "{said}");
    let broken = server(&published, |_, _, out, _| whole(out, "503 Service Unavailable", b"no"));
    assert!(fails(1, pull(&sandbox, &broken, &[NAME, "--arch", "amd64"])).contains("503"));

    let wrong = server(&published, |_, request, out, disk| {
        let mut disk = disk.to_vec();
        disk[1 << 20] ^= 1;
        file(request, out, &disk, "x")
    });
    let said = fails(1, pull(&sandbox, &wrong, &[NAME, "--arch", "amd64"]));
    assert!(said.contains("instead of"), "{said}");

    let gone = format!("http://127.0.0.1:{}/cloud", common::free_port());
    let mut command = pull_command(&sandbox, &nothing, &[NAME]);
    let said = fails(1, Sandbox::finish(command.env("MIDGE_MIRROR", gone)));
    assert!(said.contains("cannot fetch") && said.contains("MIDGE_MIRROR"), "{said}");

    assert!(fails(3, pull(&sandbox, &nothing, &["debian:7"])).contains("debian:13-nocloud"));
    fails(
        2,
        pull(
            &sandbox,
            &nothing,
            &["ftp://127.0.0.1/disk.qcow2", "--checksum", &format!("sha512:{}", "0".repeat(128))],
        ),
    );
    fails(2, pull(&sandbox, &nothing, &[NAME, "--checksum", "sha512:0"]));
    assert_eq!(part_size(&sandbox), 0, "{:?}", left(&sandbox));
    assert_eq!(sandbox.ok(&["image", "ls", "-q"]), "hello\n");
}

#[test]
fn an_address_is_pulled_by_the_sums_beside_it_or_by_a_digest() {
    let (sandbox, published) = (Sandbox::new(), published());
    let web = server(&published, |_, request, out, disk| file(request, out, disk, "x"));
    let done = pull(&sandbox, &web, &[&web.url(IMAGE), "--name", "mine", "-o", "json"]);
    assert_eq!((done.code, done.stdout.lines().count()), (0, 1), "{}", done.stderr);
    let sum = String::from_utf8(published.sums.clone()).unwrap();
    let sum = format!("sha512:{}", sum.split(' ').next().unwrap());
    let other = Arc::clone(&published);
    let bare = Web::plain(move |request, out| match request.path.as_str() {
        "/a/Disk.qcow2?x=1" => file(request, out, &other.disk, "x"),
        _ => whole(out, "404 Not Found", b"no"),
    });
    let url = bare.url("/a/Disk.qcow2?x=1");
    assert!(fails(1, pull(&sandbox, &bare, &[&url])).contains("SHA256SUMS"));
    assert_eq!(pull(&sandbox, &bare, &[&url, "--checksum", &sum]).stdout, "disk\n");

    // What is as published may still be of no use; it is not kept then.
    let text = Web::plain(|_, out| whole(out, "200 OK", b"hello\n"));
    let hello = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let said = fails(2, pull(&sandbox, &text, &[&text.url("/x.qcow2"), "--checksum", hello]));
    assert!(said.contains(&text.url("/x.qcow2")) && said.contains("looks like text"), "{said}");
    assert_eq!(part(&sandbox), None);
}

#[test]
fn redirects_are_followed_but_never_out_of_encryption() {
    let (sandbox, published) = (Sandbox::new(), published());
    let content = Arc::clone(&published);
    let plain = Web::plain(move |request, out| match request.path.as_str() {
        "/d/disk.qcow2" => file(request, out, &content.disk, "x"),
        "/d/moved.qcow2" => head(
            out,
            "302 Found",
            &[("Location", "disk.qcow2".to_owned()), ("Content-Length", "0".to_owned())],
        ),
        "/d/round.qcow2" => head(
            out,
            "301 Moved",
            &[("Location", "/d/round.qcow2".to_owned()), ("Content-Length", "0".to_owned())],
        ),
        _ => whole(out, "404 Not Found", b"no"),
    });
    let (content, elsewhere) = (Arc::clone(&published), plain.url("/d/disk.qcow2"));
    let (secret, certificate) =
        Web::encrypted(sandbox.path(), move |request, out| match request.path.as_str() {
            "/disk.qcow2" => file(request, out, &content.disk, "x"),
            "/moved.qcow2" => head(
                out,
                "307 Temporary",
                &[("Location", "/disk.qcow2".to_owned()), ("Content-Length", "0".to_owned())],
            ),
            _ => {
                head(out, "302 Found", &[("Location", elsewhere.clone()), ("Content-Length", "0".to_owned())])
            }
        });
    let sum = String::from_utf8(published.sums.clone()).unwrap();
    let sum = format!("sha512:{}", sum.split(' ').next().unwrap());
    let get = |web: &Web, path: &str, trusted: bool| {
        let mut command = pull_command(&sandbox, web, &[&web.url(path), "--checksum", &sum]);
        command.env("SSL_CERT_FILE", if trusted { certificate.as_path() } else { Path::new("/nonexistent") });
        Sandbox::finish(&mut command)
    };
    assert_eq!(get(&plain, "/d/moved.qcow2", false).stdout, "moved\n");
    assert!(fails(1, get(&plain, "/d/round.qcow2", false)).contains("leads on and on"));
    let done = get(&secret, "/moved.qcow2", true);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let said = fails(1, get(&secret, "/plain.qcow2", true));
    assert!(said.contains("not encrypted: refused"), "{said}");
    let said = fails(1, get(&secret, "/disk.qcow2", false));
    assert!(said.contains("certificate") || said.contains("issuer"), "{said}");
}

#[test]
fn a_connection_that_breaks_is_made_anew_and_one_that_always_breaks_is_told() {
    let (sandbox, published) = (Sandbox::new(), published());
    let half = |out: &mut dyn Write, body: &[u8]| {
        head(out, "200 OK", &[("Content-Length", body.len().to_string()), ("ETag", "\"x\"".to_owned())])?;
        out.write_all(&body[..body.len() / 2])
    };
    let web = server(&published, move |_, request, out, disk| match request.range {
        None => half(out, disk),
        Some(_) => file(request, out, disk, "x"),
    });
    pulled(&sandbox, &web);
    let asked = web.asked(IMAGE);
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (asked[1].range, asked[1].if_range.as_deref()),
        (Some(published.disk.len() / 2), Some("\"x\""))
    );

    let sandbox = Sandbox::new();
    let web = server(&published, move |_, _, out, disk| half(out, disk));
    let said = fails(1, pull(&sandbox, &web, &[NAME, "--arch", "amd64"]));
    assert!(said.contains("ended too early") && said.contains("goes on where"), "{said}");
    assert!(web.asked(IMAGE).len() <= 5);
    assert_eq!(sandbox.ok(&["image", "ls", "-q"]), "hello\n");
}

/// Sends half of a file, then nothing until the gate is opened.
fn stall(out: &mut dyn Write, body: &[u8], gate: &Gate) -> std::io::Result<()> {
    head(out, "200 OK", &[("Content-Length", body.len().to_string()), ("ETag", "\"x\"".to_owned())])?;
    out.write_all(&body[..body.len() / 2])?;
    out.flush()?;
    gate.pass();
    out.write_all(&body[body.len() / 2..])
}

#[test]
fn a_silent_server_is_given_up_in_time_and_what_came_is_kept() {
    let (sandbox, published) = (Sandbox::new(), published());
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    let web = server(&published, move |nth, _, out, disk| match nth {
        0 => stall(out, disk, &closed),
        _ => {
            head(out, "200 OK", &[("Content-Length", disk.len().to_string())])?;
            out.write_all(disk)
        }
    });
    let said = fails(5, pull(&sandbox, &web, &[NAME, "--arch", "amd64", "--timeout", "1s"]));
    assert!(said.contains("nothing came") && said.contains("goes on where"), "{said}");
    let half = published.disk.len() / 2;
    assert_eq!(part_size(&sandbox), half);
    gate.open();

    // The server sends everything once more, as it knows no ranges.
    pulled(&sandbox, &web);
    assert_eq!(web.asked(IMAGE)[1].range, Some(half));
}

#[test]
fn a_download_goes_on_although_the_signal_left_it_no_time() {
    let (sandbox, published) = (Sandbox::new(), published());
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    let web = server(&published, move |nth, request, out, disk| match nth {
        0 => stall(out, disk, &closed),
        _ => file(request, out, disk, "x"),
    });
    let mut command = pull_command(&sandbox, &web, &[NAME, "--arch", "amd64"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let half = published.disk.len() / 2;
    eventually("half of the download", || part_size(&sandbox) == half);
    child.kill().unwrap();
    child.wait().unwrap();
    gate.open();
    assert_eq!(sandbox.ok(&["image", "ls", "-q"]), "hello\n");
    let said = pulled(&sandbox, &web);
    assert!(said.contains(", from 2.2M on"), "{said}");
    let asked = web.asked(IMAGE);
    assert_eq!((asked.len(), asked[1].range), (2, Some(half)));
    assert_eq!(fs::read_dir(sandbox.home().join("tmp")).unwrap().count(), 0);
}

#[test]
fn two_pulls_at_once_download_once() {
    let (sandbox, published) = (Sandbox::new(), published());
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    let web = server(&published, move |_, _, out, disk| stall(out, disk, &closed));
    let spawn = || {
        let mut command = pull_command(&sandbox, &web, &[NAME, "--arch", "amd64"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = spawn();
    eventually("half of the download", || part_size(&sandbox) == published.disk.len() / 2);
    let mut second = spawn();
    let mut words = BufReader::new(second.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(words.any(|line| line.contains("waiting for that one")));
    gate.open();
    for child in [first, second] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), NAME);
    }
    assert_eq!(web.asked(IMAGE).len(), 1);
    assert_eq!(left(&sandbox), Vec::<String>::new());
}

#[test]
fn a_file_that_is_another_one_by_now_is_fetched_from_its_beginning() {
    // The server has another file, longer or shorter, and says so by its mark, or by having no such range.
    for mark in ["x", "y"] {
        let (sandbox, published) = (Sandbox::new(), published());
        let web = server(&published, move |nth, request, out, disk| match nth {
            // Half of what the sums never were of, and the connection's end.
            0 => {
                let length = ("Content-Length", (2 * disk.len()).to_string());
                head(out, "200 OK", &[length, ("ETag", "\"x\"".to_owned())])?;
                out.write_all(&vec![0xee; disk.len() + 1])
            }
            _ => file(request, out, disk, mark),
        });
        pulled(&sandbox, &web);
        let ranges: Vec<_> = web.asked(IMAGE).iter().map(|request| request.range).collect();
        let after = published.disk.len() + 1;
        let expected = if mark == "x" { vec![None, Some(after), None] } else { vec![None, Some(after)] };
        assert_eq!(ranges, expected);
    }
    // And one whose mark stayed, although its content did not: its digest tells.
    let (sandbox, published) = (Sandbox::new(), published());
    let web = server(&published, |nth, request, out, disk| match nth {
        0 => {
            head(out, "200 OK", &[("Content-Length", disk.len().to_string()), ("ETag", "\"x\"".to_owned())])?;
            out.write_all(&vec![0xee; disk.len() / 2])
        }
        _ => file(request, out, disk, "x"),
    });
    let done = pull(&sandbox, &web, &[NAME, "--arch", "amd64"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(web.asked(IMAGE).len(), 3);
}

#[test]
fn a_download_that_is_whole_already_is_not_sent_again() {
    let (sandbox, published) = (Sandbox::new(), published());
    let gate = Arc::new(Gate::default());
    let closed = Arc::clone(&gate);
    // Without a length, so that the end is only known by the connection's.
    let web = server(&published, move |nth, request, out, disk| match nth {
        0 => {
            head(out, "200 OK", &[("ETag", "\"x\"".to_owned())])?;
            out.write_all(disk)?;
            out.flush()?;
            closed.pass();
            Ok(())
        }
        _ => file(request, out, disk, "x"),
    });
    fails(5, pull(&sandbox, &web, &[NAME, "--arch", "amd64", "--timeout", "1s"]));
    gate.open();
    assert_eq!(part_size(&sandbox), published.disk.len());
    pulled(&sandbox, &web);
    assert_eq!(web.asked(IMAGE)[1].range, Some(published.disk.len()));
}

/// In a mount namespace of its own, so that the small disk is gone with the test.
#[test]
fn a_full_disk_is_told_and_the_download_goes_on_when_there_is_room() {
    let (sandbox, published) = (Sandbox::new(), published());
    // One that tells how much will come, and one that does not.
    let told = server(&published, |_, request, out, disk| file(request, out, disk, "x"));
    let untold = server(&published, |_, request, out, disk| match request.range {
        None => {
            head(out, "200 OK", &[("ETag", "\"x\"".to_owned())])?;
            out.write_all(disk)
        }
        Some(_) => file(request, out, disk, "x"),
    });
    let script = r#"
        mkdir -p "$MIDGE_HOME"
        mount -t tmpfs -o size=3m tmpfs "$MIDGE_HOME" || exit 99
        "$0" "$@"; echo "first: $?"
        du -k "$MIDGE_HOME"/downloads/*.part
        mount -o remount,size=40m "$MIDGE_HOME"
        "$0" "$@"; echo "second: $?"
        ls "$MIDGE_HOME/downloads""#;
    for (web, early) in [(&told, true), (&untold, false)] {
        let inner = pull_command(&sandbox, web, &[NAME, "--arch", "amd64"]);
        let mut outer = Command::new("unshare");
        if !nix::unistd::Uid::effective().is_root() {
            outer.args(["--user", "--map-root-user"]);
        }
        outer.args(["--mount", "sh", "-c", script]).arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => outer.env(key, value),
                None => outer.env_remove(key),
            };
        }
        let done = Sandbox::finish(&mut outer);
        assert!(done.stdout.contains("first: 8\n") && done.stdout.ends_with("second: 0\n"), "{done:?}");
        assert!(
            done.stderr.contains(if early { "there is no room" } else { "No space left" }),
            "{}",
            done.stderr
        );
        let ranges: Vec<_> = web.asked(IMAGE).iter().map(|request| request.range.is_some()).collect();
        assert_eq!(ranges, [false, !early], "{done:?}");
    }
}

/// A proxy is asked instead of the server, unless the server is one of those that are reached without.
#[test]
fn a_proxy_is_used_where_the_environment_names_one() {
    let (sandbox, published) = (Sandbox::new(), published());
    let web = server(&published, |_, request, out, disk| file(request, out, disk, "x"));
    let proxy = Web::plain(|_, out| whole(out, "403 Forbidden", b"no"));
    let with = |variable: &str, except: &str| {
        let mut command = pull_command(&sandbox, &web, &[NAME, "--arch", "amd64"]);
        command.env(variable, proxy.url("")).env("no_proxy", except).env_remove("NO_PROXY");
        Sandbox::finish(&mut command)
    };
    fails(1, with("http_proxy", ""));
    assert_eq!(web.asked(SUMS).len(), 0);
    assert_eq!(with("http_proxy", "127.0.0.1").code, 0);
    assert_eq!(with("https_proxy", "").code, 0, "that is the other scheme's");
}
