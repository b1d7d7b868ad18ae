//! Links the program statically, with nothing from the host's libc.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let architecture = |name: &str| env::var(name).unwrap_or_default().split('-').next().map(str::to_owned);
    // For the host by its C compiler, for others by the linker that comes with Rust's (static.toml, cross.toml).
    let arguments: &[&str] = if architecture("HOST") == architecture("TARGET") {
        &["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
    } else {
        &["-static", "--no-pie", "--build-id=none", "-znoexecstack"]
    };
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
