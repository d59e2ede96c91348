# Each target creates its own environment. Requirements: Python 3.11 or later, make and git.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest test-newest test-versions test-distributed lint types unit integration fuzz state-machine audit coverage coverage-emulator \
	mutation docs dist dist-all bench clean

help:  ## List the targets
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## /  make \1\t/' | expand -t 22

# Pairs of Airflow (its newest patch, or its newest beta before the first release) and Python.
AIRFLOWS := 3.1 3.2 3.3 3.4
PYTHONS := 3.11 3.12 3.13
OLDEST := 3.1-py3.11
NEWEST := 3.4-py3.13
PAIRS := $(foreach airflow,$(AIRFLOWS),$(foreach python,$(PYTHONS),$(airflow)-py$(python))) 3.3-py3.14 3.4-py3.14

# All other targets use the Airflow of the newest pair.
AIRFLOW := $(firstword $(subst -py, ,$(NEWEST)))

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing Airflow and this provider into $(VENV) (once; a minute or two) ..."
	tests/install_airflow.sh $(BIN)/python $(AIRFLOW) -e '.[dev]'
	@touch $@

demo: $(VENV)/installed  ## Render a video through a real Airflow; ARGS=--keep leaves it running
	$(BIN)/python -m airflow_provider_seedance demo $(if $(KEEP),--keep) $(ARGS)

test:  ## Run the tests (11 to 20 minutes on two cores); variants of them on real processes are left to test-versions
	@echo "The tests take 11 to 20 minutes on two cores, most of it with real Airflow processes."
	@start=$$(date +%s); $(MAKE) --no-print-directory unit && $(MAKE) --no-print-directory integration \
		&& echo "make test has taken $$(( ($$(date +%s) - start + 59) / 60 )) minutes."

# A worker gets tests that follow each other, so that fixtures of a module are set up once.
# The processes of the tests share compiled modules, also where a shell keeps Python from writing them.
unit integration: export PYTHONDONTWRITEBYTECODE :=

# Tests wait, those with an Airflow for half of their time, so at least three run in parallel.
UNIT_WORKERS ?= $(shell $(PYTHON) -c 'import os; print(max(3, os.cpu_count() or 3))')
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, max(3, os.cpu_count() or 3)))')

unit: $(VENV)/installed  ## Run the tests within one process
	$(BIN)/python -m pytest -q -n $(UNIT_WORKERS) --dist worksteal -m 'not integration' $(ARGS)

