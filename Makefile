# `make demo` and `make test` need Python 3.11 or newer and make; all else they set up themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-virtualenv
LOCKED := --require-hashes --only-binary :all: -r

# Tests start Python hundreds of times: it would compile everything anew each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test unit test-proofs test-slow test-servers stores test-stores test-python upgrade mutants fire failovers retained simulate years check format bench bench-store bench-remote bench-million lock pages site sbom audit-deps fuzz limits healthy incidents clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

demo: $(VENV)/run.stamp ## Run the whole path on real snapshots: DEMO="--keep demo" keeps it, DEMO=--help
	@$(BIN)/python -m examples.demo $(DEMO)

test: $(VENV)/dev.stamp ## Run the tests, in parallel and in random order
	@$(BIN)/pytest -q -m "not slow and not proof"

test-proofs: $(VENV)/dev.stamp ## Run the longer proofs, of which `make test` has a sample
	@$(BIN)/pytest -q -m "proof and not slow"

unit: $(VENV)/dev.stamp ## Run the tests that need no server, in seconds
	@$(BIN)/pytest -q -n 0 -m unit tests/sidecar tests/store

test-slow: $(VENV)/dev.stamp ## Run the proofs that take minutes
	@STORE_RACE_SECONDS=20 $(BIN)/pytest -q -n 2 --timeout 1800 -m slow
	@STORE_RACE_SECONDS=20 $(BIN)/pytest -q -n 0 --timeout 1800 -k "test_race or test_beside" tests/store

# Another Python could find: a library that changed, a warning, an import, another order of threads.
# Not these: they look at other programs, orders of steps, rights, a service, or the tests themselves.
SAME_ON_EACH_PYTHON := deploy faults report simulation topology test_tidy.py cli/test_tutorial.py \
  demo/test_incident.py demo/test_incidents.py sidecar/test_bench.py sidecar/test_controller_go.py \
  store/crash store/test_chassis.py \
  store/services store/test_object.py store/test_object_faults.py

PYTHON_TESTS ?= tests

test-python: $(VENV)/dev.stamp ## Run what may depend on the Python: PYTHON=python3.13 VENV=.venv-3.13
	@$(BIN)/pytest -q -m "not slow and not proof" \
	  $(addprefix --ignore tests/,$(SAME_ON_EACH_PYTHON)) $(PYTHON_TESTS)

mutants: $(VENV)/dev.stamp ## Break the relay on purpose, and see each break caught
	@$(BIN)/python -m tests.mutants

KILLS ?= 1000
FIRE ?= --redis-crashes $$(($(KILLS) / 50)) --clean-stops $$(($(KILLS) / 50))

fire: $(VENV)/dev.stamp ## Kill real workers KILLS times at random, check the guarantees from outside
	@$(BIN)/python -m tests.faults --kills $(KILLS) $(FIRE)

# Another server could find: another answer to a command or a script, a field of INFO, a right.
# Not these: they look at pages, terminals, logs, stores and memory, or name their servers themselves.
SAME_ON_EACH_SERVER := demo fuzz outbox report store cli/test_cli_embedded.py cli/test_cli_environment.py \
  cli/test_cli_hostile_bundle.py cli/test_cli_log.py cli/test_cli_outbox.py cli/test_cli_store.py \
  cli/test_cli_store_verify.py cli/test_cli_watch.py cli/test_tutorial.py deploy/test_busy.py \
  deploy/test_restart.py faults/test_disk.py faults/test_gc.py \
  faults/test_generated.py faults/test_hostile.py sidecar/test_alerts_live.py sidecar/test_bench.py \
  sidecar/test_controller_example.py sidecar/test_controller_go.py \
  sidecar/test_descriptors.py sidecar/test_embedded.py

SERVER_TESTS ?= tests

test-servers: $(VENV)/dev.stamp ## Run what may depend on the server on Redis 6.2, then on redis-server
	@for kind in redis-6.2 path; do \
	  SIDECAR_TEST_SERVER=$$kind $(BIN)/pytest -q -m "server and not slow" \
	    $(addprefix --ignore tests/,$(SAME_ON_EACH_SERVER)) $(SERVER_TESTS) || exit 1; \
	done

upgrade: $(VENV)/dev.stamp ## Replace workers of an earlier commit one by one under load, there and back: FROM=COMMIT
	@SIDECAR_TEST_FROM=$(FROM) $(BIN)/pytest -q -n 0 -m slow tests/faults/test_upgrade.py

stores: ## Install the object stores for test-stores, as far as this machine lets us
	@requirements/stores

STORE_TESTS ?= tests/store/services

