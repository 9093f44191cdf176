# Everything a newcomer types. Each target first sees to it that the machine has what it needs (config/setup.sh).

# cargo may just have been installed by rustup.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test setup lint consistency chaos oracle sim bench profile

demo: ## a real primary, two streaming replicas, pgweir in front, and load; Ctrl-C ends it
	config/setup.sh demo
	cargo build --release --locked
	target/release/pgweir demo

test: setup lint ## the four rings of tests, the last one against real servers and real clients
	cargo test --locked

setup: ## installs what a bare Debian or Ubuntu lacks
	config/setup.sh test

lint: setup ## formatting and clippy, where rustup brought them
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "lint: no rustfmt here, skipped"; fi
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --locked --all-targets -- -D warnings; else echo "lint: no clippy here, skipped"; fi

SECONDS ?= 30
LEVEL ?=

consistency: setup ## writes and reads in every way while one replica stands still: make consistency SECONDS=… LEVEL=session|global|strict
	PGWEIR_IT_SECONDS=$(SECONDS) PGWEIR_IT_LEVEL=$(LEVEL) cargo test --locked --test it -- checker read_your_writes --nocapture --test-threads 1

chaos: setup ## 32 clients read while replicas are killed, frozen, restarted and made to conflict: make chaos SECONDS=…
	PGWEIR_IT_SECONDS=$(SECONDS) cargo test --locked --test it -- chaos --nocapture

SEED ?= 1
STATEMENTS ?= 12000

oracle: setup ## so many calls of built-ins and as many generated statements on both nodes, and what the classifier says
	PGWEIR_IT_ORACLE=$(STATEMENTS) PGWEIR_IT_ORACLE_SEED=$(SEED) cargo test --locked --test it oracle -- --nocapture

sim: ## one seed of the simulation, with its trace: make sim SEED=…
	SIM_SEED=$(SEED) cargo test --locked --test sim -- --nocapture

# Apart: built together with examples, dependencies have other features, and the profile does not know them.
bench: ## beside PgBouncer, Pgpool-II, HAProxy and a bare relay, and what splitting gives; half an hour on a quiet machine
	config/setup.sh bench
	cargo build --release --locked
	cargo build --release --locked --example relay --example counting
	python3 tests/bench/bench.py

profile: ## what release builds are laid out by (config/rustc.sh), recorded anew: after changes of the hot path
	config/setup.sh profile
	rm -rf target/profile/raw
	RELEASE_PROFILE=record cargo build --release --locked --bin pgweir --target-dir target/profile
	LLVM_PROFILE_FILE=$(CURDIR)/target/profile/raw/%p.profraw python3 tests/bench/profile.py target/profile/release/pgweir
	PATH="$$(rustc --print sysroot)/lib/rustlib/$$(rustc -vV | sed -n 's/^host: //p')/bin:/usr/lib/llvm-$$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')/bin:$$PATH" \
	  llvm-profdata merge -sparse -o config/release.profdata target/profile/raw/*.profraw
	sed -i "s/^profile=.*/profile=$$(cksum <config/release.profdata | cut -d ' ' -f 1)/" config/rustc.sh
