# make setup|run|test|lint|bench|soak is all there is to know; CI calls the same targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
ENGINE ?= solo
# Wheels only: installing runs no code of a package, and needs no compiler. The hashes are those of
# the files themselves, so it does not matter which index or folder they come from.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --only-binary :all: --require-hashes
CATALOGUES := $(patsubst %.po,%.mo,$(shell find src -name '*.po' 2>/dev/null))

.PHONY: systemd help setup setup-dev run test lint bench soak format clean requirements \
	chromium postgresql cometbft \
	lint-style lint-format lint-types lint-imports lint-determinism lint-addresses

help:
	@echo "make setup   install into .venv, so that .venv/bin/hansa is the command"
	@echo "make run     set up, and show a market trading in the browser;"
	@echo "             ENGINE=comet shows it with four organisations' nodes, one of which may fail"
	@echo "make test    every test, the browser's included"
	@echo "make lint    style, types, the floors, determinism, addresses"
	@echo "make bench   measure, and write docs/benchmarks.md"
	@echo "make soak    the fault tests and the simulator, long"
	@echo "make format  put the code in the one format"

setup: $(VENV)/.installed $(CATALOGUES)

setup-dev: setup $(VENV)/.installed-dev

# The check names the one package that a bare Debian lacks before anything is half made.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "apt-get install python3.11 python3.11-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "expected Python 3.11 or later, got $$("$(PYTHON)" --version 2>&1);" \
			"name another with make PYTHON=..., or install one:" >&2; \
		echo "apt-get install python3.11 python3.11-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		"$(PYTHON)" -c 'import sys; print("apt-get install python%d.%d-venv" % sys.version_info[:2])' >&2; \
		exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" --version): a few seconds."
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed-run: requirements/run.txt | $(BIN)/python
	@echo "Installing what Hansa runs on, each file checked against its hash: about a minute."
	@$(INSTALL) -r requirements/run.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.installed-run pyproject.toml requirements/run.in
	@echo "Linking the source tree into $(VENV): a few seconds, nothing is fetched."
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-index --no-deps \
		--no-build-isolation --editable .
	@touch $@
	@echo "Ready: $(BIN)/hansa --help"

$(VENV)/.installed-dev: requirements/dev.txt $(VENV)/.installed-run
	@echo "Installing what it takes to check Hansa: about a minute."
	@$(INSTALL) -r requirements/dev.txt
	@touch $@

%.mo: %.po | $(VENV)/.installed-run
	@echo "Compiling $<."
	@$(BIN)/pybabel --quiet compile --input-file $< --output-file $@

run: setup $(if $(filter comet,$(ENGINE)),cometbft)
	$(BIN)/hansa demo --engine $(ENGINE)

# The browser's tests use the Chromium of the system, never one that a test tool downloads.
chromium:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the browser's tests: a minute or two."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install --yes --no-install-recommends chromium; \
	else \
		echo "the browser's tests need Chromium: sudo apt-get install chromium" >&2; exit 1; \
	fi

# The read model's tests start a server of their own from these binaries; no service is needed.
postgresql:
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then \
		exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing PostgreSQL for the read model's tests: a minute or two."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install --yes --no-install-recommends postgresql; \
	else \
		echo "the read model's tests need PostgreSQL: sudo apt-get install postgresql" >&2; exit 1; \
	fi

# The tests of networks run the real engine: one on the PATH that fits, or one built by Go.
cometbft: setup
	@$(BIN)/python tools/get_cometbft.py

# The units of deploy/systemd are judged by systemd itself; nothing of it is started.
systemd:
	@if command -v systemd-analyze >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing systemd-analyze for the tests of the units: half a minute."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install --yes --no-install-recommends systemd; \
	else \
		echo "the tests of the units need systemd-analyze: sudo apt-get install systemd" >&2; exit 1; \
	fi

test: setup-dev chromium postgresql systemd cometbft
	@echo "Running every test on $(WORKERS) workers: some minutes."
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: setup-dev
	@$(MAKE) --no-print-directory --keep-going \
		lint-style lint-format lint-types lint-imports lint-determinism lint-addresses

lint-style:
	$(BIN)/ruff check .

lint-format:
	$(BIN)/ruff format --check .

lint-types:
	$(BIN)/mypy

lint-imports:
	$(BIN)/lint-imports

lint-determinism:
	$(BIN)/python tools/determinism_lint.py

lint-addresses:
	$(BIN)/python tools/address_lint.py

bench: setup
	$(BIN)/hansa bench --output docs/benchmarks.md

soak: setup-dev
	@echo "Running the fault tests and the simulator, long: hours. Each prints its seed."
	HANSA_SOAK=1 $(BIN)/python -m pytest --timeout 0 -s tests/faults tests/simulation

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Versions are chosen here and nowhere else; the index's address stays out of the files.
requirements: setup-dev
	for set in run dev; do \
		$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-header --no-annotate --no-emit-index-url \
			requirements/$$set.in --output-file requirements/$$set.txt; \
	done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests tools \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
	find src -name '*.mo' -delete
