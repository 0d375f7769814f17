# The two commands of a fresh machine: `make demo`, `make test`. Both need Python 3.11+ and make only.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo
SEED ?= 0

.PHONY: help demo test test-slow lint pretrained clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# torch first and by its exact version, as the tests had it. For a CPU build from another index set PIP_INDEX_URL
# or PIP_EXTRA_INDEX_URL as usual.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or newer is needed, this is {sys.version}" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

demo: .venv/installed  ## profile this machine, search on digits under a latency budget, export and verify the front
	$(BIN)/hwnas search --data digits --space mobile --latency-ms 40% --out $(RUN) --seed $(SEED)

test: .venv/installed-test lint  ## lint, types, tests, doctests
	$(BIN)/python -m pytest -q

test-slow: .venv/installed-test lint  ## the tests of `make test` and those that take minutes
	$(BIN)/python -m pytest -q -m ''

lint: .venv/installed-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pretrained: .venv/installed  ## fit the predictors that ship on the tables in data/
	$(BIN)/python -m predictors.pretrained $(wildcard data/*/)

clean:  ## remove the environment and the caches, keep runs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
