# Everything here makes its own environment: Python 3.11 or later, make and git are all it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest test-newest test-versions test-distributed lint types unit integration fuzz state-machine audit coverage coverage-emulator \
	mutation docs dist dist-all bench clean

help:  ## Say what there is
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## /  make \1\t/' | expand -t 22

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing Airflow and this provider into $(VENV) (once; a minute or two) ..."
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(VENV)/installed  ## Render a video through a real Airflow; ARGS=--keep leaves it running
	$(BIN)/python -m airflow_provider_seedance demo $(if $(KEEP),--keep) $(ARGS)

test: unit integration  ## Run every test

unit: $(VENV)/installed  ## Run the tests that need no Airflow processes
	$(BIN)/python -m pytest -q -n auto -m 'not integration' $(ARGS)

# Each file has an Airflow of its own and mostly waits, so some run at a time.
AT_ONCE ?= $(shell $(PYTHON) -c 'import os; print(min(4, max(2, (os.cpu_count() or 2) - 1)))')

integration: $(VENV)/installed  ## Run the tests on real Airflow processes
	$(BIN)/python -m pytest -q -n $(AT_ONCE) --dist loadgroup -m integration --durations=10 $(ARGS)

# Airflow and Python together; of each Airflow the newest patch. Every pair has its own environment.
AIRFLOWS := 3.1 3.2 3.3
PYTHONS := 3.11 3.12 3.13
OLDEST := 3.1-py3.11
NEWEST := 3.3-py3.13
PAIRS := $(foreach airflow,$(AIRFLOWS),$(foreach python,$(PYTHONS),$(airflow)-py$(python)))
# The official constraints of an Airflow are used where they are named: CONSTRAINTS=https://… or a file.
CONSTRAINTS ?=
JOBS ?= auto

test-oldest:  ## Run the tests on the oldest pair, without what takes longest
	@tests/run_pair.sh $(OLDEST) $(VENV) $(JOBS) short "$(CONSTRAINTS)" $(ARGS)

test-newest:  ## Run every test on the newest pair
	@tests/run_pair.sh $(NEWEST) $(VENV) $(JOBS) all "$(CONSTRAINTS)" $(ARGS)

test-versions:  ## Run every test on every pair of Airflow and Python, whatever fails before (hours)
	@failed=; for pair in $(PAIRS); do \
		tests/run_pair.sh $$pair $(VENV) $(JOBS) all "$(CONSTRAINTS)" $(ARGS) || failed="$$failed $$pair"; \
	done; if [ -n "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi; echo "All pairs are through; see above for what was skipped."

test-on-%:  ## Run every test on one pair: make test-on-3.2-py3.12
	@tests/run_pair.sh $* $(VENV) $(JOBS) all "$(CONSTRAINTS)" $(ARGS)

$(VENV)/distributed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[dev,distributed]'
	@touch $@

test-distributed: $(VENV)/distributed  ## Run the tests on PostgreSQL, Redis and Celery, with two of everything
	$(BIN)/python -m pytest -q -s -rs --durations=10 tests/distributed $(ARGS)

lint: $(VENV)/installed  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed  ## Check types
	$(BIN)/mypy --strict

SECONDS ?= 600

# atheris has no wheels for every Python; nobody needs it for anything else.
$(VENV)/fuzz: $(VENV)/installed
	$(BIN)/python -m pip install --quiet atheris
	@touch $@

fuzz: $(VENV)/fuzz  ## Fuzz everything that reads bytes from outside; SECONDS=600
	$(BIN)/python -W ignore tests/hostile/fuzz.py --seconds $(SECONDS) $(ARGS)

STEPS ?= 30000

state-machine: $(VENV)/installed  ## Submit, crash, retry, clear, call back and poll at random; STEPS=30000
	$(BIN)/python -W ignore tests/hostile/state_machine.py --steps $(STEPS)

$(VENV)/audit: $(VENV)/installed
	-$(BIN)/python -m pip install --quiet pip-audit
	@touch $@

audit: $(VENV)/audit  ## Look the installed packages up in an advisory database
	$(BIN)/python tools/audit.py

coverage: $(VENV)/installed  ## Measure what the unit tests cover, by branch; fails below 95 %
	$(BIN)/python -m pytest -q -n auto -m 'not integration' --cov --cov-report=term-missing $(ARGS)

coverage-emulator: $(VENV)/installed  ## Measure the stand-in for the services, too
	$(BIN)/python -m pytest -q -n auto tests/emulator tests/test_testing.py --cov-config=/dev/null \
		--cov=airflow_provider_seedance.emulator --cov-branch --cov-report=term-missing $(ARGS)

$(VENV)/mutation: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[mutation]'
	@touch $@

# mutmut remembers what it has run; what is printed is of this run.
mutation: $(VENV)/mutation  ## Change what keeps the promises, and say how much of it the tests notice (a quarter of an hour)
	rm -rf mutants
	HYPOTHESIS_PROFILE=mutation $(BIN)/mutmut run $(ARGS)
	$(BIN)/python tools/mutation.py 85

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

docs: $(VENV)/docs  ## Build the site into build/docs; every warning is an error
	rm -rf build/docs
	$(BIN)/sphinx-build -W --keep-going -q -b html -d build/doctrees docs build/docs
	$(BIN)/python -W ignore tools/check_reference.py build/docs
	@echo "build/docs/index.html"

dist: BESIDE ?= 3.3
dist: $(VENV)/installed  ## Build sdist and wheel, check them, and install them beside the newest Airflow 3.3
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python tools/check_dist.py dist $(BESIDE)

dist-all:  ## The same, beside the newest Airflow 3.1, 3.2 and 3.3
	$(MAKE) dist BESIDE='3.3 3.2 3.1'

BENCHMARKS := import_time polling quota alternatives quota_airflow triggerer campaign campaign_cost callbacks

bench: $(addprefix bench-,$(BENCHMARKS))  ## Run every benchmark (an hour)

# The SDKs are what the benchmarks compare with, and nothing that this package is built on.
$(VENV)/bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[bench]' seedance-sdk volcengine-ark-runtime
	@touch $@

bench-%: $(VENV)/bench  ## Run one: import_time, polling, quota, alternatives, quota_airflow, triggerer, campaign, campaign_cost or callbacks
	$(BIN)/python benchmarks/$*.py $(ARGS)

clean:  ## Remove what make made
	rm -rf $(VENV) $(VENV)-3.* build dist mutants .coverage .mypy_cache .ruff_cache .pytest_cache seedance-demo
