# The two commands of a fresh machine: `make demo`, `make test`. Both need Python 3.11+ and make only.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo
SEED ?= 0

.PHONY: help demo test test-slow test-chaos test-fuzz test-scale lint pretrained clean
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: .venv/installed-test lint  ## the tests of `make test` and those that take minutes
	$(BIN)/python -m pytest -q -m ''

test-chaos: .venv/installed-test  ## searches whose candidates fail and whose driver is killed, in every step after the trials, too
	$(BIN)/python -m pytest -q -s -m '' tests/hwnas/chaos

FUZZ_RUNS ?= 10000
FUZZED := budget config csv database genotype guide header idx journal kit latencies latency_table model npz predictor run \
	search_table study supernet table text trial weights
test-fuzz: .venv/installed-test  ## feed everything that reads files with mutated ones, guided by coverage
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	for reader in $(FUZZED); do \
		$(BIN)/python tests/fuzz/fuzz.py $$reader --runs $(FUZZ_RUNS) --corpus runs/fuzz || exit 1; done

test-scale: .venv/installed-test  ## searches on a real Ray cluster and PostgreSQL server (Debian: apt-get install postgresql)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,ray,postgresql]'
	$(BIN)/python -m pytest -q tests/scale

lint: .venv/installed-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pretrained: .venv/installed  ## fit the predictors that ship on the tables in data/
	$(BIN)/python -m predictors.pretrained $(wildcard data/*/)

clean:  ## remove the environment and the caches, keep runs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
