.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SEEDS ?= 1000
TIME ?= 1500
SCENARIO ?= bad-week

.PHONY: help install demo test test-long fast check format lint types architecture simulate members bench coverage clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements/cpu.txt scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV)
	@touch $@

install: $(STAMP) ## Make the environment in .venv (about 1 GB with PyTorch, CPU build)

demo: $(STAMP) ## Five hospitals learn together on this machine; one is killed and comes back
	@$(BIN)/swarm demo

# One more worker than most machines that run this have cores: what starts processes often waits. The files with the
# longest tests come first, so that nobody is left alone with one at the end. Matrices are small, and a thread for each
# core in each worker makes tests of them three times as slow. Where nothing may keep bytecode, each process that a test
# starts compiles the whole product: half a second.
test test-long: export OPENBLAS_NUM_THREADS = 1
test test-long: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP) ## Run the tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long"

test-long: $(STAMP) ## Run the tests' further cases, as CI does: other seeds, codecs and routes; short campaigns
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m long \
		$$(grep -rlE "shortened\(|mark\.long" tests --include "test_*.py")

fast: $(STAMP) ## Run the tests that start no process and open no socket
	@$(BIN)/python -m pytest -q -m "not real and not long"

.PHONY: test-trackers
test-trackers: $(STAMP) ## Run the tests that need TensorBoard and MLflow (installs both)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras trackers
	@$(BIN)/python -m pytest -q tests/node/test_tracking.py

.PHONY: test-telemetry
test-telemetry: $(STAMP) ## Run the tests that need OpenTelemetry (installs its SDK and exporter)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras telemetry
	@$(BIN)/python -m pytest -q tests/node/telemetry/test_otlp.py

.PHONY: test-ray
test-ray: $(STAMP) ## Run the tests that need Ray and Parquet (installs both, 410 MB)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras ray,parquet
	@$(BIN)/python -m pytest -q tests/node/simulation/test_actors.py tests/node/simulation/test_parquet.py

.PHONY: test-integrations
test-integrations: $(STAMP) ## Run the tests that need Lightning, Transformers and XGBoost (installs them)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras integrations
	@$(BIN)/python -m pytest -q tests/node/integrations tests/node/tables

.PHONY: test-containers
test-containers: $(STAMP) ## Check the image's file, the compose file and the chart (installs a linter, schemas, Helm)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras containers
	@$(PYTHON) scripts/fetch_helm.py $(BIN)/helm
	@$(BIN)/python -m pytest -q -rs tests/node/test_containers.py tests/packaging/test_chart.py

.PHONY: test-package
test-package: $(STAMP) ## Build what is published, look at it, install it where nothing is (installs what builds it)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras package
	@$(BIN)/python -m pytest -q -rs tests/packaging/test_distributions.py tests/packaging/test_man_pages.py \
		tests/packaging/test_wheelhouse.py

.PHONY: test-page
test-page: $(STAMP) ## Run the tests of the live page in Chromium (installs what drives it)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras page
	@$(BIN)/python -m pytest -q -rs tests/integration/test_page.py

.PHONY: test-onnx
test-onnx: $(STAMP) ## Run the tests that need ONNX (installs it)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras onnx
	@$(BIN)/python -m pytest -q tests/node/test_onnx.py

.PHONY: test-homomorphic
test-homomorphic: $(STAMP) ## Run the tests of encrypted sums with GMP (installs gmpy2)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras homomorphic
	@$(BIN)/python -m pytest -q tests/swarm/homomorphic

.PHONY: package
package: $(STAMP) ## Build the source distribution and the wheel into dist/, the same bytes for the same commit
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras package
	@$(BIN)/python scripts/package.py

.PHONY: wheelhouse
wheelhouse: $(STAMP) ## Gather all that a site without internet installs, in one file: EXTRAS=a,b PYTORCH=cpu|cuda|none
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras package
	@$(BIN)/python scripts/wheelhouse.py --torch $(or $(PYTORCH),cpu) --extras "$(EXTRAS)"

