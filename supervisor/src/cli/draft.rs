//! From flags to a spec: the flags are laid over the JSON of `--spec`, and what results is read and checked as a whole, so
//! that everything wrong with both is told at once.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::args::SpecFlags;
use super::exit::{ExitKind, Failed};
use super::{names, ssh_key};
use crate::seed::cloud_init::UserData;
use crate::spec::{Blob, FileMode, GuestFile, Net, OnReset, SpecErrors, VmSpec};

/// What is to boot, as far as the command line says it in one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// An image.
    Image(String),
    /// A kernel file.
    Kernel(PathBuf),
}

impl Target {
    /// A word with a `/`, or one that is an existing file, is a kernel file; any other is an image.
    pub(super) fn new(word: &str) -> Self {
        if word.contains('/') || Path::new(word).is_file() {
            Self::Kernel(PathBuf::from(word))
        } else {
            Self::Image(word.to_owned())
        }
    }
}

/// What a spec is made from.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) flags: &'a SpecFlags,
    pub(super) name: Option<&'a str>,
    pub(super) target: Option<Target>,
}

/// The spec that the command line describes.
///
/// # Errors
/// [`ExitKind::Usage`] with all that is wrong, and failures to read the files that it names.
pub(super) fn spec(draft: &Draft<'_>) -> Result<VmSpec, Failed> {
    let mut base = match &draft.flags.spec {
        Some(path) => read_json(path)?,
        None => Map::new(),
    };
    // What `create --dry-run` printed, read again.
    base.remove("schema");
    let keys = draft.flags.ssh_key.iter().map(|key| ssh_key::named(key)).collect::<Result<Vec<_>, _>>()?;
    lay_over(&mut base, draft, &keys.concat())?;
    if !base.contains_key("name") {
        let random = *uuid::Uuid::new_v4().as_bytes();
        let name = names::made_up(&boots(&base), [random[0], random[1], random[2], random[3]]);
        base.insert("name".to_owned(), Value::from(name));
    }
    let mut spec = VmSpec::from_json(&Value::Object(base)).map_err(|errors| wrong(&errors))?;
    for (what, path) in [("kernel", &mut spec.boot.kernel), ("initrd", &mut spec.boot.initrd)] {
        if let Some(path) = path {
            *path = readable(what, path)?;
        }
    }
    Ok(spec)
}

/// All that is wrong with a spec, as a failure.
pub(super) fn wrong(errors: &SpecErrors) -> Failed {
    let failed = match &errors.0[..] {
        [one] => Failed::new(ExitKind::Usage, one.to_string()),
        many => Failed::new(ExitKind::Usage, format!("{} things are wrong:\n{errors}", many.len())),
    };
    failed.context("the VM cannot be like this")
}

