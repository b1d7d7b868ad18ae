//! Links the program statically, with nothing from the host's libc.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for arg in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
    {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
