#!/usr/bin/env bash
# Every test: those of what runs in guests, on the host, then the workspace's. Arguments go to the latter's `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
(cd guest && cargo test --locked)
(cd init && cargo test --locked)
(cd identify && cargo test --locked)
# Guests under emulation take a core each: as many tests at once as there are cores.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(nproc)} cargo test --workspace --locked "$@"
