# One command a task: `make help` lists them. Works with GNU make on Linux and macOS.

PYTHON ?= python3
VENV ?= .venv
DEMO_PORT ?= 8501
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint format tables hooks clean

help:  ## list the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed  ## make .venv and install what the project runs with

demo: setup  ## measure a small study, live on http://localhost:8501 (DEMO_PORT=..., HEADLESS=1: opens no browser)
	$(BIN)/python -m dashboard.jobs.demo
	@echo "The dashboard is at http://localhost:$(DEMO_PORT)"
	$(if $(filter 1,$(HEADLESS)),STREAMLIT_SERVER_HEADLESS=true )$(BIN)/python -m engine dashboard --port $(DEMO_PORT) --allow-runs

test: $(VENV)/.installed-dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not long"

test-long: $(VENV)/.installed-cluster  ## run the tests that `make test` leaves out: every model family, workers on Ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m long

lint: $(VENV)/.installed-dev  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: setup  ## write the README's tables of model families anew
	$(BIN)/python -m engine.display.family_tables

hooks: $(VENV)/.installed-dev  ## run `make lint` before every commit of yours
	$(BIN)/pre-commit install

clean:  ## remove .venv and everything that tools left; caches of results stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not that. Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Installed again only when the lists of packages change.
$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-cluster: requirements-cluster.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install -r requirements-cluster.txt
	@touch $@
