//! `cp`: files and folders between this host and a guest, through the guest's agent.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::cli::args::{CpArgs, Place, Via};
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::store::VmDir;
use crate::vm::control::{Client, ClientError, Reply, Request};

use super::exec::{decode, execute};
use super::ssh::{Way, missing};

/// How much of a file goes into one line: the agent's messages are bounded, and base64 takes threes.
const PIECE: usize = 48 << 10;

/// `midge cp`.
pub(super) fn cp(context: &Context, args: &CpArgs) -> Outcome {
    if args.via == Via::Ssh {
        return by_ssh(context, args);
    }
    match (&args.source, &args.target) {
        (Place::Guest { name, path }, target @ (Place::Host(_) | Place::Stream)) => {
            let guest = Guest { context, vm: context.vm(name)? };
            match target {
                Place::Host(target) if args.recursive => guest.get_folder(path, target)?,
                Place::Host(target) => guest.get_file(path, target)?,
                _ => guest.read(path, output::bytes)?,
            }
        }
        (source @ (Place::Host(_) | Place::Stream), Place::Guest { name, path }) => {
            let guest = Guest { context, vm: context.vm(name)? };
            match source {
                Place::Host(source) if args.recursive => guest.put_folder(source, path)?,
                Place::Host(source) => guest.put_file(source, path)?,
                _ => guest.write(&mut io::stdin().lock(), path, None)?,
            }
        }
        (Place::Guest { .. }, Place::Guest { .. }) => {
            let failed = Failed::new(ExitKind::Usage, "both sides are guests");
            return Err(
                failed.hint("copy to this host first, or through a pipe: midge cp A:/x - | midge cp - B:/x")
            );
        }
        _ => return Err(Failed::new(ExitKind::Usage, "neither side is a guest: write it as NAME:/path")),
    }
    Ok(0)
}

/// Copies by scp(1) at the guest's address.
fn by_ssh(context: &Context, args: &CpArgs) -> Outcome {
    let host = |place: &PathBuf| {
        // Not taken for one of another host: scp(1) looks for a colon before the first slash.
        if place.is_absolute() { place.clone() } else { Path::new(".").join(place) }.into_os_string()
    };
    let (way, source, target) = match (&args.source, &args.target) {
        (Place::Guest { name, path }, Place::Host(target)) => {
            let way = Way::to(context, name, None)?;
            let source = way.file(path).into();
            (way, source, host(target))
        }
        (Place::Host(source), Place::Guest { name, path }) => {
            let way = Way::to(context, name, None)?;
            let target = way.file(path).into();
            (way, host(source), target)
        }
        _ => {
            return Err(Failed::new(
                ExitKind::Usage,
                "by SSH one side is a guest and the other a file of this host",
            ));
        }
    };
    let mut scp = Command::new("scp");
    scp.args(way.options("-P")).arg("-q");
    if args.recursive {
        scp.arg("-r");
    }
    let status = scp.arg("--").args([source, target]).status().map_err(|e| missing("scp", e))?;
    if status.success() { Ok(0) } else { Err(Failed::new(ExitKind::Other, "scp could not copy it")) }
}

/// A guest's files.
struct Guest<'a> {
    context: &'a Context,
    vm: VmDir,
}

