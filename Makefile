# Everything starts here; `make` alone lists what there is.

export PATH := $(PATH):$(HOME)/.cargo/bin
SEEDS ?= 1000
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test chaos soak bench-failover bench-gateway bench-memory bench-replication test-clients sim scale model build check fix clean setup

help: ## list these targets
	@echo "Domicile: multi-region for ordinary PostgreSQL."
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1	\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='	' read -r name text; do \
		printf '  make %-17s %s\n' "$$name" "$$text"; \
	done

demo: setup ## three regions on this machine, a failover before your eyes (DEMO_ARGS="...")
	cargo build --release --locked --package domicile
	target/release/domicile demo $(DEMO_ARGS)

test: setup ## install what is missing, then format, lints, docs and all tests, as CI does (PG_VERSIONS="14 18")
	@scripts/check

chaos: setup ## kill, cut, pause, move and fill regions under writers for MINUTES (default 30), then compare everything
	CHAOS_MINUTES=$(or $(MINUTES),30) cargo test --release --locked --package domicile --test chaos -- --nocapture

soak: setup ## come and go, and say anything to every port, for MINUTES (default 60): nobody dies, and memory stays what it was
	SOAK_MINUTES=$(or $(MINUTES),60) cargo test --release --locked --package domicile --test soak -- --nocapture

bench-failover: setup ## how long writes pause, ours against Patroni (ARGS="--runs 3")
	@scripts/bench-failover $(ARGS)

bench-gateway: setup ## what a gateway costs a statement, ours against PgBouncer and none, about 20 minutes (ARGS="--runs 1")
	@scripts/bench-gateway $(ARGS)

bench-memory: setup ## the agents' peak memory: 10 million rows to a new region, a transaction of 1 GiB (ARGS="--rows 1000000")
	cargo bench --locked --package domicile --bench memory -- $(ARGS)

bench-replication: setup ## replication against native and pglogical, about 25 minutes (ARGS="lag --runs 1")
	@scripts/bench-replication $(ARGS)

test-clients: setup ## real drivers through gateways against none, about 15 minutes; writes docs/reference/clients.md (ARGS="--driver asyncpg")
	@clients/setup
	@$(or $(CARGO_TARGET_DIR),target)/clients/venv/bin/python clients/run.py $(ARGS)

sim: ## simulate SEEDS worlds (default 1000) and check the invariants in each
	cargo run --release --locked --package domicile-sim -- --seeds $(SEEDS)

scale: ## count what the failover of one region costs, in worlds of up to 50 regions and a million partitions (ARGS="--regions 3")
	cargo run --release --locked --package domicile-sim -- scale $(ARGS)

model: ## try every order of events of the protocol, further than `make test` does; needs time and memory
	MODEL_WRITES=$(or $(WRITES),2) MODEL_RESTARTS=$(or $(RESTARTS),1) cargo test --release --locked --package domicile-sim --test model -- --nocapture

build: setup ## the binary, optimised: target/release/domicile
	cargo build --release --locked --package domicile

check: ## what `make test` checks, without looking for missing packages first
	@scripts/check

fix: ## format, and apply what the lints suggest; writes to the tree
	@scripts/fix

setup: ## install what is missing (PostgreSQL's programs, a C linker, etcd); quiet when nothing is
	@scripts/setup

clean: ## remove everything that was built
	cargo clean
