# Every command of the project; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup system-deps system test test-fast test-newest demo lint docs wheel bench freeze clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PY := $(VENV)/bin/python
# An index that offers torch for your hardware (CPU only, a certain CUDA, ...); empty: whatever pip is set to.
TORCH_INDEX ?=
EXTRAS ?= test,parity,baselines,hub,docs,pydeseq2,datasets
# `make test-newest`: an environment and versions of its own (constraints-newest.txt). CI does not run it.
NEWEST_VENV ?= .venv-newest
NEWEST_PYTHON ?=
NEWEST_PIP = $(NEWEST_VENV)/bin/python -m pip install --quiet --no-compile
NEWEST_TESTS ?= @tests/newest.txt
# Your own file for the demo: make demo DATA=my.h5ad BATCH=donor LABEL=cell_type
DATA ?=
BATCH ?=
LABEL ?=
# make docs NOTEBOOKS=1 runs the notebooks whose code changed
NOTEBOOKS ?=
# Two processes of one thread each share the work, file by file.
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.ready  ## Make the virtual environment and install scduet into it

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' constraints.txt)
	$(PY) -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(PY) -m pip install --quiet --no-compile --no-deps $$(grep -E '^(scgpt|scib|leidenalg|Deprecated|wrapt)==' constraints.txt)  # peers that ask for too much
	@! command -v R >/dev/null || $(PY) -m pip install --quiet --constraint constraints.txt --editable '.[r]' \
		|| echo "rpy2 could not be built; going on without it"
	touch $@

system-deps:  ## Install R, Seurat and the other system packages (Debian and Ubuntu)
	tools/system_deps.sh install

system:  # what test and demo call: installs as root, else only says what is missing
	@tools/system_deps.sh

test: system lint  ## Check style and types, then run all tests (Python, R, the README)
	@tools/system_deps.sh seurat5
	$(PY) -m pytest $(PYTEST_ARGS) </dev/null

test-fast: setup  ## Run the tests that answer within four minutes on two cores
	$(PY) -m pytest $(PYTEST_ARGS) -m "not slow" </dev/null

test-newest:  ## Test files, checkpoints, R and the façade on Python 3.13 with the newest versions (.venv-newest)
	@test -x $(NEWEST_VENV)/bin/python || { python=$(or $(NEWEST_PYTHON),$$(tools/python313.sh)) && "$$python" -m venv $(NEWEST_VENV); }
	@$(MAKE) --no-print-directory $(NEWEST_VENV)/.ready
	$(NEWEST_VENV)/bin/python -m pytest $(NEWEST_TESTS) </dev/null

$(NEWEST_VENV)/.ready: pyproject.toml constraints-newest.txt
	$(NEWEST_PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' constraints-newest.txt)
	$(NEWEST_PIP) --constraint constraints-newest.txt --editable '.[test,multimodal,parity,baselines,hub,datasets]' annbatch
	@! command -v R >/dev/null || $(NEWEST_PIP) --constraint constraints-newest.txt --editable '.[r]' \
		|| echo "rpy2 could not be built; going on without it"
	touch $@

demo: system setup  ## Integrate, score and report real cells into demo/; DATA= BATCH= LABEL= for yours
	$(PY) tools/demo.py $(if $(DATA),--data '$(DATA)') $(if $(BATCH),--batch '$(BATCH)') $(if $(LABEL),--label '$(LABEL)') </dev/null

lint: setup  ## Check style and types
	$(PY) -m ruff check python tests tools benchmarks docs/_ext docs/conf.py
	$(PY) -m ruff format --check --quiet python tests tools benchmarks docs/_ext docs/conf.py
	@if command -v node >/dev/null; then $(PY) -m pyright; else echo "no node: types are not checked"; fi

docs: setup  ## Build the documentation into docs/_build/html; NOTEBOOKS=1 runs the tutorials too
	$(PY) docs/_ext/stage.py docs/_build/source
	NOTEBOOKS=$(NOTEBOOKS) $(PY) -m sphinx -W --keep-going $(if $(NOTEBOOKS),,-q) -c docs docs/_build/source docs/_build/html
	@echo "docs/_build/html/index.html"

wheel: setup  ## Build the engine's wheel into the R package, for sources without this checkout
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir r-package/inst/python .

bench: setup  ## Measure speed and quality beside the reference implementations (long)
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(PY) $$script; done

freeze: setup  ## Write the versions now installed to constraints.txt
	$(PY) -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt && touch $(VENV)/.ready

clean:  ## Remove what the commands made
	rm -rf $(VENV) $(NEWEST_VENV) demo build dist docs/_build .make .pytest_cache .ruff_cache .hypothesis
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +
