//! The `midge` command; see the library for everything it does.

fn main() -> std::process::ExitCode {
    supervisor::cli::main()
}
