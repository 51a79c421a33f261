# make demo    the quick start on real images, on the CPU, in a few minutes
# make test    lint, types and all tests
# make venv    the environment alone: .venv, with every version from constraints.txt
# Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

# Modules are compiled once: the tests start many processes, and each would compile all of them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test venv constraints clean

demo: venv
	$(BIN) -m kdcache_cli demo

test: venv
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m mypy
	$(BIN) -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal --durations 10

venv: $(INSTALLED)

# Made again when a requirement or a pinned version changes. setuptools comes first, so that building the project
# takes the pinned one and nothing else from the network.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "kdcache needs Python 3.11 or later; $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo not there). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt setuptools wheel
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test]'
	@touch $@

# Pin what .venv holds now. To move to newer versions: upgrade them there, run the tests, then pin.
constraints:
	$(PIP) freeze --all --exclude pip --exclude-editable | LC_ALL=C sort --ignore-case > constraints.txt
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) build dist demo-runs *.egg-info cli/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
