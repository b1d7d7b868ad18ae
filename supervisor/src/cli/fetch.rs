//! Images from elsewhere: `image pull` and `image import`, with what they say while they work and how they fail.

use super::args::{ImageImportArgs, ImagePullArgs};
use super::context::Context;
use super::exit::{ExitKind, Failed, io_kind};
use super::output::Voice;
use super::progress::Transfer;
use super::{images, units};
use crate::image::import::{self, ImportError, ImportRequest};
use crate::image::pull::{self, HttpError, PullError, PullProgress, PullRequest};
use crate::image::{Image, ImageError, ImageName};

/// Downloads an image.
pub(super) fn pull(context: &Context, args: &ImagePullArgs) -> Result<Image, Failed> {
    let request = PullRequest {
        what: args.what.clone(),
        name: args.name.as_deref().map(named).transpose()?,
        arch: args.arch,
        sum: args.checksum.clone(),
        mirror: args.mirror.clone().filter(|mirror| !mirror.is_empty()),
        silence: args.timeout,
    };
    let mut shown = Shown::new(context.voice);
    let downloads = images::downloads(context)?;
    let pulled =
        pull::pull(&images::store(context)?, &downloads, &request, &mut |progress| shown.show(&progress));
    shown.end();
    let image = pulled?;
    tell(context, &image);
    Ok(image)
}

/// Makes an image of a file.
pub(super) fn import(context: &Context, args: &ImageImportArgs) -> Result<Image, Failed> {
    let name = match &args.name {
        Some(name) => named(name)?,
        None => import::name_of(&args.file).map_err(|e| {
            Failed::wrap(ExitKind::Usage, e)
                .context("the file's name gives none for the image")
                .hint("name it by --name")
        })?,
    };
    let store = images::store(context)?;
    match store.get(name.as_str()) {
        Ok(image) if args.if_not_exists => {
            context.voice.detail(format_args!("the image `{name}` is there already"));
            return Ok(image);
        }
        Ok(_) => {
            let text = format!("there is an image `{name}` already, and images do not change");
            return Err(Failed::new(ExitKind::WrongState, text)
                .hint("name it otherwise by --name, keep what is there by --if-not-exists, or remove it by `midge image rm`"));
        }
        // A damaged one is replaced.
        Err(ImageError::Unknown { .. } | ImageError::Manifest { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let request = ImportRequest { file: &args.file, name, arch: args.arch, origin: None, owned: false };
    let image = import::import(&store, &request)?;
    tell(context, &image);
    Ok(image)
}

fn named(name: &str) -> Result<ImageName, Failed> {
    name.parse().map_err(|e: crate::image::ImageNameError| ImageError::from(e).into())
}

/// Says what was found in a new image.
fn tell(context: &Context, image: &Image) {
    if let Some(os) = &image.manifest.os {
        context.voice.detail(format_args!("`{}` holds {os}", image.manifest.name));
    }
    if let Some(note) = images::firmware_note(&image.manifest) {
        context.voice.note(note);
    }
}

/// How far a pull is.
struct Shown {
    voice: Voice,
    transfer: Transfer,
}

impl Shown {
    fn new(voice: Voice) -> Self {
        Self { voice, transfer: Transfer::new(voice) }
    }

    fn show(&mut self, progress: &PullProgress) {
        match progress {
            PullProgress::Present => self.note("the image is there already, as its publisher has it"),
            PullProgress::Waiting => self.note("another midge is downloading it: waiting for that one"),
            PullProgress::Downloading { url, have, total } => self.bytes(url, *have, *total),
            PullProgress::Resuming => self.note("the connection broke: going on where it ended"),
            PullProgress::Checking => self.note("comparing it with its publisher's digest"),
            PullProgress::Importing => self.note("looking into it"),
        }
    }

    fn note(&mut self, text: &str) {
        self.end();
        self.voice.note(text);
    }

    fn end(&mut self) {
        self.transfer.end();
    }

    fn bytes(&mut self, url: &str, have: u64, total: Option<u64>) {
        if !self.transfer.is_going_on() {
            let size = total.map_or(String::new(), |total| format!(" ({})", units::bytes(total)));
            let rest = if have > 0 { format!(", from {} on", units::bytes(have)) } else { String::new() };
            self.voice.note(format_args!("downloading {url}{size}{rest}"));
        }
        self.transfer.show(have, total);
    }
}

impl From<PullError> for Failed {
    fn from(error: PullError) -> Self {
        let kind = match &error {
            PullError::Import(_) => return import_failed(error),
            PullError::Unknown { .. } => ExitKind::NotFound,
            PullError::Name(_) => ExitKind::Usage,
            PullError::Http(HttpError::Absent { .. }) => ExitKind::NotFound,
            PullError::Http(HttpError::Address(_)) => ExitKind::Usage,
            PullError::Http(HttpError::Silent { .. }) => ExitKind::Timeout,
            PullError::NoRoom { .. } => ExitKind::NoSpace,
            PullError::Io { source, .. } if io_kind(source) == ExitKind::NoSpace => ExitKind::NoSpace,
            _ => ExitKind::Other,
        };
        let resumable = matches!(
            &error,
            PullError::Http(HttpError::Silent { .. } | HttpError::Broken { .. })
                | PullError::NoRoom { .. }
                | PullError::Io { .. }
        );
        let unreached = matches!(&error, PullError::Http(HttpError::Failed { .. }));
        let failed = Self::wrap(kind, error);
        if resumable {
            failed.hint("what came is kept: the same command goes on where this one ended")
        } else if unreached {
            failed.hint("check the network, or name a proxy (https_proxy) or, for Debian's images, a mirror (MIDGE_MIRROR)")
        } else {
            failed
        }
    }
}

fn import_failed(error: PullError) -> Failed {
    match error {
        PullError::Import(error) => error.into(),
        error => Failed::wrap(ExitKind::Other, error),
    }
}

impl From<ImportError> for Failed {
    fn from(error: ImportError) -> Self {
        let kind = match &error {
            ImportError::Unknown { .. } | ImportError::NotAFile(_) | ImportError::WrongArch { .. } => {
                ExitKind::Usage
            }
            ImportError::Kernel(_) => ExitKind::Usage,
            ImportError::NoQemuImg(_) => ExitKind::HostUnfit,
            ImportError::Io { source, .. } => io_kind(source),
            _ => ExitKind::Other,
        };
        match error {
            ImportError::Image(error) => error.into(),
            error => Self::wrap(kind, error),
        }
    }
}
