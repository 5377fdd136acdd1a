# Everything a newcomer or CI does with this project. Try: make help

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest
export PYTHON
export PYTHONDONTWRITEBYTECODE :=  # compiled once, and not for every engine that a test starts

.DEFAULT_GOAL := help
.PHONY: help venv labextension extras demo lab check test prove bench format clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv:  ## make .venv and install the project into it (all others do it themselves)
	@scripts/setup-venv.sh

labextension: venv  ## build what JupyterLab's page loads, labextension/, and show it to .venv's Lab
	@scripts/setup-labextension.sh

extras: venv  ## make .venv-extras: what the examples of services need, such as torch (1.6 GB)
	@scripts/setup-extras.sh

demo: venv  ## run notebooks/quickstart.ipynb in a real kernel and print what came out
	@$(BIN)/python scripts/demo.py

lab: labextension  ## open the notebooks in JupyterLab
	@$(BIN)/python scripts/lab.py

check: venv  ## the fast gate, under a minute: format, lint, types, layers, quick tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q -n 2 --dist loadfile -m "not docker and not browser and not slow and not soak"

test: check labextension  ## check, the page's code, and everything with real Docker, browser and notebooks, under 25 minutes
	scripts/check-labextension.sh
	scripts/setup-docker.sh
	scripts/setup-hosts.sh
	scripts/setup-browser.sh
	scripts/setup-extras.sh || [ -z "$$CI" ]  # without it its tests are skipped, which CI takes for failed
	$(PYTEST) -q -n 2 --dist loadfile -m "(docker or slow) and not browser and not soak"
	$(PYTEST) -q -n 2 --dist loadfile -m "browser and not soak"  # its event loop bears no other

prove: venv  ## the long soaks, and the wheel as who installs it meets it, under 30 minutes
	scripts/setup-docker.sh
	scripts/setup-hosts.sh
	scripts/setup-browser.sh
	$(PYTEST) -q -n 2 --dist loadgroup -m "soak and not browser" --timeout 1500
	$(PYTEST) -q -m "soak and browser" --timeout 1500

bench: labextension  ## measure and print the tables: ours, the bare tool, the ratio
	scripts/setup-docker.sh
	scripts/setup-browser.sh
	$(BIN)/python -m benchmarks

format: venv  ## format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	scripts/check-labextension.sh --format

clean:  ## remove .venv, .venv-extras, what is built and caches (your runs and the engine's home stay)
	rm -rf dstack_jupyter/labextension labextension/lib labextension/node_modules .build
	rm -rf .venv .venv-extras .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