fn lay_over(base: &mut Map<String, Value>, draft: &Draft<'_>, keys: &[String]) -> Result<(), Failed> {
    let flags = draft.flags;
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            base.insert(field.to_owned(), value);
        }
    };
    set("name", draft.name.map(Value::from));
    set("kind", flags.kind.map(word));
    set("arch", flags.arch.map(word));
    set("machine", flags.machine.map(word));
    set("accel", flags.accel.map(word));
    set("cpu", flags.cpu.clone().map(Value::from));
    set("cpus", flags.cpus.map(Value::from));
    set("memory", flags.memory.map(word));
    set("disk", flags.disk.map(word));
    set("provision", flags.provision.map(word));
    set("user", flags.user.clone().map(Value::from));
    set("cloud_init", flags.cloud_init.as_deref().map(user_data).transpose()?.map(word));
    set("restart", flags.restart.map(word));
    set("on_reset", flags.no_reboot.then(|| word(OnReset::Stop)));
    set("ttl_seconds", flags.ttl.map(|ttl| Value::from(ttl.as_secs())));
    set("ephemeral", flags.rm.then(|| Value::from(true)));
    set("ready", flags.ready.clone().map(word));
    if let Some(nets) = nets(flags, base.get("nets"))? {
        base.insert("nets".to_owned(), nets);
    }

    let (image, kernel) = match &draft.target {
        Some(Target::Image(image)) => (Some(image.clone()), None),
        Some(Target::Kernel(path)) => (None, Some(path.as_path())),
        None => (flags.image.clone(), flags.kernel.as_deref()),
    };
    let boot = [
        ("image", image.map(Value::from)),
        ("kernel", kernel.map(text).transpose()?),
        ("initrd", flags.initrd.as_deref().map(text).transpose()?),
        ("append", flags.append.clone().map(Value::from)),
    ];
    for (field, value) in boot {
        if let Some(value) = value {
            merge(base, "boot", field, value);
        }
    }
    for (key, value) in &flags.label {
        merge(base, "labels", key, Value::from(value.as_str()));
    }
    for (field, more) in [("ssh_keys", keys), ("qemu_args", &flags.qemu_arg)] {
        append(base, field, more.iter().map(|item| Value::from(item.as_str())));
    }
    let files = flags.file.iter().map(|(host, guest)| file(host, guest).map(word));
    append(base, "files", files.collect::<Result<Vec<_>, _>>()?);
    Ok(())
}

/// The networks that the flags ask for; nothing where they leave those of the description as they are.
fn nets(flags: &SpecFlags, described: Option<&Value>) -> Result<Option<Value>, Failed> {
    let mut nets = match (&flags.net[..], described) {
        ([], Some(_)) if flags.publish.is_empty() => return Ok(None),
        ([], Some(described)) => match serde_json::from_value(described.clone()) {
            Ok(nets) => nets,
            // Told of by the reader, with all else that is wrong.
            Err(_) => return Ok(None),
        },
        ([], None) => vec![default_net()?],
        (nets, _) => nets.to_vec(),
    };
    if !flags.publish.is_empty() {
        let Some(forwards) = nets.iter_mut().find_map(Net::forwards_mut) else {
            let text = "--publish needs a `nat` or `user` network, and there is none";
            return Err(Failed::new(ExitKind::Usage, text)
                .hint("a guest on a bridge is reached at its own address: `midge ip NAME` tells it"));
        };
        forwards.clone_from(&flags.publish);
    }
    Ok(Some(word(nets)))
}

/// The network of a VM for which nobody names one.
fn default_net() -> Result<Net, Failed> {
    match std::env::var("MIDGE_NET") {
        Ok(text) if !text.is_empty() => text.parse().map_err(|e: crate::spec::NetError| {
            Failed::wrap(ExitKind::Usage, e).context("MIDGE_NET cannot be used")
        }),
        _ => Ok(crate::host::privilege::default_net()),
    }
}

