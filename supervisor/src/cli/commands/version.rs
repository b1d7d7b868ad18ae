//! `version`.

use serde::Serialize;

use crate::cli::args::Output;
use crate::cli::{Outcome, output};
use crate::host::qemu;
use crate::spec::Arch;

#[derive(Serialize)]
struct Versions {
    midge: &'static str,
    qemu: Vec<Qemu>,
}

#[derive(Serialize)]
struct Qemu {
    arch: Arch,
    path: std::path::PathBuf,
    version: String,
}

/// `midge version`: midge's own, and that of each QEMU that is here.
pub(super) fn version(format: Output) -> Outcome {
    let qemu = Arch::ALL.iter().filter_map(|arch| qemu::facts(*arch).ok());
    let qemu =
        qemu.map(|facts| Qemu { arch: facts.arch, path: facts.path, version: qemu::dotted(facts.version) });
    let versions = Versions { midge: env!("CARGO_PKG_VERSION"), qemu: qemu.collect() };
    if format.json() {
        output::json(&versions)?;
        return Ok(0);
    }
    output::print(|out| {
        writeln!(out, "midge {}", versions.midge)?;
        for Qemu { arch, path, version } in &versions.qemu {
            writeln!(out, "qemu  {version}  {arch}  {}", path.display())?;
        }
        if versions.qemu.is_empty() {
            writeln!(out, "qemu  not found (`midge doctor` says what to do)")?;
        }
        Ok(())
    })?;
    Ok(0)
}
