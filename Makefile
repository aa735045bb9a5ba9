# make demo   set up and show the main job      make test   set up and run the tests
# make check  lint, types, format, tests        make bench  the measured tables (DATA=folder with BEIR-style sets)
# make docs   the API reference in build/docs   make wheel-check   the wheel in an empty environment
# make test-lowest   the tests on the lowest allowed versions, PyTorch aside (TORCH=torch==2.6.0 for its own: 6 GB with CUDA)

PYTHON ?= python3
VENV   ?= .venv
# The PyTorch build to install first. Any other: make TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WHEEL  := build/wheel/venv/bin/python -m pip --quiet --disable-pip-version-check
DATA   ?= data
# One process per core, each with one thread: models here are tiny, and threads would mostly wait for each other. The order is
# the tests' own: long files first.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint check format docs wheel-check test-lowest bench clean

demo: $(READY)
	$(BIN)/llama-index-instruct demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	$(BIN)/typer llama_index_instruct.cli utils docs --name llama-index-instruct --title "Command line" \
		--output .docs/pages/command-line.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .docs/mkdocs.yml

wheel-check:
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/venv
	$(WHEEL) wheel --no-deps --wheel-dir build/wheel .
	$(WHEEL) install $(TORCH)
	$(WHEEL) install build/wheel/*.whl
	cd build/wheel && venv/bin/python -I ../../tests/wheel_check.py

# Ours stay errors; what old versions of others warn about is theirs.
test-lowest:
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	build/lowest/bin/uv pip install --quiet --python build/lowest/bin/python --link-mode copy \
		--resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest $(PARALLEL) -W default \
		-W error::llama_index_instruct.errors.InstructWarning

bench: $(READY)
	$(BIN)/llama-index-instruct bench refinement $(foreach set,$(wildcard $(DATA)/*/),--data $(set)) --output bench-refinement.json

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV)