test-stores: $(VENV)/dev.stamp ## Run the object backend on object stores: Ceph's radosgw, Azurite, fake-gcs-server
	@$(BIN)/pytest -q -n 2 --dist loadgroup --timeout 900 $(STORE_TESTS)

FAILOVERS ?= 10

failovers: $(VENV)/dev.stamp ## Kill and freeze Sentinel's primary under load, with WAIT
	@$(BIN)/python -m tests.topology --failovers $(FAILOVERS)

format: $(VENV)/dev.stamp ## Format the code, and fix what the linter can fix
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

check: $(VENV)/dev.stamp ## Lint, format, types, import direction
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

retained: $(VENV)/dev.stamp ## Kill whole workers KILLS times while they follow keep rules, judge what is left
	@directory=$$(mktemp -d) && $(BIN)/python -m tests.faults.retiring $$directory $(KILLS) $(RETAINED) && rm -r $$directory

simulate: $(VENV)/dev.stamp ## Simulate: SEEDS=1000 seeds [JOBS=2] [KIND=whole], or one: SEED=42
	@for kind in $(or $(KIND),$(if $(SEED),narrow,narrow whole)); do \
	  $(BIN)/python -m tests.simulation --kind $$kind --seeds $(or $(SEEDS),1000) \
	    --first $(or $(FIRST),0) --jobs $(or $(JOBS),1) $(if $(SEED),--seed $(SEED)) || exit 1; \
	done

years: $(VENV)/dev.stamp ## Let years pass, a day after the other: YEARS="--days 1092 --subjects 2000"
	@$(BIN)/python -m tests.simulation.years $(YEARS)

INCIDENTS ?= 40

incidents: $(VENV)/dev.stamp ## Play INCIDENTS real ones, have explain name them, and score that: INCIDENTS=200 PLAY="--jobs 4"
	@$(BIN)/python -m examples.incident --incidents $(INCIDENTS) --least 0.95 $(PLAY)

bench: $(VENV)/bench.stamp ## Measure, beside the limits, in one run: BENCH="--dir /mnt --save FILE"
	@$(BIN)/python -m bench $(BENCH)

bench-store: $(VENV)/bench.stamp ## Measure the store by itself, beside limits and other libraries
	@$(BIN)/python -m bench.store

bench-remote: $(VENV)/dev.stamp ## Measure a worker over a network, beside a bare client: REMOTE="--delay 0.05 --allowed 400"
	@$(BIN)/python -m bench.remote $(REMOTE)

bench-million: $(VENV)/bench.stamp ## Measure what a million refs cost
	@$(BIN)/python -m bench.million

lock: $(VENV)/bench.stamp ## Pin anew what requirements/ pins
	@requirements/lock $(BIN)/uv

pages: $(VENV)/dev.stamp ## Write the pages that are made from code
	@$(BIN)/python -m tests.settings_page
	@$(BIN)/python -m tests.metrics_page
	@$(BIN)/python -m tests.doctor_page
	@$(BIN)/python -m tests.explain_page
	@$(BIN)/python -m tests.dashboard
	@$(BIN)/python -m tests.wire_pages

site: $(VENV)/docs.stamp ## Build the pages as a site: build/site/html/index.html
	@$(BIN)/python -m tests.site build/site
	@$(BIN)/zensical build --strict --config-file build/site/zensical.toml

sbom: $(VENV)/run.stamp ## Print the bill of materials (CycloneDX) of what requirements/run.txt pins
	@$(BIN)/python requirements/sbom.py

audit-deps: $(VENV)/run.stamp ## Ask the OSV database for known vulnerabilities of what is pinned (network)
	@$(BIN)/python requirements/audit.py

SECONDS ?= 3600

fuzz: $(VENV)/dev.stamp ## Fuzz entries, refs, URLs, roots, faces, screens and bundles: SECONDS=3600 in all, FUZZ="--only refs"
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ)

limits: $(VENV)/dev.stamp ## One worker with little of everything, beside every hostile input: prints the ratio
	@$(BIN)/pytest -q -s -n 0 -m slow tests/faults/test_limits.py

MINUTES ?= 60

healthy: $(VENV)/dev.stamp ## Watch a healthy worker with the shipped alerts for MINUTES=60: none fires
	@HEALTHY_MINUTES=$(MINUTES) $(BIN)/pytest -q -n 0 -m slow tests/sidecar/test_alerts_live.py -k healthy_day

clean: ## Remove what the targets above made
	rm -rf $(VENV) .venv-3.* .stores .sidecar .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$$($(PYTHON) --version) is too old: set PYTHON to a Python 3.11 or newer" >&2; exit 2; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: requirements/%.txt pyproject.toml | $(VENV)/bin/python
	@$(PIP) $(LOCKED) $<
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
