//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use super::{ImageName, ImageNameError, MANIFEST_SCHEMA};

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] ImageNameError),
    /// No image of this name.
    #[error("there is no image `{name}`; {hint}")]
    Unknown {
        /// The name asked for.
        name: ImageName,
        /// What to do.
        hint: String,
    },
    /// VMs or snapshots need it.
    #[error("the image `{name}` is used by {}; remove them first", users.join(", "))]
    InUse {
        /// The image.
        name: ImageName,
        /// Their names.
        users: Vec<String>,
    },
    /// It is part of the program.
    #[error("the image `{0}` is a part of midge and takes no room: it cannot be removed")]
    Embedded(ImageName),
    /// A manifest that is no manifest.
    #[error("{} is not a manifest of an image; remove its folder and make the image again", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A manifest of a later version.
    #[error("{} was written by a newer midge (format {schema}; this one knows {MANIFEST_SCHEMA}): upgrade midge", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        schema: u32,
    },
    /// A manifest that names a file outside its folder.
    #[error("{} names the file `{}`, which is not one of its own folder", path.display(), file.display())]
    Outside {
        /// The manifest.
        path: PathBuf,
        /// The file named.
        file: PathBuf,
    },
    /// A part that is not what the manifest says.
    #[error("{} is damaged: {what}; remove the image and make it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
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

/// Makes an error of an I/O error.
pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { what, path: path.to_owned(), source }
}
