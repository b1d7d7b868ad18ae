//! Links the kernel as a static ELF by its own linker script, with nothing from the host's libc.

fn main() {
    println!("cargo:rerun-if-changed=src/arch/x86_64/link.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    for arg in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        &format!("-Wl,-T,{dir}/src/arch/x86_64/link.ld"),
        "-Wl,--build-id=none",
        // Segments start at page boundaries in memory; the file needs no padding for that, nobody maps it.
        "-Wl,-n",
        "-Wl,-z,noexecstack",
    ] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