/// A value in the form that it has in JSON.
fn word(value: impl Serialize) -> Value {
    // Words, sizes and signs: strings all of them, so nothing can fail.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// A path as JSON can hold it.
fn text(path: &Path) -> Result<Value, Failed> {
    path.to_str().map(Value::from).ok_or_else(|| {
        Failed::new(
            ExitKind::Usage,
            format!("the path {} is not UTF-8; give the file another name", path.display()),
        )
    })
}

/// Sets a field of an object of the spec. What is there and is no object stays, to be told of by the reader.
fn merge(base: &mut Map<String, Value>, object: &str, field: &str, value: Value) {
    let place = base.entry(object).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(fields) = place {
        fields.insert(field.to_owned(), value);
    }
}

/// Adds to a list of the spec.
fn append(base: &mut Map<String, Value>, field: &str, more: impl IntoIterator<Item = Value>) {
    let mut more = more.into_iter().peekable();
    if more.peek().is_none() {
        return;
    }
    let place = base.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = place {
        list.extend(more);
    }
}

/// What a spec boots, in a word that can begin a name.
fn boots(base: &Map<String, Value>) -> String {
    let field = |name: &str| base.get("boot").and_then(|boot| boot.get(name)).and_then(Value::as_str);
    if let Some(image) = field("image") {
        return image.split(':').next().unwrap_or(image).to_owned();
    }
    let kernel = field("kernel").map(Path::new).and_then(Path::file_stem);
    kernel.map_or_else(|| "vm".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn read_json(path: &Path) -> Result<Map<String, Value>, Failed> {
    let what = || format!("cannot read the VM's description from {}", path.display());
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.map_err(|e| Failed::io(what(), e))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Failed::new(ExitKind::Usage, "it is JSON, but no object").context(what())),
        Err(e) => Err(Failed::wrap(ExitKind::Usage, e).context(what())),
    }
}

/// A file of this host as the guest is to have it.
fn file(host: &Path, guest: &str) -> Result<GuestFile, Failed> {
    let what = || format!("cannot read {} for the guest", host.display());
    let read = || {
        let mut file = fs::File::open(host)?;
        let mode = file.metadata()?.permissions().mode();
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        // The lower twelve bits are the permissions (inode(7)).
        io::Result::Ok((FileMode((mode & 0o7777) as u16), content))
    };
    let (mode, content) = read().map_err(|e| Failed::io(what(), e))?;
    Ok(GuestFile { path: guest.to_owned(), mode, content: Blob(content) })
}

/// User-data that cloud-init can read.
fn user_data(path: &Path) -> Result<Blob, Failed> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|e| Failed::io(format!("cannot read the user-data {}", path.display()), e))?;
    UserData::read(&bytes).map_err(|e| {
        Failed::wrap(ExitKind::Usage, e).context(format!("the user-data {} cannot be used", path.display()))
    })?;
    Ok(Blob(bytes))
}