.PHONY: man
man: $(STAMP) ## Write the manual pages into share/man/man1, from the commands themselves
	@$(BIN)/python scripts/man_pages.py share/man/man1

# Not --quiet, which would hide from --strict what it is to count.
.PHONY: docs
docs: $(STAMP) ## Build the documentation site in site/ (installs MkDocs); a broken link ends it
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV) --extras docs
	@$(BIN)/mkdocs build --strict --clean
	@$(BIN)/python -m pytest -q -rs tests/docs/test_site.py

check: format-check lint types architecture test ## What every commit passes; CI runs it first

format: $(STAMP) ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

.PHONY: format-check
format-check: $(STAMP)
	@$(BIN)/ruff format --check .

lint: $(STAMP) ## Lint
	@$(BIN)/ruff check .

types: $(STAMP) ## Check types, strictly
	@$(BIN)/mypy

architecture: $(STAMP) ## Check that imports point one way
	@$(BIN)/lint-imports

simulate: $(STAMP) ## Search seeds for a fork, a false accusation or a stuck swarm: SEEDS=n TIME=seconds
	@$(BIN)/python -m tests.simulation.campaign --members 4 --twins 1 --seeds $(SEEDS) --time $$(( $(TIME) * 2 / 3 ))
	@$(BIN)/python -m tests.simulation.campaign --members 7 --twins 2 --seeds $$(( $(SEEDS) * 3 / 10 )) --time $$(( $(TIME) / 3 ))

members: $(STAMP) ## Search seeds of swarms that join, leave and take new keys all the time: TIME=seconds
	@$(BIN)/python -m tests.simulation.membership_campaign --founders 5 --newcomers 2 --twins 1 --rounds 3 --seeds $(SEEDS) --time $$(( $(TIME) / 2 ))
	@$(BIN)/python -m tests.simulation.membership_campaign --founders 3 --newcomers 2 --rounds 3 --seeds $(SEEDS) --time $$(( $(TIME) / 2 ))

bench: $(STAMP) ## Measure, as ratios, what the README claims (quiet machine, about three minutes)
	@$(BIN)/python -m tests.benchmarks

coverage: $(STAMP) ## Test coverage of the pure packages
	@$(BIN)/coverage run -m pytest -q -m "not real" && $(BIN)/coverage report --include 'swarm/*,gossip/*,node/core/*,topologies/*'

clean: ## Remove what was built
	rm -rf $(VENV) build dist share site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: kill
kill: $(STAMP) ## Kill peers of a real swarm at 50 random moments (about six minutes)
	@$(BIN)/python -m tests.integration.kill_campaign --kills 50

.PHONY: crash-states
crash-states: $(STAMP) ## Enumerate what three crashes in a row leave of a journal: TIME=seconds
	@$(BIN)/python -m tests.swarm.ledger.crash_states --time $(TIME)

.PHONY: strace
strace: $(STAMP) ## Let each system call of a real peer fail, one at a time (needs strace): TIME=seconds
	@$(BIN)/python -m tests.integration.strace_campaign --time $(TIME)

.PHONY: chaos
chaos: $(STAMP) ## Play a bad week in the simulated world and on real processes (root, ip; ten minutes): SCENARIO=file|name
	@$(BIN)/python -m tests.chaos.acceptance --scenario $(SCENARIO) --simulated --seeds 1,2,3
	@$(BIN)/python -m tests.chaos.acceptance --scenario $(SCENARIO)

.PHONY: fuzz
fuzz: TIME = 60
fuzz: $(STAMP) ## Fuzz every parser of received bytes, each for TIME seconds, and keep what reaches more (needs atheris)
	@$(BIN)/python -m tests.fuzz.campaign --time $(TIME)

.PHONY: faults
faults: $(STAMP) ## Search seeds of everything that can go wrong with network, processes, disks and clocks: SEEDS=n TIME=seconds
	@$(BIN)/python -m tests.simulation.fault_campaign --cores 2 --seeds $(SEEDS) --time $(TIME)

.PHONY: soak
soak: $(STAMP) ## Let five real peers learn for hours; memory, descriptors, disk must not grow: TIME=seconds
	@$(BIN)/python -m tests.integration.soak --time $(TIME)
