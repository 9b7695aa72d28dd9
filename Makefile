PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: help install demo test test-slow mutants lint docs reference pins licences cuda-check cuda-rehearsal bench clean

help:  ## print these lines
	@grep -E '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## /\1\t/' | expand -t 16

install: $(VENV)/installed  ## set up .venv with the versions of constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install  ## make a small synthetic cohort and run the whole pipeline on it
	$(BIN)/run_pipeline demo $(DEMO) --size 2048
	$(BIN)/run_pipeline $(DEMO)/slides $(DEMO)/genes.csv --gene-sets $(DEMO)/gene_sets.csv --epochs 10 \
		--store $(DEMO)/features.zarr --out $(DEMO)/run
	$(BIN)/run_pipeline report $(DEMO)/run --open

test: install  ## run the fast tests and print their coverage
	$(BIN)/python -m slipcover --out .coverage -m pytest -n 2 -m "not slow and not cuda"
	@cat .coverage

test-slow: install  ## run the slow tests too
	$(BIN)/python -m pytest -n 2 -m "not cuda"

mutants: install  ## plant 100 small faults and count those that the fast tests notice; two hours
	$(BIN)/python -m tools.mutants

lint: install  ## ruff, mypy and import-linter, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## build the documentation into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

reference: install  ## write the generated pages of docs/reference/
	$(BIN)/python -m tools.reference

pins: install  ## resolve pyproject.toml and all its extras anew, into constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --all-extras --no-annotate --custom-compile-command "make pins" \
		--python $(BIN)/python --output-file constraints.txt pyproject.toml

licences: install  ## list the licences of what is installed, and of the encoders' weights
	$(BIN)/python -m tools.licences

cuda-check: install  ## on a machine with a GPU: equality with the CPU, rates, memory; ten minutes, a table and cuda-check.json
	$(BIN)/python tests/cuda/check.py

cuda-rehearsal: install  ## the same checks on the CPU, with little of everything: they run; nothing is measured
	$(BIN)/python tests/cuda/check.py --rehearse --minutes 30

bench: export BENCH_TABLE = docs/measurements.md
bench: install  ## measure reading, embedding, Dask, the store, training and scale, an hour; TOOLS=FOLDER: other tools too; writes docs/measurements.md
	$(BIN)/python tests/benchmarks/table.py
	$(BIN)/python tests/benchmarks/bench_reader.py
	$(BIN)/python tests/benchmarks/bench_embedding.py
	$(BIN)/python tests/benchmarks/bench_embedding.py --sizes
	$(BIN)/python tests/benchmarks/bench_dask.py
	$(BIN)/python tests/benchmarks/bench_store.py
	$(BIN)/python tests/benchmarks/bench_packed.py
	$(BIN)/python tests/benchmarks/bench_bags.py
	$(BIN)/python tests/benchmarks/bench_scale.py slides
	$(BIN)/python tests/benchmarks/bench_scale.py huge
	$(BIN)/python tests/benchmarks/bench_scale.py linear
ifdef TOOLS
	$(BIN)/python tests/benchmarks/bench_tools.py $(TOOLS) --allocator
	$(BIN)/python tests/benchmarks/bench_tools.py $(TOOLS) --backbone vit-s
	$(BIN)/python tests/benchmarks/bench_tools.py $(TOOLS) --kind 40x
	$(BIN)/python tests/benchmarks/bench_tools.py $(TOOLS) --kind cohort
endif

clean:  ## remove .venv, the demo and all caches
	rm -rf $(VENV) $(DEMO) site .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