impl Guest<'_> {
    fn connect(&self) -> Result<Client, Failed> {
        self.context.connect(&self.vm)
    }

    /// Hands a file of the guest to `sink`.
    fn read(&self, path: &str, mut sink: impl FnMut(&[u8]) -> Result<(), Failed>) -> Result<(), Failed> {
        let request = Request::ReadFile { path: path.to_owned() };
        call(&mut self.connect()?, &request, Deadline::after(None), |reply| match reply {
            Reply::Output { data, .. } => sink(&decode(&data)?),
            _ => Ok(()),
        })?;
        Ok(())
    }

    /// Writes a file of the guest.
    fn write(&self, from: &mut impl Read, path: &str, mode: Option<u32>) -> Result<(), Failed> {
        let mut client = self.connect()?;
        client.send(&Request::WriteFile { path: path.to_owned(), mode })?;
        let mut sent = send_all(&mut client, from);
        if let Err(Sending::Reading(e)) = sent {
            return Err(Failed::io("cannot read what is to be copied", e));
        }
        loop {
            match (client.receive(), sent) {
                (Ok(Reply::Done { .. }), _) => return Ok(()),
                (Ok(_), before) => sent = before,
                // A supervisor that hung up in the middle has said why.
                (Err(refused @ ClientError::Refused(_)), _) => return Err(refused.into()),
                (Err(_), Err(Sending::Talking(error))) | (Err(error), _) => return Err(error.into()),
            }
        }
    }

    /// Copies a file of the guest to one of this host, which appears whole or not at all.
    fn get_file(&self, path: &str, target: &Path) -> Result<(), Failed> {
        let target = if target.is_dir() { target.join(file_name(path)?) } else { target.to_owned() };
        if target.exists() && !target.is_file() {
            // A device or a pipe: nothing to replace.
            let mut file =
                File::options().write(true).open(&target).map_err(|e| cannot("open", &target, e))?;
            return self.read(path, |bytes| file.write_all(bytes).map_err(|e| cannot("write", &target, e)));
        }
        let folder =
            target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".midge-cp-")
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(|e| cannot("create a file in", folder, e))?;
        self.read(path, |bytes| file.write_all(bytes).map_err(|e| cannot("write", &target, e)))?;
        file.persist(&target).map_err(|e| cannot("rename into place", &target, e.error))?;
        Ok(())
    }

    /// Copies a file of this host to one of the guest.
    fn put_file(&self, source: &Path, path: &str) -> Result<(), Failed> {
        let file = File::open(source).map_err(|e| cannot("open", source, e))?;
        let meta = file.metadata().map_err(|e| cannot("look at", source, e))?;
        if meta.is_dir() {
            let failed = Failed::new(ExitKind::Usage, format!("{} is a folder", source.display()));
            return Err(failed.hint("copy it with -r"));
        }
        let path = match path.strip_suffix('/') {
            Some(folder) => format!("{folder}/{}", file_name(&source.to_string_lossy())?),
            None => path.to_owned(),
        };
        self.write(&mut BufReader::new(file), &path, Some(meta.permissions().mode() & 0o777))
    }

    /// Copies a folder of the guest into one of this host.
    fn get_folder(&self, path: &str, target: &Path) -> Result<(), Failed> {
        fs::create_dir_all(target).map_err(|e| cannot("create", target, e))?;
        let archive = archive_name();
        let whole = path.trim_end_matches('/');
        let (parent, name) = match whole.rsplit_once('/') {
            Some((parent, name)) => (if parent.is_empty() { "/" } else { parent }, name),
            None => ("/", "."),
        };
        let name = if name.is_empty() { "." } else { name };
        self.with_archive(&archive, || {
            self.run(&["tar", "-C", parent, "-cf", &archive, "--", name])?;
            let mut tar = Tar::start(unpack(target, name).stdin(Stdio::piped()))?;
            let mut pipe = tar.child.stdin.take();
            let read = self.read(&archive, |bytes| match &mut pipe {
                Some(pipe) => pipe.write_all(bytes).map_err(|e| Failed::io("cannot write to tar", e)),
                None => Ok(()),
            });
            drop(pipe);
            tar.end().and(read)
        })
    }

    /// Copies a folder of this host into one of the guest.
    fn put_folder(&self, source: &Path, path: &str) -> Result<(), Failed> {
        let source = fs::canonicalize(source).map_err(|e| cannot("find", source, e))?;
        let (parent, name) = match (source.parent(), source.file_name()) {
            (Some(parent), Some(name)) => (parent.to_owned(), PathBuf::from(name)),
            _ => (PathBuf::from("/"), PathBuf::from(".")),
        };
        let archive = archive_name();
        self.with_archive(&archive, || {
            let mut tar = Tar::start(
                Command::new("tar")
                    .arg("-C")
                    .arg(parent)
                    .args(["-cf", "-", "--"])
                    .arg(name)
                    .stdout(Stdio::piped()),
            )?;
            let written = match tar.child.stdout.take() {
                Some(mut pipe) => self.write(&mut pipe, &archive, Some(0o600)),
                None => Ok(()),
            };
            written.and(tar.end())?;
            self.run(&["mkdir", "-p", "--", path])?;
            self.run(&["tar", "-C", path, "-xf", &archive])
        })
    }

    /// Removes the archive in the guest whatever happened.
    fn with_archive(&self, archive: &str, act: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
        let done = act();
        let cleared = self.run(&["rm", "-f", "--", archive]);
        done.and(cleared)
    }

    fn run(&self, argv: &[&str]) -> Result<(), Failed> {
        let request = Request::Exec {
            argv: argv.iter().map(ToString::to_string).collect(),
            env: std::collections::BTreeMap::default(),
            dir: None,
            input: None,
        };
        match execute(&mut self.connect()?, &request, Deadline::after(None))? {
            0 => Ok(()),
            code => Err(Failed::new(
                ExitKind::Other,
                format!("`{}` ended with {code} in the guest", argv.join(" ")),
            )),
        }
    }
}

/// What went wrong while a file was being sent.
enum Sending {
    Reading(io::Error),
    Talking(ClientError),
}

