# make demo   set up and show the main job      make test   set up and run the tests
# make check  lint, types, format, tests        make bench  the measured tables (DATA=folder with BEIR-style sets)

PYTHON ?= python3
VENV   ?= .venv
# The PyTorch build to install first. Any other: make TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DATA   ?= data

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint check format bench clean

demo: $(READY)
	$(BIN)/llama-index-instruct demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/llama-index-instruct bench refinement $(foreach set,$(wildcard $(DATA)/*/),--data $(set)) --output bench-refinement.json

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
