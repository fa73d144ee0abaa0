# Everything here sets itself up: a machine needs Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-hosts check lint setup constraints clean

demo: setup  ## the whole way on real or generated video: make demo [DAVIS=path]
	$(BIN)/rtnet demo $(if $(DAVIS),--davis "$(DAVIS)")

test: setup lint  ## everything but what needs a GPU or three hosts: one process for Ray's tests, one for the others
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadscope -m "not gpu and not hosts"

test-hosts: setup  ## a cluster of three hosts on this machine, as root, with PostgreSQL and 12 GB; six minutes
	$(BIN)/python -m pytest -m hosts

check: setup lint  ## the quick tier: no Ray, a few minutes
	$(BIN)/python -m pytest -m "not gpu and not ray and not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

constraints:  ## resolve the newest versions anew
	$(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --no-header --no-annotate --upgrade \
		pyproject.toml --output-file constraints.txt

clean:
	rm -rf $(VENV) runs
