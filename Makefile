# Everything runs in .venv, made on first use. Paths are relative: a checkout below a folder with spaces works.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
# Where it is set, each of the many processes that tests start would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo serve-demo tutorials test lint docs coverage mutants bench dist

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## train and attack four small models on digits, write demo/report.html (about 4 minutes on two free cores)
	env -u OMP_NUM_THREADS OMP_WAIT_POLICY=passive $(BIN)/splitveil demo --out demo

serve-demo: $(INSTALLED)  ## train on digits, export, and serve a page with TLS and a token (about 2 minutes, needs npm)
	env -u OMP_NUM_THREADS OMP_WAIT_POLICY=passive $(BIN)/splitveil serve-demo --out serve-demo

tutorials: $(INSTALLED)  ## execute docs/tutorials/*.py where something changed, for the site (a minute or two)
	$(BIN)/python benchmarks/tutorials.py

test: $(INSTALLED)  ## run the tests, the examples in the docstrings and the notebook
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --nbmake tests src edge/src website docs/quickstart.ipynb

lint: $(INSTALLED)  ## check style, format, types, US spelling, dependencies and the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry src
	$(BIN)/codespell src edge tests docs website benchmarks/*.py records *.md

docs: tutorials  ## build the documentation site into site/, strictly (about half a minute, after the tutorials)
	$(BIN)/python -m website.build --out site

coverage: $(INSTALLED)  ## run the tests and show which lines they do not reach
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --cov=splitveil --cov=splitveil_edge --cov-report=term-missing:skip-covered

mutants: $(INSTALLED)  ## break the code in 200 places, one at a time, and count how often the tests notice (hours)
	$(BIN)/python benchmarks/mutants.py --out mutants.json

bench: $(INSTALLED)  ## measure the speed of training and attacking (CIFAR-10 under data/cifar10)
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/speed.py

dist: $(INSTALLED)  ## build wheel and source archive of both packages into dist/
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist .
	$(BIN)/uv build --quiet --out-dir dist edge

# pip would compile one file after the other, with the tests of all packages. Some hold files that are no Python.
$(INSTALLED): pyproject.toml edge/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing PyTorch and all else into .venv: several minutes without a word.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[all,dev]' -e ./edge
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	touch $@
