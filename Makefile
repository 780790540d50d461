# Two commands do everything on a machine with nothing but Python and make:
#   make demo    tune the embedded model on the example data, offline, and show the result
#   make test    lint, types and tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUNS ?= runs

.PHONY: demo test lint types docs bench bench-generate clean

demo: $(VENV)/.core
	$(BIN)/seqtune demo --out $(RUNS)/demo --overwrite

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# What is generated from the code; a test fails where it is out of date.
docs: $(VENV)/.core
	{ sed '/^###/,$$d' docs/inputs.md; $(BIN)/seqtune inputs --markdown; } > docs/inputs.new && mv docs/inputs.new docs/inputs.md
	$(BIN)/seqtune show --format svg --output docs/dataflow.svg

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e ".[dev]"
	@touch $@

# Speed and memory against transformers' Trainer; half an hour and more, on an idle machine. DATA: --data FILE --keys Q A
bench: $(VENV)/.core
	$(BIN)/python benchmarks/engine.py $(DATA) --write benchmarks/results.md

# Tokens a second and memory of answering, against transformers' generate: four shapes, on an idle machine, half an hour.
bench-generate: $(VENV)/.dev
	$(BIN)/python benchmarks/generate.py --write benchmarks/generation.md

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
