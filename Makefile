# make quickstart   environment, then a training run on synthetic landmarks, which it draws
# make test         environment, then all tests
# PIP_ARGS is handed to pip, e.g. PIP_ARGS="--index-url …" for a mirror, or for a CPU build of torch.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin

.PHONY: setup setup-dev quickstart test lint bench clean
.DELETE_ON_ERROR:

setup: .venv/.installed
setup-dev: .venv/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: setup
	$(BIN)/python -m experiments.synthetic_landmarks --output runs/synthetic-landmarks
	$(BIN)/python -m dir_jax.train --config experiments/quickstart.py --workdir runs/quickstart

test: setup-dev
	$(BIN)/python -m pytest

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Those that two cores finish in some 20 minutes; benchmarks/RESULTS.md says what else there is, and
# `python -m benchmarks.results runs/bench/*.json` puts the tables there.
bench: setup-dev
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[bench]'
	for name in ap_loss network extraction training_step loader evaluation search startup; do \
	  $(BIN)/python -m benchmarks.$$name --json runs/bench/$$name.json || exit 1; done

clean:
	rm -rf .venv runs
