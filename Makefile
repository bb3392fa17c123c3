# Thin: each target calls one script or one cargo command. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Of make bench: `bench-dev` skips link-time optimisation; quick to build, and not what ships.
PROFILE ?= release
# Of make bench: more arguments, e.g. BENCH="--repeats 10"; `--help` lists them.
BENCH ?=
# Of make test: the same cases of each property every time. test-long tries others at each run.
PROPTEST_RNG_SEED ?= 7443
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)

.PHONY: help build test test-long bench lint demo demo-down demo-drain demo-ha tools

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build the three programs
	cargo build --workspace --bins

test: ## install and start what the tests need (Docker, etcd), run them all
	deploy/dev/ensure-tools.sh
	deploy/dev/ensure-docker.sh
	deploy/dev/ensure-etcd.sh
	deploy/dev/ensure-python.sh
	cargo build --workspace --bins
	deploy/demo-app/make-image.sh wharf-test-app:1
	PROPTEST_RNG_SEED=$(PROPTEST_RNG_SEED) $(if $(NEXTEST),cargo nextest run --workspace,cargo test --workspace)

test-long: ## as test, with hundreds of seeds of faults, a larger fleet and more cases a property
	deploy/dev/ensure-tools.sh
	deploy/dev/ensure-docker.sh
	deploy/dev/ensure-etcd.sh
	deploy/dev/ensure-python.sh
	cargo build --workspace --bins
	deploy/demo-app/make-image.sh wharf-test-app:1
	WHARF_TEST_LONG=1 PROPTEST_CASES=5000 $(if $(NEXTEST),cargo nextest run --workspace --profile long,cargo test --workspace)

bench: ## build a release and measure it beside raw Docker and Swarm; PROFILE=bench-dev, BENCH="--repeats 10"
	deploy/dev/ensure-tools.sh
	deploy/dev/ensure-docker.sh
	deploy/dev/ensure-etcd.sh
	cargo build --profile $(PROFILE) --workspace --bins
	deploy/demo-app/make-image.sh wharf-test-app:1
	target=$${CARGO_TARGET_DIR:-target}; "$$target/$(PROFILE)/wharf-bench" $(BENCH)

lint: tools ## formatting, clippy, dependencies, house rules
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --offline check bans licenses sources
	cargo test --workspace --test house_rules

tools:
	@deploy/dev/ensure-tools.sh
	@deploy/dev/ensure-python.sh
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	@cargo fetch --locked

demo: ## one coordinator, three nodes and a controller on this machine; leaves it running
	deploy/demo/up.sh

demo-down: ## remove all that `make demo` made
	deploy/demo/down.sh

demo-drain: ## a node is drained under load while the coordinator is killed; counts failed requests, removes all of it
	deploy/demo/drain.sh

demo-ha: ## three coordinators on etcd lose each other under load; counts failed requests, removes all of it
	deploy/demo/ha.sh
