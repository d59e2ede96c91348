# Everything here makes its own environment: Python 3.11 or later, make and git are all it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit integration bench clean

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

# Each file has an Airflow of its own and mostly waits, so some run at a time, the longest first.
LONGEST := submitting_once test_backfill test_commands test_example_dags
INTEGRATION := $(LONGEST) $(filter-out $(LONGEST),$(notdir $(basename $(wildcard tests/integration/test_*.py))))
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(4, max(2, (os.cpu_count() or 2) - 1)))')

integration: $(VENV)/installed  ## Run the tests on real Airflow processes
	@$(MAKE) --no-print-directory --keep-going --jobs=$(JOBS) \
		$(if $(filter output-sync,$(.FEATURES)),--output-sync=target) $(addprefix integration-,$(INTEGRATION))

integration-%: $(VENV)/installed
	@$(BIN)/python -m pytest -q -m integration --durations=3 $(wildcard tests/integration/$*.py tests/integration/$*) $(ARGS)

lint: $(VENV)/installed  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed  ## Check types
	$(BIN)/mypy --strict

BENCHMARKS := import_time polling quota alternatives quota_airflow triggerer campaign campaign_cost callbacks

bench: $(addprefix bench-,$(BENCHMARKS))  ## Run every benchmark (an hour)

# The SDKs are what the benchmarks compare with, and nothing that this package is built on.
$(VENV)/bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e '.[bench]' seedance-sdk volcengine-ark-runtime
	@touch $@

bench-%: $(VENV)/bench  ## Run one: import_time, polling, quota, alternatives, quota_airflow, triggerer, campaign, campaign_cost or callbacks
	$(BIN)/python benchmarks/$*.py $(ARGS)

clean:  ## Remove what make made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache seedance-demo
