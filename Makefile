# make install   an environment in .venv, with the pinned versions
# make demo      the whole walk on a small cohort that the project makes itself
# make test      all fast tests; make test-slow: the others too
# make lint      ruff, mypy, import-linter
# make bench     what reading, embedding, Dask and the store cost, against what others cost, and what scale costs; an hour

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: install demo test test-slow lint bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/python -m workflows.demo $(DEMO) --size 2048
	$(BIN)/run_pipeline $(DEMO)/slides $(DEMO)/genes.csv --gene-sets $(DEMO)/gene_sets.csv --epochs 10 \
		--store $(DEMO)/features.zarr --out $(DEMO)/run

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow and not cuda"

test-slow: install
	$(BIN)/python -m pytest -n 2 -m "not cuda"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python tests/benchmarks/bench_reader.py
	$(BIN)/python tests/benchmarks/bench_embedding.py
	$(BIN)/python tests/benchmarks/bench_embedding.py --sizes
	$(BIN)/python tests/benchmarks/bench_pipeline.py dask
	$(BIN)/python tests/benchmarks/bench_pipeline.py tools
	$(BIN)/python tests/benchmarks/bench_store.py
	$(BIN)/python tests/benchmarks/bench_scale.py slides
	$(BIN)/python tests/benchmarks/bench_scale.py huge
	$(BIN)/python tests/benchmarks/bench_scale.py linear

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache
