# PIP_ARGS is handed to pip: PIP_ARGS="--index-url …" for a mirror, or for a CPU build of torch.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev quickstart test test-nnx fuzz lint docs docs-serve bench bench-gpu wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed  ## make .venv and install dir_jax into it
setup-dev: .venv/.installed-dev  ## the same, with what tests, checks and the site need

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: $(BIN)/python pyproject.toml setup.py constraints.txt
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[serve]'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

quickstart: setup  ## a training run on synthetic landmarks, at most six minutes on two cores
	$(BIN)/python -m experiments.synthetic_landmarks --output runs/synthetic-landmarks
	$(BIN)/python -m dir_jax.train --config experiments/quickstart.py --workdir runs/quickstart
	[ -e runs/quickstart/test.index ] || $(BIN)/dir-jax index --checkpoint runs/quickstart \
	  --dataset runs/synthetic-landmarks/test.txt --output runs/quickstart/test.index
	@echo "search the test pictures on a page:"
	@echo "  $(BIN)/dir-jax serve runs/quickstart/test.index"
	@echo "or from the command line, for instance:"
	@sed -n '1s|^\([^ ]*\) .*|  $(BIN)/dir-jax search runs/quickstart/test.index runs/synthetic-landmarks/\1|p' \
	  runs/synthetic-landmarks/test.txt

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
test: setup-dev  ## all tests
	$(PYTEST)

# What is done with modules: networks made, split, merged, differentiated, trained over several
# devices, by the command too, saved, read, converted, and used through the Python interface.
NNX_TESTS := tests/models/test_variables.py tests/models/test_create_model.py tests/test_checkpoint.py \
  tests/test_api.py tests/converters/test_to_torch.py \
  tests/training/test_command.py::test_results_are_written \
  $(addprefix tests/training/test_three_stage.py::, test_frozen_batch_norm_does_not_move \
    test_the_stages_are_functions_that_work_alone \
    test_class_weights_are_trained_from_the_images_of_all_devices \
    test_dropout_does_not_depend_on_the_devices_or_the_chunks)
test-nnx: setup-dev  ## some of the tests with modules as trees, which is to be Flax's default
	NNX_GRAPH_MODE=false NNX_GRAPH_UPDATES=false $(PYTEST) $(NNX_TESTS)

SECONDS ?= 600
fuzz: setup-dev  ## damaged files for every reader, for SECONDS=600
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --start $$(date +%s)

lint: setup-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup-dev  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict

docs-serve: setup-dev  ## the site on http://localhost:8000, built again at each change
	$(BIN)/mkdocs serve --strict

# Those that two cores finish in some 20 minutes; benchmarks/RESULTS.md says what else there is, and
# `python -m benchmarks.results runs/bench/*.json` puts the tables there.
bench: setup-dev  ## the benchmarks, as JSON in runs/bench/
	$(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[bench]'
	for name in ap_loss network extraction training_step loader evaluation search startup digests memory \
	    scaling; do \
	  $(BIN)/python -m benchmarks.$$name --json runs/bench/$$name.json || exit 1; done

# At most eight minutes, a table at the end; without a GPU a trial at small size. Where no package can
# be fetched, `python -m benchmarks.gpu` runs with what is installed: benchmarks/RESULTS.md.
bench-gpu: setup  ## what a GPU makes of it, as JSON in runs/bench/gpu.json
	if command -v nvidia-smi >/dev/null; then \
	  $(BIN)/python -m pip install $(PIP_ARGS) --editable '.[cuda,bench]'; else \
	  $(BIN)/python -m pip install $(PIP_ARGS) --constraint constraints.txt --editable '.[bench]'; fi
	$(BIN)/python -m benchmarks.gpu --json runs/bench/gpu.json

wheel: setup  ## what `pip install` installs, in dist/
	$(BIN)/python -m pip wheel $(PIP_ARGS) --no-deps --wheel-dir dist .

clean:  ## delete everything that these targets made
	rm -rf .venv runs site build dist
