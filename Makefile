# Lovage's targets. `make help` explains them.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The wasm compiler and the tests' venv are installed by the targets that need them.
CARGO ?= cargo
NATIVE = $(shell rustc -vV | sed -n 's/^host: //p')
GUEST_TARGET := $(or $(LOVAGE_GUEST_TARGET_DIR),target)
LOVAGE := $(or $(CARGO_TARGET_DIR),target)/debug/lovage

.PHONY: help
help: ## Explain every target
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build guests ## Start a worker, send process_data with 21, print 42: no server, no account
	@deploy/demo.sh $(LOVAGE)

.PHONY: build
build: ## Build the host (debug)
	$(CARGO) build --workspace

.PHONY: release
release: ## Build the host for use: target/release/lovage
	$(CARGO) build --workspace --release

.PHONY: guests
guests: ## Build the guest tasks to guest-tasks/dist/NAME.wasm
	guest-tasks/build.sh

.PHONY: test
test: test-setup guests check-wit lint test-guests test-python test-host test-languages test-demo ## Set up what the tests need, and pass them all

.PHONY: test-setup
test-setup: ## Install what the tests need: a local AWS in a venv, and Redis
	host/tests/setup.sh

.PHONY: test-host
test-host: guests ## The host's tests, end to end against the local AWS included
	deploy/lambda/build.sh --for-tests
	# More threads than cores: end-to-end tests mostly wait.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-12} $(CARGO) test --workspace -- --skip hostile:: --skip cpu:: --skip languages:: --skip hot_swap::a_hundred
	# Those that look at time, memory and CPU want the machine for themselves.
	RUST_TEST_THREADS=1 $(CARGO) test --workspace --lib --test promises -- hostile:: cpu:: hot_swap::a_hundred

.PHONY: test-languages
# Two at once: they compile most of the time.
test-languages: test-host ## A task in each language, from nothing, by the commands of docs/languages.md
	host/tests/languages-setup.sh
	RUST_TEST_THREADS=2 $(CARGO) test --workspace --test promises -- languages::

.PHONY: test-demo
# With the program that the tests have built: `make demo` would build it again, since the tests'
# dependencies have features of their own.
test-demo: test-host ## The demo, with what the tests have built
	deploy/demo.sh $(LOVAGE)
.PHONY: fuzz
# Sanitizers need a nightly compiler, and Rust without `unsafe` hardly needs them: so there are none.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(notdir $(basename $(wildcard host/fuzz/fuzz_targets/*.rs)))
fuzz: guests ## Fuzz for long: FUZZ_SECONDS each decoder with libFuzzer, then 20,000 components of each sort
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	# The versions that are tested and shipped, and not whatever is newest.
	cp Cargo.lock host/fuzz/Cargo.lock
	cd host/fuzz && for target in $(FUZZ_TARGETS); do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir . -s none $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
	LOVAGE_GENERATED=20000 $(CARGO) test --workspace --test promises hostile::generated -- --nocapture

.PHONY: test-guests
test-guests: ## The guest tasks' own tests
	cd guest-tasks && $(CARGO) test --locked --target $(NATIVE) --target-dir $(GUEST_TARGET)

.PHONY: test-python
test-python: test-setup ## The Python package: ruff, mypy, and its tests with both versions of Celery
	clients/python/test.sh

.PHONY: check-wit
check-wit: ## Fail when a released file of the contract has changed
	cd wit && sha256sum --quiet --check released.sha256

.PHONY: lint
lint: ## Formatting, clippy and API documentation, for host and guests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps
	cd guest-tasks && $(CARGO) fmt --all --check
	cd guest-tasks && $(CARGO) clippy --locked --target-dir $(GUEST_TARGET) -- -D warnings
	cd guest-tasks && $(CARGO) clippy --locked --all-targets --target $(NATIVE) --target-dir $(GUEST_TARGET) -- -D warnings

.PHONY: checks
# Each feature alone, since builds without some of them are shipped. Dependencies that nobody uses.
checks: deny ## Check features one by one, unused dependencies, licences and sources (installs the tools)
	command -v cargo-hack >/dev/null || $(CARGO) install --locked cargo-hack
	command -v cargo-machete >/dev/null || $(CARGO) install --locked cargo-machete
	$(CARGO) hack check --each-feature --no-dev-deps -p lovage
	$(CARGO) machete host

.PHONY: deny
# Advisories are left out, since their database is fetched from GitHub; where that can be reached:
# cargo deny check advisories
deny: ## Check licences, bans and sources of dependencies (installs cargo-deny); for advisories: cargo deny check advisories
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	cargo deny check bans licenses sources

.PHONY: bench
bench: guests ## Measure; prints a table, writes target/bench.json
	$(CARGO) bench -p lovage

.PHONY: bench-guests
bench-guests: guests ## Measure guests in Python and on StarlingMonkey, which it builds with what PyPI and npm have
	$(CARGO) bench -p lovage --no-run
	host/benches/guests.sh target/release/lovage target/tmp/guests
	$(CARGO) bench -p lovage -- guests

.PHONY: bench-peers
# Celery's versions in environments of their own, and one local SQS endpoint for all.
PEERS := target/bench-peers
bench-peers: guests ## Measure Lovage beside Celery on the same queue contents; prints a table
	$(CARGO) bench -p lovage --no-run
	host/benches/peers/setup.sh $(PEERS)
	$(PEERS)/ministack/bin/python host/benches/peers/run.py target/release/lovage guest-tasks/dist $(PEERS) $(PEERS_JOBS)

.PHONY: lambda
lambda: guests build ## Build dist/lovage-lambda-x86_64.zip and say its size
	deploy/lambda/build.sh

.PHONY: clean
clean: ## Remove what was built
	$(CARGO) clean
	cd guest-tasks && $(CARGO) clean
	rm -rf guest-tasks/dist dist