/// A file that can be read, by its absolute path: the VM's supervisor works in another folder.
fn readable(what: &str, path: &Path) -> Result<PathBuf, Failed> {
    let absolute = fs::canonicalize(path)
        .and_then(|path| fs::File::open(&path).and_then(|file| file.metadata()).map(|meta| (path, meta)))
        .map_err(|e| Failed::io(format!("cannot read the {what} {}", path.display()), e))?;
    match absolute {
        (path, meta) if meta.is_file() => Ok(path),
        (path, _) => {
            Err(Failed::new(ExitKind::Usage, format!("the {what} {} is not a file", path.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::spec::Size;

    fn draft(flags: &SpecFlags) -> Result<VmSpec, Failed> {
        spec(&Draft { flags, name: Some("web"), target: None })
    }

    fn json_file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn flags_override_the_description_and_the_rest_stays() {
        let file = json_file(
            r#"{"schema":1,"name":"old","cpus":4,"memory":"1G","boot":{"image":"hello","append":"a"},
                "labels":{"a":"1","b":"2"},"qemu_args":["-x"]}"#,
        );
        let flags = SpecFlags {
            spec: Some(file.path().to_owned()),
            memory: Some(Size::from_mib(64)),
            append: Some("b".to_owned()),
            label: vec![("b".to_owned(), "3".to_owned())],
            qemu_arg: vec!["-y".to_owned()],
            net: vec!["user".parse().unwrap()],
            publish: vec!["8080:80".parse().unwrap()],
            rm: true,
            ..SpecFlags::default()
        };
        let spec = draft(&flags).unwrap();
        assert_eq!((spec.name.as_str(), spec.cpus, spec.memory), ("web", 4, Size::from_mib(64)));
        assert_eq!(spec.boot.image.as_deref(), Some("hello"));
        assert_eq!(spec.boot.append.as_deref(), Some("b"));
        assert_eq!(spec.labels.into_iter().map(|(k, v)| k + &v).collect::<Vec<_>>(), ["a1", "b3"]);
        assert_eq!(spec.qemu_args, ["-x", "-y"]);
        assert!(spec.ephemeral);
        assert!(matches!(&spec.nets[..], [Net::User { forwards, .. }] if forwards.len() == 1));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let file = json_file(r#"{"boot":{"image":"hello"},"memry":"1G"}"#);
        let flags = SpecFlags { spec: Some(file.path().to_owned()), cpus: Some(0), ..SpecFlags::default() };
        let failed = draft(&flags).unwrap_err();
        let text = format!("{:#}", failed.error);
        assert_eq!(failed.kind, ExitKind::Usage);
        assert!(text.contains("memry") && text.contains("cpus"), "{text}");
    }

    #[test]
    fn a_printed_spec_can_be_read_again() {
        let flags = SpecFlags { image: Some("hello".to_owned()), ..SpecFlags::default() };
        let first = draft(&flags).unwrap();
        let file = json_file(&serde_json::to_string(&first).unwrap());
        let again = draft(&SpecFlags { spec: Some(file.path().to_owned()), ..SpecFlags::default() }).unwrap();
        assert_eq!(first, again);
    }

    #[test]
    fn a_name_is_made_up_from_what_boots() {
        let flags = SpecFlags { image: Some("debian:12".to_owned()), ..SpecFlags::default() };
        let spec = spec(&Draft { flags: &flags, name: None, target: None }).unwrap();
        assert!(spec.name.starts_with("debian-") && spec.name.len() == 11, "{}", spec.name);
    }

    #[test]
    fn a_path_is_a_kernel_and_a_word_an_image() {
        assert_eq!(Target::new("debian:12"), Target::Image("debian:12".to_owned()));
        assert_eq!(Target::new("./debian"), Target::Kernel("./debian".into()));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(Target::new(path), Target::Kernel(path.into()));
    }

    #[test]
    fn kernels_must_be_readable_files() {
        let missing = SpecFlags { kernel: Some("/nowhere/kernel".into()), ..SpecFlags::default() };
        assert_eq!(draft(&missing).unwrap_err().kind, ExitKind::NotFound);
        let folder = SpecFlags { kernel: Some("/".into()), ..SpecFlags::default() };
        assert_eq!(draft(&folder).unwrap_err().kind, ExitKind::Usage);
    }

    #[test]
    fn ports_need_a_network_that_can_forward() {
        for net in ["none", "bridge=br0"] {
            let flags = SpecFlags {
                image: Some("hello".to_owned()),
                net: vec![net.parse().unwrap()],
                publish: vec!["1:2".parse().unwrap()],
                ..SpecFlags::default()
            };
            assert_eq!(draft(&flags).unwrap_err().kind, ExitKind::Usage, "{net}");
        }
    }

    #[test]
    fn ports_go_to_the_first_network_that_takes_them() {
        let nets = ["none", "nat,ip=10.9.8.7", "user"];
        let flags = SpecFlags {
            image: Some("hello".to_owned()),
            net: nets.map(|net| net.parse().unwrap()).to_vec(),
            publish: vec!["1:2".parse().unwrap()],
            ..SpecFlags::default()
        };
        let spec = draft(&flags).unwrap();
        assert_eq!(spec.nets.iter().map(ToString::to_string).collect::<Vec<_>>(), nets);
        assert_eq!(spec.nets.iter().map(|net| net.forwards().len()).collect::<Vec<_>>(), [0, 1, 0]);
    }

    #[test]
    fn ports_are_added_to_described_networks() {
        let file = json_file(
            r#"{"boot":{"image":"hello"},"nets":[{"type":"bridge","bridge":"br0"},{"type":"nat"}]}"#,
        );
        let flags = SpecFlags {
            spec: Some(file.path().to_owned()),
            publish: vec!["1:2".parse().unwrap()],
            ..SpecFlags::default()
        };
        let spec = draft(&flags).unwrap();
        assert_eq!(spec.nets.iter().map(|net| net.forwards().len()).collect::<Vec<_>>(), [0, 1]);
    }
}
