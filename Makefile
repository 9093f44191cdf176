# Everything a newcomer types. Each target first sees to it that the machine has what it needs (config/setup.sh).

# cargo may just have been installed by rustup.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test setup lint consistency sim bench

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

consistency: setup ## 20 clients write and read back for 30 s in every protocol while one replica stands still
	PGWEIR_IT_SECONDS=30 cargo test --locked --test it read_your_writes -- --nocapture

SEED ?= 1

sim: ## one seed of the simulation, with its trace: make sim SEED=…
	SIM_SEED=$(SEED) cargo test --locked --test sim -- --nocapture

bench: ## beside PgBouncer, Pgpool-II, HAProxy and a bare relay, and what splitting gives; half an hour on a quiet machine
	config/setup.sh bench
	cargo build --release --locked --bin pgweir --example relay
	python3 tests/bench/bench.py