fn send_all(client: &mut Client, from: &mut impl Read) -> Result<(), Sending> {
    let mut piece = vec![0; PIECE];
    loop {
        // Whole pieces, also from a pipe that gives little at a time.
        let mut filled = 0;
        while filled < piece.len() {
            match from.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Sending::Reading(e)),
            }
        }
        if filled == 0 {
            return client.send_raw(b"\n").map_err(Sending::Talking);
        }
        let mut line = BASE64.encode(&piece[..filled]);
        line.push('\n');
        client.send_raw(line.as_bytes()).map_err(Sending::Talking)?;
    }
}

/// A local tar(1).
struct Tar {
    child: Child,
}

impl Tar {
    fn start(command: &mut Command) -> Result<Self, Failed> {
        let child = command.spawn().map_err(|e| {
            let failed = Failed::io(format!("cannot run {}", command.get_program().display()), e);
            Failed { kind: ExitKind::HostUnfit, ..failed }.hint("install it: apt-get install tar util-linux")
        })?;
        Ok(Self { child })
    }

    fn end(mut self) -> Result<(), Failed> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failed::new(ExitKind::Other, format!("tar ended with {status}"))),
            Err(e) => Err(Failed::io("cannot wait for tar", e)),
        }
    }
}

/// tar(1) that unpacks what a guest sends into a folder of this host.
///
/// The guest is not trusted: nothing but the folder that was asked for comes out (tar itself keeps names with `..` and links inside of
/// the target), files belong to the caller, without set-user-id bits, and root makes no device nodes, as that right is taken from
/// tar (capabilities(7), setpriv(1)). Folders that are there keep their permissions.
fn unpack(target: &Path, name: &str) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-mknod", "--inh-caps=-mknod", "--", "tar"]);
        command
    } else {
        Command::new("tar")
    };
    command.arg("-C").arg(target);
    command.args(["--no-same-owner", "--no-same-permissions", "--no-overwrite-dir", "-xf", "-", "--", name]);
    command
}

fn archive_name() -> String {
    format!("/tmp/.midge-cp-{}.tar", uuid::Uuid::new_v4().simple())
}

fn file_name(path: &str) -> Result<&str, Failed> {
    let name = path.rsplit('/').next().filter(|name| !matches!(*name, "" | "." | ".."));
    name.ok_or_else(|| {
        Failed::new(ExitKind::Usage, format!("`{path}` does not end with a file's name; folders need -r"))
    })
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Failed {
    Failed::io(format!("cannot {what} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};

    use super::*;

    fn tar(folder: &Path, args: &[&str]) -> Vec<u8> {
        let packed = Command::new("tar").arg("-C").arg(folder).args(args).output().unwrap();
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        packed.stdout
    }

    /// Unpacks what a guest may have sent; says whether tar was content.
    fn receive(archive: &[u8], target: &Path, name: &str) -> bool {
        let mut child = unpack(target, name).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(archive).unwrap();
        child.wait().unwrap().success()
    }

    #[test]
    fn a_guest_sends_nothing_but_the_folder_that_was_asked_for() {
        let (guest, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (asked, other) = (guest.path().join("logs"), guest.path().join("other"));
        for folder in [&asked, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("file"), "x").unwrap();
        }
        fs::set_permissions(asked.join("file"), fs::Permissions::from_mode(0o6755)).unwrap();
        let flags = ["--owner=12345", "-cf", "-", "logs", "other", "--transform=s,other,../up,"];
        let archive = tar(guest.path(), &flags);
        assert!(receive(&archive, host.path(), "logs"));
        let names: Vec<_> = fs::read_dir(host.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["logs"]);
        let meta = fs::metadata(host.path().join("logs/file")).unwrap();
        let uid = std::os::unix::fs::MetadataExt::uid(&meta);
        assert_eq!((meta.permissions().mode() & 0o7000, uid), (0, nix::unistd::geteuid().as_raw()));

        // Everything there is, when the root folder is asked for; not what would land elsewhere.
        let inner = host.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let archive = tar(guest.path(), &["-cf", "-", "--transform=s,other,../up,", "."]);
        let _ = receive(&archive, &inner, ".");
        assert!(inner.join("logs/file").exists() && !host.path().join("up").exists());
    }

    #[test]
    fn no_device_comes_out_of_a_guest() {
        if !nix::unistd::geteuid().is_root() {
            // The kernel lets nobody else make one.
            return;
        }
        let (guest, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let null = guest.path().join("null");
        if mknod(&null, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).is_err() {
            // Root of a container.
            return;
        }
        assert!(!receive(&tar(guest.path(), &["-cf", "-", "."]), host.path(), "."));
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("/etc/motd").unwrap(), "motd");
        for path in ["/etc/", "/", "/.."] {
            assert_eq!(file_name(path).unwrap_err().kind, ExitKind::Usage, "{path}");
        }
    }
}
