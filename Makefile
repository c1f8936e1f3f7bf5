# Two commands for a fresh machine: `make demo` and `make test`. Everything lands in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := requirements/dev.lock
STAMP  := $(VENV)/.installed
EXPERIMENTS := $(addprefix tests/integration/,test_bench_growth.py test_bench_experiments.py test_peers_race.py)
TOOLS  := audit containers deploy forge image lambda site
ENGINE ?= docker
COMPILE = $(BIN)/uv pip compile $(UPGRADE) --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-wheel dist hooks check lint types docs site faults soak fuzz audit sbom lambda bench bench-full mutate lock setup-localstack setup-debian setup-postgres setup-deploy image clean

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

test: setup setup-localstack setup-debian setup-deploy  ## the test-suite (but faults, and the experiments of bench), and units and contracts again on the newest Python
	@$(BIN)/python -m pytest -n auto --dist loadgroup --ignore tests/faults $(EXPERIMENTS:%=--ignore=%)
	@$(BIN)/python -m tests.support.newest_python

check: setup  ## lint, types, architecture, generated docs, the site
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py
	@$(BIN)/python -m coatcheck.cli.reference --check
	@$(BIN)/python -m benchmarks.page --check
	@$(BIN)/python -m tests.faults.page --check
	@$(BIN)/python -m tests.support.site

docs: setup  ## write the generated reference pages
	@$(BIN)/python -m coatcheck.cli.reference
	@$(BIN)/python -m tests.faults.page

site: setup  ## the documents as a site, strictly: build/site
	@$(BIN)/python -m tests.support.site

faults: setup setup-localstack setup-debian  ## all faults of docs/faults.md, the state machine of pipelines, and a short campaign of kills: minutes
	@$(BIN)/python -m tests.faults

soak: setup  ## two pipelines, a thousand kills and everything else that goes wrong, then the verdict; writes tests/faults/campaign.json
	@$(BIN)/python -m tests.faults.soak --cycles 1000 --json tests/faults/campaign.json

fuzz: setup  ## coverage-guided fuzzing of all that reads what others wrote: ten million executions
	@$(BIN)/python -m tests.fuzz

audit: setup  ## known vulnerabilities in what is locked (skipped with a word where no advisories can be reached)
	@$(BIN)/python -m tests.support.dependency_audit

sbom: setup  ## the bill of materials of an installation, CycloneDX: dist/coatcheck.cdx.json
	@$(BIN)/python -m tests.support.dependency_audit --sbom dist/coatcheck.cdx.json

lambda: setup  ## the zip file of the AWS Lambda function: dist/coatcheck-lambda.zip (ARGS="--python 3.13 --arch arm64")
	@$(BIN)/python deploy/lambda/build.py $(ARGS)

image: setup  ## the container image, by docker, or with ENGINE=podman
	@command -v $(ENGINE) >/dev/null || { echo "coatcheck: error: there is no $(ENGINE) here" >&2; \
	  echo "coatcheck: hint: make image ENGINE=podman, or \`make demo\`, which needs neither" >&2; exit 2; }
	@version=$$($(BIN)/coatcheck --version) && version=$${version#* } && $(ENGINE) build --tag coatcheck:$$version \
	  --label org.opencontainers.image.version=$$version \
	  --label org.opencontainers.image.revision=$$(git rev-parse HEAD) .

bench: setup  ## small runs of the experiments; the regression gate; tokens and records a core; CPU a message, messages a second; reveal, audit verify
	@$(BIN)/python -m pytest -q -n auto --dist loadgroup $(EXPERIMENTS)
	@$(BIN)/python -m benchmarks.gate
	@$(BIN)/python -m benchmarks.crypto
	@$(BIN)/python -m benchmarks.road
	@$(BIN)/python -m benchmarks.desk
	@$(BIN)/python -m benchmarks.audit

bench-full: setup  ## all experiments, hours: docs/benchmarks/*.json, docs/benchmarks.md and its plots
	@$(BIN)/python -m benchmarks.full

mutate: setup  ## mutation testing of the modules that make keys, tokens and seals; writes tests/mutation/score.json
	@$(BIN)/python -m tests.mutation

lock: setup  ## resolve the lock files anew; UPGRADE=--upgrade: to the newest versions
	@$(COMPILE) --extra demo --extra otel --group dev pyproject.toml -o $(LOCK)
	@$(COMPILE) pyproject.toml -c $(LOCK) -o requirements/runtime.lock
	@$(COMPILE) --extra otel pyproject.toml -c $(LOCK) -o requirements/runtime-otel.lock
	@for name in $(TOOLS); do $(COMPILE) requirements/$$name.in -o requirements/$$name.lock || exit; done
	@$(COMPILE) tests/fuzz/requirements.in -o tests/fuzz/requirements.lock
	@$(COMPILE) benchmarks/peers/requirements.in -o benchmarks/peers/requirements.lock

test-wheel: setup  ## the test-suite against the wheel; PYTHON=python3.12 POSTGRES=16 (of Debian's packages) choose on what
	@$(BIN)/python -m tests.support.wheel --python $(PYTHON) --postgres "$(POSTGRES)"

dist: setup  ## sdist and wheel: dist/
	@$(BIN)/python -m hatchling build -t sdist -t wheel -d dist

hooks: setup  ## the checks before each commit, by pre-commit
	@$(BIN)/python -c 'from tests.support.tool_environment import environment; environment("forge")'
	@.venvs/forge/bin/pre-commit install

setup-localstack: setup  ## LocalStack in an environment of its own (skipped with a word where it cannot be)
	@$(BIN)/python -m tests.support.localstack_env || true

setup-debian: setup  ## Debian packages that some tests use: pgbouncer, PostgreSQL (skipped with a word without root or apt)
	@$(BIN)/python -m tests.support.debian_packages || true

setup-postgres:  ## one version of PostgreSQL, as root: POSTGRES=16, from Debian's packages or the project's
	@$(PYTHON) -m tests.support.postgres_packages "$(POSTGRES)"

setup-deploy: setup  ## the linters of deploy/ in an environment of their own
	@$(BIN)/python -c 'from tests.support.tool_environment import environment; environment("deploy")'

clean:  ## remove what setup made
	@rm -rf $(VENV) .venvs .venv-localstack .mypy_cache .ruff_cache .hypothesis
