# One command from a fresh clone: every target sets up .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: help demo test check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a conversation in which the embedded model forgets, and remembers again"
	@echo "make test    lint, types and tests"
	@echo "make check   lint and types alone"
	@echo "make clean   remove what the other targets made"

demo: $(STAMP)
	@$(BIN)/python scripts/demo.py

test: check
	@scripts/set_up_tests
	@$(BIN)/python -m pytest

check: $(STAMP)
	@scripts/check

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	@find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The pins were made on Python 3.11; some of them do not exist for 3.10, which gets the
# newest versions inside the declared ranges instead. torch comes first and pinned: left
# open, it would bring several gigabytes of CUDA libraries.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "error: Python 3.10 or newer is needed; set PYTHON=/path/to/python3." >&2; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes." >&2
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: python3 -m venv failed; on Debian, install python3-venv." >&2; exit 1; }
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  $(PIP) -r requirements.lock && $(PIP) --no-deps -e .; \
	else \
	  $(PIP) torch==2.13.0 && $(PIP) -e '.[dev]'; \
	fi
	@touch $@
