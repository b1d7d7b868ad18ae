//! `image` and its verbs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};

use super::{Output, values};
use crate::image::pull::Sum;
use crate::spec::Arch;

/// `image`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ImageVerb {
    /// Build an image, such as debian:12; one that is there already is left alone
    Build(ImageBuildArgs),
    /// Download an image by its name, such as debian:12-genericcloud, or from an address
    Pull(ImagePullArgs),
    /// Make an image of a disk or a kernel of your own
    Import(ImageImportArgs),
    /// List images
    #[command(alias = "list")]
    Ls(ImageLsArgs),
    /// Remove images
    #[command(alias = "delete")]
    Rm(ImageNames),
    /// Show an image's manifest, as JSON
    #[command(alias = "show")]
    Inspect(ImageInspectArgs),
    /// Check images against their digests
    Verify(ImageVerifyArgs),
    /// Remove what no image and no VM needs: files of replaced images, cut-off downloads, outdated builds
    Prune(ImagePruneArgs),
}

/// `image build`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageBuildArgs {
    /// What to build.
    #[arg(value_name = "IMAGE")]
    pub(in crate::cli) name: String,
    /// Build it anew from the archive, also when it is there already.
    #[arg(long)]
    pub(in crate::cli) rebuild: bool,
    /// Instruction set of the image; this host's, as packages have to be run to be installed.
    #[arg(long, value_enum, value_name = "ARCH")]
    pub(in crate::cli) arch: Option<Arch>,
    /// Have cloud-init in it.
    #[arg(long)]
    pub(in crate::cli) cloud_init: bool,
    /// A further Debian package to have in it; repeatable. A `linux-image-…` takes the place of the cloud kernel.
    #[arg(long, value_name = "PKG")]
    pub(in crate::cli) with: Vec<String>,
    /// Where to get Debian's packages, instead of from the mirror that this host uses itself.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(in crate::cli) mirror: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `image pull`.
#[derive(Debug, Args)]
#[command(after_help = PULL_HELP)]
pub(in crate::cli) struct ImagePullArgs {
    /// A name, such as debian:13-genericcloud or debian:12-nocloud, or an address (https://…).
    #[arg(value_name = "NAME|URL", value_hint = ValueHint::Url)]
    pub(in crate::cli) what: String,
    /// The image's name; that of the catalogue, or of the file, when absent.
    #[arg(long)]
    pub(in crate::cli) name: Option<String>,
    /// Instruction set of the image; this host's when absent.
    #[arg(long, value_enum, value_name = "ARCH")]
    pub(in crate::cli) arch: Option<Arch>,
    /// The digest that the file must have, as sha512:DIGITS or sha256:DIGITS, instead of the one that its publisher lists.
    #[arg(long, value_name = "DIGEST")]
    pub(in crate::cli) checksum: Option<Sum>,
    /// A mirror of https://cloud.debian.org/images/cloud to download from.
    #[arg(long, value_name = "URL", env = "MIDGE_MIRROR", value_hint = ValueHint::Url)]
    pub(in crate::cli) mirror: Option<String>,
    /// How long the server may be silent before the download is given up; the next pull goes on where it ended.
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "30s")]
    pub(in crate::cli) timeout: Duration,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

const PULL_HELP: &str = "\
Environment: MIDGE_MIRROR, https_proxy, http_proxy, all_proxy, no_proxy, SSL_CERT_FILE.
Example: midge image pull debian:13-genericcloud";

/// `image import`.
#[derive(Debug, Args)]
#[command(after_help = "Example: midge image import debian.qcow2 --name vm-base --if-not-exists -o json")]
pub(in crate::cli) struct ImageImportArgs {
    /// A disk (qcow2, raw, vmdk, vhdx) or a kernel (ELF, bzImage, arm64 Image, EFI zboot); its content tells which.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// The image's name; that of the file when absent.
    #[arg(long)]
    pub(in crate::cli) name: Option<String>,
    /// Succeed when an image of this name exists already, and leave it as it is.
    #[arg(long)]
    pub(in crate::cli) if_not_exists: bool,
    /// Instruction set of the guest, where the file does not tell.
    #[arg(long, value_enum, value_name = "ARCH")]
    pub(in crate::cli) arch: Option<Arch>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `image prune`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImagePruneArgs {
    /// Only say what would be removed.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `image ls`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageLsArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `image rm`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageNames {
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    pub(in crate::cli) names: Vec<String>,
    /// Only say whether they could be removed.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `image inspect`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageInspectArgs {
    /// The image.
    #[arg(value_name = "IMAGE")]
    pub(in crate::cli) name: String,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `image verify`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageVerifyArgs {
    /// The images; all when none is named.
    #[arg(value_name = "IMAGE")]
    pub(in crate::cli) names: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}
