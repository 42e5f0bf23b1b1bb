# Everything from nothing: `make demo` sets up a virtual environment, installs the package and fuses a digital head;
# `make test` sets up the development tools and runs all checks; `make docs`
# writes the documentation site into site/.
#
#   PYTHON=python3.12    another interpreter
#   TORCH_INDEX=ADDRESS  where pip gets torch from, e.g. PyTorch's own CPU index (see "Get started" on its web site)

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# On two cores, two test processes with one thread each are quicker than one with two.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint format docs bench clean

demo: $(VENV)/.installed
	env -u OMP_NUM_THREADS $(BIN)/ddfm demo demo --overwrite

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation site, from docs/ and the docstrings, into site/. A warning is an error.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean --quiet

# The benchmarks that need no data but what they make; benchmarks/ has others.
bench: $(VENV)/.installed-dev
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/throughput.py --quick

clean:
	rm -rf $(VENV) demo build dist site

$(VENV)/.torch: constraints.txt scripts/install_torch.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/install_torch.py --constraint constraints.txt --index "$(TORCH_INDEX)"
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) install -q -c constraints.txt -e ".[test,slicer-test,dev]"
	touch $@
