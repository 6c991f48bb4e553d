# From a fresh clone, with Python 3.11+ and make:
#   make demo     install, then thick-slice a brain, restore and draw it (into ./demo)
#   make test     install, then run the suite
# pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL) choose where packages come from; README says
# how to get the CPU build of torch with them. `make install INSTALLER=uv` uses uv, if it is there.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
INSTALLER ?= pip
EXTRAS ?= flows,dask,kspace,jpeg-gpl,pacs,deid,release,distributed,dp,benchmarks,dev
# A file stays with one worker, so that what a module sets up is set up once. PYTEST_ARGS= runs in one process.
PYTEST_ARGS ?= -n 2 --dist loadfile
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-slow stress lint format types contract check constraints clean

help:  ## Say what can be made
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(STAMP)  ## Create .venv with medidiff and everything its tests need

# The stamp is younger than both files when nothing is to be done, so a second call costs nothing.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "medidiff needs Python 3.11 or newer, and none is on the PATH: install one, or say make PYTHON=/path/to/python"; exit 1; }
ifeq ($(INSTALLER),uv)
	uv venv --allow-existing --quiet --python $(PYTHON) $(VENV)
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[$(EXTRAS)]"
else
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments: install its venv module (on Debian: apt-get install python3-venv)"; rm -rf $(VENV); exit 1; }
	@echo "installing medidiff and its tested set of packages into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
endif
	@touch $(STAMP)

demo: install  ## Thick-slice the MNI152 brain, restore it, draw and report it in ./demo
	$(BIN)/medidiff demo --output demo

serve: install  ## Flows on a schedule: a server at 127.0.0.1:4200, what prefect.yaml says, a worker
	$(BIN)/python -m flows.serve

test: install  ## Run the suite, without the tests marked slow
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: install  ## Run the tests marked slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

stress: install  ## Kill flows at 200 moments, fill disks, strike scheduled runs (an hour on two cores; goes on after a stop)
	$(BIN)/python -m tests.stress --kills 200 --faults all --scheduled 100

lint: install  ## Style and common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install  ## Static types, strict
	$(BIN)/mypy

contract: install  ## Who may import whom
	$(BIN)/lint-imports

check: lint types contract test  ## All that a change must pass

bench-%: install  ## Run one benchmark, e.g. make bench-superresolution
	$(BIN)/python -m benchmarks.$*

# Compiled beside a CPU build the lock would say torch==...+cpu, which only that build satisfies; beside a CUDA build it would
# pin the CUDA packages on everybody.
constraints:  ## Pin the newest set that the bounds allow (needs uv)
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" uv pip compile pyproject.toml --all-extras --python $(BIN)/python --upgrade \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o constraints.txt
	sed -i 's/+cpu//' constraints.txt

clean:  ## Remove what was built; the virtual environment too
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