integration: $(VENV)/installed  ## Run the tests with processes, most of them of Airflow; ARGS='-m integration' adds every variant
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup -m 'integration and not variant' --durations=10 tests/integration $(ARGS)
	@# Not beside an Airflow, whose tasks would time out; pytest ends with 5 if ARGS leaves out all.
	@$(BIN)/python -m pytest -q -m 'integration and not variant' tests/*/test_processes.py $(ARGS) || [ $$? = 5 ]

# The tests on a pair have an environment of their own.
# Optional constraints of Airflow: CONSTRAINTS=https://… or a file.
CONSTRAINTS ?=
JOBS ?= auto

test-oldest:  ## Run the tests on the oldest pair, without the slowest ones
	@tests/run_pair.sh $(OLDEST) $(VENV) $(JOBS) short "$(CONSTRAINTS)" $(ARGS)

test-newest:  ## Run every test on the newest pair
	@tests/run_pair.sh $(NEWEST) $(VENV) $(JOBS) all "$(CONSTRAINTS)" $(ARGS)

test-versions:  ## Run every test on every pair of Airflow and Python, also after failures (hours)
	@failed=; for pair in $(PAIRS); do \
		tests/run_pair.sh $$pair $(VENV) $(JOBS) all "$(CONSTRAINTS)" $(ARGS) || failed="$$failed $$pair"; \
	done; if [ -n "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi; echo "All pairs have passed; skipped tests are listed above."

test-on-%:  ## Run every test on one pair: make test-on-3.2-py3.12
	@tests/run_pair.sh $* $(VENV) $(JOBS) all "$(CONSTRAINTS)" $(ARGS)

$(VENV)/distributed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[dev,distributed]'
	@touch $@

test-distributed: $(VENV)/distributed  ## Run the tests on PostgreSQL, Redis and Celery, with two processes of each component
	$(BIN)/python -m pytest -q -s -rs --durations=10 tests/distributed $(ARGS)

lint: $(VENV)/installed  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed  ## Check types
	$(BIN)/mypy --strict

SECONDS ?= 600

# Only for fuzzing: atheris has no wheels for every Python.
$(VENV)/fuzz: $(VENV)/installed
	$(BIN)/python -m pip install --quiet atheris
	@touch $@

fuzz: $(VENV)/fuzz  ## Fuzz all parsers of external input; SECONDS=600
	$(BIN)/python -W ignore tests/hostile/fuzz.py --seconds $(SECONDS) $(ARGS)

STEPS ?= 30000

state-machine: $(VENV)/installed  ## Submit, crash, retry, clear, call back and poll in random order; STEPS=30000
	$(BIN)/python -W ignore tests/hostile/state_machine.py --steps $(STEPS)

$(VENV)/audit: $(VENV)/installed
	-$(BIN)/python -m pip install --quiet pip-audit
	@touch $@

audit: $(VENV)/audit  ## Check the installed packages for known vulnerabilities
	$(BIN)/python tools/audit.py

coverage: $(VENV)/installed  ## Measure the branch coverage of the unit tests; fails below 95 %
	$(BIN)/python -m pytest -q -n $(UNIT_WORKERS) --dist worksteal -m 'not integration' --cov --cov-report=term-missing $(ARGS)

coverage-emulator: $(VENV)/installed  ## Measure the branch coverage of the emulator
	$(BIN)/python -m pytest -q -n $(UNIT_WORKERS) --dist worksteal tests/emulator tests/test_testing.py --cov-config=/dev/null \
		--cov=airflow_provider_seedance.emulator --cov-branch --cov-report=term-missing $(ARGS)

$(VENV)/mutation: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[mutation]'
	@touch $@

# mutmut keeps earlier results; they are removed first. A module has up to 600 mutants: all would take hours.
MUTANTS ?= 30

mutation: $(VENV)/mutation  ## Run MUTANTS=30 mutants of each module of submission, ledger and polling (an hour); MUTANTS=all
	rm -rf mutants
	names=$(if $(filter all,$(MUTANTS)),,$$($(BIN)/python tools/mutation.py sample $(MUTANTS))) \
		&& HYPOTHESIS_PROFILE=mutation $(BIN)/mutmut run $(ARGS) $$names
	$(BIN)/python tools/mutation.py results submission=90 ledger=90 polling=85

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

docs: $(VENV)/docs  ## Build the documentation into build/docs; warnings are errors
	rm -rf build/docs
	$(BIN)/sphinx-build -W --keep-going -q -b html -d build/doctrees docs build/docs
	$(BIN)/python -W ignore tools/check_reference.py build/docs
	@echo "build/docs/index.html"

dist: BESIDE ?= 3.4
dist: $(VENV)/installed  ## Build and check sdist and wheel, and install them with the newest Airflow 3.4
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python tools/check_dist.py dist $(BESIDE)

dist-all:  ## The same with the newest Airflow 3.1, 3.2, 3.3 and 3.4
	$(MAKE) dist BESIDE='3.4 3.3 3.2 3.1'

BENCHMARKS := import_time polling ark quota alternatives quota_airflow triggerer batch batch_cost callbacks

bench: $(addprefix bench-,$(BENCHMARKS))  ## Run every benchmark (an hour)

# The SDK is for comparison only; this package does not use it.
$(VENV)/bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[bench]' seedance-sdk
	@touch $@

bench-%: $(VENV)/bench  ## Run one: import_time, polling, ark, quota, alternatives, quota_airflow, triggerer, batch, batch_cost or callbacks
	$(BIN)/python benchmarks/$*.py $(ARGS)

clean:  ## Remove all generated files
	rm -rf $(VENV) $(VENV)-3.* build dist mutants .coverage .mypy_cache .ruff_cache .pytest_cache seedance-demo
