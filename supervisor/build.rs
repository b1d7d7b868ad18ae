//! Builds what runs in guests for the library to embed: the reference unikernel (`guest/`), the first program of small initial RAM
//! disks (`init/`) and the program that gives a resumed guest an identity of its own (`identify/`).
//!
//! They are no members of the workspace, as they need flags of their own, so a second cargo builds them. Their target folders are
//! shared by all profiles and commands of the outer cargo: `build`, `test`, `clippy` and `doc` build them once.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is how a build script speaks to cargo")]

use std::env::{self, VarError};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Architectures; the flags of each target are in the files that [`PROGRAMS`] names.
const X86_64: &str = "x86_64";
const AARCH64: &str = "aarch64";

/// A program to embed.
struct Program {
    /// What it is, for people.
    what: &'static str,
    /// Its package's folder.
    folder: &'static str,
    /// The file with its flags.
    flags: &'static str,
    /// Its binary's name.
    name: &'static str,
    /// What it is written for.
    archs: &'static [&'static str],
}

const PROGRAMS: [Program; 3] = [
    Program {
        what: "the reference unikernel",
        folder: "guest",
        flags: "kernel.toml",
        name: "hello",
        archs: &[X86_64],
    },
    Program {
        what: "the first program of initial RAM disks",
        folder: "init",
        flags: "static.toml",
        name: "init",
        archs: &[X86_64],
    },
    Program {
        what: "the program for guests' identities",
        folder: "identify",
        flags: "static.toml",
        name: "identify",
        archs: &[X86_64, AARCH64],
    },
];

fn main() -> ExitCode {
    for program in &PROGRAMS {
        for arch in program.archs {
            println!("cargo:rustc-check-cfg=cfg({}_{arch})", program.name);
        }
    }
    match PROGRAMS.iter().try_for_each(embed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn embed(program: &Program) -> Result<(), String> {
    // Host, not target: a compiler on x86_64 brings this target's libraries along, whatever it builds `midge` for.
    let host = variable("HOST")?;
    let is_host = |arch: &&&str| host.starts_with(&format!("{arch}-"));
    let Some(arch) = program.archs.iter().find(is_host) else { return Ok(()) };
    let triple = format!("{arch}-unknown-linux-gnu");
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..").join(program.folder);
    for input in ["src", "build.rs", program.flags, "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", package.join(input).display());
    }

    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = shared_folder(&out).join(program.folder);
    build(program, &package, &triple, &target)?;

    let built = target.join(&triple).join("release").join(program.name);
    let embedded = out.join(format!("{}-{arch}", program.name));
    fs::copy(&built, &embedded)
        .map_err(|error| format!("cannot copy {} to {}: {error}", built.display(), embedded.display()))?;
    println!("cargo:rustc-cfg={}_{arch}", program.name);
    Ok(())
}

fn build(program: &Program, package: &Path, triple: &str, target: &Path) -> Result<(), String> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(package)
        .args(["--config", program.flags, "build", "--release", "--locked", "--bin", program.name])
        .args(["--target", triple])
        .arg("--target-dir")
        .arg(target);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_build) {
            cargo.env_remove(name);
        }
    }
    let command = cargo.get_program().to_owned();
    let result = cargo
        .output()
        .map_err(|error| format!("cannot start `{}` for {}: {error}", command.display(), program.what))?;
    if result.status.success() {
        return Ok(());
    }
    Err(format!(
        "{} in {} did not build ({}); cargo said:\n\n{}\n\
         It needs a compiler for {triple}, a C compiler to link with (`cc`), and the packages of its Cargo.lock:\n\
         without a network, run `cargo fetch --manifest-path {}/Cargo.toml` where there is one first.",
        program.what,
        package.display(),
        result.status,
        String::from_utf8_lossy(&result.stderr),
        program.folder,
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
