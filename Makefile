.DEFAULT_GOAL := help
.PHONY: help setup demo up check test clean

BIN := .venv/bin
# Tests that start Ray, GStreamer or a browser come last: what fails fast fails first.
SLOW = mark\.(ray|gst|browser)
TESTS ?= $(shell grep -LE '$(SLOW)' tests/test_*.py) $(shell grep -lE '$(SLOW)' tests/test_*.py)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv, and install what is missing (asks for sudo if it must)
	@scripts/setup.sh

demo: setup ## four simulated cameras, watched and asked about; ONCE=1: one round, checked, and out
	@$(BIN)/python -m actors.demo $(if $(filter-out 0,$(ONCE)),--once)

up: setup ## your cameras: make up ARGS="-c longwatch.yaml"
	@$(BIN)/longwatch up $(ARGS)

check: ## ruff, mypy and the direction of imports
	@scripts/setup.sh dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

test: check ## check, then every test; TESTS=tests/test_store.py, PYTEST_ARGS="-x -k name"
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS) $(TESTS)

clean: ## remove what the tools leave behind; .venv and .cache stay
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
