//! Fetching images: by a name of the catalogue or by address, over HTTP(S), resumable, and checked against the publisher's sums
//! before anything of it becomes visible.
//!
//! A download lies in `$MIDGE_HOME/downloads` until it is whole. Of several pulls of one address at once, one downloads and the others
//! wait for it. Whatever cuts one short (a signal, a full disk, a silent server), the next goes on where it ended, if the server can and
//! still has the same file.

pub mod catalogue;
mod http;
mod part;
pub mod sums;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use catalogue::Catalogue;
pub use http::HttpError;
pub(crate) use part::sweep;
pub use sums::Sum;

use self::http::{Fetcher, From};
use self::part::Part;
use super::import::{ImportError, ImportRequest, import};
use super::{Image, ImageName, ImageNameError, ImageStore, Origin};
use crate::host::Space;
use crate::spec::Arch;
use crate::store::StoreError;

/// The largest sums file that is read, in bytes; Debian's has 10 KB.
const LARGEST_SUMS: u64 = 1 << 20;
/// How often a connection that broke is made anew in a row without a byte coming through.
const ATTEMPTS: u32 = 3;

/// What to fetch.
#[derive(Debug)]
pub struct PullRequest {
    /// A name of the catalogue, or an address.
    pub what: String,
    /// The image's name; none for that of the catalogue, or of the file.
    pub name: Option<ImageName>,
    /// The instruction set; none for this host's, or what is in the file.
    pub arch: Option<Arch>,
    /// The digest that the file must have; none for the one in its publisher's sums file.
    pub sum: Option<Sum>,
    /// A mirror of the catalogue's server, in place of the part of the addresses that all share.
    pub mirror: Option<String>,
    /// How long a server may be silent.
    pub silence: Duration,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullProgress {
    /// The image is there already, and is what the publisher has.
    Present,
    /// Another pull downloads it.
    Waiting,
    /// The file is coming.
    Downloading {
        /// Where from.
        url: String,
        /// Bytes there are.
        have: u64,
        /// Bytes of the whole, where the server tells.
        total: Option<u64>,
    },
    /// The download goes on after the connection broke.
    Resuming,
    /// It is compared with its digest.
    Checking,
    /// It becomes an image.
    Importing,
}

/// Why an image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Not in the catalogue, and no address.
    #[error("there is no image `{name}` to pull for {arch}: there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// For which instruction set.
        arch: Arch,
        /// What there is.
        known: Vec<String>,
    },
    /// The catalogue is none.
    #[error("the catalogue of images is damaged")]
    Catalogue(#[source] serde_json::Error),
    /// The image's name cannot be one.
    #[error("name the image by --name")]
    Name(#[source] ImageNameError),
    /// The publisher's sums cannot be had.
    #[error("{url} cannot be checked: its publisher has no sums ({}) beside it; give its digest: --checksum sha512:DIGITS", tried.join(", "))]
    NoSums {
        /// What was to be fetched.
        url: String,
        /// Which files were looked for.
        tried: Vec<String>,
    },
    /// The publisher's sums leave the file out.
    #[error("{url} cannot be checked: {sums} does not list it")]
    NotListed {
        /// What was to be fetched.
        url: String,
        /// The sums file.
        sums: String,
    },
    /// Fetching failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The content is not what was published.
    #[error(
        "{url} is not what its publisher made: its digest is {found} instead of {expected}; it was thrown away"
    )]
    WrongSum {
        /// What was fetched.
        url: String,
        /// Its digest.
        found: Sum,
        /// The publisher's.
        expected: Sum,
    },
    /// It does not fit.
    #[error("there is no room for {url}: {missing} more bytes are needed in {}", folder.display())]
    NoRoom {
        /// What was to be fetched.
        url: String,
        /// How much is missing.
        missing: u64,
        /// Where.
        folder: PathBuf,
    },
    /// It cannot become an image.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A lock.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What is to be fetched, by its addresses.
struct Source {
    url: String,
    name: ImageName,
    arch: Option<Arch>,
    /// Sums files to look in.
    sums: Vec<(sums::Kind, String)>,
}

/// Fetches an image into the store; `downloads` is the folder for what is not yet whole.
///
/// # Errors
/// [`PullError`]. What was downloaded is kept for the next attempt, unless it is of no use.
pub fn pull(
    store: &ImageStore,
    downloads: &Path,
    request: &PullRequest,
    progress: &mut dyn FnMut(PullProgress),
) -> Result<Image, PullError> {
    let source = find(request)?;
    let fetcher = Fetcher::new(request.silence);
    let sum = match &request.sum {
        Some(sum) => sum.clone(),
        None => published(&fetcher, &source)?,
    };
    let present = || {
        let image = store.get(source.name.as_str()).ok()?;
        let same = image.manifest.origin.as_ref().is_some_and(|origin| origin.digest == sum.to_string());
        let whole =
            image.manifest.parts().into_iter().flatten().all(|part| image.folder.join(&part.file).exists());
        (same && whole).then_some(image)
    };
    if let Some(image) = present() {
        progress(PullProgress::Present);
        return Ok(image);
    }
    let text = sum.to_string();
    let mut part = Part::open(downloads, &source.url, Some(&text), || progress(PullProgress::Waiting))?;
    // Whoever was waited for may have brought it.
    if let Some(image) = present() {
        part.remove();
        progress(PullProgress::Present);
        return Ok(image);
    }
    let mut again = true;
    loop {
        download(&fetcher, &source.url, &text, &mut part, progress)?;
        progress(PullProgress::Checking);
        let found = sum.of_same_kind(part.path()).map_err(|source| PullError::Io {
            what: "read",
            path: part.path().to_owned(),
            source,
        })?;
        if found == sum {
            break;
        }
        if part.is_patchwork() && std::mem::take(&mut again) {
            // Its pieces may have been of different files: once more, all of it.
            part.restart()?;
            continue;
        }
        let url = source.url.clone();
        part.remove();
        return Err(PullError::WrongSum { url, found, expected: sum });
    }
    progress(PullProgress::Importing);
    let origin = Origin { url: source.url.clone(), digest: text };
    let request = ImportRequest {
        file: part.path(),
        name: source.name,
        arch: source.arch,
        origin: Some(origin),
        owned: true,
    };
    let imported = import(store, &request);
    match &imported {
        // With room, the next attempt will do.
        Err(ImportError::Io { .. } | ImportError::Image(_) | ImportError::NoQemuImg(_)) => {}
        // It is in the store, or can never be.
        _ => part.remove(),
    }
    Ok(imported?)
}

