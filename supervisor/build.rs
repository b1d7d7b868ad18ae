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

/// A program to embed.
struct Program {
    /// What it is, for people.
    what: &'static str,
    /// Its package's folder.
    folder: &'static str,
    /// Its binary's name.
    name: &'static str,
    /// What it is built for, where it can be.
    targets: &'static [Target],
}

/// What a program is built for.
struct Target {
    /// Rust's name of it.
    triple: &'static str,
    /// Its instruction set, by which the library knows it.
    arch: &'static str,
    /// The file with its flags on a host of the same instruction set.
    flags: &'static str,
    /// The file with its flags on other hosts, where it can be built there.
    cross: Option<&'static str>,
}

const PROGRAMS: [Program; 3] = [
    Program {
        what: "the reference unikernel",
        folder: "guest",
        name: "hello",
        targets: &[Target {
            triple: "x86_64-unknown-linux-gnu",
            arch: "x86_64",
            flags: "kernel.toml",
            cross: None,
        }],
    },
    Program {
        what: "the first program of initial RAM disks",
        folder: "init",
        name: "init",
        targets: &[
            Target { triple: "x86_64-unknown-linux-gnu", arch: "x86_64", flags: "static.toml", cross: None },
            Target {
                triple: "aarch64-unknown-linux-gnu",
                arch: "aarch64",
                flags: "static.toml",
                cross: Some("cross.toml"),
            },
        ],
    },
    Program {
        what: "the program for guests' identities",
        folder: "identify",
        name: "identify",
        targets: &[
            Target { triple: "x86_64-unknown-linux-gnu", arch: "x86_64", flags: "static.toml", cross: None },
            Target {
                triple: "aarch64-unknown-linux-gnu",
                arch: "aarch64",
                flags: "static.toml",
                cross: None,
            },
        ],
    },
];

fn main() -> ExitCode {
    for program in &PROGRAMS {
        for target in program.targets {
            println!("cargo:rustc-check-cfg=cfg({}_{})", program.name, target.arch);
        }
    }
    let all = PROGRAMS.iter().flat_map(|program| program.targets.iter().map(move |target| (program, target)));
    match all.into_iter().try_for_each(|(program, target)| embed(program, target)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds a program for a target, where this host can: for its own instruction set always, for others where the compiler has their
/// libraries (`rustup target add`). Whatever `midge` itself is built for: it runs guests of each.
fn embed(program: &Program, target: &Target) -> Result<(), String> {
    let native = variable("HOST")?.starts_with(&format!("{}-", target.arch));
    let flags = match target.cross {
        _ if native => target.flags,
        Some(flags) if has_libraries(target.triple)? => flags,
        _ => return Ok(()),
    };
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..").join(program.folder);
    for input in ["src", "build.rs", flags, "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", package.join(input).display());
    }

    let out = PathBuf::from(variable("OUT_DIR")?);
    let folder = shared_folder(&out).join(program.folder);
    build(program, target.triple, flags, &package, &folder)?;

    let built = folder.join(target.triple).join("release").join(program.name);
    let embedded = out.join(format!("{}-{}", program.name, target.arch));
    fs::copy(&built, &embedded)
        .map_err(|error| format!("cannot copy {} to {}: {error}", built.display(), embedded.display()))?;
    println!("cargo:rustc-cfg={}_{}", program.name, target.arch);
    Ok(())
}

/// Whether the compiler has the libraries of a target.
fn has_libraries(triple: &str) -> Result<bool, String> {
    let rustc = variable("RUSTC")?;
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", triple])
        .output()
        .map_err(|error| format!("cannot run `{rustc}`: {error}"))?;
    Ok(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn build(program: &Program, triple: &str, flags: &str, package: &Path, folder: &Path) -> Result<(), String> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(package)
        .args(["--config", flags, "build", "--release", "--locked", "--bin", program.name])
        .args(["--target", triple])
        .arg("--target-dir")
        .arg(folder);
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
