# Two commands for a fresh machine: `make demo` and `make test`. Everything lands in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := requirements/dev.lock
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types docs bench bench-full mutate lock setup-localstack setup-debian clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## put the environment into .venv from the lock file

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "coatcheck: error: python 3.11 or newer is needed" >&2; \
	       echo "coatcheck: hint: make setup PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing from $(LOCK)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## the whole road on embedded servers: no Docker, no AWS
	@$(BIN)/coatcheck demo

test: setup setup-localstack setup-debian  ## the whole test-suite, and units and contracts again on the newest Python
	@$(BIN)/python -m pytest -n auto --dist loadgroup
	@$(BIN)/python -m tests.support.newest_python

check: setup  ## lint, types, architecture, generated docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py
	@$(BIN)/python -m coatcheck.cli.reference --check
	@$(BIN)/python -m benchmarks.page --check

docs: setup  ## write the generated reference pages
	@$(BIN)/python -m coatcheck.cli.reference

bench: setup  ## the regression gate; tokens and records a core; CPU a message, messages a second; reveal, audit verify
	@$(BIN)/python -m benchmarks.gate
	@$(BIN)/python -m benchmarks.crypto
	@$(BIN)/python -m benchmarks.road
	@$(BIN)/python -m benchmarks.desk
	@$(BIN)/python -m benchmarks.audit

bench-full: setup  ## all experiments, hours: docs/benchmarks/*.json, docs/benchmarks.md and its plots
	@$(BIN)/python -m benchmarks.full

mutate: setup  ## mutation testing of the modules that make keys, tokens and seals; writes tests/mutation/score.json
	@$(BIN)/python -m tests.mutation

lock: setup  ## resolve the lock file anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --extra demo --group dev pyproject.toml -o $(LOCK)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links benchmarks/peers/requirements.in -o benchmarks/peers/requirements.lock

setup-localstack: setup  ## LocalStack in an environment of its own (skipped with a word where it cannot be)
	@$(BIN)/python -m tests.support.localstack_env || true

setup-debian: setup  ## Debian packages that some tests use: pgbouncer, PostgreSQL (skipped with a word without root or apt)
	@$(BIN)/python -m tests.support.debian_packages || true

clean:  ## remove what setup made
	@rm -rf $(VENV) .venvs .venv-localstack .mypy_cache .ruff_cache .hypothesis
