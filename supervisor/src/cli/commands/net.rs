//! `net`.

use crate::cli::Outcome;
use crate::cli::args::NetVerb;
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};

/// `midge net`.
pub(super) fn net(_context: &Context, _verb: &NetVerb) -> Outcome {
    Err(Failed::new(ExitKind::Other, "not built yet"))
}
