# The one entry for people; noxfile.py holds what each target does. Needs Python >= 3.11 with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROXY := node_modules/.installed

.DEFAULT_GOAL := help
TIERS := test-netns test-hub5 test-browser test-htcondor test-interlink test-kubernetes test-kubespawner test-postgresql test-helm
.PHONY: help setup demo demo-dask test lint types unit contract integration docs images wheel bench format lock clean $(TIERS)

help: ## Show this list.
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) $(PROXY) ## Make the virtual environment with all that is locked.

# pip checks every hash; the project itself is installed from this tree, so that edits count.
$(STAMP): requirements/dev.txt pyproject.toml hatch_build.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "the module venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# The hub's proxy is a Node.js program. Node.js itself came with the Python packages.
$(PROXY): package-lock.json package.json $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --loglevel=error --no-progress
	@touch $@

demo: $(STAMP) $(PROXY) ## A whole hub on this computer, until Ctrl-C. CHECK=1: try it and judge, ask nothing.
	@$(BIN)/python -m offload_cli.demo $(if $(CHECK),--check)

demo-dask: $(STAMP) ## Dask workers without a hub. CHECK=1 as above.
	$(BIN)/python -m offload_cli.demo.dask $(if $(CHECK),--check)

test: $(STAMP) $(PROXY) ## All tests that need nothing but Python packages.
	$(BIN)/nox -s test

lint types unit contract integration docs images wheel: $(STAMP) $(PROXY) ## One part of the checks.
	$(BIN)/nox -s $@

# Tiers that need more than Python packages; each says what is missing.
$(TIERS): test-%: $(STAMP) $(PROXY)
	$(BIN)/nox -s $*

bench: $(STAMP) ## Measure, side by side; writes bench/results.
	$(BIN)/nox -s bench

format: $(STAMP) ## Put the sources into the common form.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## Renew requirements/dev.txt from pyproject.toml.
	$(BIN)/nox -s lock

clean: ## Remove what was made here.
	rm -rf $(VENV) .venv-* node_modules dist build demo-output artefacts .nox .pytest_cache .mypy_cache .ruff_cache .hypothesis
