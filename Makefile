# Two commands do all the set-up on a fresh Debian or Ubuntu with only Python >= 3.11, git and make:
#   make demo    no root: replicates a disk image, changes it, ships the delta, proves both equal
#   make test    installs what the tests need (as root or by sudo), then runs every check there is
# Settings: PYTHON (the interpreter to start from), VENV, WORKERS (test files at a time), PYTEST_ARGS, FIRST and SEEDS (make sim).

VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=
FIRST ?= 1
SEEDS ?= 100000
BIN := $(VENV)/bin

export PATH := $(abspath $(BIN)):$(PATH):/usr/sbin:/sbin

.PHONY: help test check lint format types contracts documents demo bench sim tools clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^$$/q;s/^# //p' Makefile

test: tools check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# All that is checked without running anything.
check: lint types contracts documents

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy bench examples tests tools

contracts: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

documents: $(VENV)/.dev
	$(BIN)/python -m tools.asyncapi --check

demo: $(VENV)/.run
	@sh tools/demo.sh

bench: tools
	$(BIN)/python -m bench

# The seeded simulator at length; a fixed share of it runs in `make test`.
sim: $(VENV)/.dev
	$(BIN)/python -m tests.support.sim $(FIRST) $(SEEDS)

tools: $(VENV)/.dev
	sh tools/install-test-tools.sh

$(VENV)/.run: pyproject.toml constraints.txt tools/setup.sh
	sh tools/setup.sh $(VENV) run
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt tools/setup.sh
	sh tools/setup.sh $(VENV) dev
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .tools demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