/// What a request means.
fn find(request: &PullRequest) -> Result<Source, PullError> {
    if request.what.contains("://") {
        let path = request.what.split(['?', '#']).next().unwrap_or_default();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let sums = [sums::Kind::Sha512, sums::Kind::Sha256];
        let sums = sums.map(|kind| (kind, format!("{folder}/{}", kind.file_name()))).into();
        let name = match &request.name {
            Some(name) => name.clone(),
            None => super::name::of_file(file_name(path)).map_err(PullError::Name)?,
        };
        return Ok(Source { url: request.what.clone(), name, arch: request.arch, sums });
    }
    let catalogue = Catalogue::read().map_err(PullError::Catalogue)?;
    let arch = request.arch.unwrap_or_else(Arch::host);
    let Some(entry) = catalogue.find(&request.what, arch, request.mirror.as_deref()) else {
        let known = catalogue.names().into_iter().map(str::to_owned).collect();
        return Err(PullError::Unknown { name: request.what.clone(), arch, known });
    };
    let name = match &request.name {
        Some(name) => name.clone(),
        // Those of both kinds may lie side by side.
        None if arch == Arch::host() => entry.name.parse().map_err(PullError::Name)?,
        None => format!("{}-{arch}", entry.name).parse().map_err(PullError::Name)?,
    };
    Ok(Source { url: entry.url, name, arch: Some(arch), sums: vec![(sums::Kind::Sha512, entry.sums)] })
}

/// The name of the file at an address.
fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// The digest in the publisher's sums file.
fn published(fetcher: &Fetcher, source: &Source) -> Result<Sum, PullError> {
    let mut tried = Vec::new();
    for (kind, sums_url) in &source.sums {
        let text = match fetcher.text(sums_url, LARGEST_SUMS) {
            Ok(text) => text,
            Err(HttpError::Absent { .. }) => {
                tried.push(sums_url.clone());
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let found = sums::find(&text, *kind, file_name(&source.url));
        return found.ok_or_else(|| PullError::NotListed { url: source.url.clone(), sums: sums_url.clone() });
    }
    Err(PullError::NoSums { url: source.url.clone(), tried })
}

/// Brings a part to its end.
fn download(
    fetcher: &Fetcher,
    url: &str,
    sum: &str,
    part: &mut Part,
    progress: &mut dyn FnMut(PullProgress),
) -> Result<(), PullError> {
    let mut in_vain = 0;
    loop {
        let before = part.have();
        match attempt(fetcher, url, sum, part, progress) {
            Ok(()) => return Ok(()),
            // The server may be well again in a moment; silence has a limit of its own, and is told.
            Err(PullError::Http(HttpError::Broken { .. }))
                if part.have() > before || in_vain + 1 < ATTEMPTS =>
            {
                in_vain = if part.have() > before { 0 } else { in_vain + 1 };
                progress(PullProgress::Resuming);
            }
            Err(e) => return Err(e),
        }
    }
}

/// One connection's worth of a part.
fn attempt(
    fetcher: &Fetcher,
    url: &str,
    sum: &str,
    part: &mut Part,
    progress: &mut dyn FnMut(PullProgress),
) -> Result<(), PullError> {
    let from = (part.have() > 0).then(|| From { offset: part.have(), mark: part.mark() });
    let mut answer = fetcher.get(url, from)?;
    if answer.status == 416 {
        if answer.range().1 == Some(part.have()) {
            return Ok(());
        }
        // The file is another one now, and shorter.
        part.restart()?;
        answer = fetcher.get(url, None)?;
    }
    match answer.status {
        206 if answer.range().0 == Some(part.have()) => part.patch(),
        200 => {
            // The server sends everything: it knows no ranges, or has another file now.
            part.restart()?;
            part.set_mark(url, Some(sum), answer.mark())?;
        }
        status => return Err(HttpError::Status { url: url.to_owned(), status }.into()),
    }
    let total = answer.length().map(|length| part.have().saturating_add(length));
    if let (Some(total), Some(folder)) = (total, part.path().parent())
        && let Ok(space) = Space::of(folder)
        && let Some(missing) =
            (total - part.have()).checked_sub(space.available).filter(|missing| *missing > 0)
    {
        return Err(PullError::NoRoom { url: url.to_owned(), missing, folder: folder.to_owned() });
    }
    let mut buffer = vec![0; 128 << 10];
    loop {
        progress(PullProgress::Downloading { url: url.to_owned(), have: part.have(), total });
        let read = answer.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        part.add(&buffer[..read])?;
    }
    match total {
        Some(total) if part.have() < total => {
            let source = io::ErrorKind::UnexpectedEof.into();
            Err(HttpError::Broken { url: url.to_owned(), source }.into())
        }
        _ => Ok(()),
    }
}
