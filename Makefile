# Each target makes its own environment in .venv on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-lower lint check clean

demo: $(VENV)/.demo  ## run a lab setting in both orders, into runs/demo
	$(BIN)/seqdpo demo

test: $(VENV)/.test  ## run the tests
	$(BIN)/pytest -W error -n auto --dist loadfile

test-lower:  ## the tests at the lower bounds of pyproject.toml, in an environment of its own
	$(PYTHON) -m venv $(VENV)-lower
	$(VENV)-lower/bin/pip install --quiet -c constraints-lower.txt -e '.[test]'
	$(VENV)-lower/bin/pytest -n auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf $(VENV) runs

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test,ray,slurm]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test,ray,slurm,dev]'
	touch $@
