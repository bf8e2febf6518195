# Every target prepares what it needs; `make help` lists them.
SHELL := /bin/bash
DATA := $(or $(CLIPCAP_DATA_DIR),data)
BIN := .venv/bin
STAMP := .venv/.installed
TOOLS := .venv/tools/bin
# The first interpreter that really runs and is 3.11 or 3.12.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
# Idle OpenMP threads sleep instead of spinning, which matters on few or shared cores.
export OMP_WAIT_POLICY ?= PASSIVE

# Test files that run side by side. Each process has a Prefect of its own, about 2 GB.
TEST_JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install run test test-slow coverage faults soak reference lock audit sbom licences check bench clean deploy-local

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv with everything that the default run and the tests need.

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or 3.12: install one, or name it with make PYTHON=…"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@echo "installing into .venv (about 2 GB; two minutes the first time) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@# img2dataset asks for this backport of 2018, which shadows the standard library's module.
	@$(BIN)/python -m pip uninstall --quiet --yes dataclasses 2>/dev/null || true
	@touch $(STAMP)

run: install ## Caption the built-in sample, from download to report.
	@$(BIN)/clipcap run configs/sample.toml --data-dir $(DATA)/sample

deploy-local: install ## A first look at the deployments: server, worker and all, on 127.0.0.1.
	@exec $(BIN)/python deploy/local.py

test: install ## Run the default test suite.
	@$(PYTEST) -n $(TEST_JOBS) --dist loadfile

test-slow: $(STAMP)-slow ## Run what needs Ray, Spark, S3, a server and a worker.
	@$(PYTEST) -m slow

coverage: install ## The default suite with the share of lines and branches that it runs.
	@$(PYTEST) -n $(TEST_JOBS) --dist loadfile --cov --cov-report=term:skip-covered

$(STAMP)-slow: $(STAMP)
	@echo "installing Ray, Spark and an S3 server for the slow tests …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,test-slow]'
	@$(BIN)/python -m pip uninstall --quiet --yes dataclasses 2>/dev/null || true
	@touch $@

faults: install ## Every fault of docs/reliability.md: kills at every write, full disks, two runs at once (45 minutes or more).
	@CLIPCAP_FAULTS=all $(PYTEST) tests/faults -m "slow or not slow" --timeout 7200

soak: install ## Nights in a loop for SOAK_MINUTES (60): memory, open files and files of the lake; one JSON document.
	@$(BIN)/python tests/faults/soak.py

reference: install ## Write docs/reference from the code.
	@$(BIN)/python scripts/reference.py

lock: $(TOOLS) ## Write requirements.lock: every package with its hashes.
	@$(BIN)/python scripts/dependencies.py lock --tools $(TOOLS)

audit: $(TOOLS) ## Ask for known vulnerabilities of what requirements.lock names.
	@$(BIN)/python scripts/dependencies.py audit --tools $(TOOLS)

sbom: $(TOOLS) ## Write dist/sbom.json (CycloneDX) of what is installed.
	@mkdir -p dist && $(TOOLS)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml \
		--output-reproducible --output-file dist/sbom.json && echo dist/sbom.json

licences: install ## Write docs/licences.md: licences of the direct dependencies.
	@$(BIN)/python scripts/dependencies.py licences

# In an environment of their own: they are no part of what they look at.
$(TOOLS): | $(STAMP)
	@$(BIN)/python -m venv .venv/tools
	@$@/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2 pip-audit==2.10.1 cyclonedx-bom==7.5.0

check: install ## Lint, types, layers.
	@$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m pytest -q tests/test_layers.py

bench: install ## Benchmarks; each prints one JSON document.
	@for f in tests/benchmarks/*.py; do $(BIN)/python $$f; done

clean: ## Remove the environment and caches, not the data.
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache dist build
