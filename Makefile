# demo, demo-home, test, check, bench, train: the only commands to remember. Each sets up .venv first, once.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo demo-home test check bench train clean

# The first Python here that is new enough; `make PYTHON=... test` chooses another.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
INSTALLED := .venv/.installed
export OMP_NUM_THREADS ?= 2

demo: $(INSTALLED)
	$(BIN)/wavllm demo $(ARGS)

demo-home: $(INSTALLED)
	$(BIN)/wavllm demo --home $(ARGS)

test: check
	$(BIN)/pytest -q $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py

bench: $(INSTALLED)
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

train: $(INSTALLED)
	$(BIN)/wavllm train $(ARGS)

clean:
	rm -rf .venv

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "wavllm needs Python 3.11 or newer, and none was found: install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make virtual environments: on Debian install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv, once: some hundred megabytes, torch among them ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@
