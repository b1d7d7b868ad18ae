#!/usr/bin/env bash
# fuzz.sh [SECONDS]: fuzzes every parser for so long each. Needs a nightly Rust and `cargo install cargo-fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."
for crate in qmp netbr; do
    for target in $(cd "$crate" && cargo +nightly fuzz list); do
        (cd "$crate" && cargo +nightly fuzz run "$target" -- -max_total_time="${1:-60}" -print_final_stats=1)
    done
done
