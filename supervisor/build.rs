//! Builds the reference unikernel (`guest/`) for the library to embed.
//!
//! The guest is no member of the workspace, as it needs flags of its own, so a second cargo builds it. Its target folder is
//! shared by all profiles and commands of the outer cargo: `build`, `test`, `clippy` and `doc` build it once.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is how a build script speaks to cargo")]

use std::env::{self, VarError};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The only target of the guest so far; its flags are in `guest/kernel.toml`.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> ExitCode {
    println!("cargo:rustc-check-cfg=cfg(hello_x86_64)");
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    // Host, not target: a compiler on x86_64 brings this target's libraries along, whatever it builds `midge` for.
    if !variable("HOST")?.starts_with("x86_64-") {
        return Ok(());
    }
    let guest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../guest");
    for input in ["src", "build.rs", "kernel.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", guest.join(input).display());
    }

    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = shared_folder(&out).join("guest");
    build(&guest, &target)?;

    let kernel = target.join(TARGET).join("release/hello");
    let embedded = out.join("hello-x86_64");
    fs::copy(&kernel, &embedded)
        .map_err(|error| format!("cannot copy {} to {}: {error}", kernel.display(), embedded.display()))?;
    println!("cargo:rustc-cfg=hello_x86_64");
    Ok(())
}

fn build(guest: &Path, target: &Path) -> Result<(), String> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(guest)
        .args(["--config", "kernel.toml", "build", "--release", "--locked", "--bin", "hello"])
        .arg("--target-dir")
        .arg(target);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_build) {
            cargo.env_remove(name);
        }
    }
    let program = cargo.get_program().to_owned();
    let result = cargo.output().map_err(|error| {
        format!("cannot start `{}` for the reference unikernel: {error}", program.display())
    })?;
    if result.status.success() {
        return Ok(());
    }
    Err(format!(
        "the reference unikernel in {} did not build ({}); cargo said:\n\n{}\n\
         It needs a compiler for {TARGET}, a C compiler to link with (`cc`), and the packages of guest/Cargo.lock:\n\
         without a network, run `cargo fetch --manifest-path guest/Cargo.toml` where there is one first.",
        guest.display(),
        result.status,
        String::from_utf8_lossy(&result.stderr)
    ))
}

/// A variable that speaks of the build that this script is part of: passed on, it would change the flags of the guest, have
/// clippy compile it, or put its output elsewhere. What speaks of the machine (`CARGO_HOME`, registries, the jobserver)
/// stays.
fn belongs_to_outer_build(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_ENCODED_RUSTDOCFLAGS",
        "CARGO_INCREMENTAL",
        "CLIPPY_ARGS",
    ];
    const PREFIXES: [&str; 6] = [
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_PROFILE_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_UNSTABLE_",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The outer cargo's target folder, from `TARGET_DIR[/TRIPLE]/PROFILE/build/PACKAGE/out`.
fn shared_folder(out: &Path) -> &Path {
    out.ancestors().nth(4).unwrap_or(out)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error: VarError| format!("{name}: {error}: this is to be run by cargo"))
}
