# Everything a checkout needs, from a bare system: `make` lists what there is.
#
#   PYTHON=/path/to/python   the interpreter to use (default: the first of python3.11, 3.12, 3.13, python3)
#   ARGS="..."               passed on to what the target runs
#   JOBS=4                   number of test processes (default: the number of cores)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help setup demo test test-fast test-3.12 test-3.13 lint format lock bench clean

ARGS ?=
BIN := .venv/bin
export PYTHON JOBS UV

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with the locked packages and PyTorch, or find it made
	@scripts/setup.sh --with requirements/torch.txt

demo: ## show the library at work on real data (ARGS=--network: and share it)
	@scripts/setup.sh
	@case " $(ARGS) " in *" --network "*) scripts/install-server.sh atproto ;; esac
	@$(BIN)/atdata demo $(ARGS)

test: setup ## every check and every test, with coverage
	@scripts/check.sh all $(ARGS)

test-fast: setup ## only the tests that are not slow
	@scripts/check.sh fast $(ARGS)

test-3.12: ## the fast tests under Python 3.12, in .venv-3.12
test-3.13: ## the fast tests under Python 3.13, in .venv-3.13
test-3.12 test-3.13: test-%:
	@scripts/setup.sh --venv .venv-$* --with requirements/torch.txt --version $*
	@VENV=.venv-$* scripts/check.sh fast $(ARGS)

lint: setup ## style, types and imports only
	@scripts/check.sh lint

format: setup ## put the code in the project's style
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lock: ## pin requirements/*.txt anew (ARGS=--upgrade: to the newest)
	@scripts/lock.sh $(ARGS)

bench: ## compare with the other loaders, in .venv-bench
	@scripts/setup.sh --venv .venv-bench --requirements requirements/bench.txt --with requirements/torch.txt --no-deps requirements/bench-torch.txt
	@.venv-bench/bin/python benchmarks/run.py $(ARGS)

clean: ## remove what these targets made, virtual environments too
	@rm -rf .venv .venv-* .venv.old.* .venv.lock .tools build dist demo-data .coverage .coverage.* htmlcov
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
