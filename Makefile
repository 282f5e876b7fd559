# make demo   sets up what is needed and counts cells without a screen; make demo DATA=../images uses your images
# make test   sets up everything, the virtual display included, and runs all checks
# make lint   the checks that run no test; make clean   removes what these made
# make floors, make pyqt6, make newest, make zoo   the tests on other versions of what is needed

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := test
.PHONY: demo test test-window test-rest lint slow floors pyqt6 newest zoo clean display

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint .venv/constraints.txt
OUT ?= demo

demo: .venv/ready-base
	$(BIN)/napari-tally demo --out "$(OUT)" $(if $(MINUTES),--minutes $(MINUTES)) $(if $(DATA),--data "$(DATA)")

# The window in a process of its own: a crash inside Qt, should there be one, is then a crash of little. Both at once, since each leaves
# a core idle, and what they print one after the other.
test: lint display
	@echo "Two runs of pytest side by side; each shows what it did when it is done"
	+$(MAKE) --no-print-directory --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) test-window test-rest

test-window: .venv/ready-dev
	$(BIN)/pytest tests/widgets

test-rest: .venv/ready-dev
	$(BIN)/pytest --ignore tests/widgets

lint: .venv/ready-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

slow: .venv/ready-dev display
	$(BIN)/pytest -m slow

# On other versions, each in an environment of its own that goes afterwards: the lowest that pyproject.toml admits, the other Qt,
# the newest Python, the zoo's own checks. Needs uv; some tests only: make floors TESTS="tests/core tests/widgets/test_train.py"
floors pyqt6 newest zoo: display
	.ci/versions $@ $(TESTS)

# What napari's window and the virtual display need on a bare Debian.
display:
	@.ci/apt xvfb xauth libgl1 libegl1 libxkbcommon-x11-0 libfontconfig1 libglib2.0-0 libdbus-1-3 libxcb-cursor0 \
	    libxcb-icccm4 libxcb-keysyms1 libxcb-shape0

# Each stamp is written last, so that a set-up that broke off is taken up again.
.venv/ready-base: .venv/constraints.txt pyproject.toml hatch_build.py
	@echo "Installing napari-tally into .venv (once; a few minutes)"
	$(PIP) --editable .
	@touch $@

.venv/ready-dev: .venv/constraints.txt pyproject.toml hatch_build.py
	@echo "Installing napari-tally with napari and the test tools into .venv (once; a few minutes)"
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/ready-base

# Where there is a GPU the line that keeps torch at its CPU build goes.
.venv/constraints.txt: constraints.txt .venv/pyvenv.cfg
	@if command -v nvidia-smi >/dev/null; then grep -v '^torch==' $< >$@; else cp $< $@; fi

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "napari-tally needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/apt python3-venv
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache src/napari_tally/napari.yaml
