# Everything runs in .venv/, which `make setup` fills; each target sets it up by itself and is quick the second time.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup lock demo test test-install test-oldest test-newest sanitize lint format bench gpu-check gpu-kit docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## create .venv/ with everything (a few minutes the first time)

$(READY): pyproject.toml setup.py constraints.txt scripts/find_python.sh
	@python=$$(scripts/find_python.sh) || exit 1; \
	echo "setup: creating $(VENV)/ with $$($$python --version) (PyTorch and friends, several GB, a few minutes)"; \
	test -x $(PY) || $$python -m venv $(VENV)
	@$(PY) -m pip install --quiet --upgrade -c constraints.txt pip setuptools wheel
	@echo "setup: installing snn_sparse and its tools"
	@SNN_SPARSE_BUILD=0 $(PY) -m pip install --quiet --no-build-isolation -c constraints.txt -e ".[dev]"
	@echo "setup: compiling the C++ operators (two minutes)"  # only now: they need the torch just installed
	@$(PY) setup.py --quiet build_ext --inplace
	@touch $@
	@echo "setup: done"

lock: ## renew constraints.txt, the versions that setup installs
	@python=$$(scripts/find_python.sh) || exit 1; $$python scripts/lock.py

demo: setup ## all searches and the random control on digits, in minutes; ends in a table and a report
	@echo "demo: four searches and a control on 8x8 digits, two seeds each; under two minutes on two cores"
	@$(PY) -m snn_sparse.cli demo --out runs/demo

# One worker a core, each with one thread (tests/conftest.py); a worker that runs out of tests takes from the others.
PYTEST := -m pytest -n auto --maxprocesses 8 --dist worksteal

test: setup ## the test suite
	@echo "test: running the test suite"
	@$(PY) $(PYTEST) tests

test-install: ## wheel, source distribution and -e in a fresh environment (several GB, half an hour)
	@python=$$(scripts/find_python.sh) || exit 1; scripts/check_install.sh $$python

OLDEST := "torch==2.11.*" "triton==3.6.*" "numpy<2.4"  # triton 3.6 does not interpret with a newer numpy

test-oldest: .venv-oldest/.ready ## the suite with the oldest supported versions (Python 3.12), in .venv-oldest/
test-newest: .venv-newest/.ready ## the suite with the newest versions there are, in .venv-newest/
.venv-oldest/.ready: PYTHONS = 3.12
.venv-newest/.ready: PYTHONS = 3.13 3.12 3.11
.venv-newest/.ready: FORCE  # there may be newer ones than last time
FORCE:

.venv-%/.ready: pyproject.toml setup.py scripts/find_python.sh
	@python=$$(scripts/find_python.sh $(PYTHONS)) || exit 1; \
	echo "bringing .venv-$*/ up to date with $$($$python --version) (several GB, a few minutes)"; \
	test -x .venv-$*/bin/python || $$python -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --upgrade pip
	@.venv-$*/bin/python -m pip install --quiet "setuptools>=77" wheel
	@SNN_SPARSE_BUILD=0 .venv-$*/bin/python -m pip install --quiet --no-build-isolation --upgrade \
		--upgrade-strategy eager -e ".[dev]" $(if $(filter oldest,$*),$(OLDEST)) $(if $(filter kit,$*),$(KIT_VERSIONS))
	@touch $@

# Their operators lie elsewhere, so that those of .venv/ stay as they are.
test-oldest test-newest: test-%:
	@echo "test-$*: compiling the C++ operators"
	@.venv-$*/bin/python csrc/build.py build/$*/_C.so
	@.venv-$*/bin/python -c 'import sys, torch, triton; print("test-$*: Python", sys.version.split()[0], "torch", torch.__version__, "triton", triton.__version__)'
	@SNN_SPARSE_LIBRARY=$(CURDIR)/build/$*/_C.so .venv-$*/bin/python $(PYTEST) tests

SANITIZED := build/sanitize/_C.so
OPERATOR_TESTS := tests/ops/neuron tests/ops/convolution tests/ops/spikes tests/ops/test_live.py
# Preloaded into Python alone, libstdc++ beside it or the first C++ exception fails. Python itself leaks.
PRELOAD = $(foreach name,asan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))

sanitize: setup ## the operator tests under address and undefined-behaviour sanitizers (ten minutes at first)
	@echo "sanitize: building $(SANITIZED)"
	@CXX="$(CXX)" $(PY) csrc/build.py $(SANITIZED) --sanitize
	@echo "sanitize: running the operator tests; the first finding ends them"
	@SNN_SPARSE_LIBRARY=$(CURDIR)/$(SANITIZED) EXAMPLES=$${EXAMPLES:-15} LD_PRELOAD="$(PRELOAD)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1 \
	$(PY) -m pytest --capture=sys -x $(OPERATOR_TESTS)

lint: setup ## ruff and mypy
	@echo "lint: ruff check, ruff format, mypy"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: setup ## let ruff rewrite the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: setup ## time operators, masks and training steps, side by side, then every case of `python -m benchmarks`
	@mkdir -p build
	@$(PY) -m pytest benchmarks --benchmark-columns=median,iqr,rounds --benchmark-json build/bench.json
	@$(PY) -m benchmarks rows build/bench.json
	@$(PY) -m benchmarks

gpu-check: ## on an NVIDIA GPU, with its own python3, torch and Triton: all that needs one (ARGS="--kit build/gpu-kit")
	@python3 -m benchmarks.gpu_check $(ARGS)

KIT := build/gpu-kit
KIT_VERSIONS := "torch==2.11.*" "triton==3.6.0" "numpy<2.4"  # of the machine that the kit is for, but for numpy

gpu-kit: .venv-kit/.ready ## what a GPU machine without a network lacks, in build/gpu-kit/ (half an hour; needs Python 3.12)
	@.venv-kit/bin/python -m benchmarks.gpu_check_kit $(KIT) $(if $(wildcard $(FASHION_MNIST)),--data $(FASHION_MNIST)) $(ARGS)

FASHION_MNIST ?= dataset/FashionMNIST/raw
.venv-kit/.ready: PYTHONS = 3.12

docs: setup ## the documentation as a site in build/docs/, from what is here; broken links fail
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@echo "docs: $(CURDIR)/build/docs/index.html (its search needs a server: $(PY) -m http.server -d build/docs)"

clean: ## remove what was built, keep runs/
	rm -rf $(VENV) .venv-oldest .venv-newest .venv-kit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
