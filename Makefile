# Each target does its own set-up and can be run on a fresh Debian 12 or 13 that has only Rust and make.
MIDGE := target/release/midge
PREFIX ?= /usr/local

.PHONY: demo test bench install setup setup-tests build check fuzz clean

demo: setup build ## Boots the unikernel `hello` and Debian side by side
	scripts/demo.sh $(MIDGE)

test: setup-tests ## Runs every test
	scripts/test.sh

bench: setup-tests build ## Runs the benches; each prints ratios measured in one run
	cargo bench --workspace

check: ## What a change must pass before it is proposed, besides the tests
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	cd guest && cargo fmt --check && cargo clippy --lib --tests -- -D warnings && \
	    cargo --config kernel.toml clippy --release --bins -- -D warnings
	cd init && cargo fmt --check && cargo clippy --lib --tests -- -D warnings && \
	    cargo --config static.toml clippy --release --bins -- -D warnings
	cd identify && cargo fmt --check && cargo clippy --lib --tests -- -D warnings && \
	    cargo --config static.toml clippy --release --bins -- -D warnings

install: build ## Installs midge, its man pages and completions below PREFIX (/usr/local)
	install -Dm755 $(MIDGE) $(DESTDIR)$(PREFIX)/bin/midge
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(MIDGE) man $(DESTDIR)$(PREFIX)/share/man/man1
	$(MIDGE) completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/midge
	$(MIDGE) completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_midge
	$(MIDGE) completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/midge.fish

build:
	cargo build --release

setup: ## Installs what midge needs and says why
	scripts/setup.sh

setup-tests:
	scripts/setup.sh --tests

fuzz: ## Fuzzes the parsers for a minute each; needs a nightly Rust and cargo-fuzz
	scripts/fuzz.sh 60

clean:
	cargo clean
	rm -rf guest/target init/target identify/target qmp/fuzz/target netbr/fuzz/target supervisor/fuzz/target
