# make demo   the main job on real images, in a virtual environment of its own
# make test   the test suite
# make check  ruff and mypy
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# torch is installed by its exact pin, before anything that would ask for it by a range
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test nightly check clean
demo: $(VENV)/.demo
	$(BIN)/lakefmt demo $(DEMO_ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest

nightly: $(VENV)/.dev
	$(BIN)/python -m pytest -m nightly

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e ".[torch,cli]"
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis lakefmt-demo
