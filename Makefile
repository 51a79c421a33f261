# make demo    the quick start on real images, on the CPU, in a few minutes
# make test    lint, types and all tests
# make docs    the documentation as a site, into site/
# make venv    the environment alone: .venv, with every version from constraints.txt
# Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

# Modules are compiled once: the tests start many processes, and each would compile all of them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test docs venv constraints clean

demo: venv
	$(BIN) -m kdcache_cli demo

test: venv
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m mypy
	$(BIN) -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal --durations 10

# Strict: a link that leads nowhere, or a page that no menu has, fails. The variable silences the theme's own notice.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN) -m mkdocs build

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
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs,test]'
	@touch $@

# Pin what .venv holds now. To move to newer versions: upgrade them there, run the tests, then pin.
constraints:
	$(PIP) freeze --all --exclude pip --exclude-editable | LC_ALL=C sort --ignore-case > constraints.txt
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) build dist site demo-runs *.egg-info cli/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
