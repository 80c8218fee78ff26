# Needs python3 (3.10 to 3.14), make and git. Everything else goes into .venv, once.
#
#   PYTHON=python3.12 make demo      another Python
#   PYTEST_ARGS="-k sigmoid" make test
#   WORKERS=auto make test           on all cores (2 processes otherwise; 0: in this process, for --pdb)
#   CI=true make test                the long tests too

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

CI ?=
COMPAT_ARGS ?=
DOCS_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2
MARKS := $(if $(filter true 1,$(CI)),,-m "not long")

# A file's tests stay together, for they share fixtures; a thread a process, since processes share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --numprocesses $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench casebook docs pictures compat newest dist clean

help:
	@echo "make demo      a network of sigmoids that does not learn, looked into; and its twin that does"
	@echo "make test      lint, types, layers, tests, doctests, README (without the tests marked long)"
	@echo "make test-all  the same with the tests marked long (as with CI=true)"
	@echo "make casebook  the verdict on every network of known illness or health, and the totals; FIX=1: what restores them (hours)"
	@echo "make bench     what tracing and watching cost (half an hour), and how right the predictions are"
	@echo "make docs      the documentation, tutorials executed, warnings as errors: docs/_build/html/index.html"
	@echo "make pictures  the pictures of README.md and of the documentation, drawn anew (needs chromium)"
	@echo "make compat    every version of torch and Python that is promised, each in an environment of its own (hours, GBs)"
	@echo "make newest    first use with the newest torch there is, in a fresh environment"
	@echo "make dist      sdist and wheel, checked; the wheel alone in a fresh environment"
	@echo "make clean     remove .venv, caches and builds"

demo: .venv/installed
	@$(BIN)/gradtrace demo
	@echo
	@echo "What to look at: the bars, one per layer: how many decades the gradient lost on its way from the loss."
	@echo "Then your own:   $(BIN)/gradtrace check path/to/file.py:factory      ($(BIN)/gradtrace --help)"

# pytest comes last: its closing line is the last word. The long tests build the documentation, and train under others.
test: lint .venv/browser $(if $(MARKS),,.venv/installed-docs .venv/installed-others newest)
	@$(PYTEST) $(MARKS) $(PYTEST_ARGS)

test-all: lint .venv/browser .venv/installed-docs .venv/installed-others
	@$(PYTEST) $(PYTEST_ARGS)

lint: .venv/installed-dev
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "make test: not formatted (the files above); run $(BIN)/ruff format"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

casebook: .venv/installed
	@$(BIN)/python -m gradtrace.casebook
	@$(if $(FIX),$(BIN)/python -m gradtrace.casebook.repaired)

bench: .venv/installed
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.watching --peers
	@$(BIN)/python -m benchmarks.moved
	@$(BIN)/python -m benchmarks.growth
	@$(BIN)/python -m benchmarks.run_file

# Written from scratch (-E), since tables, gallery and tutorials come from the code and not from the pages.
docs: .venv/installed-docs
	@$(BIN)/python -m sphinx -E -W --keep-going -q -d docs/_build/doctrees $(DOCS_ARGS) docs docs/_build/html
	@echo "Written: docs/_build/html/index.html"

pictures: .venv/browser
	@$(BIN)/python -m docs.pictures

# What a user gets who pins nothing: of torch the newest, a CUDA build of several GB on Linux. Within a quarter of an hour.
newest: .venv/installed-dev
	@$(BIN)/python -m compat --newest

compat: .venv/installed-dev
	@$(BIN)/python -m compat $(COMPAT_ARGS)

dist: .venv/installed-dev
	@rm -rf dist
	@$(PIP) install -qq build twine
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@$(BIN)/python -m twine check --strict dist/*
	@$(BIN)/python -m compat --wheel dist/gradtrace-*.whl

clean:
	rm -rf .venv build dist docs/_build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: installed again only when the dependencies may have changed. The sources are linked, not copied.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 15) or sys.exit("gradtrace was tried with Python 3.10 to 3.14; $(PYTHON) is %d.%d. Try: PYTHON=python3.12 make ..." % sys.version_info[:2])'
	@echo "Setting up .venv (the first time: a minute or more, most of it torch) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install -qq --editable . --constraint constraints.txt
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Adding the test tools to .venv ..."
	@$(PIP) install -qq --editable ".[dev]" --constraint constraints.txt
	@touch $@

.venv/installed-docs: .venv/installed
	@echo "Adding the documentation tools to .venv ..."
	@$(PIP) install -qq --editable ".[docs]" --constraint constraints.txt
	@touch $@

# Trackers and trainers are large and many: where they cannot be had, the tests that need them say so.
.venv/installed-others: .venv/installed-dev
	@echo "Adding the trackers and trainers that gradtrace works with to .venv ..."
	@if timeout 1200 $(PIP) install -qq --editable ".[others]" --constraint constraints.txt; then touch $@; \
	else echo "make test: NOT ALL TRACKERS AND TRAINERS: the tests that need what is missing are skipped"; fi

# The report is tested in a real browser: chromium, from the system or (as root on Debian) from its packages.
.venv/browser: .venv/installed-dev
	@if { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || [ -n "$$GRADTRACE_CHROMIUM" ]; then \
	  touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing chromium, for the tests of the report ..."; \
	  { timeout 60 apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq -o DPkg::Lock::Timeout=240 --no-install-recommends chromium fonts-dejavu-core; \
	  } >.venv/chromium.log 2>&1 && touch $@ \
	  || echo "make test: NO CHROMIUM (.venv/chromium.log says why): the report will not be tested in a browser"; \
	else \
	  echo "make test: NO CHROMIUM: the report will not be tested in a browser (install chromium, or set GRADTRACE_CHROMIUM)"; \
	fi
