# The commands of the README. Everything here works from a clean clone on a fresh machine: root,
# Debian or its like, Rust, Go, make and a C compiler; the rest is installed by the testbed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# One profile for tests, demo and image: what is tested is what is shipped.
RELEASE := $(CARGO_TARGET_DIR)/release
PROGRAMS := $(CARGO_TARGET_DIR)/programs
BUILD := $(CARGO) build --locked --release

# Where the demo and the two-cluster tests find what they install.
export EMBASSY_STATIC := $(PROGRAMS)/release/embassy
export EMBASSY_STATIC_FAULTS := $(PROGRAMS)/faults/embassy
export KUBECTL_EMBASSY := $(PROGRAMS)/kubectl-embassy
export DATA_EMBASSY_TESTBED := $(PROGRAMS)/testbed

RUNTIME ?= testbed
KEEP ?=
export RUNTIME KEEP

.PHONY: help
help: ## Shows this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

.PHONY: programs
programs: ## Builds operator (static), plugin and testbed.
	$(CARGO) rustc --locked --release --bin embassy -- -C target-feature=+crt-static
	install -D $(RELEASE)/embassy $(PROGRAMS)/release/embassy
	$(BUILD) --bin kubectl-embassy
	$(BUILD) -p testbed --bin testbed
	$(BUILD) -p e2e --bin demo
	install -D -t $(PROGRAMS) $(RELEASE)/kubectl-embassy $(RELEASE)/testbed $(RELEASE)/demo

# With a clock that can run wrong and points at which it can be made to die: for tests, never in a
# release. cargo keeps both variants compiled but links them to one path, so each is copied out.
.PHONY: faulty
faulty:
	$(CARGO) rustc --locked --release --features testclock,testcrash --bin embassy -- -C target-feature=+crt-static
	install -D $(RELEASE)/embassy $(PROGRAMS)/faults/embassy

.PHONY: testbed
testbed: programs ## Builds and caches Kubernetes, helm and the images of the tests (minutes, once).
	$(PROGRAMS)/testbed build

.PHONY: clusters
clusters: testbed ## Starts two clusters, home and embassy, and prints their kubeconfigs.
	$(PROGRAMS)/testbed up

.PHONY: clusters-down
clusters-down: ## Removes them, and whatever dead instances left.
	if [ -n "$$($(PROGRAMS)/testbed status)" ]; then $(PROGRAMS)/testbed down; fi
	$(PROGRAMS)/testbed clean

.PHONY: demo
demo: ## A register survives the loss of its home. KEEP=1 leaves the clusters up; RUNTIME=kind uses kind.
ifeq ($(RUNTIME),kind)
	@bash tests/e2e/kind-demo.sh
else
	@$(MAKE) --no-print-directory testbed
	@$(PROGRAMS)/demo
endif

.PHONY: test
test: ## All tests: unit, decisions, drift, mover, vault, chart, clusters.
	@bash tests/run.sh

.PHONY: lint
lint: ## Formatting, clippy, and cargo deny (licences, sources, bans).
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets --all-features -- -D warnings
	if command -v cargo-deny >/dev/null; then cargo-deny --all-features check bans licenses sources; \
	else echo "cargo-deny is not installed (cargo install --locked cargo-deny): not checked"; fi

.PHONY: crds
crds: ## Writes crds/ and the chart's copy anew from the types.
	$(CARGO) run --locked --release --bin embassy -- crds --out crds
	cp crds/*.yaml charts/data-embassy-operator/files/crds/

.PHONY: image
image: programs ## The release image as an OCI archive, for a registry of yours.
	$(PROGRAMS)/testbed image build -f Containerfile -t localhost/data-embassy:dev --build-arg BINARY=embassy -o $(PROGRAMS)/data-embassy.tar $(PROGRAMS)/release
	@echo $(PROGRAMS)/data-embassy.tar
