# Everything happens in .venv, which the targets make: Python 3.11 or newer and make are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test soak clean

help:
	@echo "make demo              preprocess, train 3 folds and label, on speech made here: minutes on two cores"
	@echo "make demo DATA=folder  the same on your data set, which is only read"
	@echo "make test              lint, format, types and tests"
	@echo "make soak              trainings killed, resumed and side by side for MINUTES=30: is anything lost or left over?"
	@echo "make clean             remove $(VENV) and demo-work"
	@echo "PYTHON=python3.12      after any of them: the Python to use (3.11 or newer; default: python3)"

demo: $(VENV)/demo-installed
	$(BIN)/python -m demo.run $(if $(DATA),--data "$(DATA)")

test: $(VENV)/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

soak: $(VENV)/test-installed
	$(BIN)/python -m benchmarks.soak mixed --minutes $(or $(MINUTES),30)

clean:
	rm -rf $(VENV) demo-work

# Stamps, kept inside the environment so that they go with it: pip runs again only where the requirements have changed.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/demo-installed: requirements.txt requirements-demo.txt | $(VENV)/made
	@echo "installing what the demo needs into $(VENV): minutes the first time"
	$(PIP) -r requirements.txt -r requirements-demo.txt
	@touch $@

$(VENV)/test-installed: requirements.txt requirements-demo.txt requirements-dev.txt | $(VENV)/made
	@echo "installing what the tests need into $(VENV): minutes the first time"
	$(PIP) -r requirements-dev.txt -r requirements-demo.txt
	@touch $@
